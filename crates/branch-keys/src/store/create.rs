//! Creates branch keys (specification: `framework/branch-key-store.md`, "`CreateKey`").

use std::collections::BTreeMap;

use futures_util::future::try_join;
use uuid::Uuid;

use super::KeyStore;
use crate::context::{CUSTOM_PREFIX, CheckedItem, FORMAT};
use crate::error::Error;
use crate::info::BranchKeyInfo;
use crate::item::{Item, ItemType};
use crate::storage::{StorageError, StorageErrorKind};
use crate::telemetry::{self, Operation};
use crate::time::{now, to_text};

/// The maximum length of an id, in bytes. It is that of a partition key of `DynamoDB`.
const MAX_ID: usize = 2_048;

/// A branch key to create.
///
/// # Examples
///
/// ```
/// use branch_keys::CreateBranchKey;
///
/// let tenant = CreateBranchKey::new("tenant-42", [("tenant", "42")]);
/// let random_id = CreateBranchKey::with_random_id().context([("purpose", "backups")]);
/// ```
#[derive(Clone, Debug)]
#[must_use = "pass it to `KeyStore::create` or `KeyStore::ensure`"]
pub struct CreateBranchKey {
    id: Option<String>,
    context: BTreeMap<String, String>,
}

impl CreateBranchKey {
    /// Creates a branch key with this id and custom encryption context, which must not be empty.
    ///
    /// The context is stored with the branch key, in the clear, and AWS KMS gets it with every
    /// request: key policies can name it, and CloudTrail records it.
    pub fn new(
        id: impl Into<String>,
        context: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        Self { id: Some(id.into()), context: BTreeMap::new() }.context(context)
    }

    /// Creates a branch key whose id is a random UUID.
    pub fn with_random_id() -> Self {
        Self { id: None, context: BTreeMap::new() }
    }

    /// Sets the custom encryption context. Default for random ids: none.
    pub fn context(
        mut self,
        context: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        self.context =
            context.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        self
    }

    /// Checks it, and returns the id and the attributes.
    fn checked(self) -> Result<(String, BTreeMap<String, String>), Error> {
        let invalid = |argument, problem| Err(Error::InvalidArgument { argument, problem });
        if self.id.as_ref().is_some_and(|id| id.is_empty() || id.len() > MAX_ID) {
            return invalid("id", "expected 1 to 2,048 bytes");
        }
        if self.id.is_some() && self.context.is_empty() {
            return invalid("context", "an id of your own needs at least one pair");
        }
        if self.context.keys().any(String::is_empty) {
            return invalid("context", "a key is empty");
        }
        let id = self.id.unwrap_or_else(|| Uuid::new_v4().to_string());
        let prefixed = |(name, value)| (format!("{CUSTOM_PREFIX}{name}"), value);
        Ok((id, self.context.into_iter().map(prefixed).collect()))
    }
}

impl KeyStore {
    /// Creates a branch key with one version and a beacon key.
    ///
    /// It sends three requests to AWS KMS, which generates the secrets: nobody sees them, this
    /// process included. [Under a root](Self::under_root), this process generates them. All items
    /// are added in one transaction.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidArgument`] if the id is empty or longer than 2,048 bytes, or if an id of
    ///   your own has no context.
    /// - [`Error::AlreadyExists`] if the branch key exists: [`ensure`](Self::ensure) accepts this.
    /// - [`Error::Shredded`] if the branch key was shredded. Choose another id.
    /// - [`Error::NotInHomeRegion`] or [`Error::Discovery`] if this key store may not create, or
    ///   [`Error::RootBranchKey`] if it is the root.
    /// - [`Error::Kms`], [`Error::Root`] or [`Error::InvalidResponse`] if AWS KMS refuses or fails.
    /// - [`Error::UnknownOutcome`] if the storage may have added the items, or may do it later.
    /// - [`Error::Storage`] if the storage fails.
    pub async fn create(&self, branch_key: CreateBranchKey) -> Result<BranchKeyInfo, Error> {
        let id = branch_key.id.clone();
        let creation = self.create_items(branch_key);
        telemetry::observed(self.logical_name(), Operation::Create, id.as_deref(), creation).await
    }

    async fn create_items(&self, branch_key: CreateBranchKey) -> Result<BranchKeyInfo, Error> {
        self.check_region()?;
        let kms_key_arn = self.protector()?;
        let (id, attributes) = branch_key.checked()?;
        self.check_id(&id)?;
        let template = Item {
            id,
            item_type: ItemType::Beacon,
            kms_key_arn,
            create_time: to_text(now()),
            hierarchy_version: FORMAT,
            version: None,
            ciphertext: vec![],
            attributes,
        };
        let mut beacon = template.clone();
        let (mut active, mut version) = next(template);
        let branch = self.generate_version(&mut version, &mut active);
        try_join(branch, self.generate_beacon(&mut beacon)).await?;
        match self.0.storage.create(&active, &version, &beacon).await {
            Ok(()) => {}
            Err(error) => self.settle_creation(&active, error).await?,
        }
        let id = active.id.clone();
        let created = CheckedItem::new(active, &id, ItemType::Active)?;
        self.0.seen.record(&id, created.created);
        Ok(created.info())
    }

    /// Creates a branch key unless it exists. Any number of callers may do this at the same time,
    /// in any number of processes.
    ///
    /// An existing branch key is returned as it is, even if its context differs.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the id is random; otherwise the errors of
    /// [`create`](Self::create) but for [`Error::AlreadyExists`], and those of
    /// [`info`](Self::info).
    pub async fn ensure(&self, branch_key: CreateBranchKey) -> Result<BranchKeyInfo, Error> {
        self.check_region()?;
        let Some(id) = branch_key.id.clone() else {
            let problem = "a random id is always new: use `create`";
            return Err(Error::InvalidArgument { argument: "id", problem });
        };
        match self.info(&id).await {
            Err(Error::NotFound { .. }) => {}
            existing => return existing,
        }
        match self.create(branch_key).await {
            Err(Error::AlreadyExists { .. }) => self.info(&id).await,
            created => created,
        }
    }

    /// Decides what became of a creation that the storage did not confirm.
    async fn settle_creation(&self, active: &Item, error: StorageError) -> Result<(), Error> {
        let id = &active.id;
        let is_unknown = match error.kind() {
            StorageErrorKind::Shredded => return Err(Error::Shredded { id: id.clone() }),
            StorageErrorKind::AlreadyExists => false,
            StorageErrorKind::UnknownOutcome => true,
            _ => return Err(Error::Storage(error)),
        };
        let unknown = || Error::UnknownOutcome { id: id.clone(), cause: error };
        match self.0.storage.read(id, ItemType::Active, true).await {
            // Only this call knows the ciphertext.
            Ok(Some(stored)) if stored == *active => Ok(()),
            Ok(None) | Err(_) if is_unknown => Err(unknown()),
            _ => Err(Error::AlreadyExists { id: id.clone() }),
        }
    }
}

/// The active item and the version of a branch key with a new version, without ciphertexts.
pub(super) fn next(template: Item) -> (Item, Item) {
    let item_type = ItemType::Version(Uuid::new_v4().into_bytes());
    let version = Item { item_type, version: None, ciphertext: vec![], ..template };
    let item_type = ItemType::Active;
    let active =
        Item { item_type, version: Some(version.item_type.to_string()), ..version.clone() };
    (active, version)
}
