//! What protects the secrets of branch keys: AWS KMS, or a root branch key.

use std::sync::Arc;

use envelope::DataKey;
use envelope::branch_key::{BranchKeys, BranchKeysBuilder};
use kms_pool::Purpose;

use super::root::{Decrypted, Root};
use super::{Inner, KeyStore};
use crate::context::CheckedItem;
use crate::error::{BuildError, Error};
use crate::item::{Item, ItemType};
use crate::tier::Tier;

/// The maximum length of the id of a root: with the mark, it must fit where an ARN does.
const MAX_ROOT_ID: usize = 1_024;

impl KeyStore {
    /// Returns a key store over the same table whose branch keys are protected by one *root* branch
    /// key, instead of by AWS KMS each.
    ///
    /// A process then sends one request to AWS KMS for the root, and none for the branch keys under
    /// it: a restart with 100,000 tenants costs one request, plus one for each earlier version of
    /// the root that is still in use. The root is an ordinary branch key of this key store: create,
    /// rotate and verify it here. `settings` are those of its cache.
    ///
    /// The AWS Encryption SDKs cannot use the branch keys: their items have `envelope:root:` and
    /// the id of the root as `kms-arn`. The tier is a setting, and never taken from an item: both
    /// key stores refuse the items of the other one with [`Error::OtherTier`]. To move branch keys
    /// from one tier to the other, see [`migration_to`](Self::migration_to).
    ///
    /// # What it gives up
    ///
    /// - *Permission per tenant.* Anybody who may use the KMS key of the root and read the table
    ///   can use every branch key. Key policies and grants that name a tenant's context have no
    ///   effect.
    /// - *Audit per tenant.* CloudTrail records the use of the root, not of branch keys.
    /// - *Isolation in memory.* A process that holds the root can unwrap the branch key of every
    ///   tenant, even if it does not serve that tenant, and can forge items.
    /// - *Proof of deletion.* [`shred`](Self::shred) deletes the items. The root still
    ///   unwraps a backup of the table, and its KMS key cannot be deleted for one tenant.
    /// - *Secrets that nobody sees.* AWS KMS generates the secrets of its own tier. Those under a
    ///   root are generated in the process that creates or rotates them.
    ///
    /// # Revocation
    ///
    /// After AWS KMS has stopped allowing the root, a process uses a branch key under it for at
    /// most the sum of both `max_age`: that of the root's cache and that of the branch keys' cache.
    /// For caches in constant use it is the sum of both `check_every`. `serve_stale_for` of either
    /// adds to it while AWS KMS cannot be reached, and never after a denial.
    ///
    /// # Errors
    ///
    /// [`BuildError::InvalidSetting`] if this key store has a root already, the id does not have 1
    /// to 1,024 bytes, or a setting of the cache is invalid.
    ///
    /// # Examples
    ///
    /// A revoked root works for at most 2 minutes in its cache:
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use branch_keys::{CreateBranchKey, KeyStore};
    ///
    /// # async fn example(kms_tier: KeyStore) -> Result<(), Box<dyn std::error::Error>> {
    /// kms_tier.ensure(CreateBranchKey::new("root", [("purpose", "root")])).await?;
    /// let store = kms_tier.under_root("root", |cache| cache.max_age(Duration::from_mins(2)))?;
    /// store.ensure(CreateBranchKey::new("tenant-42", [("tenant", "42")])).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn under_root(
        &self,
        id: impl Into<Arc<str>>,
        settings: impl FnOnce(BranchKeysBuilder) -> BranchKeysBuilder,
    ) -> Result<Self, BuildError> {
        let id = id.into();
        if self.0.root.is_some() {
            return Err(BuildError::new("under_root", "the key store has a root already"));
        }
        if !(1..=MAX_ROOT_ID).contains(&id.len()) {
            return Err(BuildError::new("under_root", "expected an id of 1 to 1,024 bytes"));
        }
        let keys = settings(BranchKeys::builder(self.clone())).build();
        let keys = keys.map_err(|error| BuildError::new("under_root", error.to_string()))?;
        let root = Some(Root { id, keys });
        Ok(Self(Arc::new(Inner { root, tier: Tier::Root, ..self.0.shared() })))
    }

    /// Returns the cache of the root, if the key store has [one](Self::under_root).
    ///
    /// After you have rotated or shredded the root, call its `invalidate`.
    #[must_use]
    pub fn root_keys(&self) -> Option<&BranchKeys> {
        self.0.root.as_ref().map(|root| &root.keys)
    }

    /// Refuses the id of the root: only the key store under which it is an ordinary branch key
    /// reads and changes it.
    pub(super) fn check_id(&self, id: &str) -> Result<(), Error> {
        match &self.0.root {
            Some(root) if *root.id == *id => Err(Error::RootBranchKey { id: id.to_owned() }),
            _ => Ok(()),
        }
    }

    /// Checks that an item is the one that was asked for, is well-formed, and has the tier of this
    /// key store.
    pub(super) fn checked(
        &self,
        item: Item,
        id: &str,
        item_type: ItemType,
    ) -> Result<CheckedItem, Error> {
        let checked = CheckedItem::new(item, id, item_type)?;
        let tier = self.tier_of(&checked.item);
        if tier == Some(self.0.tier) || tier.is_some() && self.0.reads_both {
            return Ok(checked);
        }
        Err(Error::OtherTier {
            id: id.to_owned(),
            item_type,
            protected_by: checked.item.kms_key_arn.chars().take(200).collect(),
            tier: self.0.tier,
        })
    }

    /// Returns the tier of an item, or `None` if another root protects it.
    pub(super) fn tier_of(&self, item: &Item) -> Option<Tier> {
        match Root::id_in(item) {
            None => Some(Tier::Kms),
            Some(id) => {
                let root = self.0.root.as_ref();
                root.is_some_and(|root| *root.id == *id).then_some(Tier::Root)
            }
        }
    }

    /// Returns the `kms-arn` of new items.
    ///
    /// # Errors
    ///
    /// [`Error::Discovery`].
    pub(super) fn protector(&self) -> Result<String, Error> {
        match (&self.0.root, self.0.tier) {
            (Some(root), Tier::Root) => Ok(root.mark()),
            _ => Ok(self.0.kms.key_for_new()?.to_string()),
        }
    }

    /// Generates the secret of a version, and protects it in both items.
    pub(super) async fn generate_version(
        &self,
        version: &mut Item,
        active: &mut Item,
    ) -> Result<(), Error> {
        let Some(root) = self.root_of(version) else {
            let key = self.0.kms.key_for(version)?;
            self.0.kms.generate(&key, version).await?;
            return self.0.kms.re_encrypt(&key, version, active).await;
        };
        let secret = root.generate(&version.id)?;
        root.protect(version, &secret, self.logical_name()).await?;
        root.protect(active, &secret, self.logical_name()).await
    }

    /// Generates the secret of a beacon key, and protects it.
    pub(super) async fn generate_beacon(&self, beacon: &mut Item) -> Result<(), Error> {
        let Some(root) = self.root_of(beacon) else {
            let key = self.0.kms.key_for(beacon)?;
            return self.0.kms.generate(&key, beacon).await;
        };
        let secret = root.generate(&beacon.id)?;
        root.protect(beacon, &secret, self.logical_name()).await
    }

    /// Protects a secret for an item, and sets it as the ciphertext.
    pub(super) async fn protect(&self, item: &mut Item, secret: &DataKey) -> Result<(), Error> {
        match self.root_of(item) {
            Some(root) => root.protect(item, secret, self.logical_name()).await,
            None => self.0.kms.encrypt(&self.0.kms.key_for(item)?, item, secret).await,
        }
    }

    /// Authenticates an item. On the tier of AWS KMS, this process does not see its secret.
    pub(super) async fn authenticate(&self, checked: &CheckedItem) -> Result<(), Error> {
        if self.root_of(&checked.item).is_some() {
            return self.decrypt(checked, Purpose::Foreground).await.map(drop);
        }
        let key = self.0.kms.key_for(&checked.item)?;
        // Re-encrypts it for its own context.
        self.0.kms.re_encrypt(&key, &checked.item, &mut checked.item.clone()).await
    }

    /// Decrypts the secret of an item, which authenticates the item.
    pub(super) async fn decrypt(
        &self,
        checked: &CheckedItem,
        purpose: Purpose,
    ) -> Result<Decrypted, Error> {
        if let Some(root) = self.root_of(&checked.item) {
            return root.decrypt(&checked.item, self.logical_name()).await;
        }
        let key = self.0.kms.key_for(&checked.item)?;
        let secret = self.0.kms.decrypt(&key, checked, purpose).await?;
        Ok(Decrypted { secret, kms_key: Some(key.as_str().into()) })
    }

    /// The root, if it protects the item. The tier was checked, or is that of a new item.
    fn root_of(&self, item: &Item) -> Option<&Root> {
        self.0.root.as_ref().filter(|_| self.tier_of(item) == Some(Tier::Root))
    }
}
