//! A server, pools for it, providers, and bounded waits.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_kms::Client;
use kms_local::KmsLocal;
use kms_pool::{KmsError, KmsPool, KmsPoolBuilder};

pub(crate) const REGION: &str = "us-east-1";
pub(crate) const OTHER: &str = "eu-west-1";

/// For conditions that become true after milliseconds on an idle machine.
const MAX_WAIT: Duration = Duration::from_mins(1);

pub(crate) async fn server() -> Arc<KmsLocal> {
    let server = KmsLocal::builder().region(REGION).region(OTHER);
    Arc::new(server.start().await.unwrap())
}

/// The settings of a pool that does not retry.
pub(crate) fn builder(kms: &KmsLocal) -> KmsPoolBuilder {
    let builder = KmsPool::builder().trust_root_pem(kms.ca_pem()).max_attempts(1);
    kms.regions()
        .fold(builder, |builder, region| builder.endpoint_url_for(region, kms.endpoint(region)))
}

pub(crate) async fn random(client: &Client) -> Result<(), KmsError> {
    client.generate_random().number_of_bytes(8).send().await?;
    Ok(())
}

/// Returns a new session on each call, after a yield to other tasks.
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

/// Waits until the condition holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(MAX_WAIT, holds).await.expect("the condition did not hold in time");
}

/// Waits until the condition holds, and blocks its thread.
#[track_caller]
pub(crate) fn wait_until(condition: impl Fn() -> bool) {
    let mut waited = Duration::ZERO;
    while !condition() {
        assert!(waited < MAX_WAIT, "the condition did not hold in time");
        thread::sleep(Duration::from_millis(1));
        waited += Duration::from_millis(1);
    }
}
