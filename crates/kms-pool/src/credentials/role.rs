//! Roles that a principal, or the bearer of a web identity token, assumes through AWS STS.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sts::config::{BehaviorVersion, IdentityCache, Region};
use aws_smithy_async::rt::sleep::TokioSleep;

use super::principal::{Principal, Provider};
use super::sts::{RoleSessions, SessionRequest};
use crate::connection::{ConnectionSettings, Connections, Proxies, TrustRoots, check_endpoint};
use crate::error::BuildError;

/// An IAM role to call KMS with, which is assumed through AWS STS.
///
/// Each principal that is created from a role is a separate identity, so tenants with the same role
/// but different session tags never share a client. Sessions are refreshed like all credentials of
/// a pool. The role's account is the account of the principal.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use kms_pool::{Principal, Role};
///
/// let service = Principal::from_default_chain();
/// let tenant = Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1")
///     .session_name("payments-acme")
///     .session_tag("tenant", "acme")
///     .assumed_by(&service)?
///     .with_label("acme");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a role does nothing until it is assumed"]
pub struct Role {
    region: String,
    request: SessionRequest,
    endpoint: Option<String>,
    roots: TrustRoots,
    proxies: Proxies,
}

impl Role {
    /// Returns a role with this ARN, which is assumed at the STS of `region`.
    pub fn new(arn: impl Into<String>, region: impl Into<String>) -> Self {
        Self {
            region: region.into(),
            request: SessionRequest {
                role_arn: arn.into(),
                session_name: "kms-pool".to_owned(),
                session_length: Duration::from_hours(1),
                external_id: None,
                tags: vec![],
            },
            endpoint: None,
            roots: TrustRoots::default(),
            proxies: Proxies::default(),
        }
    }

    /// Sets the session name, which AWS CloudTrail records. Default: `kms-pool`.
    ///
    /// STS accepts 2 to 64 letters, digits and `=,.@-_`.
    ///
    /// # Examples
    ///
    /// ```
    /// # let role = kms_pool::Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1");
    /// role.session_name("payments-acme");
    /// ```
    pub fn session_name(mut self, name: impl Into<String>) -> Self {
        self.request.session_name = name.into();
        self
    }

    /// Sets how long a session lasts, in whole seconds. Default: 1 h.
    ///
    /// STS accepts 15 min up to the role's maximum.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let role = kms_pool::Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1");
    /// role.session_length(Duration::from_mins(15));
    /// ```
    pub fn session_length(mut self, length: Duration) -> Self {
        self.request.session_length = length;
        self
    }

    /// Sets the external id that the role's trust policy requires. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// # let role = kms_pool::Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1");
    /// role.external_id("12345");
    /// ```
    pub fn external_id(mut self, id: impl Into<String>) -> Self {
        self.request.external_id = Some(id.into());
        self
    }

    /// Adds a session tag, for key policies that distinguish tenants by `aws:PrincipalTag`.
    /// Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// # let role = kms_pool::Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1");
    /// role.session_tag("tenant", "acme");
    /// ```
    pub fn session_tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.tags.push((key.into(), value.into()));
        self
    }

    /// Sets the endpoint of STS. Default: the AWS endpoint of the region.
    ///
    /// The rules of [`KmsPoolBuilder::endpoint_url`](crate::KmsPoolBuilder::endpoint_url) apply.
    ///
    /// # Examples
    ///
    /// ```
    /// # let role = kms_pool::Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1");
    /// role.endpoint_url("https://vpce-0123.sts.eu-central-1.vpce.amazonaws.com");
    /// ```
    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Adds trusted certificate authorities for STS in PEM format, instead of the pool's. Default:
    /// the pool's.
    ///
    /// A role with its own certificate authorities or its own proxy uses none of the pool's
    /// settings for STS. Any other role reaches STS with the pool's certificate authorities, proxy
    /// and connect timeout.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(role: kms_pool::Role) -> std::io::Result<()> {
    /// role.trust_root_pem(std::fs::read("private-ca.pem")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn trust_root_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.pems.push(pem.into());
        self
    }

    /// Reaches STS through a proxy. Default: the pool's proxy, or none if the role has its own
    /// [certificate authorities](Self::trust_root_pem).
    ///
    /// The URL has the syntax of [`KmsPoolBuilder::proxy`](crate::KmsPoolBuilder::proxy).
    ///
    /// # Errors
    ///
    /// [`BuildError::Proxy`] if `url` is not a valid proxy URL.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(role: kms_pool::Role) -> Result<(), kms_pool::BuildError> {
    /// role.proxy("http://proxy.internal:3128")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn proxy(mut self, url: &str) -> Result<Self, BuildError> {
        self.proxies = Proxies::all(url)?;
        Ok(self)
    }

    /// Creates a principal that assumes this role with the credentials of `base`.
    ///
    /// The principal is a new identity. If you rotate or replace `base`, the next session of the
    /// role uses the new credentials. In a pool, all roles that a principal assumes share its
    /// credentials: its provider is called once for all of them.
    ///
    /// # Errors
    ///
    /// - [`BuildError::Region`] if the region is not a valid region name.
    /// - [`BuildError::Endpoint`] if the endpoint is not a valid URL.
    /// - [`BuildError::TrustRoot`] if a certificate authority is not valid PEM.
    ///
    /// Errors of STS are reported by the first [`KmsPool::client`](crate::KmsPool::client).
    pub fn assumed_by(self, base: &Principal) -> Result<Principal, BuildError> {
        let base = base.clone();
        self.principal(|role| Provider::Role { role, base })
    }

    /// Creates a principal that assumes this role with the web identity token in a file, as
    /// Kubernetes mounts it.
    ///
    /// The principal is a new identity. The file is read for each session, and a change of the file
    /// starts a new session. The token contains the session tags.
    ///
    /// # Errors
    ///
    /// The errors of [`assumed_by`](Self::assumed_by), and [`BuildError::Role`] if session tags or
    /// an external id are set: STS does not accept them with a web identity token.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), kms_pool::BuildError> {
    /// use kms_pool::Role;
    ///
    /// let principal = Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1")
    ///     .with_web_identity("/var/run/secrets/eks.amazonaws.com/serviceaccount/token")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_web_identity(self, token_file: impl AsRef<Path>) -> Result<Principal, BuildError> {
        if !self.request.tags.is_empty() || self.request.external_id.is_some() {
            let reason = "session tags and external id are not supported with a web identity token";
            return Err(BuildError::Role { reason });
        }
        let token_file = token_file.as_ref().to_owned();
        let file = token_file.clone();
        let principal = self.principal(|role| Provider::WebIdentity { role, token_file })?;
        Ok(principal.with_files([file]))
    }

    fn principal(
        self,
        provider: impl FnOnce(RoleSessions) -> Provider,
    ) -> Result<Principal, BuildError> {
        self.region.parse::<crate::Region>()?;
        if let Some(url) = &self.endpoint {
            check_endpoint("STS", url)?;
        }
        let has_own_connections = !self.roots.is_default() || !self.proxies.is_none();
        let own = if has_own_connections {
            let settings = ConnectionSettings {
                roots: self.roots,
                proxies: self.proxies,
                ..ConnectionSettings::default()
            };
            Some(Connections::new(settings, Arc::default())?)
        } else {
            None
        };
        let mut config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(self.region))
            .sleep_impl(TokioSleep::new())
            .identity_cache(IdentityCache::no_cache());
        config.set_endpoint_url(self.endpoint);
        let account = self.request.account().map(str::to_owned);
        let principal =
            Principal::of(provider(RoleSessions { request: self.request, config, own }));
        Ok(match account {
            Some(account) => principal.with_account(account),
            None => principal,
        })
    }
}

/// Shows only public fields: an external id is not public.
impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role")
            .field("arn", &self.request.role_arn)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}
