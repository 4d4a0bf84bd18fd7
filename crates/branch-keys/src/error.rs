//! Errors.

use std::sync::Arc;

use envelope::keyring::KeyringError;
use kms_pool::{KmsError, KmsKeyArn};
use uuid::Uuid;

use crate::info::BranchKeyInfo;
use crate::item::ItemType;
use crate::storage::StorageError;
use crate::tier::Tier;

/// The reason why an operation of a [`KeyStore`](crate::KeyStore) failed. Cloning is cheap.
///
/// No variant contains a secret. `Display` does not include the causes: print the chain of
/// [`source`](std::error::Error::source)s, as `anyhow` and `eyre` do.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such branch key.
    #[error("no branch key {id:?}: create it first")]
    NotFound {
        /// The id.
        id: String,
    },

    /// The branch key has no such version, or no beacon key.
    #[error("branch key {id:?} has no item {item_type}")]
    ItemNotFound {
        /// The id.
        id: String,
        /// The item that is missing.
        item_type: ItemType,
    },

    /// The branch key was deleted for good.
    #[error("branch key {id:?} was shredded: what it protected is no longer readable")]
    Shredded {
        /// The id.
        id: String,
    },

    /// A branch key with this id exists.
    #[error("branch key {id:?} exists already: use it, or choose another id")]
    AlreadyExists {
        /// The id.
        id: String,
    },

    /// Another rotation was faster. Nothing was changed.
    #[error(
        "another rotation of branch key {:?} was faster: use its version {}",
        winner.id,
        Uuid::from_bytes(winner.version)
    )]
    VersionRace {
        /// The branch key that the other rotation left. Its item was not authenticated.
        winner: Box<BranchKeyInfo>,
    },

    /// The storage does not know whether it committed the change, or will commit it later.
    #[error("unknown outcome of the change of branch key {id:?}: read it later, then try again")]
    UnknownOutcome {
        /// The id.
        id: String,
        /// The error of the storage.
        #[source]
        cause: StorageError,
    },

    /// An item is not one that a key store writes.
    #[error("invalid item {item_type} of branch key {id:?}: {problem}")]
    InvalidItem {
        /// The id that was asked for.
        id: String,
        /// The item that was asked for.
        item_type: ItemType,
        /// Why it is invalid.
        problem: &'static str,
    },

    /// The item names a KMS key that the key store may not call. No request was sent.
    #[error(
        "item {item_type} of branch key {id:?} names the KMS key {kms_key_arn:?}, which the key \
         store's `KmsKeys` do not allow"
    )]
    KmsKeyNotAllowed {
        /// The id.
        id: String,
        /// The item.
        item_type: ItemType,
        /// The ARN in the item, shortened if it is long.
        kms_key_arn: String,
    },

    /// The item is in another tier than the key store, or under another root. No request was sent.
    #[error(
        "item {item_type} of branch key {id:?} is protected by {protected_by:?}, but the key store \
         by {tier}: migrate the item, or use the other key store"
    )]
    OtherTier {
        /// The id.
        id: String,
        /// The item.
        item_type: ItemType,
        /// The `kms-arn` of the item, shortened if it is long.
        protected_by: String,
        /// The tier of the key store.
        tier: Tier,
    },

    /// The branch key is the root of the key store, which protects the others.
    #[error("branch key {id:?} is the root of this key store: use the key store without the root")]
    RootBranchKey {
        /// The id.
        id: String,
    },

    /// The root cannot be used, or it did not protect the item: an attribute may have been changed.
    #[error("could not use root branch key {root:?} for branch key {id:?}")]
    Root {
        /// The id of the branch key.
        id: String,
        /// The id of the root.
        root: Arc<str>,
        /// Why. Its name is that of the KMS key of the root, or the id of the root.
        #[source]
        cause: KeyringError,
    },

    /// The active item is older than one that this key store has seen. It may come from a backup.
    #[error(
        "active item of branch key {id:?}, created at {create_time}, is older than one seen \
         before: find out who restored it"
    )]
    OlderThanSeen {
        /// The id.
        id: String,
        /// When the item was created.
        create_time: String,
    },

    /// The active item is older than `max_active_age`.
    #[error(
        "active item of branch key {id:?}, created at {create_time}, is older than \
         `max_active_age`: rotate it"
    )]
    TooOld {
        /// The id.
        id: String,
        /// When the item was created.
        create_time: String,
    },

    /// Branch keys are created, rotated and shredded only in the home region.
    #[error("changes are refused in region {region}: send them to the home region {home}")]
    NotInHomeRegion {
        /// The region of the storage.
        region: String,
        /// The home region.
        home: String,
    },

    /// A key store in discovery mode has no KMS key of its own.
    #[error("a key store in discovery mode neither creates nor rotates: configure one KMS key")]
    Discovery,

    /// An argument is invalid.
    #[error("invalid {argument}: {problem}")]
    InvalidArgument {
        /// The argument.
        argument: &'static str,
        /// Why it is invalid, and the allowed values.
        problem: &'static str,
    },

    /// AWS KMS failed, or refused the request.
    #[error("AWS KMS could not use {key} for branch key {id:?}")]
    Kms {
        /// The id.
        id: String,
        /// The KMS key that was called.
        key: KmsKeyArn,
        /// The error of the request.
        #[source]
        cause: KmsError,
    },

    /// The response of AWS KMS does not belong to the request. No part of it was used.
    #[error("AWS KMS broke its contract for {key} and branch key {id:?}: {problem}")]
    InvalidResponse {
        /// The id.
        id: String,
        /// The KMS key that was called.
        key: KmsKeyArn,
        /// The contradiction.
        problem: &'static str,
    },

    /// The storage failed.
    #[error("could not use the storage of branch keys")]
    Storage(#[source] StorageError),
}

impl Error {
    /// Returns whether the same call may succeed later without any change.
    ///
    /// After [`UnknownOutcome`](Self::UnknownOutcome), read the branch key before you try again.
    ///
    /// ```
    /// let error = branch_keys::Error::NotFound { id: "tenant-42".to_owned() };
    /// assert!(!error.is_retryable());
    /// ```
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Kms { cause, .. } => cause.is_retryable(),
            Self::Root { cause, .. } => cause.kind().is_retryable(),
            Self::Storage(cause) => cause.is_retryable(),
            _ => false,
        }
    }
}

/// Why a [`KeyStore`](crate::KeyStore) or its [`KmsKeys`](crate::KmsKeys) could not be built.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is invalid.
    #[error("invalid {setting}: {problem}")]
    InvalidSetting {
        /// The method that sets it.
        setting: &'static str,
        /// Why it is invalid, and the allowed values.
        problem: Arc<str>,
    },
}

impl BuildError {
    pub(crate) fn new(setting: &'static str, problem: impl Into<Arc<str>>) -> Self {
        Self::InvalidSetting { setting, problem: problem.into() }
    }
}
