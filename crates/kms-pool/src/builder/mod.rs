//! The builder of a pool.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::connection::ConnectionSettings;
use crate::credentials::RefreshSettings;
use crate::pool::KmsPool;
use crate::request::{BudgetSettings, CircuitSettings};

mod build;
mod check;
mod clients;
mod connections;
mod environment;
mod requests;

/// Configures and builds a [`KmsPool`](crate::KmsPool).
///
/// All settings have defaults: see the [table](crate#defaults).
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use kms_pool::KmsPool;
///
/// let pool = KmsPool::builder()
///     .attempt_timeout(Duration::from_secs(1))
///     .max_attempts(2)
///     .build()?;
/// # Ok::<(), kms_pool::BuildError>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct KmsPoolBuilder {
    endpoint: Option<String>,
    endpoints: HashMap<String, String>,
    service_endpoints: HashMap<String, String>,
    connections: ConnectionSettings,
    attempt_timeout: Duration,
    operation_timeout: Duration,
    max_attempts: u32,
    max_clients: usize,
    idle_timeout: Duration,
    refresh: RefreshSettings,
    budget: BudgetSettings,
    circuit: CircuitSettings,
    fips: bool,
    dual_stack: bool,
    app_name: Option<String>,
}

impl KmsPool {
    /// Returns a builder with the [default settings](crate#defaults).
    pub fn builder() -> KmsPoolBuilder {
        KmsPoolBuilder::new()
    }
}

impl KmsPoolBuilder {
    fn new() -> Self {
        Self {
            endpoint: None,
            endpoints: HashMap::new(),
            service_endpoints: HashMap::new(),
            connections: ConnectionSettings::default(),
            attempt_timeout: Duration::from_secs(3),
            operation_timeout: Duration::from_secs(10),
            max_attempts: 3,
            max_clients: 1000,
            idle_timeout: Duration::from_mins(10),
            refresh: RefreshSettings {
                lead: Duration::from_mins(5),
                jitter: Duration::from_mins(1),
                provider_timeout: Duration::from_secs(5),
                files_every: Duration::from_secs(5),
            },
            budget: BudgetSettings {
                max_in_flight: 256,
                max_per_second: None,
                decrypt_share: 1.0,
                encrypt_share: 1.0,
            },
            circuit: CircuitSettings { failures: 10, pause: Duration::from_millis(500) },
            fips: false,
            dual_stack: false,
            app_name: None,
        }
    }
}

impl fmt::Debug for KmsPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without endpoints, because a URL may contain a password.
        f.debug_struct("KmsPoolBuilder")
            .field("connect_timeout", &self.connections.connect_timeout)
            .field("connection_idle_timeout", &self.connections.idle_timeout)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("max_attempts", &self.max_attempts)
            .field("max_clients", &self.max_clients)
            .field("idle_timeout", &self.idle_timeout)
            .field("refresh", &self.refresh)
            .field("budget", &self.budget)
            .field("circuit", &self.circuit)
            .field("fips", &self.fips)
            .field("dual_stack", &self.dual_stack)
            .field("app_name", &self.app_name)
            .finish_non_exhaustive()
    }
}
