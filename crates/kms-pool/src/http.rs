//! The one HTTPS client that all KMS clients of a pool share.

use std::time::Duration;

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::error::BuildError;

/// Rustls over aws-lc-rs, for KMS and for the credentials providers alike.
pub(crate) fn tls_provider() -> tls::Provider {
    tls::Provider::Rustls(CryptoMode::AwsLc)
}

/// The certificate authorities whose servers a pool believes.
#[derive(Clone, Default)]
pub(crate) struct TrustRoots {
    pub(crate) platform: bool,
    pub(crate) pems: Vec<Vec<u8>>,
}

impl TrustRoots {
    /// The platform's roots unless custom ones replace them.
    ///
    /// Each PEM is parsed here, because the TLS stack below would panic on a malformed one.
    fn into_tls_context(self) -> Result<TlsContext, BuildError> {
        let mut store = TrustStore::empty().with_native_roots(self.platform || self.pems.is_empty());
        for (index, pem) in self.pems.into_iter().enumerate() {
            check_roots(&pem).map_err(|reason| BuildError::TrustRoot { index, reason })?;
            store.add_pem_certificate(pem);
        }
        TlsContext::builder().with_trust_store(store).build().map_err(|cause| BuildError::Tls { cause: cause.into() })
    }
}

/// Builds the shared client, TLS configuration and all.
pub(crate) fn shared_client(roots: TrustRoots, connect_timeout: Duration) -> Result<SharedHttpClient, BuildError> {
    let settings = HttpConnectorSettings::builder().connect_timeout(connect_timeout).build();
    let connector = Connector::builder()
        .connector_settings(settings)
        .tls_provider(tls_provider())
        .tls_context(roots.into_tls_context()?)
        .build();
    Ok(SharedHttpClient::new(OneConnector(SharedHttpConnector::new(connector))))
}

/// An HTTP client made of a single connector, and so of a single connection pool.
///
/// The stock client keeps a connector for each pair of timeouts, and builds one more, only to throw
/// it away, whenever an SDK client is constructed: with the platform's roots that parses some hundred
/// and forty certificates for each generation.
#[derive(Debug)]
struct OneConnector(SharedHttpConnector);

impl HttpClient for OneConnector {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        self.0.clone()
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        Some(ConnectorMetadata::new("hyper", Some("1.x".into())))
    }
}

fn check_roots(pem: &[u8]) -> Result<(), &'static str> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| "it is not well-formed PEM")?;
        roots.add(certificate).map_err(|_| "a certificate in it is malformed")?;
    }
    if roots.is_empty() { Err("it has no certificate") } else { Ok(()) }
}
