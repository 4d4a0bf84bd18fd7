//! Connections of a pool: one HTTPS client per region, and one for credentials providers.

use std::time::Duration;

pub(crate) use self::endpoint::check_endpoint;
pub(crate) use self::https::{Connections, Exchange, HttpsClient, Stale};
pub(crate) use self::proxy::Proxies;
pub(crate) use self::race::Hosts;
pub(crate) use self::sdk::metadata;
pub(crate) use self::tls::TrustRoots;

mod connector;
mod endpoint;
mod https;
mod proxy;
mod race;
mod sdk;
mod tls;

/// The settings of connections.
#[derive(Clone)]
pub(crate) struct ConnectionSettings {
    pub(crate) roots: TrustRoots,
    pub(crate) proxies: Proxies,
    pub(crate) hosts: Hosts,
    /// Limit for TCP, a proxy's tunnel and TLS together.
    pub(crate) connect_timeout: Duration,
    /// An idle connection closes after this time.
    pub(crate) idle_timeout: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            roots: TrustRoots::default(),
            proxies: Proxies::default(),
            hosts: Hosts::default(),
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(90),
        }
    }
}
