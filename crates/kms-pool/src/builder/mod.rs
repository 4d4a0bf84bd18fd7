//! The settings of a pool: each with its unit, default, range and an example.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

pub(crate) use self::check::check_endpoint;
use crate::connection::{ConnectionSettings, Proxies};
use crate::credentials::Renewals;
use crate::error::BuildError;
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
    renewals: Renewals,
    budget: BudgetSettings,
    circuit: CircuitSettings,
    fips: bool,
    dual_stack: bool,
    app_name: Option<String>,
}

impl KmsPoolBuilder {
    pub(crate) fn new() -> Self {
        Self {
            endpoint: None,
            endpoints: HashMap::new(),
            connections: ConnectionSettings::default(),
            attempt_timeout: Duration::from_secs(3),
            operation_timeout: Duration::from_secs(10),
            max_attempts: 3,
            max_clients: 1000,
            idle_timeout: Duration::from_mins(10),
            renewals: Renewals {
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

    /// The endpoint of every region that has none of its own. Default: AWS's endpoint of the
    /// region.
    ///
    /// Must be `https://`, since plaintext data keys travel over it; `http://` is allowed for
    /// `localhost`, `127.0.0.1` and `[::1]` alone.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.endpoint_url("https://127.0.0.1:8443");
    /// ```
    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// The endpoint of one region, before that of [`endpoint_url`](Self::endpoint_url) and under
    /// the same rules. Repeatable; the last call for a region wins.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.endpoint_url_for("eu-west-1", "https://vpce-0123.kms.eu-west-1.vpce.amazonaws.com");
    /// ```
    pub fn endpoint_url_for(mut self, region: impl Into<String>, url: impl Into<String>) -> Self {
        self.endpoints.insert(region.into(), url.into());
        self
    }

    /// A certificate authority to believe *instead of* the platform's, in PEM; a bundle is fine.
    /// Repeatable. Default: the platform's authorities.
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

    /// Believes the platform's certificate authorities in addition to custom ones. They are
    /// believed anyway when there are no custom ones.
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

    /// How long it may take to connect: TCP, a proxy's tunnel and the TLS handshake together.
    /// Default 2 s; 1 ms to 5 min.
    ///
    /// If a host has several addresses, they are tried as RFC 8305 ("Happy Eyeballs") says: IPv6
    /// and IPv4 by turns, each 250 ms after the one before it, or at once when that one has failed.
    ///
    /// It is the pool's: a client's own configuration cannot override it.
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

    /// How long a connection that nobody uses stays open. Default 90 s; 10 ms to 1 h.
    ///
    /// Load balancers and NAT gateways forget idle connections, those of AWS after 350 s, mostly
    /// without telling either side. Idle connections are therefore probed by TCP keepalive, first
    /// after 30 s.
    ///
    /// When a request fails on a connection that was open before it, by a timeout or a reset, all
    /// idle connections of the region are closed, and the request is sent once more over a new one,
    /// at once. This happens once in an operation, and [`max_attempts`](Self::max_attempts) does not
    /// count it. Only what becomes of the second try counts for the
    /// [circuit](Self::circuit_opens_after). A timeout is left to the other retries if KMS answered
    /// other requests over old connections meanwhile: it is slow then, and not the connection dead.
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

    /// Takes these addresses for a host name, instead of asking the system's resolver.
    #[doc(hidden)]
    pub fn resolve(mut self, host: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.connections.hosts.set(host, addresses.into_iter().collect());
        self
    }

    /// How long one attempt may take, connecting included. Default 3 s; 1 ms to 5 min.
    ///
    /// The second try of an attempt whose [idle connection](Self::connection_idle_timeout) was dead
    /// may take as long again.
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

    /// How long a KMS operation may take with all its attempts and the pauses between them.
    /// Default 10 s; 1 ms to 5 min. Of several timeouts the first to pass counts.
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

    /// How often the SDK tries an operation, the first time included, in its standard retry mode.
    /// Default 3; 1 to 10. This is the one place that decides on retries; the pool adds none of its
    /// own but the one for a connection that died while it was
    /// [idle](Self::connection_idle_timeout). A quota bounds the retries of each principal in a region, so that they end by themselves
    /// when KMS is down. A principal whose requests fail uses up its own quota, and nobody else's.
    ///
    /// What KMS refused for its credentials is signed again once they have been renewed, even with
    /// 1.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_attempts(1);
    /// ```
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// How many clients the pool keeps. Beyond that those little used of late make room; callers
    /// who hold one keep it. Default 1000; 1 to 1,000,000. Rounded up by less than the number of
    /// CPUs × 8.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_clients(100);
    /// ```
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = clients;
        self
    }

    /// How long a slot that nobody uses is kept; with the last slot of a region go its connections.
    /// Default 10 min; 10 ms to 24 h. Late by up to a quarter of it.
    ///
    /// Single connections that nobody uses close earlier: see
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

    /// How long before their expiry credentials are renewed. Default 5 min; 0 to 1 h. Credentials
    /// that live less than twice as long are renewed at half their life.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.refresh_lead(Duration::from_mins(10));
    /// ```
    pub fn refresh_lead(mut self, lead: Duration) -> Self {
        self.renewals.lead = lead;
        self
    }

    /// By how much earlier than that at most, drawn anew for each set of credentials, so that a
    /// fleet that started together does not renew together. Default 1 min; 0 to 1 h.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.refresh_jitter(Duration::ZERO);
    /// ```
    pub fn refresh_jitter(mut self, jitter: Duration) -> Self {
        self.renewals.jitter = jitter;
        self
    }

    /// How long a principal's credentials provider may take. Default 5 s; 1 ms to 5 min. It is the
    /// provider's own time: requests only wait for it when there are no credentials that are still
    /// good.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.provider_timeout(Duration::from_secs(2));
    /// ```
    pub fn provider_timeout(mut self, timeout: Duration) -> Self {
        self.renewals.provider_timeout = timeout;
        self
    }

    /// How often the files of a principal are looked at: see
    /// [`Principal::with_files`](crate::Principal::with_files). Default 5 s; 10 ms to 1 h.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.watch_files_every(Duration::from_secs(1));
    /// ```
    pub fn watch_files_every(mut self, pause: Duration) -> Self {
        self.renewals.files_every = pause;
        self
    }

    /// How many requests of one account may be under way in one region at once; the others wait
    /// their turn, in order. Default 256; 1 to 100,000. What waits too long for its operation to
    /// end in time fails with [`OverBudget`](crate::KmsErrorKind::OverBudget).
    ///
    /// Regions have separate limits, so that a slow one does not hold up another.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_in_flight(64);
    /// ```
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.budget.max_in_flight = requests;
        self
    }

    /// How many requests of one account are sent to one region in a second at most. Default: any
    /// number, until KMS throttles; then nine tenths of what it accepted in the last second, and
    /// more again until it throttles: by a hundredth of that in the first second, and twice as much
    /// in each further one. 1 to 1,000,000.
    ///
    /// A request that could not start in time fails at once with
    /// [`OverBudget`](crate::KmsErrorKind::OverBudget), and says in
    /// [`retry_after`](crate::KmsError::retry_after) when it could. In time is so that a whole
    /// attempt still fits into the operation timeout, or at half of it where that is later: by
    /// default within 7 s.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_requests_per_second(5_000.0);
    /// ```
    pub fn max_requests_per_second(mut self, requests: f64) -> Self {
        self.budget.max_per_second = Some(requests);
        self
    }

    /// The most of the budget that `Decrypt` and `ReEncrypt` may take. Default 1, all of it; 0.01
    /// to 1. With 0.7, 0.3 are left for what encrypts, however much is to be decrypted.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.decrypt_share(0.7);
    /// ```
    pub fn decrypt_share(mut self, share: f64) -> Self {
        self.budget.decrypt_share = share;
        self
    }

    /// The most of the budget that all other operations may take. Default 1, all of it; 0.01 to 1.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.encrypt_share(0.7);
    /// ```
    pub fn encrypt_share(mut self, share: f64) -> Self {
        self.budget.encrypt_share = share;
        self
    }

    /// After how many failures in a row (time-outs, broken connections, internal errors) the
    /// circuit of a slot opens. Default 10; 0 means never. While it is open requests fail at once
    /// with [`Unavailable`](crate::KmsErrorKind::Unavailable); after 500 ms one is sent to see, and
    /// after it failed one more after twice that time, up to 10 s.
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
    /// `kms-fips.us-east-1.amazonaws.com`. Default: off. It says nothing about this side's
    /// cryptography.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.use_fips(true);
    /// ```
    pub fn use_fips(mut self, fips: bool) -> Self {
        self.fips = fips;
        self
    }

    /// Uses the endpoints that are reached over IPv6 too, such as `kms.us-east-1.api.aws`. Default:
    /// off.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.use_dual_stack(true);
    /// ```
    pub fn use_dual_stack(mut self, dual_stack: bool) -> Self {
        self.dual_stack = dual_stack;
        self
    }

    /// Reaches KMS through this HTTP proxy, by `CONNECT`, so that TLS ends at KMS and not in the
    /// proxy. Default: none. [`with_environment`](Self::with_environment) takes those of the
    /// environment.
    ///
    /// The URL is `http://` or `https://`, the latter for TLS to the proxy itself, with the pool's
    /// certificate authorities. As for curl, a URL without a scheme is `http://`, the port is 1080
    /// by default, or 443 for `https://`, and a percent-encoded `user:password@` before the host is
    /// sent to the proxy by "Basic" authentication. Endpoints with plain `http://` are reached
    /// without the proxy, as they are on this machine.
    ///
    /// STS and SSO are reached through the same proxy where a principal is made of a profile, the
    /// default chain or a [`Role`](crate::Role) without a proxy of its own.
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
    /// [`BuildError::Proxy`] if that is not the URL of a proxy.
    pub fn proxy(mut self, url: &str) -> Result<Self, BuildError> {
        self.connections.proxies = Proxies::all(url)?;
        Ok(self)
    }

    /// A name for the `User-Agent` header, by which AWS `CloudTrail` tells applications apart.
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
        // Endpoints and roots stay out: they are long, and a URL may hold a password.
        f.debug_struct("KmsPoolBuilder")
            .field("connect_timeout", &self.connections.connect_timeout)
            .field("connection_idle_timeout", &self.connections.idle_timeout)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("max_attempts", &self.max_attempts)
            .field("max_clients", &self.max_clients)
            .field("idle_timeout", &self.idle_timeout)
            .field("renewals", &self.renewals)
            .field("budget", &self.budget)
            .field("circuit", &self.circuit)
            .field("fips", &self.fips)
            .field("dual_stack", &self.dual_stack)
            .field("app_name", &self.app_name)
            .finish_non_exhaustive()
    }
}
