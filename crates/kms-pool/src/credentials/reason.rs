//! Why one of this crate's own providers failed.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;

/// A reason that may appear in error messages. Messages of other providers are not shown, because
/// they may contain secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Reason(pub(super) String);

impl Reason {
    /// The reason among the causes of an error.
    pub(super) fn of(error: &CredentialsError) -> Option<&Self> {
        let error: &dyn Error = error;
        std::iter::successors(error.source(), |&cause| cause.source())
            .find_map(|cause| cause.downcast_ref())
    }
}
