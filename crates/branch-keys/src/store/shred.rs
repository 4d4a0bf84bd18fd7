//! Deletes branch keys for good.

use std::collections::BTreeMap;

use super::KeyStore;
use crate::context::FORMAT;
use crate::error::Error;
use crate::item::{Item, ItemType};
use crate::storage::StorageErrorKind;
use crate::telemetry::{self, Operation};
use crate::time::{now, to_text};

impl KeyStore {
    /// Deletes a branch key for good: what it protects is no longer readable. Returns how many
    /// items were deleted.
    ///
    /// It first adds a tombstone, `envelope:SHREDDED`, and then deletes all other items. From then
    /// on, operations on this id fail with [`Error::Shredded`], and it can never be created again.
    /// If shredding fails or the process ends, repeat it until it succeeds.
    ///
    /// # What survives
    ///
    /// - Caches of branch keys and data keys, up to their limits. Call `invalidate` in every
    ///   process, or wait.
    /// - Backups of the table, its point-in-time recovery, replicas that lag, and write-ahead logs.
    ///   Anybody who restores them and may use the KMS key can decrypt again. To prevent this,
    ///   protect the branch key by a KMS key of its own, and schedule the deletion of that KMS key.
    ///   This is not possible [under a root](Self::under_root).
    ///
    /// If other branch keys are under this one as their root, they are lost with it.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`] if there are no items.
    /// - [`Error::NotInHomeRegion`] if this key store may not shred, or [`Error::RootBranchKey`] if
    ///   it is its root.
    /// - [`Error::Storage`] if the storage fails. Some items may have been deleted.
    pub async fn shred(&self, id: &str) -> Result<u64, Error> {
        let shredding = self.delete_all(id);
        telemetry::observed(self.logical_name(), Operation::Shred, Some(id), shredding).await
    }

    async fn delete_all(&self, id: &str) -> Result<u64, Error> {
        self.check_region()?;
        self.check_id(id)?;
        let kms_key_arn = match self.0.storage.items(id).await {
            Ok(items) if items.is_empty() => return Err(Error::NotFound { id: id.to_owned() }),
            Ok(items) => items.into_iter().next().map(|item| item.kms_key_arn),
            // Items that cannot be read can be deleted.
            Err(error) if error.kind() == StorageErrorKind::Invalid => None,
            Err(cause) => return Err(Error::Storage(cause)),
        };
        let tombstone = Item {
            id: id.to_owned(),
            item_type: ItemType::Tombstone,
            kms_key_arn: kms_key_arn.unwrap_or_default(),
            create_time: to_text(now()),
            hierarchy_version: FORMAT,
            version: None,
            ciphertext: vec![],
            attributes: BTreeMap::new(),
        };
        let deleted = self.0.storage.shred(&tombstone).await;
        deleted.map_err(Error::Storage)
    }
}
