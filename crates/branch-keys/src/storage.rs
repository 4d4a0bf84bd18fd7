//! The trait of tables that keep the items of branch keys, and its errors.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::item::{Item, ItemType};

/// The future that a [`Storage`] returns.
pub type StorageFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StorageError>> + Send + 'a>>;

/// Keeps the items of branch keys in a table, and changes them in transactions.
///
/// An item is found by its id and type. Both are compared byte by byte: `Tenant-A`, `tenant-a` and
/// `tenant-a ` are three branch keys. A storage returns items as they are stored. The key store
/// checks them.
///
/// Every method is bounded in time. A future that is dropped leaves no lock behind. Whether its
/// change was committed is then unknown.
///
/// The feature `conformance` has the tests that your implementation must pass.
///
/// # Examples
///
/// ```
/// use branch_keys::{MemoryStorage, Storage};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let storage: Box<dyn Storage> = Box::new(MemoryStorage::new());
/// assert!(storage.ids(None, 10).await.unwrap().is_empty());
/// # }
/// ```
pub trait Storage: fmt::Debug + Send + Sync {
    /// Returns text that identifies the table. Errors show it: it must not contain secrets.
    ///
    /// Two storages with the same text must have the same items.
    fn identity(&self) -> String;

    /// Returns one item, or `None` if there is no such item.
    ///
    /// If `consistent` is true, it sees every change that was committed before the call.
    ///
    /// # Errors
    ///
    /// [`Invalid`](StorageErrorKind::Invalid) if the item lacks an attribute, or has one of another
    /// type than [`Item`] has; otherwise the reason why the storage did not respond.
    fn read<'a>(
        &'a self,
        id: &'a str,
        item_type: ItemType,
        consistent: bool,
    ) -> StorageFuture<'a, Option<Item>>;

    /// Returns all items of a branch key, read consistently, in any order.
    ///
    /// # Errors
    ///
    /// The errors of [`read`](Self::read), and [`Invalid`](StorageErrorKind::Invalid) if they take
    /// too much memory.
    fn items<'a>(&'a self, id: &'a str) -> StorageFuture<'a, Vec<Item>>;

    /// Returns the ids of at most `limit` branch keys that have an active item.
    ///
    /// To continue, pass the last id of the previous page as `after`. An empty page is the end. The
    /// storage chooses the order. A branch key that is created or shredded between two pages may be
    /// in one of them or not; any other one is in exactly one.
    ///
    /// # Errors
    ///
    /// The reason why the storage did not respond.
    fn ids<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StorageFuture<'a, Vec<String>>;

    /// Adds the three items of a new branch key in one transaction.
    ///
    /// # Errors
    ///
    /// Nothing is added unless the outcome is unknown.
    ///
    /// - [`Shredded`](StorageErrorKind::Shredded) if the branch key has a tombstone.
    /// - [`AlreadyExists`](StorageErrorKind::AlreadyExists) if one of the items exists.
    /// - [`UnknownOutcome`](StorageErrorKind::UnknownOutcome) if the transaction may have been
    ///   committed, now or later.
    /// - The reason why the storage did not respond.
    fn create<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        beacon: &'a Item,
    ) -> StorageFuture<'a, ()>;

    /// Adds `version` and replaces the active item by `active` in one transaction, if the active
    /// item still has the ciphertext `old_ciphertext`.
    ///
    /// # Errors
    ///
    /// Nothing is changed unless the outcome is unknown.
    ///
    /// - [`Shredded`](StorageErrorKind::Shredded) if the branch key has a tombstone.
    /// - [`Race`](StorageErrorKind::Race) if there is no active item, it has another ciphertext, or
    ///   the version exists.
    /// - [`UnknownOutcome`](StorageErrorKind::UnknownOutcome) if the transaction may have been
    ///   committed, now or later.
    /// - The reason why the storage did not respond.
    fn rotate<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        old_ciphertext: &'a [u8],
    ) -> StorageFuture<'a, ()>;

    /// Replaces one item by `item`, if it still has the ciphertext `old_ciphertext`.
    ///
    /// Only a migration between tiers needs it. Default: it fails.
    ///
    /// # Errors
    ///
    /// Nothing is changed unless the outcome is unknown.
    ///
    /// - [`Shredded`](StorageErrorKind::Shredded) if the branch key has a tombstone.
    /// - [`Race`](StorageErrorKind::Race) if there is no such item, or it has another ciphertext.
    /// - [`UnknownOutcome`](StorageErrorKind::UnknownOutcome) if the change may have been
    ///   committed, now or later.
    /// - The reason why the storage did not respond.
    fn replace<'a>(&'a self, item: &'a Item, old_ciphertext: &'a [u8]) -> StorageFuture<'a, ()> {
        let _ = (item, old_ciphertext);
        let error = StorageError::new(StorageErrorKind::Other);
        Box::pin(async { Err(error.with_message("it cannot replace items")) })
    }

    /// Adds the tombstone, then deletes all other items of the branch key. Returns how many it
    /// deleted.
    ///
    /// It can be repeated until it succeeds: it leaves an existing tombstone as it is.
    ///
    /// # Errors
    ///
    /// The reason why the storage did not respond. Some items may have been deleted.
    fn shred<'a>(&'a self, tombstone: &'a Item) -> StorageFuture<'a, u64>;

    /// Returns the AWS region of the table, if it is in one. Default: `None`.
    fn region(&self) -> Option<&str> {
        None
    }

    /// Returns a number that increases when the identity that calls the storage changes.
    ///
    /// Default: 0.
    fn tenure(&self) -> u64 {
        0
    }
}

impl<S: Storage + ?Sized> Storage for Arc<S> {
    fn identity(&self) -> String {
        (**self).identity()
    }

    fn read<'a>(
        &'a self,
        id: &'a str,
        item_type: ItemType,
        consistent: bool,
    ) -> StorageFuture<'a, Option<Item>> {
        (**self).read(id, item_type, consistent)
    }

    fn items<'a>(&'a self, id: &'a str) -> StorageFuture<'a, Vec<Item>> {
        (**self).items(id)
    }

    fn ids<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StorageFuture<'a, Vec<String>> {
        (**self).ids(after, limit)
    }

    fn create<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        beacon: &'a Item,
    ) -> StorageFuture<'a, ()> {
        (**self).create(active, version, beacon)
    }

    fn rotate<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        old_ciphertext: &'a [u8],
    ) -> StorageFuture<'a, ()> {
        (**self).rotate(active, version, old_ciphertext)
    }

    fn replace<'a>(&'a self, item: &'a Item, old_ciphertext: &'a [u8]) -> StorageFuture<'a, ()> {
        (**self).replace(item, old_ciphertext)
    }

    fn shred<'a>(&'a self, tombstone: &'a Item) -> StorageFuture<'a, u64> {
        (**self).shred(tombstone)
    }

    fn region(&self) -> Option<&str> {
        (**self).region()
    }

    fn tenure(&self) -> u64 {
        (**self).tenure()
    }
}

/// Why a [`Storage`] failed. Cloning is cheap.
///
/// ```
/// use branch_keys::{StorageError, StorageErrorKind};
///
/// let error = StorageError::new(StorageErrorKind::Throttled).with_message("0 of 5 units left");
/// assert!(error.is_retryable());
/// assert!(error.to_string().ends_with("0 of 5 units left"));
/// ```
#[derive(Clone, Debug)]
pub struct StorageError {
    kind: StorageErrorKind,
    message: Option<Arc<str>>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// The kind of a [`StorageError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// The branch key exists already.
    AlreadyExists,
    /// Another change was faster, or the branch key does not exist.
    Race,
    /// The branch key was deleted for good.
    Shredded,
    /// The storage asks for fewer requests, or other transactions use the same items.
    Throttled,
    /// The storage could not be reached, did not respond in time, or failed.
    Unavailable,
    /// The caller may not use the storage.
    Denied,
    /// An item is not one of a branch key.
    Invalid,
    /// The change may have been committed, or may be later. Read the items again.
    UnknownOutcome,
    /// Another failure.
    Other,
}

impl StorageError {
    /// Creates an error.
    #[must_use]
    pub fn new(kind: StorageErrorKind) -> Self {
        Self { kind, message: None, source: None }
    }

    /// Sets what failed, without secrets.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into().into());
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Returns the kind of the failure.
    #[must_use]
    pub fn kind(&self) -> StorageErrorKind {
        self.kind
    }

    /// Returns whether the same call may succeed later without any change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, StorageErrorKind::Throttled | StorageErrorKind::Unavailable)
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StorageErrorKind::AlreadyExists => "the branch key exists already",
            StorageErrorKind::Race => "the active item has changed: read it again",
            StorageErrorKind::Shredded => "the branch key was shredded",
            StorageErrorKind::Throttled => "the storage is overloaded: try again later",
            StorageErrorKind::Unavailable => "the storage could not be reached: try again later",
            StorageErrorKind::Denied => "the storage denied access: check the permissions",
            StorageErrorKind::Invalid => "invalid item in the storage",
            StorageErrorKind::UnknownOutcome => {
                "the change may have been committed: read the branch key again"
            }
            StorageErrorKind::Other => "the storage failed",
        })?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
