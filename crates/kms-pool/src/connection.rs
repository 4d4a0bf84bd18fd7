//! Connections: TLS, and the one HTTPS client behind all KMS clients of a pool for a region.

use std::sync::Arc;
use std::time::Duration;

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::pool::{Client, ConnectionEvent, ConnectionPool};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::{
    HttpClient as _, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::error::BuildError;
use crate::sight;
use crate::stats::Counters;

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
        let mut store =
            TrustStore::empty().with_native_roots(self.platform || self.pems.is_empty());
        for (index, pem) in self.pems.into_iter().enumerate() {
            check_roots(&pem).map_err(|reason| BuildError::TrustRoot { index, reason })?;
            store.add_pem_certificate(pem);
        }
        TlsContext::builder()
            .with_trust_store(store)
            .build()
            .map_err(|cause| BuildError::Tls { cause: cause.into() })
    }
}

/// An HTTPS client for AWS STS.
///
/// # Errors
///
/// [`BuildError::TrustRoot`] and [`BuildError::Tls`].
pub(crate) fn sts_http_client(
    roots: TrustRoots,
    proxy: ProxyConfig,
) -> Result<SharedHttpClient, BuildError> {
    let connector = Connector::builder()
        .tls_provider(tls_provider())
        .tls_context(roots.into_tls_context()?)
        .proxy_config(proxy)
        .build();
    let connector = SharedHttpConnector::new(connector);
    Ok(http_client_fn(move |_, _| connector.clone()))
}

/// How connections are made; enough to make more of them.
pub(crate) struct Connections {
    tls: TlsContext,
    proxy: ProxyConfig,
    idle_timeout: Duration,
    counters: Arc<Counters>,
}

impl Connections {
    pub(crate) fn new(
        roots: TrustRoots,
        proxy: ProxyConfig,
        idle_timeout: Duration,
        counters: Arc<Counters>,
    ) -> Result<Self, BuildError> {
        Ok(Self { tls: roots.into_tls_context()?, proxy, idle_timeout, counters })
    }

    /// An HTTPS client without a connection yet. Its connections close when it and its copies are
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`BuildError::Tls`].
    pub(crate) fn client(&self) -> Result<HttpsClient, BuildError> {
        let counters = Arc::clone(&self.counters);
        let pool = ConnectionPool::builder()
            .tls_provider(tls_provider())
            .tls_context(self.tls.clone())
            .proxy_config(self.proxy.clone())
            .idle_timeout(self.idle_timeout)
            .event_listener(move |event: &ConnectionEvent<'_>| note(event, &counters))
            .build_https()
            .map_err(|cause| BuildError::Tls { cause: cause.into() })?;
        let client = Client::new(&pool).map_err(|cause| BuildError::Tls { cause: cause.into() })?;
        Ok(HttpsClient(client))
    }
}

/// An HTTPS client and all of its connections.
pub(crate) struct HttpsClient(Client);

impl HttpsClient {
    pub(crate) fn connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        self.0.http_connector(settings, components)
    }
}

fn note(event: &ConnectionEvent<'_>, counters: &Counters) {
    match event {
        ConnectionEvent::Opened(_) => {
            counters.connections_opened.increment();
            sight::connection_opened();
        }
        ConnectionEvent::PhysicalClose(_) => {
            counters.connections_closed.increment();
            sight::connection_closed();
        }
        ConnectionEvent::EstablishmentFailed(failure) => {
            counters.connections_failed.increment();
            sight::connection_failed(failure.error());
        }
        _ => {}
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
