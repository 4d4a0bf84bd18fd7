//! The settings that a pool was built with.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use crate::background::Background;
use crate::connection::Connections;
use crate::credentials::RefreshSettings;
use crate::request::{BudgetSettings, CircuitSettings};
use crate::time::Clock;

pub(crate) struct Settings {
    /// The configuration that all clients share, of KMS and of other services.
    pub(crate) common: SdkConfig,
    /// The runtime for background tasks.
    pub(crate) background: Background,
    pub(crate) clock: Clock,
    /// The endpoint of KMS in all regions.
    pub(crate) endpoint: Option<String>,
    /// Endpoints of KMS in single regions. They take precedence over `endpoint`.
    pub(crate) endpoints: HashMap<String, String>,
    /// Endpoints of other services, in all regions.
    pub(crate) service_endpoints: HashMap<String, String>,
    pub(crate) connections: Connections,
    /// The HTTP client for credentials providers.
    pub(crate) credentials_http: SharedHttpClient,
    pub(crate) refresh: RefreshSettings,
    pub(crate) budget: BudgetSettings,
    pub(crate) circuit: CircuitSettings,
    pub(crate) attempt_timeout: Duration,
    pub(crate) operation_timeout: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_clients: usize,
}
