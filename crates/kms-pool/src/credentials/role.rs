//! Principals that AWS STS makes: roles that another principal assumes, or the bearer of a web
//! identity token.

use std::error::Error;
use std::fmt;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, future};
use aws_sdk_sts::Client;
use aws_sdk_sts::config::{self, BehaviorVersion, IdentityCache, Region};
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::types::{Credentials as IssuedCredentials, Tag};
use aws_smithy_async::rt::sleep::TokioSleep;

use super::fingerprint::Fingerprint;
use super::principal::{Principal, Provider, Reason};
use super::session::{Session, SessionCredentials};
use super::sessions::Surroundings;
use crate::connection::{ConnectionSettings, Connections, Proxies, TrustRoots};
use crate::error::{BuildError, KmsErrorKind};

/// An IAM role to call KMS with, by sessions from AWS STS.
///
/// Each principal that is made from a role is a separate identity, so tenants that share a role but
/// have different session tags never share a client. Sessions are refreshed like all credentials of
/// a pool, and the role's account is the account of the principal.
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
    arn: String,
    region: String,
    session_name: String,
    session_length: Duration,
    external_id: Option<String>,
    tags: Vec<(String, String)>,
    endpoint: Option<String>,
    roots: TrustRoots,
    proxies: Proxies,
}

impl Role {
    /// The role of this ARN, with sessions from the STS of `region`.
    pub fn new(arn: impl Into<String>, region: impl Into<String>) -> Self {
        Self {
            arn: arn.into(),
            region: region.into(),
            session_name: "kms-pool".to_owned(),
            session_length: Duration::from_hours(1),
            external_id: None,
            tags: vec![],
            endpoint: None,
            roots: TrustRoots::default(),
            proxies: Proxies::default(),
        }
    }

    /// The name of the sessions, as AWS `CloudTrail` shows it. Default `kms-pool`; STS takes 2 to
    /// 64 characters of letters, digits and `=,.@-_`.
    ///
    /// ```
    /// # let role = kms_pool::Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1");
    /// role.session_name("payments-acme");
    /// ```
    pub fn session_name(mut self, name: impl Into<String>) -> Self {
        self.session_name = name.into();
        self
    }

    /// How long a session lasts. Default 1 h; STS takes 15 min up to what the role allows, in whole
    /// seconds.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let role = kms_pool::Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1");
    /// role.session_length(Duration::from_mins(15));
    /// ```
    pub fn session_length(mut self, length: Duration) -> Self {
        self.session_length = length;
        self
    }

    /// What the role's trust policy asks of third parties. Default: none.
    ///
    /// ```
    /// # let role = kms_pool::Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1");
    /// role.external_id("12345");
    /// ```
    pub fn external_id(mut self, id: impl Into<String>) -> Self {
        self.external_id = Some(id.into());
        self
    }

    /// Tags the sessions, for key policies that tell tenants apart by `aws:PrincipalTag`.
    /// Repeatable. Default: none.
    ///
    /// ```
    /// # let role = kms_pool::Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1");
    /// role.session_tag("tenant", "acme");
    /// ```
    pub fn session_tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.push((key.into(), value.into()));
        self
    }

    /// The endpoint of STS, under the rules of
    /// [`KmsPoolBuilder::endpoint_url`](crate::KmsPoolBuilder::endpoint_url). Default: AWS's
    /// endpoint of the region.
    ///
    /// ```
    /// # let role = kms_pool::Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1");
    /// role.endpoint_url("https://vpce-0123.sts.eu-central-1.vpce.amazonaws.com");
    /// ```
    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Adds certificate authorities for STS in PEM format, trusted instead of the pool's.
    /// Repeatable.
    ///
    /// A role with its own certificate authorities or its own proxy uses none of the pool's
    /// settings for STS. Any other role reaches STS with the pool's certificate authorities, proxy
    /// and connect timeout.
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

    /// Reaches STS through this proxy; the URL has the syntax of [`KmsPoolBuilder::proxy`].
    /// Default: the pool's proxy, or none if the role has its own [certificate
    /// authorities](Self::trust_root_pem).
    ///
    /// ```
    /// # fn example(role: kms_pool::Role) -> Result<(), kms_pool::BuildError> {
    /// role.proxy("http://proxy.internal:3128")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`BuildError::Proxy`] if `url` is not a valid proxy URL.
    ///
    /// [`KmsPoolBuilder::proxy`]: crate::KmsPoolBuilder::proxy
    pub fn proxy(mut self, url: &str) -> Result<Self, BuildError> {
        self.proxies = Proxies::all(url)?;
        Ok(self)
    }

    /// Creates a new identity: the role, assumed by `base`. If you rotate or replace `base`, the
    /// next session of the role uses the change.
    ///
    /// In a pool, all roles that a principal assumes share its credentials: its provider is called
    /// once for all of them.
    ///
    /// # Errors
    ///
    /// A [`BuildError`] for an invalid region, endpoint or certificate authority. If STS refuses
    /// the role, the first [`KmsPool::client`](crate::KmsPool::client) reports it.
    pub fn assumed_by(self, base: &Principal) -> Result<Principal, BuildError> {
        self.principal(Source::Base(base.clone()))
    }

    /// A new identity: the role, assumed by the bearer of the web identity token in a file, as
    /// Kubernetes mounts it. The file is read for each session, and when it changes there is a new
    /// session. Its token brings the session tags.
    ///
    /// # Errors
    ///
    /// Those of [`assumed_by`](Self::assumed_by), and [`BuildError::Role`] for session tags or an
    /// external id, which STS takes for none of these.
    ///
    /// ```no_run
    /// # fn example() -> Result<(), kms_pool::BuildError> {
    /// let principal = kms_pool::Role::new("arn:aws:iam::111122223333:role/payments", "eu-central-1")
    ///     .with_web_identity("/var/run/secrets/eks.amazonaws.com/serviceaccount/token")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_web_identity(self, token_file: impl AsRef<Path>) -> Result<Principal, BuildError> {
        if !self.tags.is_empty() || self.external_id.is_some() {
            let reason =
                "a web identity brings its session tags in its token, and takes no external id";
            return Err(BuildError::Role { reason });
        }
        let file = token_file.as_ref().to_owned();
        Ok(self.principal(Source::TokenFile(file.clone()))?.with_files([file]))
    }

    /// The account that the role belongs to.
    fn account(&self) -> Option<String> {
        self.arn.split(':').nth(4).filter(|account| !account.is_empty()).map(Into::into)
    }

    fn principal(self, source: Source) -> Result<Principal, BuildError> {
        crate::region::check_region(&self.region)
            .map_err(|_| BuildError::no_region(&self.region))?;
        if let Some(url) = &self.endpoint {
            crate::builder::check_endpoint("STS", url)?;
        }
        let own = !self.roots.is_default() || !self.proxies.is_none();
        let settings = ConnectionSettings {
            roots: self.roots.clone(),
            proxies: self.proxies.clone(),
            ..ConnectionSettings::default()
        };
        let own = own.then(|| Connections::new(settings, Arc::default())).transpose()?;
        let mut config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(self.region.clone()))
            .sleep_impl(TokioSleep::new())
            .identity_cache(IdentityCache::no_cache());
        config.set_endpoint_url(self.endpoint.clone());
        let account = self.account();
        let principal = Principal::of(Assumed { config, own, source, role: self });
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
            .field("arn", &self.arn)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// The provider of a role's sessions.
struct Assumed {
    config: config::Builder,
    /// The role's own connections to STS, if it does not use the pool's.
    own: Option<Connections>,
    role: Role,
    source: Source,
}

/// The identity that assumes a role.
#[derive(Debug)]
enum Source {
    Base(Principal),
    /// The bearer of the web identity token in this file.
    TokenFile(PathBuf),
}

impl Assumed {
    /// The configuration of an STS client for one session. Sessions last about an hour, and no
    /// connection would stay open between two of them.
    fn config(&self, by: &Surroundings) -> config::Builder {
        let own = self.own.as_ref().map(Connections::shared_client);
        let http = own.unwrap_or_else(|| by.http().clone());
        self.config.clone().http_client(http).time_source(by.clock().clone())
    }

    async fn session(&self, by: &Surroundings) -> provider::Result {
        let config = self.config(by);
        let role = &self.role;
        let length = i32::try_from(role.session_length.as_secs()).unwrap_or(i32::MAX);
        let issued = match &self.source {
            Source::Base(principal) => self.assume(by.base(principal), config, length).await?,
            Source::TokenFile(file) => {
                let answer = Client::from_conf(config.build())
                    .assume_role_with_web_identity()
                    .role_arn(&role.arn)
                    .role_session_name(&role.session_name)
                    .duration_seconds(length)
                    .web_identity_token(read(file)?)
                    .send();
                answer.await.map_err(|error| self.refused(&error))?.credentials
            }
        };
        let issued =
            issued.ok_or_else(|| CredentialsError::unhandled("STS gave no credentials"))?;
        let expiry =
            SystemTime::try_from(issued.expiration).map_err(CredentialsError::unhandled)?;
        let mut credentials = Credentials::builder()
            .access_key_id(issued.access_key_id)
            .secret_access_key(issued.secret_access_key)
            .session_token(issued.session_token)
            .expiry(expiry)
            .provider_name("Role");
        if let Some(account) = role.account() {
            credentials = credentials.account_id(account);
        }
        Ok(credentials.build())
    }
}

impl Assumed {
    /// Requests a session with the credentials of `base`. If STS refuses them, they are refreshed
    /// once.
    async fn assume(
        &self,
        base: &Arc<Session>,
        config: config::Builder,
        length: i32,
    ) -> Result<Option<IssuedCredentials>, CredentialsError> {
        let role = &self.role;
        let tag = |(key, value): &(String, String)| Tag::builder().key(key).value(value).build();
        let tags: Result<Vec<_>, _> = role.tags.iter().map(tag).collect();
        let tags = tags.map_err(CredentialsError::invalid_configuration)?;
        // The request is signed with these, unless they are replaced in between.
        let signer = base.credentials(base.clock.now()).await;
        let signer = Fingerprint::of(&signer.map_err(CredentialsError::provider_error)?);
        let provider = SessionCredentials(Arc::clone(base));
        let request = Client::from_conf(config.credentials_provider(provider).build())
            .assume_role()
            .role_arn(&role.arn)
            .role_session_name(&role.session_name)
            .duration_seconds(length)
            .set_external_id(role.external_id.clone())
            .set_tags(Some(tags));
        let mut answer = request.clone().send().await;
        match &answer {
            Ok(_) => base.accepted(signer),
            Err(error) if is_of_credentials(error) => {
                if base.refused(signer, base.clock.now()).await {
                    answer = request.send().await;
                }
            }
            Err(_) => {}
        }
        answer.map(|answer| answer.credentials).map_err(|error| self.refused(&error))
    }

    /// What STS said, which may be told: it is not somebody's provider that speaks.
    fn refused<E>(&self, error: &SdkError<E>) -> CredentialsError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let said = match (error.code(), error.message()) {
            // On a wrong signature AWS quotes the request that it expected, session token included.
            (Some(code @ ("SignatureDoesNotMatch" | "InvalidSignatureException")), _) => {
                code.to_owned()
            }
            (Some(code), message) => {
                let line = message.and_then(|message| message.lines().next()).unwrap_or_default();
                format!("{code}, {line}")
            }
            _ => {
                let bottom = iter::successors(Some(error as &dyn Error), |&it| it.source()).last();
                bottom.map(ToString::to_string).unwrap_or_default()
            }
        };
        CredentialsError::provider_error(Reason(format!(
            "STS has no session for {}: {said}",
            self.role.arn
        )))
    }
}

impl Provider for Assumed {
    fn credentials<'a>(&'a self, by: &'a Surroundings) -> future::ProvideCredentials<'a> {
        future::ProvideCredentials::new(self.session(by))
    }

    fn may_block(&self) -> bool {
        // Only reading a token file may block. If each role held a thread while it waits for its
        // base's provider, no thread would be left for that provider.
        matches!(self.source, Source::TokenFile(_))
    }
}

impl fmt::Debug for Assumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assumed")
            .field("role", &self.role)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Whether STS refused the credentials that signed the request.
fn is_of_credentials<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let kind = error.code().and_then(KmsErrorKind::of_code);
    matches!(kind, Some(KmsErrorKind::CredentialsExpired | KmsErrorKind::CredentialsRejected))
}

/// Reads a token file. May block its thread.
fn read(file: &Path) -> Result<String, CredentialsError> {
    let token = std::fs::read_to_string(file).map_err(CredentialsError::invalid_configuration)?;
    Ok(token.trim().to_owned())
}
