//! Reads branch keys.

use envelope::DataKey;
use envelope::branch_key::BranchKey;
use kms_pool::Purpose;

use super::KeyStore;
use super::root::Decrypted;
use crate::context::CheckedItem;
use crate::error::Error;
use crate::info::BranchKeyInfo;
use crate::item::ItemType;
use crate::telemetry::{self, Operation};
use crate::time::now;

impl KeyStore {
    /// Returns the active version of a branch key.
    ///
    /// It sends one consistent read to the storage and one request to AWS KMS.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`] or [`Error::Shredded`] if there is no active item.
    /// - [`Error::InvalidItem`], [`Error::KmsKeyNotAllowed`], [`Error::OtherTier`],
    ///   [`Error::OlderThanSeen`] or [`Error::TooOld`] if the item is refused. No request was sent
    ///   to AWS KMS.
    /// - [`Error::RootBranchKey`] if it is the [root](Self::under_root) of this key store.
    /// - [`Error::Root`] if the root cannot be used, or did not protect this item: an attribute may
    ///   have been changed.
    /// - [`Error::Kms`] if AWS KMS refuses or fails. If an attribute was changed, its kind is
    ///   [`InvalidCiphertext`](kms_pool::KmsErrorKind::InvalidCiphertext).
    /// - [`Error::InvalidResponse`] if AWS KMS responds for another key.
    /// - [`Error::Storage`] if the storage fails.
    pub async fn active(&self, id: &str) -> Result<BranchKey, Error> {
        self.active_for(id, Purpose::Foreground).await
    }

    pub(super) async fn active_for(&self, id: &str, purpose: Purpose) -> Result<BranchKey, Error> {
        let store = self.logical_name();
        let read = async {
            let checked = self.find_active(id).await?;
            let key = self.branch_key(&checked, purpose).await?;
            self.0.seen.record(id, checked.created);
            telemetry::active_age(store, now() - checked.created);
            Ok(key)
        };
        telemetry::observed(store, Operation::Active, Some(id), read).await
    }

    /// Returns one version of a branch key, by the bytes of its UUID.
    ///
    /// It sends one consistent read to the storage and one request to AWS KMS.
    ///
    /// # Errors
    ///
    /// [`Error::ItemNotFound`] if there is no such version; otherwise those of
    /// [`active`](Self::active).
    pub async fn version(&self, id: &str, version: [u8; 16]) -> Result<BranchKey, Error> {
        self.version_for(id, version, Purpose::Foreground).await
    }

    pub(super) async fn version_for(
        &self,
        id: &str,
        version: [u8; 16],
        purpose: Purpose,
    ) -> Result<BranchKey, Error> {
        let read = async {
            let checked = self.find(id, ItemType::Version(version)).await?;
            self.branch_key(&checked, purpose).await
        };
        telemetry::observed(self.logical_name(), Operation::Version, Some(id), read).await
    }

    /// Returns the beacon key of a branch key: 32 bytes, for searchable encryption.
    ///
    /// # Errors
    ///
    /// [`Error::ItemNotFound`] if there is no beacon key; otherwise those of
    /// [`active`](Self::active).
    pub async fn beacon(&self, id: &str) -> Result<DataKey, Error> {
        let checked = self.find(id, ItemType::Beacon).await?;
        Ok(self.decrypt(&checked, Purpose::Foreground).await?.secret)
    }

    /// Returns what the active item of a branch key says, without a request to AWS KMS.
    ///
    /// It is not authenticated: [`verify`](Self::verify) does this.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`] or [`Error::Shredded`] if there is no active item.
    /// - [`Error::InvalidItem`] if the item is malformed.
    /// - [`Error::Storage`] if the storage fails.
    pub async fn info(&self, id: &str) -> Result<BranchKeyInfo, Error> {
        Ok(self.find(id, ItemType::Active).await?.info())
    }

    /// Returns the ids of at most `limit` branch keys, in an order that the storage chooses. The
    /// [root](Self::under_root) is not among them.
    ///
    /// To continue, pass the last id of the previous page as `after`. An empty page is the end.
    ///
    /// Anybody who can write to the table can add an id, with any text: escape it before you print
    /// it.
    ///
    /// ```no_run
    /// # async fn example(store: branch_keys::KeyStore) -> Result<(), branch_keys::Error> {
    /// let mut page = store.list(None, 100).await?;
    /// while let Some(last) = page.last() {
    ///     println!("{page:?}");
    ///     page = store.list(Some(last), 100).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] if the storage fails.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, Error> {
        let list = async |after| {
            let ids = self.0.storage.ids(after, limit).await;
            ids.map_err(Error::Storage)
        };
        let mut ids = list(after).await?;
        let Some(root) = &self.0.root else { return Ok(ids) };
        let listed = ids.len();
        ids.retain(|id| **id != *root.id);
        // If only the root was listed, an empty page would be the end.
        if listed == 1 && ids.is_empty() { list(Some(&root.id)).await } else { Ok(ids) }
    }

    /// Reads the active item, and refuses one that is too old.
    async fn find_active(&self, id: &str) -> Result<CheckedItem, Error> {
        let checked = self.find_unless_older(id).await?;
        if self.0.max_active_age.is_some_and(|max| now() - checked.created > max) {
            let create_time = checked.item.create_time;
            return Err(Error::TooOld { id: id.to_owned(), create_time });
        }
        Ok(checked)
    }

    /// Reads the active item, and refuses one that is older than one seen before.
    pub(super) async fn find_unless_older(&self, id: &str) -> Result<CheckedItem, Error> {
        // Before the read: what another call sees meanwhile does not make this result old.
        let newest = self.0.seen.newest(id);
        let checked = self.find(id, ItemType::Active).await?;
        if newest.is_some_and(|newest| checked.created < newest) {
            let create_time = checked.item.create_time;
            return Err(Error::OlderThanSeen { id: id.to_owned(), create_time });
        }
        Ok(checked)
    }

    /// Reads an item consistently, and checks that it is well-formed.
    pub(super) async fn find(&self, id: &str, item_type: ItemType) -> Result<CheckedItem, Error> {
        self.check_id(id)?;
        let read = self.0.storage.read(id, item_type, true).await;
        let item = read.map_err(Error::Storage)?;
        match item {
            Some(item) => self.checked(item, id, item_type),
            None => Err(self.missing(id, item_type).await?),
        }
    }

    /// Why an item is missing.
    async fn missing(&self, id: &str, item_type: ItemType) -> Result<Error, Error> {
        let read = self.0.storage.read(id, ItemType::Tombstone, true).await;
        let tombstone = read.map_err(Error::Storage)?;
        let id = id.to_owned();
        Ok(match (tombstone, item_type) {
            (Some(_), _) => Error::Shredded { id },
            (None, ItemType::Active) => Error::NotFound { id },
            (None, _) => Error::ItemNotFound { id, item_type },
        })
    }

    async fn branch_key(
        &self,
        checked: &CheckedItem,
        purpose: Purpose,
    ) -> Result<BranchKey, Error> {
        let item = &checked.item;
        let Decrypted { secret, kms_key } = self.decrypt(checked, purpose).await?;
        let key = BranchKey::new(item.id.as_str(), checked.version, &secret);
        let problem = "the id is empty, or longer than 2,048 bytes";
        let invalid =
            |_| Error::InvalidItem { id: item.id.clone(), item_type: item.item_type, problem };
        let key = key.map_err(invalid)?;
        Ok(match kms_key {
            Some(kms_key) => key.under_kms_key(kms_key),
            None => key,
        })
    }
}
