//! Requests sessions of a role from AWS STS.

use std::error::Error;
use std::fs;
use std::iter;
use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials};
use aws_sdk_sts::Client;
use aws_sdk_sts::config::Builder;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::types::{Credentials as IssuedCredentials, Tag};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use super::reason::Reason;
use crate::connection::Connections;
use crate::error::KmsErrorKind;
use crate::time::Clock;

/// The parameters of a role's sessions.
#[derive(Clone)]
pub(super) struct SessionRequest {
    pub(super) role_arn: String,
    pub(super) session_name: String,
    pub(super) session_length: Duration,
    pub(super) external_id: Option<String>,
    pub(super) tags: Vec<(String, String)>,
}

/// Requests sessions of one role.
pub(super) struct RoleSessions {
    pub(super) request: SessionRequest,
    pub(super) config: Builder,
    /// The role's own connections to STS, if it does not use the pool's.
    pub(super) own: Option<Connections>,
}

/// Why STS issued no session.
pub(super) struct Refusal {
    pub(super) error: CredentialsError,
    /// Whether STS rejected the credentials that signed the request.
    pub(super) is_of_credentials: bool,
}

impl SessionRequest {
    /// The account that the role belongs to.
    pub(super) fn account(&self) -> Option<&str> {
        self.role_arn.split(':').nth(4).filter(|account| !account.is_empty())
    }

    /// In whole seconds.
    fn duration(&self) -> i32 {
        i32::try_from(self.session_length.as_secs()).unwrap_or(i32::MAX)
    }

    fn tags(&self) -> Result<Vec<Tag>, CredentialsError> {
        let tag = |(key, value): &(String, String)| Tag::builder().key(key).value(value).build();
        let tags: Result<_, _> = self.tags.iter().map(tag).collect();
        tags.map_err(CredentialsError::invalid_configuration)
    }
}

impl RoleSessions {
    /// Requests a session with credentials of `signer`.
    pub(super) async fn assume(
        &self,
        http: &SharedHttpClient,
        clock: &Clock,
        signer: impl ProvideCredentials + 'static,
    ) -> Result<Credentials, Refusal> {
        let tags = self.request.tags()?;
        let response =
            Client::from_conf(self.config(http, clock).credentials_provider(signer).build())
                .assume_role()
                .role_arn(&self.request.role_arn)
                .role_session_name(&self.request.session_name)
                .duration_seconds(self.request.duration())
                .set_external_id(self.request.external_id.clone())
                .set_tags(Some(tags))
                .send()
                .await
                .map_err(|error| self.refusal(&error))?;
        Ok(self.credentials(response.credentials)?)
    }

    /// Requests a session with the web identity token in a file. May block its thread while it
    /// reads the file.
    pub(super) async fn assume_with_web_identity(
        &self,
        http: &SharedHttpClient,
        clock: &Clock,
        token_file: &Path,
    ) -> provider::Result {
        let token = fs::read_to_string(token_file);
        let token = token.map_err(CredentialsError::invalid_configuration)?;
        let response = Client::from_conf(self.config(http, clock).build())
            .assume_role_with_web_identity()
            .role_arn(&self.request.role_arn)
            .role_session_name(&self.request.session_name)
            .duration_seconds(self.request.duration())
            .web_identity_token(token.trim())
            .send()
            .await
            .map_err(|error| self.refusal(&error).error)?;
        self.credentials(response.credentials)
    }

    /// The configuration of an STS client for one session. Sessions last about an hour, and no
    /// connection would stay open between two of them.
    fn config(&self, http: &SharedHttpClient, clock: &Clock) -> Builder {
        let own = self.own.as_ref().map(Connections::shared_client);
        let http = own.unwrap_or_else(|| http.clone());
        self.config.clone().http_client(http).time_source(clock.clone())
    }

    fn credentials(&self, issued: Option<IssuedCredentials>) -> provider::Result {
        let issued =
            issued.ok_or_else(|| CredentialsError::unhandled("STS returned no credentials"))?;
        let expiry =
            SystemTime::try_from(issued.expiration).map_err(CredentialsError::unhandled)?;
        let mut credentials = Credentials::builder()
            .access_key_id(issued.access_key_id)
            .secret_access_key(issued.secret_access_key)
            .session_token(issued.session_token)
            .expiry(expiry)
            .provider_name("Role");
        if let Some(account) = self.request.account() {
            credentials = credentials.account_id(account);
        }
        Ok(credentials.build())
    }

    /// The error of STS. Its code and the first line of its message may be shown.
    fn refusal<E>(&self, error: &SdkError<E>) -> Refusal
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let details = match (error.code(), error.message()) {
            // For a wrong signature, AWS quotes the request that it expected, which includes the
            // session token.
            (Some(code @ ("SignatureDoesNotMatch" | "InvalidSignatureException")), _) => {
                code.to_owned()
            }
            (Some(code), message) => {
                let line = message.and_then(|message| message.lines().next()).unwrap_or_default();
                format!("{code}, {line}")
            }
            _ => {
                let cause = iter::successors(Some(error as &dyn Error), |&it| it.source()).last();
                cause.map(ToString::to_string).unwrap_or_default()
            }
        };
        let kind = error.code().and_then(KmsErrorKind::of_code);
        let reason =
            format!("could not get a session of {} from STS: {details}", self.request.role_arn);
        Refusal {
            error: CredentialsError::provider_error(Reason(reason)),
            is_of_credentials: matches!(
                kind,
                Some(KmsErrorKind::CredentialsExpired | KmsErrorKind::CredentialsRejected)
            ),
        }
    }
}

impl From<CredentialsError> for Refusal {
    fn from(error: CredentialsError) -> Self {
        Self { error, is_of_credentials: false }
    }
}
