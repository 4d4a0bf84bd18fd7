//! The keyrings of AWS KMS (specification: `framework/aws-kms/`).
//!
//! | keyring | seals | opens what was sealed under | asks in |
//! | --- | --- | --- | --- |
//! | `AwsKmsKeyring` | yes | its key | the key's region |
//! | `AwsKmsMrkKeyring` | yes | its key, and related multi-Region keys | its own key's region |
//! | `AwsKmsDiscoveryKeyring` | no | any key that its filter admits | that key's region |
//! | `AwsKmsMrkDiscoveryKeyring` | no | the same, of its region or multi-Region | its region |

mod discovery;
mod filter;
mod key_arn;
mod mrk;
mod mrk_discovery;
mod multi;
mod requests;
mod strict;

use kms_pool::KmsError;

pub use self::{
    discovery::AwsKmsDiscoveryKeyring,
    filter::DiscoveryFilter,
    key_arn::KmsKeyArn,
    mrk::AwsKmsMrkKeyring,
    mrk_discovery::AwsKmsMrkDiscoveryKeyring,
    multi::{AwsKmsDiscoveryMultiKeyringBuilder, AwsKmsMultiKeyringBuilder},
    strict::AwsKmsKeyring,
};
use super::{KeyringError, KeyringErrorKind};
use crate::error::Error;

/// What a keyring says that only unwraps.
fn seals_nothing(keyring: &'static str) -> Error {
    let problem = "it only unwraps: seal with a keyring that names its KMS key";
    Error::DataKeyUnavailable(KeyringError::new(keyring, KeyringErrorKind::Other, problem))
}

impl Error {
    /// What AWS KMS answered, when that is what failed; of several attempts, the first.
    ///
    /// ```
    /// use kms_pool::KmsErrorKind;
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

#[cfg(test)]
mod tests {
    use kms_pool::{ClientFuture, ClientSupplier};

    /// For what must ask nobody.
    #[derive(Debug, Clone)]
    pub(super) struct NoClients;

    impl ClientSupplier for NoClients {
        fn client<'a>(&'a self, region: &'a str) -> ClientFuture<'a> {
            panic!("a client for {region} was asked for")
        }
    }
}
