//! The settings of a pool, each with its unit, default, range and an example.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

pub(crate) use self::check::check_endpoint;
use crate::connection::{ConnectionSettings, Proxies};
use crate::credentials::RefreshSettings;
use crate::error::BuildError;
use crate::pool::KmsPool;
use crate::request::{BudgetSettings, CircuitSettings};

mod build;
mod check;
mod environment;

/// Builds a [`KmsPool`](crate::KmsPool).
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
#[must_use = "a builder does nothing until `build`"]
pub struct KmsPoolBuilder {
    endpoint: Option<String>,
    endpoints: HashMap<String, String>,
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

    /// Sets the endpoint of every region without an [`endpoint_url_for`](Self::endpoint_url_for).
    /// Default: the AWS endpoint of the region.
    ///
    /// Must be `https://`, because plaintext data keys travel over it; `http://` is allowed only
    /// for `localhost`, `127.0.0.1` and `[::1]`.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.endpoint_url("https://127.0.0.1:8443");
    /// ```
    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Sets the endpoint of one region. It takes precedence over
    /// [`endpoint_url`](Self::endpoint_url) and follows the same rules. Repeatable; the last call
    /// for a region wins.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.endpoint_url_for("eu-west-1", "https://vpce-0123.kms.eu-west-1.vpce.amazonaws.com");
    /// ```
    pub fn endpoint_url_for(mut self, region: impl Into<String>, url: impl Into<String>) -> Self {
        self.endpoints.insert(region.into(), url.into());
        self
    }

    /// Adds certificate authorities in PEM format, one or several, that are trusted *instead of*
    /// the platform's. Repeatable. Default: the platform's authorities.
    ///
    /// ```no_run
    /// # fn example(builder: kms_pool::KmsPoolBuilder) -> std::io::Result<()> {
    /// builder.trust_root_pem(std::fs::read("private-ca.pem")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn trust_root_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.connections.roots.pems.push(pem.into());
        self
    }

    /// Trusts the platform's certificate authorities in addition to custom ones. Without custom
    /// ones, they are always trusted.
    ///
    /// ```no_run
    /// # fn example(builder: kms_pool::KmsPoolBuilder) -> std::io::Result<()> {
    /// builder.trust_root_pem(std::fs::read("private-ca.pem")?).trust_platform_roots();
    /// # Ok(())
    /// # }
    /// ```
    pub fn trust_platform_roots(mut self) -> Self {
        self.connections.roots.platform = true;
        self
    }

    /// How long connecting may take: TCP, a proxy's tunnel and the TLS handshake together. Default
    /// 2 s; 1 ms to 5 min.
    ///
    /// If a host has several addresses, they are tried according to RFC 8305 ("Happy Eyeballs"):
    /// IPv6 and IPv4 alternate, and each attempt starts 250 ms after the previous one, or at once
    /// when that one fails.
    ///
    /// This setting belongs to the pool: a client's own configuration cannot override it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.connect_timeout(Duration::from_millis(500));
    /// ```
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connections.connect_timeout = timeout;
        self
    }

    /// How long an idle connection stays open. Default 90 s; 10 ms to 1 h.
    ///
    /// Load balancers and NAT gateways drop idle connections (those of AWS after 350 s), usually
    /// without notifying either side. The pool therefore probes idle connections by TCP keepalive,
    /// first after 30 s.
    ///
    /// When a request on a reused connection fails by a timeout or a reset, the pool closes all
    /// idle connections of the region and sends the request again at once over a new connection. It
    /// does so once per operation, in addition to [`max_attempts`](Self::max_attempts). Only the
    /// outcome of the second try counts for the [circuit](Self::circuit_opens_after). After a
    /// timeout the pool does this only if no other request on a reused connection got a response in
    /// the meantime: otherwise KMS is slow and the connection is not dead, so the timeout is left
    /// to the SDK's retries.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.connection_idle_timeout(Duration::from_secs(30));
    /// ```
    pub fn connection_idle_timeout(mut self, timeout: Duration) -> Self {
        self.connections.idle_timeout = timeout;
        self
    }

    /// Resolves a host name to these addresses instead of using the system's resolver.
    #[doc(hidden)]
    pub fn resolve(mut self, host: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.connections.hosts.set(host, addresses.into_iter().collect());
        self
    }

    /// How long one attempt may take, including connecting. Default 3 s; 1 ms to 5 min.
    ///
    /// If a reused connection was dead, the second try over a new connection may take as long
    /// again: see [`connection_idle_timeout`](Self::connection_idle_timeout).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.attempt_timeout(Duration::from_secs(1));
    /// ```
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// How long a KMS operation may take, including all attempts and the pauses between them.
    /// Default 10 s; 1 ms to 5 min. The timeout that expires first applies.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.operation_timeout(Duration::from_secs(5));
    /// ```
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// How many times the SDK tries an operation, including the first attempt, in its standard
    /// retry mode. Default 3; 1 to 10. Only the SDK retries; the pool adds one exception, for a
    /// connection that died while it was [idle](Self::connection_idle_timeout). A retry quota per
    /// principal and region stops retries when KMS is down. A principal whose requests fail uses up
    /// only its own quota.
    ///
    /// A request that KMS refuses because of its credentials is signed again after they have been
    /// refreshed, even if this is 1.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_attempts(1);
    /// ```
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// How many clients the pool keeps. Beyond that it evicts the least recently used ones; callers
    /// that hold an evicted client can still use it. Default 1000; 1 to 1,000,000. The actual limit
    /// may be higher by less than 8 × the number of CPUs.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_clients(100);
    /// ```
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = clients;
        self
    }

    /// How long the pool keeps an unused client. Default 10 min; 10 ms to 24 h. Eviction can be
    /// late by up to a quarter of this time. The last client of a region takes the region's
    /// connections with it.
    ///
    /// Individual idle connections close earlier: see
    /// [`connection_idle_timeout`](Self::connection_idle_timeout).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.idle_timeout(Duration::from_mins(2));
    /// ```
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How long before their expiry credentials are refreshed. Default 5 min; 0 to 1 h. Credentials
    /// that live less than twice as long are refreshed halfway through their lifetime.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.refresh_lead(Duration::from_mins(10));
    /// ```
    pub fn refresh_lead(mut self, lead: Duration) -> Self {
        self.refresh.lead = lead;
        self
    }

    /// The maximum random time by which a refresh starts before
    /// [`refresh_lead`](Self::refresh_lead), so that a fleet that started together does not refresh
    /// together. Drawn for each credential generation. Default 1 min; 0 to 1 h.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.refresh_jitter(Duration::ZERO);
    /// ```
    pub fn refresh_jitter(mut self, jitter: Duration) -> Self {
        self.refresh.jitter = jitter;
        self
    }

    /// How long a call of a principal's credentials provider may take. Default 5 s; 1 ms to 5 min.
    /// Requests wait for the provider only if there are no valid credentials.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.provider_timeout(Duration::from_secs(2));
    /// ```
    pub fn provider_timeout(mut self, timeout: Duration) -> Self {
        self.refresh.provider_timeout = timeout;
        self
    }

    /// How often the files of a principal are checked for changes: see
    /// [`Principal::with_files`](crate::Principal::with_files). Default 5 s; 10 ms to 1 h.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.watch_files_every(Duration::from_secs(1));
    /// ```
    pub fn watch_files_every(mut self, pause: Duration) -> Self {
        self.refresh.files_every = pause;
        self
    }

    /// How many requests of one account may be in flight in one region at once; further requests
    /// wait in a queue. Default 256; 1 to 100,000. A request that waits too long to finish within
    /// its operation timeout fails with [`OverBudget`](crate::KmsErrorKind::OverBudget).
    ///
    /// Each region has a separate limit, so a slow region does not delay another.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_in_flight(64);
    /// ```
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.budget.max_in_flight = requests;
        self
    }

    /// The maximum number of requests per second of one account to one region. 1 to 1,000,000.
    /// Default: unlimited until KMS throttles. The limit then drops to nine tenths of the requests
    /// that KMS accepted in the last second. It grows until KMS throttles again: by a hundredth of
    /// that number in the first second, and by twice as much in each further second.
    ///
    /// A request that cannot start in time fails at once with
    /// [`OverBudget`](crate::KmsErrorKind::OverBudget);
    /// [`retry_after`](crate::KmsError::retry_after) says when to try again. "In time" means that a
    /// whole attempt still fits into the operation timeout, or by half of the operation timeout if
    /// that is later. With the default timeouts that is within 7 s.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_requests_per_second(5_000.0);
    /// ```
    pub fn max_requests_per_second(mut self, requests: f64) -> Self {
        self.budget.max_per_second = Some(requests);
        self
    }

    /// The maximum share of the budget for `Decrypt` and `ReEncrypt`. Default 1, all of it; 0.01 to
    /// 1. With 0.7, a share of 0.3 remains for encryption, however many messages are decrypted.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.decrypt_share(0.7);
    /// ```
    pub fn decrypt_share(mut self, share: f64) -> Self {
        self.budget.decrypt_share = share;
        self
    }

    /// The maximum share of the budget for all other operations. Default 1, all of it; 0.01 to 1.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.encrypt_share(0.7);
    /// ```
    pub fn encrypt_share(mut self, share: f64) -> Self {
        self.budget.encrypt_share = share;
        self
    }

    /// How many consecutive failures (timeouts, broken connections, internal errors) open the
    /// circuit of a client. Default 10; 0 disables the circuit. While the circuit is open, requests
    /// fail at once with [`Unavailable`](crate::KmsErrorKind::Unavailable). After 500 ms one
    /// request is sent as a probe. Each probe that fails doubles the time until the next one, up to
    /// 10 s.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.circuit_opens_after(5);
    /// ```
    pub fn circuit_opens_after(mut self, failures: u32) -> Self {
        self.circuit.failures = failures;
        self
    }

    /// Uses the endpoints that are validated under FIPS 140, such as
    /// `kms-fips.us-east-1.amazonaws.com`. Default: off. This does not change the cryptography in
    /// your process.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.use_fips(true);
    /// ```
    pub fn use_fips(mut self, fips: bool) -> Self {
        self.fips = fips;
        self
    }

    /// Uses the endpoints that are also reachable over IPv6, such as `kms.us-east-1.api.aws`.
    /// Default: off.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.use_dual_stack(true);
    /// ```
    pub fn use_dual_stack(mut self, dual_stack: bool) -> Self {
        self.dual_stack = dual_stack;
        self
    }

    /// Connects to KMS through this HTTP proxy with `CONNECT`, so that TLS ends at KMS and not at
    /// the proxy. Default: none. [`with_environment`](Self::with_environment) uses the proxy of the
    /// environment.
    ///
    /// The URL is `http://` or `https://`. With `https://`, the connection to the proxy itself also
    /// uses TLS, with the pool's certificate authorities. As with curl, a URL without a scheme is
    /// `http://`, the default port is 1080, or 443 for `https://`, and a percent-encoded
    /// `user:password@` before the host is sent to the proxy by "Basic" authentication. Plain
    /// `http://` endpoints are on this machine and bypass the proxy.
    ///
    /// A principal from a profile, from the default chain, or from a [`Role`](crate::Role) without
    /// its own proxy also reaches STS and SSO through this proxy.
    ///
    /// ```
    /// # fn example() -> Result<(), kms_pool::BuildError> {
    /// let pool = kms_pool::KmsPool::builder().proxy("http://proxy.internal:3128")?.build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`BuildError::Proxy`] if `url` is not a valid proxy URL.
    pub fn proxy(mut self, url: &str) -> Result<Self, BuildError> {
        self.connections.proxies = Proxies::all(url)?;
        Ok(self)
    }

    /// Sets a name for the `User-Agent` header, by which AWS `CloudTrail` tells applications apart.
    /// Default: none.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.app_name("billing");
    /// ```
    pub fn app_name(mut self, name: impl Into<String>) -> Self {
        self.app_name = Some(name.into());
        self
    }
}

impl fmt::Debug for KmsPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without endpoints and roots: they are long, and a URL may contain a password.
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
