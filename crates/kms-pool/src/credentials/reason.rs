//! Why one of this crate's own providers failed.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;

/// A reason that may appear in error messages. Messages of other providers are not shown, because
/// they may contain secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Reason(pub(super) String);

/// The part of a message of `aws-config` before the name of a missing feature.
const MISSING_FEATURE: &str = "cargo feature(s) enabled: ";

/// Which cargo feature a profile needs, if that is why `error` occurred.
pub(super) fn missing_feature(error: &CredentialsError) -> Option<&'static str> {
    let error: &dyn Error = error;
    let messages = std::iter::successors(Some(error), |&cause| cause.source());
    let message = messages.map(ToString::to_string).find(|it| it.contains(MISSING_FEATURE))?;
    let (_, feature) = message.split_once(MISSING_FEATURE)?;
    Some(if feature.starts_with("sso") {
        "uses SSO: enable the cargo feature `sso` of kms-pool, or of kms-envelope"
    } else if feature.starts_with("credentials-process") {
        "uses `credential_process`: enable the cargo feature `credentials-process` of kms-pool"
    } else {
        "uses a kind of credentials that kms-pool does not support"
    })
}

impl Reason {
    /// The reason among the causes of an error.
    pub(super) fn of(error: &CredentialsError) -> Option<&Self> {
        let error: &dyn Error = error;
        std::iter::successors(error.source(), |&cause| cause.source())
            .find_map(|cause| cause.downcast_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_feature_is_recognized_by_the_message_of_the_sdk() {
        let missing = |feature: &str| {
            missing_feature(&CredentialsError::invalid_configuration(format!(
                "ProfileFile provider could not be built: This behavior requires following cargo \
                 feature(s) enabled: {feature}. "
            )))
        };
        assert!(missing("sso").unwrap().contains("`sso` of kms-pool"));
        assert!(missing("credentials-process").unwrap().contains("`credentials-process`"));
        assert!(missing("credentials-login").unwrap().contains("not support"));
        assert_eq!(missing_feature(&CredentialsError::not_loaded("no profile")), None);
    }
}
