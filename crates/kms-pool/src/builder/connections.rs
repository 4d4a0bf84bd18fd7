//! Settings of endpoints and connections.

use std::net::IpAddr;
use std::time::Duration;

use super::KmsPoolBuilder;
use crate::connection::Proxies;
use crate::error::BuildError;

/// Settings of endpoints and connections.
impl KmsPoolBuilder {
    /// Sets the endpoint of all regions. Default: the AWS endpoint of each region.
    ///
    /// [`endpoint_url_for`](Self::endpoint_url_for) takes precedence. The URL must be `https://`,
    /// because plaintext data keys travel over it. `http://` is allowed only for `localhost`,
    /// `127.0.0.1` and `[::1]`.
    ///
    /// # Examples
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.endpoint_url("https://127.0.0.1:8443");
    /// ```
    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Sets the endpoint of one region. Default: [`endpoint_url`](Self::endpoint_url).
    ///
    /// The same rules apply as for `endpoint_url`. If this is called more than once for a region,
    /// the last call applies.
    ///
    /// # Examples
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.endpoint_url_for("eu-west-1", "https://vpce-0123.kms.eu-west-1.vpce.amazonaws.com");
    /// ```
    pub fn endpoint_url_for(mut self, region: impl Into<String>, url: impl Into<String>) -> Self {
        self.endpoints.insert(region.into(), url.into());
        self
    }

    /// Sets the endpoint of another service for all regions. Default: the AWS endpoint of each
    /// region.
    ///
    /// The service is named as in [`KmsPool::service_config`](crate::KmsPool::service_config). The
    /// same rules apply to the URL as for [`endpoint_url`](Self::endpoint_url).
    ///
    /// # Examples
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.service_endpoint_url("dynamodb", "http://127.0.0.1:8000");
    /// ```
    pub fn service_endpoint_url(
        mut self,
        service: impl Into<String>,
        url: impl Into<String>,
    ) -> Self {
        self.service_endpoints.insert(service.into(), url.into());
        self
    }

    /// Uses the endpoints that are validated under FIPS 140, such as
    /// `kms-fips.us-east-1.amazonaws.com`. Default: off.
    ///
    /// This does not change the cryptography in your process.
    ///
    /// # Examples
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
    /// # Examples
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.use_dual_stack(true);
    /// ```
    pub fn use_dual_stack(mut self, dual_stack: bool) -> Self {
        self.dual_stack = dual_stack;
        self
    }

    /// Adds trusted certificate authorities in PEM format, *instead of* the platform's. Default:
    /// the platform's.
    ///
    /// The text may contain several certificates, and you can call this several times.
    ///
    /// # Examples
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

    /// Trusts the platform's certificate authorities in addition to custom ones. Default: off.
    ///
    /// Without custom ones, the platform's are always trusted.
    ///
    /// # Examples
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

    /// Connects to KMS through an HTTP proxy with `CONNECT`, so that TLS ends at KMS and not at the
    /// proxy. Default: none.
    ///
    /// The URL is `http://` or `https://`. With `https://`, the connection to the proxy also uses
    /// TLS, with the pool's certificate authorities. As with curl, a URL without a scheme is
    /// `http://`, and the default port is 1080, or 443 for `https://`. A percent-encoded
    /// `user:password@` before the host is sent to the proxy by "Basic" authentication. Endpoints
    /// with plain `http://` are on this machine and bypass the proxy.
    ///
    /// A principal from a profile, from the default chain, or from a [`Role`](crate::Role) without
    /// its own proxy also reaches STS and SSO through this proxy.
    /// [`with_environment`](Self::with_environment) uses the proxy of the environment.
    ///
    /// # Errors
    ///
    /// [`BuildError::Proxy`] if `url` is not a valid proxy URL.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example() -> Result<(), kms_pool::BuildError> {
    /// let pool = kms_pool::KmsPool::builder().proxy("http://proxy.internal:3128")?.build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn proxy(mut self, url: &str) -> Result<Self, BuildError> {
        self.connections.proxies = Proxies::all(url)?;
        Ok(self)
    }

    /// Sets the timeout for connecting: TCP, the tunnel of a proxy and the TLS handshake together.
    /// Default: 2 s. Range: 1 ms to 5 min.
    ///
    /// If a host has several addresses, they are tried according to RFC 8305 ("Happy Eyeballs"):
    /// IPv6 and IPv4 alternate, and each attempt starts 250 ms after the previous one, or at once
    /// when that one fails.
    ///
    /// This applies to the whole pool: the configuration of an SDK client cannot override it.
    ///
    /// # Examples
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

    /// Sets how long an idle connection stays open. Default: 90 s. Range: 10 ms to 1 h.
    ///
    /// Load balancers and NAT gateways drop idle connections, usually without notifying either
    /// side; those of AWS do so after 350 s. The pool therefore probes idle connections by TCP
    /// keepalive, first after 30 s.
    ///
    /// When a request on a reused connection fails by a timeout or a reset, the pool closes all
    /// idle connections of the region and sends the request again at once over a new connection.
    /// This happens once per operation, in addition to [`max_attempts`](Self::max_attempts). Only
    /// the outcome of the second try counts for the [circuit](Self::circuit_opens_after).
    ///
    /// There is one exception: if another request on a reused connection got a response in the
    /// meantime, a timeout means that KMS is slow and not that the connection is dead. The SDK's
    /// retries then handle the timeout.
    ///
    /// # Examples
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

    /// Sets the name of the application in the `User-Agent` header, which AWS CloudTrail records.
    /// Default: none.
    ///
    /// # Examples
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
