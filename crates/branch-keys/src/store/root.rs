//! A root branch key, which wraps other branch keys.

use std::sync::Arc;

use envelope::branch_key::{BranchKeys, MissingBranchKey, WrappedBranchKey};
use envelope::keyring::{KeyringError, KeyringErrorKind};
use envelope::{DataKey, EncryptionContext};

use crate::context::encryption_context;
use crate::error::Error;
use crate::item::Item;

/// The `kms-arn` of an item that a root protects begins with this. The id of the root follows.
///
/// It is not an ARN, so that other clients refuse the item before they call AWS KMS.
const MARK: &str = "envelope:root:";
/// The length of branch keys and beacon keys, in bytes.
const LENGTH: usize = 32;

/// A root branch key.
#[derive(Clone)]
pub(super) struct Root {
    pub(super) id: Arc<str>,
    pub(super) keys: BranchKeys,
}

/// The secret of an item.
pub(super) struct Decrypted {
    pub(super) secret: DataKey,
    /// The ARN of the KMS key that was called, or that protects the root.
    pub(super) kms_key: Option<Arc<str>>,
}

impl Root {
    /// The `kms-arn` of the items that it protects.
    pub(super) fn mark(&self) -> String {
        format!("{MARK}{}", self.id)
    }

    /// The id of the root that an item names, not authenticated; `None` if it names a KMS key.
    pub(super) fn id_in(item: &Item) -> Option<&str> {
        item.kms_key_arn.strip_prefix(MARK)
    }

    /// Generates the secret of a branch key or a beacon key.
    pub(super) fn generate(&self, id: &str) -> Result<DataKey, Error> {
        DataKey::generate(LENGTH).map_err(|error| self.failed(id, self.keyring_error(error)))
    }

    /// Wraps a secret under the active version of the root, and sets it as the ciphertext.
    pub(super) async fn protect(
        &self,
        item: &mut Item,
        secret: &DataKey,
        logical_name: &str,
    ) -> Result<(), Error> {
        let wrapped = async {
            let root = self.keys.active(&self.id).await?;
            let context = EncryptionContext::new(encryption_context(item, logical_name))?;
            WrappedBranchKey::wrap(&root, secret, &context)
        };
        let wrapped = wrapped.await;
        item.ciphertext =
            wrapped.map_err(|error| self.failed(&item.id, self.keyring_error(error)))?;
        Ok(())
    }

    /// Unwraps the secret of an item, which authenticates the item.
    pub(super) async fn decrypt(
        &self,
        item: &Item,
        logical_name: &str,
    ) -> Result<Decrypted, Error> {
        let invalid = |problem| Error::InvalidItem {
            id: item.id.clone(),
            item_type: item.item_type,
            problem,
        };
        let wrapped = WrappedBranchKey::read(&item.ciphertext)
            .ok_or_else(|| invalid("the ciphertext does not have 92 bytes, as under a root"))?;
        let context = EncryptionContext::new(encryption_context(item, logical_name))
            .map_err(|_| invalid("its attributes have more than 65,535 bytes"))?;
        let root = self.keys.version(&self.id, wrapped.root_version()).await;
        let root = root.map_err(|error| self.failed(&item.id, self.keyring_error(error)))?;
        let secret = wrapped.unwrap_under(&root, &context);
        let secret = secret.map_err(|error| self.failed(&item.id, error))?;
        Ok(Decrypted { secret, kms_key: root.kms_key().map(Into::into) })
    }

    /// Whether an item names this version of the root. This is not authenticated.
    pub(super) fn is_under(item: &Item, version: [u8; 16]) -> bool {
        let wrapped = WrappedBranchKey::read(&item.ciphertext);
        wrapped.is_some_and(|wrapped| wrapped.root_version() == version)
    }

    /// Returns the error of a branch key under the root.
    pub(super) fn failed(&self, id: &str, cause: KeyringError) -> Error {
        Error::Root { id: id.to_owned(), root: Arc::clone(&self.id), cause }
    }

    /// Returns why the root cannot be used, as the error of a keyring.
    pub(super) fn keyring_error(&self, error: envelope::Error) -> KeyringError {
        let new = |kind, cause| KeyringError::new(Arc::clone(&self.id), kind, cause);
        let Some(first) = error.keyring_errors().first() else {
            let kind = match error {
                envelope::Error::Overloaded { .. } => KeyringErrorKind::OverBudget,
                _ => KeyringErrorKind::Other,
            };
            return KeyringError::new(Arc::clone(&self.id), kind, error);
        };
        match MissingBranchKey::in_error(first) {
            // As text: as a cause, callers would take the branch key under the root for missing.
            Some(missing) => new(KeyringErrorKind::InvalidCiphertext, missing.to_string()),
            None => first.clone(),
        }
    }
}
