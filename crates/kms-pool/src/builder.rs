//! The settings of a pool, checked before there is one.
//!
//! Longer than a module should be: most of it is each setting's unit, default, range and example.

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kms::config::{
    self, AppName, BehaviorVersion, IdentityCache, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use http::Uri;

use crate::background::Background;
use crate::connection::{Connections, TrustRoots};
use crate::credentials::Renewals;
use crate::error::BuildError;
use crate::pool::{KmsPool, Settings};
use crate::request::{BudgetSettings, CircuitSettings};
use crate::stats::Counters;
use crate::time::Clock;

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(5);
const REFRESH_LEADS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
const ATTEMPTS: RangeInclusive<u32> = 1..=10;
const CLIENTS: RangeInclusive<usize> = 1..=1_000_000;
const IN_FLIGHT: RangeInclusive<usize> = 1..=100_000;
const PER_SECOND: RangeInclusive<f64> = 1.0..=1_000_000.0;
const SHARES: RangeInclusive<f64> = 0.01..=1.0;
const CIRCUIT_FAILURES: RangeInclusive<u32> = 0..=1_000_000;
const JITTERS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
const FILE_LOOKS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(1);
const IDLE_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_hours(24);

/// Threads that drive what goes on in a pool: much waiting, little work.
const WORKERS: usize = 2;

/// Connections that nobody uses close after this time at the latest.
const IDLE_CONNECTIONS: Duration = Duration::from_secs(90);

/// Builds a [`KmsPool`].
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
    roots: TrustRoots,
    connect_timeout: Duration,
    attempt_timeout: Duration,
    operation_timeout: Duration,
    max_attempts: u32,
    max_clients: usize,
    idle_timeout: Duration,
    renewals: Renewals,
    budget: BudgetSettings,
    circuit: CircuitSettings,
    proxy: ProxyConfig,
    fips: bool,
    dual_stack: bool,
    app_name: Option<String>,
}

impl KmsPoolBuilder {
    pub(crate) fn new() -> Self {
        Self {
            endpoint: None,
            endpoints: HashMap::new(),
            roots: TrustRoots::default(),
            connect_timeout: Duration::from_secs(2),
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
            proxy: ProxyConfig::disabled(),
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
        self.roots.pems.push(pem.into());
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
        self.roots.platform = true;
        self
    }

    /// Takes over what the AWS SDKs and the AWS CLI read from the environment: the endpoint from
    /// `AWS_ENDPOINT_URL_KMS` or else `AWS_ENDPOINT_URL` (neither when
    /// `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS` is `true`), and the certificate authorities to believe
    /// instead of the platform's from the PEM file `AWS_CA_BUNDLE`; and the proxy from
    /// `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case.
    ///
    /// Nothing is read from the environment without this call.
    ///
    /// ```
    /// # fn example() -> Result<(), kms_pool::BuildError> {
    /// let pool = kms_pool::KmsPool::builder().with_environment()?.build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`BuildError::CaBundle`] if the file that `AWS_CA_BUNDLE` names cannot be read.
    pub fn with_environment(mut self) -> Result<Self, BuildError> {
        self.proxy = ProxyConfig::from_env();
        self.with_variables(|name| std::env::var(name).ok())
    }

    fn with_variables(
        mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BuildError> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        if set("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
            .is_none_or(|value| !value.eq_ignore_ascii_case("true"))
        {
            self.endpoint =
                set("AWS_ENDPOINT_URL_KMS").or_else(|| set("AWS_ENDPOINT_URL")).or(self.endpoint);
        }
        if let Some(path) = set("AWS_CA_BUNDLE") {
            let pem = std::fs::read(&path).map_err(|cause| BuildError::CaBundle { path, cause })?;
            self.roots.pems.push(pem);
        }
        Ok(self)
    }

    /// How long a TCP connection with its TLS handshake may take. Default 2 s; 1 ms to 5 min.
    ///
    /// It is the pool's: a client's own configuration cannot override it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.connect_timeout(Duration::from_millis(500));
    /// ```
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one attempt may take, connecting included. Default 3 s; 1 ms to 5 min.
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
    /// own. A quota bounds the retries of each principal in a region, so that they end by themselves
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
    /// Connections that nobody uses close after the same time, but after 90 s at the latest.
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
        self.proxy = ProxyConfig::all(url).map_err(|_| BuildError::Proxy)?;
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

    /// Checks the settings, loads the certificate authorities and builds the pool.
    ///
    /// # Errors
    ///
    /// A [`BuildError`] that names the first setting that cannot be used.
    pub fn build(self) -> Result<KmsPool, BuildError> {
        self.check()?;
        let app_name = self.app_name.map(AppName::new).transpose();
        let app_name = app_name.map_err(|_| BuildError::AppName)?;
        let counters = Arc::new(Counters::default());
        let idle_connections = self.idle_timeout.min(IDLE_CONNECTIONS);
        let connections =
            Connections::new(self.roots, self.proxy, idle_connections, Arc::clone(&counters))?;
        let background = Background::with_workers(WORKERS);
        let clock = Clock::of_this_machine();
        let mut common = config::Builder::new()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .sleep_impl(background.clone())
            // It learns the date of KMS. The SDK would correct it once more.
            .time_source(clock.clone())
            .disable_clock_skew_correction(true)
            // The attempt timeout is not here: it must not run while a request waits for its turn.
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(self.connect_timeout)
                    .operation_timeout(self.operation_timeout)
                    .build(),
            )
            // Sessions renew credentials; a cache below them would only make requests wait once
            // more.
            .identity_cache(IdentityCache::no_cache())
            // Bodies are a few KiB and the attempt timeout bounds them: nothing to watch over.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .use_fips(self.fips)
            .use_dual_stack(self.dual_stack);
        common.set_endpoint_url(self.endpoint);
        common.set_app_name(app_name);
        let settings = Settings {
            common,
            background,
            clock,
            endpoints: self.endpoints,
            connections: Arc::new(connections),
            renewals: self.renewals,
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

    fn check(&self) -> Result<(), BuildError> {
        in_range("connect_timeout", &self.connect_timeout, &TIMEOUTS)?;
        in_range("attempt_timeout", &self.attempt_timeout, &TIMEOUTS)?;
        in_range("operation_timeout", &self.operation_timeout, &TIMEOUTS)?;
        in_range("provider_timeout", &self.renewals.provider_timeout, &TIMEOUTS)?;
        in_range("refresh_lead", &self.renewals.lead, &REFRESH_LEADS)?;
        in_range("refresh_jitter", &self.renewals.jitter, &JITTERS)?;
        in_range("watch_files_every", &self.renewals.files_every, &FILE_LOOKS)?;
        in_range("idle_timeout", &self.idle_timeout, &IDLE_TIMEOUTS)?;
        in_range("max_attempts", &self.max_attempts, &ATTEMPTS)?;
        in_range("max_clients", &self.max_clients, &CLIENTS)?;
        in_range("max_in_flight", &self.budget.max_in_flight, &IN_FLIGHT)?;
        in_range("decrypt_share", &self.budget.decrypt_share, &SHARES)?;
        in_range("encrypt_share", &self.budget.encrypt_share, &SHARES)?;
        in_range("circuit_opens_after", &self.circuit.failures, &CIRCUIT_FAILURES)?;
        if let Some(most) = &self.budget.max_per_second {
            in_range("max_requests_per_second", most, &PER_SECOND)?;
        }
        let named = self.fips || self.dual_stack;
        if let Some(url) = &self.endpoint {
            check_endpoint("all regions", url)?;
        }
        if let Some(region) = self
            .endpoints
            .keys()
            .next()
            .map(String::as_str)
            .or(self.endpoint.as_ref().map(|_| "all regions"))
            && named
        {
            let reason = "cannot be combined with `use_fips` or `use_dual_stack`: name the endpoint that is both";
            return Err(BuildError::Endpoint { region: region.to_owned(), reason });
        }
        for (region, url) in &self.endpoints {
            crate::pool::check_region(region).map_err(|_| BuildError::no_region(region))?;
            check_endpoint(region, url)?;
        }
        Ok(())
    }
}

impl fmt::Debug for KmsPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Endpoints and roots stay out: they are long, and a URL may hold a password.
        f.debug_struct("KmsPoolBuilder")
            .field("connect_timeout", &self.connect_timeout)
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

fn in_range<T: PartialOrd + fmt::Debug>(
    setting: &'static str,
    value: &T,
    range: &RangeInclusive<T>,
) -> Result<(), BuildError> {
    if range.contains(value) {
        return Ok(());
    }
    Err(BuildError::OutOfRange {
        setting,
        value: format!("{value:?}"),
        least: format!("{:?}", range.start()),
        most: format!("{:?}", range.end()),
    })
}

pub(crate) fn check_endpoint(region: &str, url: &str) -> Result<(), BuildError> {
    let refuse = |reason| Err(BuildError::Endpoint { region: region.to_owned(), reason });
    let Ok(uri) = url.parse::<Uri>() else {
        return refuse("is not a URL");
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return refuse("has no scheme or no host");
    };
    if authority.as_str().contains('@') {
        return refuse("holds a user name");
    }
    if uri.query().is_some() {
        return refuse("has a query");
    }
    let is_local = matches!(authority.host(), "localhost" | "127.0.0.1" | "[::1]");
    match scheme {
        "https" => Ok(()),
        "http" if is_local => Ok(()),
        "http" => refuse("is http:// to another machine, where only https:// is allowed"),
        _ => refuse("has a scheme other than https"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &[u8] = include_bytes!("../tests/data/root.pem");

    fn builder() -> KmsPoolBuilder {
        KmsPool::builder().trust_root_pem(ROOT)
    }

    #[test]
    fn the_environment_gives_endpoint_and_roots() {
        let with = |variables: &'static [(&'static str, &'static str)]| {
            let variable = |name: &str| {
                variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
            };
            KmsPool::builder().endpoint_url("https://own").with_variables(variable)
        };
        let endpoint = |variables| with(variables).unwrap().endpoint.unwrap();
        assert_eq!(endpoint(&[]), "https://own");
        assert_eq!(endpoint(&[("AWS_ENDPOINT_URL", "https://all")]), "https://all");
        assert_eq!(
            endpoint(&[
                ("AWS_ENDPOINT_URL", "https://all"),
                ("AWS_ENDPOINT_URL_KMS", "https://kms")
            ]),
            "https://kms"
        );
        let ignored = &[
            ("AWS_ENDPOINT_URL_KMS", "https://kms"),
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true"),
        ];
        assert_eq!(endpoint(ignored), "https://own");
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/root.pem");
        let roots = |path: String| {
            KmsPool::builder()
                .with_variables(move |name| (name == "AWS_CA_BUNDLE").then(|| path.clone()))
        };
        assert_eq!(roots(root.to_owned()).unwrap().roots.pems, [ROOT]);
        assert!(matches!(roots("missing.pem".to_owned()), Err(BuildError::CaBundle { .. })));
    }

    #[test]
    fn numbers_and_durations_have_ranges() {
        let zero = Duration::ZERO;
        let long = Duration::from_hours(2);
        for (setting, builder) in [
            ("connect_timeout", builder().connect_timeout(zero)),
            ("attempt_timeout", builder().attempt_timeout(long)),
            ("operation_timeout", builder().operation_timeout(zero)),
            ("provider_timeout", builder().provider_timeout(long)),
            ("refresh_lead", builder().refresh_lead(long)),
            ("max_attempts", builder().max_attempts(0)),
            ("max_attempts", builder().max_attempts(11)),
            ("max_clients", builder().max_clients(0)),
        ] {
            match builder.build() {
                Err(BuildError::OutOfRange { setting: named, .. }) => assert_eq!(named, setting),
                other => panic!("{setting}: {other:?}"),
            }
        }
        assert!(builder().refresh_lead(zero).max_clients(1).max_attempts(10).build().is_ok());
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for url in [
            "https://127.0.0.1:8443",
            "https://kms.eu-west-1.amazonaws.com/",
            "http://localhost:4566",
            "http://[::1]:80",
        ] {
            assert!(builder().endpoint_url(url).build().is_ok(), "{url}");
        }
        for url in [
            "http://kms.eu-west-1.amazonaws.com",
            "http://localhost.example.com",
            "ftp://localhost",
            "https://name:password@localhost",
            "https://localhost/?x=y",
            "localhost:8443",
            "/path",
            "",
        ] {
            let error = builder().endpoint_url_for("eu-west-1", url).build().unwrap_err();
            assert!(matches!(&error, BuildError::Endpoint { region, .. } if region == "eu-west-1"));
            assert!(!error.to_string().contains("password"));
        }
    }

    #[test]
    fn an_endpoint_has_a_name_or_is_chosen_by_kind() {
        for builder in [builder().use_fips(true), builder().use_dual_stack(true)] {
            let error = builder.endpoint_url("https://localhost").build().unwrap_err();
            assert!(
                matches!(&error, BuildError::Endpoint { reason, .. } if reason.contains("use_fips")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_region_is_named_like_one() {
        let error = builder().endpoint_url_for("EU West", "https://localhost").build();
        assert!(matches!(error, Err(BuildError::Region { region, .. }) if region == "EU West"));
    }

    #[test]
    fn trust_roots_are_read_at_once() {
        let truncated = &ROOT[..ROOT.len() / 2];
        let no_certificate: &[u8] =
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for pem in [b"".as_slice(), b"not a certificate", truncated, no_certificate] {
            let error = builder().trust_root_pem(pem).build();
            assert!(matches!(error, Err(BuildError::TrustRoot { index: 1, .. })), "{error:?}");
        }
    }

    #[test]
    fn an_application_name_fits_a_user_agent() {
        assert!(matches!(builder().app_name("two words").build(), Err(BuildError::AppName)));
        assert!(builder().app_name("billing").build().is_ok());
    }
}
