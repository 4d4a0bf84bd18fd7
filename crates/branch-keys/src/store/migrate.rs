//! Moves branch keys from one tier to the other.

use std::sync::Arc;

use kms_pool::Purpose;

use super::root::Root;
use super::{Inner, KeyStore};
use crate::error::{BuildError, Error};
use crate::item::{Item, ItemType};
use crate::storage::{StorageError, StorageErrorKind};
use crate::tier::Tier;

/// How many times the items of a branch key are read: others may change them at the same time.
const MAX_PASSES: usize = 8;
/// How many ids one request lists.
const PAGE: usize = 100;

/// Moves branch keys between AWS KMS and a root branch key. Created by
/// [`KeyStore::migration_to`].
///
/// Each item is authenticated, protected in the new tier, and replaced if it has not changed
/// meanwhile. Its secret, version and date stay, so that all messages stay readable. At every
/// moment each item is complete in one of the tiers. If the migration fails, or the process ends,
/// repeat it: it skips the items that it has moved.
///
/// A migration to the root also moves items under an earlier version of the root to its active
/// version. Run it after a rotation of the root: each process then needs one request to AWS KMS for
/// the root again, instead of one for each version.
///
/// # Migrate without downtime
///
/// 1. Run all processes with [`key_store`](Self::key_store), which reads both tiers.
/// 2. Call [`migrate_all`](Self::migrate_all) until it succeeds.
/// 3. Run all processes with the key store of the new tier, which refuses the items of the other.
///
/// Between the first and the last step, anybody who can write to the table can restore items of
/// either tier from a backup. Keep this time short.
///
/// # Examples
///
/// ```no_run
/// use branch_keys::{KeyStore, Tier};
///
/// # async fn example(kms_tier: KeyStore) -> Result<(), Box<dyn std::error::Error>> {
/// let store = kms_tier.under_root("root", |cache| cache)?;
/// let moved = store.migration_to(Tier::Root)?.migrate_all().await?;
/// println!("{moved} items moved");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Migration(KeyStore);

impl KeyStore {
    /// Returns a migration of all branch keys to a tier.
    ///
    /// # Errors
    ///
    /// [`BuildError::InvalidSetting`] if this key store is not [under a root](Self::under_root).
    pub fn migration_to(&self, tier: Tier) -> Result<Migration, BuildError> {
        let root = self.0.root.clone();
        if root.is_none() {
            let problem = "the key store has no root: call it on the one that `under_root` returns";
            return Err(BuildError::new("migration_to", problem));
        }
        let inner = Inner { root, tier, reads_both: true, ..self.0.shared() };
        Ok(Migration(Self(Arc::new(inner))))
    }
}

impl Migration {
    /// Returns a key store that reads both tiers, and creates and rotates in the new tier.
    #[must_use]
    pub fn key_store(&self) -> &KeyStore {
        &self.0
    }

    /// Moves all branch keys but the root. Returns how many items were moved.
    ///
    /// It stops at the first error. It moves one branch key after another, to stay within the
    /// limits of the table and of AWS KMS: each item costs one request to AWS KMS.
    ///
    /// # Errors
    ///
    /// The errors of [`migrate`](Self::migrate).
    pub async fn migrate_all(&self) -> Result<u64, Error> {
        let mut moved = 0;
        let mut page = self.0.list(None, PAGE).await?;
        while let Some(last) = page.last() {
            for id in &page {
                match self.migrate(id).await {
                    Ok(items) => moved += items,
                    // It was shredded after it was listed.
                    Err(Error::Shredded { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            page = self.0.list(Some(last), PAGE).await?;
        }
        Ok(moved)
    }

    /// Moves one branch key. Returns how many items were moved.
    ///
    /// # Errors
    ///
    /// Some items may have been moved.
    ///
    /// - [`Error::NotFound`] or [`Error::Shredded`] if there is no branch key.
    /// - [`Error::RootBranchKey`] if it is the root.
    /// - [`Error::OtherTier`] if an item is under another root.
    /// - [`Error::NotInHomeRegion`] or [`Error::Discovery`] if this key store may not change it.
    /// - [`Error::InvalidItem`], [`Error::KmsKeyNotAllowed`], [`Error::Kms`], [`Error::Root`] or
    ///   [`Error::InvalidResponse`] if an item is refused, or cannot be protected again.
    /// - [`Error::UnknownOutcome`] if the storage may have replaced an item.
    /// - [`Error::Storage`] if the storage fails, or others keep changing the items.
    pub async fn migrate(&self, id: &str) -> Result<u64, Error> {
        let store = &self.0;
        store.check_region()?;
        store.check_id(id)?;
        let protector = store.protector()?;
        let mut moved = 0;
        for _ in 0..MAX_PASSES {
            let items = store.0.storage.items(id).await.map_err(Error::Storage)?;
            if items.is_empty() {
                return Err(Error::NotFound { id: id.to_owned() });
            }
            if items.iter().any(|item| item.item_type == ItemType::Tombstone) {
                return Err(Error::Shredded { id: id.to_owned() });
            }
            let root_version = self.root_version(id).await?;
            let mut is_done = true;
            for item in items {
                if self.is_moved(&item, root_version) {
                    continue;
                }
                is_done = false;
                moved += u64::from(self.move_item(id, item, &protector).await?);
            }
            if is_done {
                return Ok(moved);
            }
        }
        let error = StorageError::new(StorageErrorKind::Race);
        Err(Error::Storage(error.with_message("others kept changing the items: try again")))
    }

    /// The version of the root under which the items belong, if they belong under one.
    async fn root_version(&self, id: &str) -> Result<Option<[u8; 16]>, Error> {
        match (&self.0.0.root, self.0.0.tier) {
            (Some(root), Tier::Root) => {
                let key = root.keys.active(&root.id).await;
                let key = key.map_err(|error| root.failed(id, root.keyring_error(error)))?;
                Ok(Some(key.version()))
            }
            _ => Ok(None),
        }
    }

    fn is_moved(&self, item: &Item, root_version: Option<[u8; 16]>) -> bool {
        self.0.tier_of(item) == Some(self.0.0.tier)
            && root_version.is_none_or(|version| Root::is_under(item, version))
    }

    /// Moves one item. Returns false if it has changed since it was read.
    async fn move_item(&self, id: &str, old: Item, protector: &str) -> Result<bool, Error> {
        let store = &self.0;
        let item_type = old.item_type;
        let old = store.checked(old, id, item_type)?;
        let secret = store.decrypt(&old, Purpose::Foreground).await?.secret;
        let mut new = Item { kms_key_arn: protector.to_owned(), ..old.item.clone() };
        store.protect(&mut new, &secret).await?;
        match store.0.storage.replace(&new, &old.item.ciphertext).await {
            Ok(()) => Ok(true),
            Err(error) => match error.kind() {
                // Another change was faster: the next pass sees it.
                StorageErrorKind::Race => Ok(false),
                StorageErrorKind::Shredded => Err(Error::Shredded { id: id.to_owned() }),
                StorageErrorKind::UnknownOutcome => {
                    Err(Error::UnknownOutcome { id: id.to_owned(), cause: error })
                }
                _ => Err(Error::Storage(error)),
            },
        }
    }
}
