//! Supplies a session's credentials to the AWS SDK.

use std::fmt;
use std::sync::Arc;

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};

use super::Session;

/// Supplies the SDK with the session's current credentials, for each attempt separately.
pub(crate) struct SessionCredentials(pub(crate) Arc<Session>);

impl ProvideCredentials for SessionCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let credentials = self.0.credentials(self.0.clock.now()).await;
            credentials.map_err(CredentialsError::provider_error)
        })
    }
}

impl fmt::Debug for SessionCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionCredentials").field(&self.0.principal).finish()
    }
}
