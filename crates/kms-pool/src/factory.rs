//! How the clients of a pool are made: the settings that all of them share.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_kms::Client;
use aws_sdk_kms::config::{self, AppName, BehaviorVersion, IdentityCache, Region};
use aws_sdk_kms::config::{SharedHttpClient, StalledStreamProtectionConfig};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::SystemTimeSource;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use crate::stats::Counters;

/// Makes the clients of one pool, and carries what its slots need to know.
pub(crate) struct ClientFactory {
    pub(crate) common: config::Builder,
    /// Endpoints of single regions, before the one of `common`.
    pub(crate) endpoints: HashMap<String, String>,
    /// How long before their expiry credentials are renewed.
    pub(crate) refresh_lead: Duration,
    /// How long a credentials provider may take.
    pub(crate) provider_timeout: Duration,
    pub(crate) counters: Counters,
}

impl ClientFactory {
    /// Builds a client that signs with just these credentials, over the shared connections.
    pub(crate) fn client(&self, region: &str, credentials: Credentials) -> Client {
        let mut config = self.common.clone().region(Region::new(region.to_owned())).credentials_provider(credentials);
        if let Some(endpoint) = self.endpoints.get(region) {
            config.set_endpoint_url(Some(endpoint.clone()));
        }
        self.counters.builds.increment();
        Client::from_conf(config.build())
    }
}

impl fmt::Debug for ClientFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFactory").finish_non_exhaustive()
    }
}

/// What all clients of a pool have in common. Nothing is read from the environment.
pub(crate) fn common_config(
    http_client: SharedHttpClient,
    timeouts: TimeoutConfig,
    max_attempts: u32,
    endpoint: Option<String>,
    app_name: Option<AppName>,
) -> config::Builder {
    let mut config = config::Builder::new()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http_client)
        .sleep_impl(TokioSleep::new())
        .time_source(SystemTimeSource::new())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(max_attempts))
        // The slot renews credentials; a cache below it would only make requests wait once more.
        .identity_cache(IdentityCache::no_cache())
        // Bodies are a few KiB and the attempt timeout bounds them: nothing to watch over.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    config.set_endpoint_url(endpoint);
    config.set_app_name(app_name);
    config
}
