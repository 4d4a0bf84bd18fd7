//! The AWS KMS keyrings (specification: `framework/aws-kms/`).
//!
//! | keyring of the specification | here | encrypts | decrypts messages under | calls KMS in |
//! | --- | --- | --- | --- | --- |
//! | AWS KMS | `AwsKmsKeyring::new` | yes | its key | the region of its key |
//! | AWS KMS MRK | `AwsKmsKeyring::mrk_aware` | yes | its key and related keys | the region of its key |
//! | AWS KMS discovery | `AwsKmsDiscoveryKeyring::new` | no | any key that its filter allows | the region of that key |
//! | AWS KMS MRK discovery | `AwsKmsDiscoveryKeyring::mrk_aware` | no | the same keys, if they are in its region or are multi-Region keys | its region |
//!
//! The multi-keyrings of the specification are `MultiKeyring`s of these.

mod discovery;
mod filter;
mod keyring;
mod related;
mod requests;

use kms_pool::{BuildError, KmsError};

pub(super) use self::keyring::MrkAwareKeys;
pub use self::{discovery::AwsKmsDiscoveryKeyring, keyring::AwsKmsKeyring};
use crate::error::Error;

impl Error {
    /// Returns the error of AWS KMS, if a request to KMS failed; the first one of several.
    ///
    /// ```
    /// use envelope::kms_pool::KmsErrorKind;
    ///
    /// fn is_throttled(error: &envelope::Error) -> bool {
    ///     error.kms().is_some_and(|kms| kms.kind() == KmsErrorKind::Throttled)
    /// }
    /// ```
    #[must_use]
    pub fn kms(&self) -> Option<&KmsError> {
        self.keyring_errors().iter().find_map(|failure| failure.cause().downcast_ref())
    }
}

/// Converts the error of an invalid region name, key ARN or pool setting to
/// [`Error::InvalidSetting`], so that `?` works on all of them.
impl From<BuildError> for Error {
    fn from(error: BuildError) -> Self {
        Self::invalid_setting("AWS KMS setting", crate::error::Chain(&error).to_string())
    }
}

#[cfg(test)]
mod tests {
    use kms_pool::{ClientFuture, ClientSupplier, KmsKeyArn};

    use super::*;

    /// For tests that must not send a request.
    #[derive(Debug, Clone)]
    pub(super) struct NoClients;

    impl ClientSupplier for NoClients {
        fn client<'a>(&'a self, region: &'a str) -> ClientFuture<'a> {
            panic!("unexpected request for a client in {region}")
        }
    }

    #[test]
    fn an_invalid_setting_keeps_its_text_and_cause() {
        let error = Error::from("alias/a".parse::<KmsKeyArn>().unwrap_err());
        assert!(error.to_string().contains("invalid KMS key ARN \"alias/a\""), "{error}");
        let cause = std::io::Error::other("no such file");
        let error = Error::from(BuildError::CaBundle { path: "ca.pem".to_owned(), cause });
        assert!(error.to_string().ends_with("\"ca.pem\": no such file"), "{error}");
    }
}
