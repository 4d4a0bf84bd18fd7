//! Adapts the HTTPS client to the AWS SDK, for credentials providers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use super::https::{Connections, HttpsClient};

impl Connections {
    /// Builds an HTTPS client that has no connections yet, as an HTTP client of the AWS SDK.
    pub(crate) fn shared_client(&self) -> SharedHttpClient {
        SharedHttpClient::new(SdkClient(Arc::new(self.client())))
    }
}

/// An [`HttpsClient`] as an HTTP client of the AWS SDK, for requests of credentials providers.
struct SdkClient(Arc<HttpsClient>);

impl HttpClient for SdkClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(SdkConnector {
            client: Arc::clone(&self.0),
            connect: settings.connect_timeout(),
            read: settings.read_timeout(),
        })
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        Some(metadata())
    }
}

/// Describes the client in the `User-Agent` header.
pub(crate) fn metadata() -> ConnectorMetadata {
    ConnectorMetadata::new("hyper", Some("1.x".into()))
}

impl fmt::Debug for SdkClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SdkClient")
    }
}

struct SdkConnector {
    client: Arc<HttpsClient>,
    /// The SDK's limits for this request, such as the short ones that detect fast whether this
    /// machine is an EC2 instance. The connect timeout of the connections applies anyway.
    connect: Option<Duration>,
    read: Option<Duration>,
}

impl HttpConnector for SdkConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = Arc::clone(&self.client);
        let (connect, read) = (self.connect, self.read);
        HttpConnectorFuture::new(async move {
            let mut exchange = client.send(request)?;
            let answer = exchange.head_within(connect, read).await;
            // This closes the idle connections, so the SDK's retry uses a new one.
            answer.inspect_err(|error| {
                exchange.failed(error);
            })
        })
    }
}

impl fmt::Debug for SdkConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SdkConnector")
    }
}
