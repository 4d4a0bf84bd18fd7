//! The AWS SDK's own client, without a pool: what the pool is measured against.

use std::error::Error;

use aws_credential_types::Credentials;
use aws_sdk_kms::{
    Client,
    config::{self, BehaviorVersion, Region, retry::RetryConfig},
};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use kms_local::KmsLocal;

/// What it takes to make a client.
#[derive(Debug, Clone)]
pub struct Plain {
    tls: TlsContext,
    credentials: Credentials,
}

impl Plain {
    /// Clients of `server`, which all sign with one access key. Certificates are read here, once
    /// for all of them.
    ///
    /// # Errors
    ///
    /// When the server's certificate authority can't be read.
    pub fn new(server: &KmsLocal) -> Result<Self, Box<dyn Error>> {
        let roots = TrustStore::empty().with_pem_certificate(server.ca_pem());
        let tls = TlsContext::builder().with_trust_store(roots).build()?;
        Ok(Self { tls, credentials: server.issue_credentials() })
    }

    /// A new client, with an HTTPS client and connections of its own, and the SDK's standard
    /// retries: three attempts.
    #[must_use]
    pub fn client(&self, server: &KmsLocal, region: &str) -> Client {
        let https = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(self.tls.clone())
            .build_https();
        let config = config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .endpoint_url(server.endpoint(region))
            .credentials_provider(self.credentials.clone())
            .retry_config(RetryConfig::standard())
            .http_client(https);
        Client::from_conf(config.build())
    }
}
