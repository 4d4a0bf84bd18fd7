//! Builds a pool from its settings.

use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_kms::config::{
    AppName, BehaviorVersion, IdentityCache, SharedAsyncSleep, StalledStreamProtectionConfig,
};
use aws_smithy_types::timeout::TimeoutConfig;

use super::KmsPoolBuilder;
use crate::background::Background;
use crate::connection::Connections;
use crate::error::BuildError;
use crate::pool::{KmsPool, Settings};
use crate::stats::Counters;
use crate::time::Clock;

/// Worker threads of a pool's runtime. Its tasks mostly wait for the network.
const WORKERS: usize = 2;

impl KmsPoolBuilder {
    /// Checks the settings, loads the certificate authorities and builds the pool.
    ///
    /// # Errors
    ///
    /// A [`BuildError`] that names the first invalid setting.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let pool = kms_pool::KmsPool::builder().build()?;
    /// # Ok::<(), kms_pool::BuildError>(())
    /// ```
    pub fn build(self) -> Result<KmsPool, BuildError> {
        self.check()?;
        let app_name = self.app_name.map(AppName::new).transpose();
        let app_name = app_name.map_err(|_| BuildError::AppName)?;
        let counters = Arc::new(Counters::default());
        let connect_timeout = self.connections.connect_timeout;
        let connections = Connections::new(self.connections, Arc::clone(&counters))?;
        let background = Background::with_workers(WORKERS);
        let clock = Clock::of_this_machine();
        let mut common = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .sleep_impl(SharedAsyncSleep::new(background.clone()))
            // The clock of each region is already corrected; the SDK would correct it twice.
            .disable_clock_skew_correction(true)
            // No attempt timeout here: it must not run while a request waits for the budget.
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(connect_timeout)
                    .operation_timeout(self.operation_timeout)
                    .build(),
            )
            // Sessions cache and refresh credentials. The SDK's cache would make requests wait.
            .identity_cache(IdentityCache::no_cache())
            // Not needed: bodies are a few KiB, and the attempt timeout bounds them.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .use_fips(self.fips)
            .use_dual_stack(self.dual_stack);
        common.set_app_name(app_name);
        let settings = Settings {
            common: common.build(),
            background,
            clock,
            endpoint: self.endpoint,
            endpoints: self.endpoints,
            service_endpoints: self.service_endpoints,
            credentials_http: connections.shared_client(),
            connections,
            refresh: self.refresh,
            budget: self.budget,
            circuit: self.circuit,
            attempt_timeout: self.attempt_timeout,
            operation_timeout: self.operation_timeout,
            max_attempts: self.max_attempts,
            idle_timeout: self.idle_timeout,
            max_clients: self.max_clients,
        };
        Ok(KmsPool::new(settings, counters))
    }
}
