//! A server, pools for it, and providers.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_kms::Client;
use kms_local::KmsLocal;
use kms_pool::{KmsError, KmsPool, KmsPoolBuilder};

pub(crate) const REGION: &str = "us-east-1";
pub(crate) const OTHER: &str = "eu-west-1";

pub(crate) async fn server() -> Arc<KmsLocal> {
    let server = KmsLocal::builder().region(REGION).region(OTHER);
    Arc::new(server.start().await.unwrap())
}

/// A pool that tries nothing again.
pub(crate) fn builder(kms: &KmsLocal) -> KmsPoolBuilder {
    let builder = KmsPool::builder().trust_root_pem(kms.ca_pem()).max_attempts(1);
    kms.regions()
        .fold(builder, |builder, region| builder.endpoint_url_for(region, kms.endpoint(region)))
}

pub(crate) async fn random(client: &Client) -> Result<(), KmsError> {
    client.generate_random().number_of_bytes(8).send().await?;
    Ok(())
}

/// Makes a new session each time it is asked, not quite at once.
#[derive(Debug)]
pub(crate) struct Sessions(pub(crate) Arc<KmsLocal>);

impl ProvideCredentials for Sessions {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            tokio::task::yield_now().await;
            Ok(self.0.issue_session(Duration::from_hours(1)))
        })
    }
}
