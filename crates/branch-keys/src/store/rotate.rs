//! Rotates branch keys (specification: `framework/branch-key-store.md`, "`VersionKey`").

use std::time::Duration;

use super::KeyStore;
use super::create::next;
use crate::context::CheckedItem;
use crate::error::Error;
use crate::info::BranchKeyInfo;
use crate::item::{Item, ItemType};
use crate::storage::{StorageError, StorageErrorKind};
use crate::telemetry::{self, Operation};
use crate::time::{after, now, to_text};

impl KeyStore {
    /// Replaces the active version of a branch key by a new one. Earlier versions still decrypt.
    ///
    /// It authenticates the active item first. The KMS key and the custom context stay, and so does
    /// the beacon key. If several callers rotate a branch key at the same time, exactly one wins.
    ///
    /// A cache of branch keys uses the previous version until its own limits are reached. To switch
    /// at once in this process, call its `invalidate`.
    ///
    /// # Errors
    ///
    /// - [`Error::VersionRace`] if another rotation was faster. It contains the winner's version.
    /// - [`Error::NotFound`] or [`Error::Shredded`] if there is no active item.
    /// - [`Error::NotInHomeRegion`] or [`Error::Discovery`] if this key store may not rotate.
    /// - [`Error::InvalidItem`], [`Error::KmsKeyNotAllowed`], [`Error::OtherTier`] or
    ///   [`Error::OlderThanSeen`] if the active item is refused, and [`Error::RootBranchKey`] if it
    ///   is that of the root.
    /// - [`Error::Kms`], [`Error::Root`] or [`Error::InvalidResponse`] if AWS KMS refuses or fails.
    /// - [`Error::UnknownOutcome`] if the storage may have rotated it, or may do it later.
    /// - [`Error::Storage`] if the storage fails.
    pub async fn rotate(&self, id: &str) -> Result<BranchKeyInfo, Error> {
        self.observed_rotation(id, async {
            self.check_region()?;
            self.protector()?;
            self.rotate_item(self.find_unless_older(id).await?).await
        })
        .await
    }

    /// Rotates a branch key if its active version is older than `age`. Returns the active version.
    ///
    /// Any number of processes may call this on a schedule: one of them rotates, and the others get
    /// the new version. Only the rotation authenticates the active item; otherwise the response is
    /// that of [`info`](Self::info).
    ///
    /// ```no_run
    /// # async fn example(store: branch_keys::KeyStore) -> Result<(), branch_keys::Error> {
    /// use std::time::Duration;
    ///
    /// store.rotate_if_older_than("tenant-42", Duration::from_hours(90 * 24)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`rotate`](Self::rotate) but for [`Error::VersionRace`].
    pub async fn rotate_if_older_than(
        &self,
        id: &str,
        age: Duration,
    ) -> Result<BranchKeyInfo, Error> {
        self.check_region()?;
        self.protector()?;
        let active = self.find_unless_older(id).await?;
        if now() - active.created <= age {
            return Ok(active.info());
        }
        match self.observed_rotation(id, self.rotate_item(active)).await {
            Err(Error::VersionRace { winner }) => Ok(*winner),
            rotated => rotated,
        }
    }

    fn observed_rotation<'a>(
        &'a self,
        id: &'a str,
        rotation: impl Future<Output = Result<BranchKeyInfo, Error>> + Send + 'a,
    ) -> impl Future<Output = Result<BranchKeyInfo, Error>> + Send {
        telemetry::observed(self.logical_name(), Operation::Rotate, Some(id), rotation)
    }

    async fn rotate_item(&self, old: CheckedItem) -> Result<BranchKeyInfo, Error> {
        let id = old.item.id.clone();
        // The new items take their attributes from it.
        self.authenticate(&old).await?;
        let create_time = to_text(after(old.created, now()));
        let mut template = Item { create_time, ..old.item.clone() };
        if self.tier_of(&old.item) != Some(self.0.tier) {
            template.kms_key_arn = self.protector()?;
        }
        let (mut active, mut version) = next(template);
        self.generate_version(&mut version, &mut active).await?;
        match self.0.storage.rotate(&active, &version, &old.item.ciphertext).await {
            Ok(()) => {}
            Err(error) => self.settle_rotation(&version, &old.item, error).await?,
        }
        let rotated = CheckedItem::new(active, &id, ItemType::Active)?;
        self.0.seen.record(&id, rotated.created);
        Ok(rotated.info())
    }

    /// Decides what became of a rotation that the storage did not confirm.
    async fn settle_rotation(
        &self,
        version: &Item,
        old: &Item,
        error: StorageError,
    ) -> Result<(), Error> {
        let id = version.id.as_str();
        let is_unknown = match error.kind() {
            StorageErrorKind::Shredded => return Err(Error::Shredded { id: id.to_owned() }),
            StorageErrorKind::Race => false,
            StorageErrorKind::UnknownOutcome => true,
            _ => return Err(Error::Storage(error)),
        };
        let unknown = |cause| Error::UnknownOutcome { id: id.to_owned(), cause };
        let current = match self.find(id, ItemType::Active).await {
            Ok(current) if current.item.ciphertext != old.ciphertext => current,
            // It may still be committed.
            Ok(_) | Err(Error::Storage(_)) if is_unknown => return Err(unknown(error)),
            Ok(_) => return Err(Error::Storage(error)),
            Err(other) => return Err(other),
        };
        // The active item has changed, so this rotation was committed already, or never will be.
        // Only this call knows the ciphertext of its version.
        match self.0.storage.read(id, version.item_type, true).await {
            Ok(Some(stored)) if stored == *version => Ok(()),
            Err(_) if is_unknown => Err(unknown(error)),
            _ => Err(Error::VersionRace { winner: Box::new(current.info()) }),
        }
    }
}
