//! Trust roots and TLS settings: rustls over AWS-LC, preferring the hybrid post-quantum key
//! exchange.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls::{CipherSuite, ClientConfig, RootCertStore};

use crate::error::BuildError;

/// The cipher suites of the AWS SDK: AES-GCM first, and no CBC.
const SUITES: [CipherSuite; 7] = [
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The certificate authorities that a pool trusts.
#[derive(Clone, Default)]
pub(crate) struct TrustRoots {
    pub(crate) platform: bool,
    pub(crate) pems: Vec<Vec<u8>>,
}

impl TrustRoots {
    /// Whether no custom roots were set, so that the platform's roots are trusted.
    pub(crate) fn is_default(&self) -> bool {
        !self.platform && self.pems.is_empty()
    }

    /// The platform's roots, unless custom ones replace them.
    fn store(&self) -> Result<RootCertStore, BuildError> {
        // Reading them takes milliseconds, or hundreds of them on some platforms.
        static PLATFORM: LazyLock<RootCertStore> = LazyLock::new(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        });
        let mut store = if self.platform || self.pems.is_empty() {
            PLATFORM.clone()
        } else {
            RootCertStore::empty()
        };
        for (index, pem) in self.pems.iter().enumerate() {
            let refuse = |reason| BuildError::TrustRoot { index, reason };
            let before = store.len();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|_| refuse("it is not well-formed PEM"))?;
                store.add(certificate).map_err(|_| refuse("a certificate in it is malformed"))?;
            }
            if store.len() == before {
                return Err(refuse("it has no certificate"));
            }
        }
        Ok(store)
    }

    /// The TLS configurations with these roots, for servers and for proxies.
    ///
    /// # Errors
    ///
    /// [`BuildError::TrustRoot`] and [`BuildError::Tls`].
    pub(super) fn into_config(self) -> Result<Tls, BuildError> {
        let all = aws_lc_rs::default_provider();
        let suite = |wanted: &CipherSuite| {
            all.cipher_suites.iter().find(|it| it.suite() == *wanted).copied()
        };
        let cipher_suites = SUITES.iter().filter_map(suite).collect();
        let provider = Arc::new(CryptoProvider { cipher_suites, ..all });
        let mut proxy = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| BuildError::Tls { cause: cause.into() })?
            .with_root_certificates(self.store()?)
            .with_no_client_auth();
        let mut server = proxy.clone();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        proxy.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls { server: Arc::new(server), proxy: Arc::new(proxy) })
    }
}

/// The TLS configuration for servers, which may choose HTTP/2, and the one for proxies, which are
/// asked for a tunnel with HTTP/1.1.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) server: Arc<ClientConfig>,
    pub(super) proxy: Arc<ClientConfig>,
}
