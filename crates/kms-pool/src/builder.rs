//! The settings of a pool, checked before there is one.

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use aws_sdk_kms::config::AppName;
use aws_smithy_types::timeout::TimeoutConfig;
use http::Uri;

use crate::error::BuildError;
use crate::factory::{ClientFactory, common_config};
use crate::http::{TrustRoots, shared_client};
use crate::pool::KmsPool;
use crate::stats::Counters;

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(5);
const REFRESH_LEADS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
const ATTEMPTS: RangeInclusive<u32> = 1..=10;
const CLIENTS: RangeInclusive<usize> = 1..=1_000_000;

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
    refresh_lead: Duration,
    provider_timeout: Duration,
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
            refresh_lead: Duration::from_mins(1),
            provider_timeout: Duration::from_secs(5),
            app_name: None,
        }
    }

    /// The endpoint of every region that has none of its own. Default: AWS's endpoint of the region.
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

    /// The endpoint of one region, before that of [`endpoint_url`](Self::endpoint_url) and under the
    /// same rules. Repeatable; the last call for a region wins.
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

    /// Believes the platform's certificate authorities in addition to custom ones. They are believed
    /// anyway when there are no custom ones.
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
    /// instead of the platform's from the PEM file `AWS_CA_BUNDLE`.
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
    pub fn with_environment(self) -> Result<Self, BuildError> {
        self.with_variables(|name| std::env::var(name).ok())
    }

    fn with_variables(mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, BuildError> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        if set("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_none_or(|value| !value.eq_ignore_ascii_case("true")) {
            self.endpoint = set("AWS_ENDPOINT_URL_KMS").or_else(|| set("AWS_ENDPOINT_URL")).or(self.endpoint);
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
    /// Default 3; 1 to 10. A quota of the SDK's bounds the retries of all clients of a region together,
    /// so that they end by themselves when KMS is down.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_attempts(1);
    /// ```
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// How many clients the pool keeps. Beyond that those little used of late make room; callers who
    /// hold one keep it. Default 1000; 1 to 1,000,000. Rounded up by less than the number of CPUs × 8.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_clients(100);
    /// ```
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = clients;
        self
    }

    /// How long before their expiry credentials are renewed. Default 60 s; 0 to 1 h.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.refresh_lead(Duration::from_mins(5));
    /// ```
    pub fn refresh_lead(mut self, lead: Duration) -> Self {
        self.refresh_lead = lead;
        self
    }

    /// How long a principal's credentials provider may take. Default 5 s; 1 ms to 5 min.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.provider_timeout(Duration::from_secs(2));
    /// ```
    pub fn provider_timeout(mut self, timeout: Duration) -> Self {
        self.provider_timeout = timeout;
        self
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
        let max_clients = self.max_clients;
        Ok(KmsPool::new(self.factory()?, max_clients))
    }

    pub(crate) fn factory(self) -> Result<ClientFactory, BuildError> {
        in_range("connect_timeout", &self.connect_timeout, &TIMEOUTS)?;
        in_range("attempt_timeout", &self.attempt_timeout, &TIMEOUTS)?;
        in_range("operation_timeout", &self.operation_timeout, &TIMEOUTS)?;
        in_range("provider_timeout", &self.provider_timeout, &TIMEOUTS)?;
        in_range("refresh_lead", &self.refresh_lead, &REFRESH_LEADS)?;
        in_range("max_attempts", &self.max_attempts, &ATTEMPTS)?;
        in_range("max_clients", &self.max_clients, &CLIENTS)?;
        if let Some(url) = &self.endpoint {
            check_endpoint("all regions", url)?;
        }
        for (region, url) in &self.endpoints {
            crate::pool::check_region(region).map_err(|_| BuildError::Region)?;
            check_endpoint(region, url)?;
        }
        let app_name = self.app_name.map(AppName::new).transpose();
        let app_name = app_name.map_err(|_| BuildError::AppName)?;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.connect_timeout)
            .operation_attempt_timeout(self.attempt_timeout)
            .operation_timeout(self.operation_timeout)
            .build();
        let http_client = shared_client(self.roots, self.connect_timeout)?;
        Ok(ClientFactory {
            common: common_config(http_client, timeouts, self.max_attempts, self.endpoint, app_name),
            endpoints: self.endpoints,
            refresh_lead: self.refresh_lead,
            provider_timeout: self.provider_timeout,
            counters: Counters::default(),
        })
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
            .field("refresh_lead", &self.refresh_lead)
            .field("provider_timeout", &self.provider_timeout)
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

fn check_endpoint(region: &str, url: &str) -> Result<(), BuildError> {
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
            let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            KmsPool::builder().endpoint_url("https://own").with_variables(variable)
        };
        let endpoint = |variables| with(variables).unwrap().endpoint.unwrap();
        assert_eq!(endpoint(&[]), "https://own");
        assert_eq!(endpoint(&[("AWS_ENDPOINT_URL", "https://all")]), "https://all");
        assert_eq!(
            endpoint(&[("AWS_ENDPOINT_URL", "https://all"), ("AWS_ENDPOINT_URL_KMS", "https://kms")]),
            "https://kms"
        );
        let ignored = &[("AWS_ENDPOINT_URL_KMS", "https://kms"), ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
        assert_eq!(endpoint(ignored), "https://own");
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/root.pem");
        let roots = |path: String| {
            KmsPool::builder().with_variables(move |name| (name == "AWS_CA_BUNDLE").then(|| path.clone()))
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
    fn a_region_is_named_like_one() {
        let error = builder().endpoint_url_for("EU West", "https://localhost").build();
        assert!(matches!(error, Err(BuildError::Region)));
    }

    #[test]
    fn trust_roots_are_read_at_once() {
        let truncated = &ROOT[..ROOT.len() / 2];
        let no_certificate: &[u8] = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
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
