//! Validates the settings of a pool.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::KmsPoolBuilder;
use crate::connection::check_endpoint;
use crate::error::BuildError;
use crate::region::Region;

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
const CONNECTION_IDLE_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_hours(1);

impl KmsPoolBuilder {
    /// Validates each setting.
    ///
    /// # Errors
    ///
    /// Returns the error of the first invalid setting.
    pub(super) fn check(&self) -> Result<(), BuildError> {
        in_range("connect_timeout", &self.connections.connect_timeout, &TIMEOUTS)?;
        let idle = &self.connections.idle_timeout;
        in_range("connection_idle_timeout", idle, &CONNECTION_IDLE_TIMEOUTS)?;
        in_range("attempt_timeout", &self.attempt_timeout, &TIMEOUTS)?;
        in_range("operation_timeout", &self.operation_timeout, &TIMEOUTS)?;
        in_range("provider_timeout", &self.refresh.provider_timeout, &TIMEOUTS)?;
        in_range("refresh_lead", &self.refresh.lead, &REFRESH_LEADS)?;
        in_range("refresh_jitter", &self.refresh.jitter, &JITTERS)?;
        in_range("watch_files_every", &self.refresh.files_every, &FILE_LOOKS)?;
        in_range("idle_timeout", &self.idle_timeout, &IDLE_TIMEOUTS)?;
        in_range("max_attempts", &self.max_attempts, &ATTEMPTS)?;
        in_range("max_clients", &self.max_clients, &CLIENTS)?;
        in_range("max_in_flight", &self.budget.max_in_flight, &IN_FLIGHT)?;
        in_range("decrypt_share", &self.budget.decrypt_share, &SHARES)?;
        in_range("encrypt_share", &self.budget.encrypt_share, &SHARES)?;
        in_range("circuit_opens_after", &self.circuit.failures, &CIRCUIT_FAILURES)?;
        if let Some(max) = &self.budget.max_per_second {
            in_range("max_requests_per_second", max, &PER_SECOND)?;
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
            let reason = "cannot be combined with `use_fips` or `use_dual_stack`: set \
                the URL of the FIPS or dual-stack endpoint";
            return Err(BuildError::Endpoint { region: region.to_owned(), reason });
        }
        for (service, url) in &self.service_endpoints {
            check_endpoint(service, url)?;
        }
        for (region, url) in &self.endpoints {
            region.parse::<Region>()?;
            check_endpoint(region, url)?;
        }
        Ok(())
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
        min: format!("{:?}", range.start()),
        max: format!("{:?}", range.end()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KmsPool;

    const ROOT: &[u8] = include_bytes!("../../tests/data/root.pem");

    fn builder() -> KmsPoolBuilder {
        KmsPool::builder().trust_root_pem(ROOT)
    }

    #[test]
    fn numbers_and_durations_out_of_range_are_errors() {
        let zero = Duration::ZERO;
        let long = Duration::from_hours(2);
        for (setting, builder) in [
            ("connect_timeout", builder().connect_timeout(zero)),
            ("connection_idle_timeout", builder().connection_idle_timeout(long)),
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
    fn plain_http_is_allowed_for_localhost_only() {
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
    fn endpoint_urls_exclude_fips_and_dual_stack() {
        for builder in [builder().use_fips(true), builder().use_dual_stack(true)] {
            let error = builder.endpoint_url("https://localhost").build().unwrap_err();
            assert!(
                matches!(&error, BuildError::Endpoint { reason, .. } if reason.contains("fips")),
                "{error}"
            );
        }
    }

    #[test]
    fn an_invalid_region_name_is_an_error() {
        let error = builder().endpoint_url_for("EU West", "https://localhost").build();
        assert!(matches!(error, Err(BuildError::Region { region }) if region == "EU West"));
    }

    #[test]
    fn invalid_trust_roots_fail_the_build() {
        let truncated = &ROOT[..ROOT.len() / 2];
        let no_certificate: &[u8] =
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for pem in [b"".as_slice(), b"not a certificate", truncated, no_certificate] {
            let error = builder().trust_root_pem(pem).build();
            assert!(matches!(error, Err(BuildError::TrustRoot { index: 1, .. })), "{error:?}");
        }
    }

    #[test]
    fn an_invalid_application_name_is_an_error() {
        assert!(matches!(builder().app_name("two words").build(), Err(BuildError::AppName)));
        assert!(builder().app_name("billing").build().is_ok());
    }
}
