//! Configures clients of services other than KMS.

use std::fmt;
use std::sync::Arc;

use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_kms::config::retry::RetryPartition;
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use aws_smithy_runtime_api::client::retries::classifiers::SharedRetryClassifier;

use crate::credentials::SessionCredentials;
use crate::request::{Lane, LaneClient, NoteAttempt, Priority, Retries, retry_quota};

/// The configuration of a client for an AWS service other than KMS.
///
/// [`KmsPool::service_config`](crate::KmsPool::service_config) returns it. A client that is built
/// from it is like the pool's KMS clients: it signs with the principal's current credentials, uses
/// the pool's trusted certificate authorities, proxies and timeouts, runs on the pool's threads and
/// is part of [`shutdown`](crate::KmsPool::shutdown), statistics and logs.
///
/// Each client has its own circuit. Clients of one service, region and account share a budget,
/// which is never KMS's.
///
/// # Examples
///
/// ```no_run
/// use aws_sdk_sts::config::Builder;
///
/// # async fn example(pool: kms_pool::KmsPool, principal: kms_pool::Principal)
/// # -> Result<(), kms_pool::KmsError> {
/// let config = pool.service_config("sts", "eu-central-1", &principal).await?;
/// let builder = Builder::from(config.sdk_config())
///     .interceptor(config.interceptor())
///     .retry_classifier(config.retry_classifier())
///     .retry_partition(config.retry_partition());
/// let client = aws_sdk_sts::Client::from_conf(builder.build());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ServiceConfig {
    lane: Arc<Lane>,
    sdk: SdkConfig,
    quota: RetryPartition,
}

impl ServiceConfig {
    pub(crate) fn new(common: &SdkConfig, endpoint: Option<&String>, lane: Lane) -> Self {
        let lane = Arc::new(lane);
        let http =
            LaneClient { lane: Arc::clone(&lane), priority: Priority::Foreground, races: false };
        let credentials = SessionCredentials(Arc::clone(&lane.session));
        let mut sdk = common
            .to_builder()
            .region(Region::new(lane.region.to_string()))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .time_source(lane.clock.clone())
            .retry_config(Retries::config(lane.max_attempts))
            .http_client(http);
        sdk.set_endpoint_url(endpoint.cloned());
        Self { lane, sdk: sdk.build(), quota: retry_quota() }
    }

    /// Returns the settings that all services have: start the client's configuration from them.
    #[must_use]
    pub fn sdk_config(&self) -> &SdkConfig {
        &self.sdk
    }

    /// Returns the interceptor that connects the attempts of an operation. Without it, an operation
    /// is not signed again after a refresh of the credentials.
    #[must_use]
    pub fn interceptor(&self) -> SharedInterceptor {
        SharedInterceptor::new(NoteAttempt(Arc::clone(&self.lane.counters)))
    }

    /// Returns the classifier that has requests signed again when that helps.
    #[must_use]
    pub fn retry_classifier(&self) -> SharedRetryClassifier {
        SharedRetryClassifier::new(Retries::new(self.lane.max_attempts))
    }

    /// Returns the quota for the retries of this client. Without it, all clients of the process for
    /// one service and region share a quota.
    #[must_use]
    pub fn retry_partition(&self) -> RetryPartition {
        self.quota.clone()
    }
}

impl fmt::Debug for ServiceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceConfig").field("region", &self.lane.region).finish_non_exhaustive()
    }
}
