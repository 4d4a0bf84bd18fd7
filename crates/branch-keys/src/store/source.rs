//! A key store as the source of branch keys for `envelope`.

use envelope::ResultFuture;
use envelope::branch_key::{BranchKey, BranchKeySource, MissingBranchKey};
use envelope::keyring::{KeyringError, KeyringErrorKind};
use kms_pool::{KmsErrorKind, Purpose};

use super::KeyStore;
use crate::error::Error;
use crate::item::ItemType;
use crate::storage::{StorageError, StorageErrorKind};

impl BranchKeySource for KeyStore {
    fn active<'a>(
        &'a self,
        id: &'a str,
        background: bool,
    ) -> ResultFuture<'a, BranchKey, KeyringError> {
        Box::pin(async move {
            self.active_for(id, purpose(background)).await.map_err(|error| of(id, error))
        })
    }

    fn version<'a>(
        &'a self,
        id: &'a str,
        version: [u8; 16],
        background: bool,
    ) -> ResultFuture<'a, BranchKey, KeyringError> {
        Box::pin(async move {
            let key = self.version_for(id, version, purpose(background)).await;
            key.map_err(|error| of(id, error))
        })
    }

    fn versions<'a>(
        &'a self,
        id: &'a str,
    ) -> ResultFuture<'a, Option<Vec<[u8; 16]>>, KeyringError> {
        Box::pin(async move {
            self.check_id(id).map_err(|error| of(id, error))?;
            let items = self.0.storage.items(id).await;
            let items = items.map_err(|cause| of(id, Error::Storage(cause)))?;
            let version = |item_type| match item_type {
                ItemType::Version(version) => Some(version),
                _ => None,
            };
            let own = items.into_iter().filter(|item| item.id == id);
            Ok(Some(own.filter_map(|item| version(item.item_type)).collect()))
        })
    }

    fn identity(&self) -> String {
        let name = self.logical_name();
        let store =
            format!("key store {name:?} in {}, {}", self.0.storage.identity(), self.0.kms.keys);
        match (&self.0.root, self.0.reads_both) {
            (None, _) => store,
            (Some(root), false) => format!("{store}, under the root {:?}", root.id),
            (Some(root), true) => {
                format!("{store}, migrating from or to the root {:?}", root.id)
            }
        }
    }

    fn tenure(&self) -> u64 {
        self.0.storage.tenure().wrapping_add(self.0.kms.clients.tenure())
    }
}

fn purpose(background: bool) -> Purpose {
    if background { Purpose::Background } else { Purpose::Foreground }
}

/// Converts to the error of a keyring, whose kind decides what a cache drops.
fn of(id: &str, error: Error) -> KeyringError {
    let missing = match &error {
        Error::NotFound { .. } => Some(MissingBranchKey::NotFound),
        Error::Shredded { .. } => Some(MissingBranchKey::Shredded),
        Error::ItemNotFound { item_type: ItemType::Version(version), .. } => {
            Some(MissingBranchKey::VersionNotFound { version: *version })
        }
        _ => None,
    };
    if let Some(missing) = missing {
        return missing.of(id);
    }
    let kind = match &error {
        Error::Kms { key, cause, .. } => {
            return KeyringError::new(key.clone(), of_kms(cause.kind()), cause.clone());
        }
        Error::Root { cause, .. } => {
            let (name, kind) = (cause.wrapping_key().to_owned(), cause.kind());
            return KeyringError::new(name, kind, error);
        }
        Error::Storage(cause) | Error::UnknownOutcome { cause, .. } => of_storage(cause),
        Error::InvalidItem { .. } | Error::OlderThanSeen { .. } | Error::TooOld { .. } => {
            KeyringErrorKind::InvalidCiphertext
        }
        Error::KmsKeyNotAllowed { .. } | Error::OtherTier { .. } | Error::RootBranchKey { .. } => {
            KeyringErrorKind::Denied
        }
        Error::InvalidResponse { .. } => KeyringErrorKind::InvalidResponse,
        _ => KeyringErrorKind::Other,
    };
    KeyringError::new(id, kind, error)
}

fn of_storage(error: &StorageError) -> KeyringErrorKind {
    match error.kind() {
        StorageErrorKind::Throttled => KeyringErrorKind::Throttled,
        StorageErrorKind::Unavailable | StorageErrorKind::UnknownOutcome => {
            KeyringErrorKind::Unavailable
        }
        StorageErrorKind::Denied => KeyringErrorKind::Denied,
        StorageErrorKind::Invalid => KeyringErrorKind::InvalidCiphertext,
        _ => KeyringErrorKind::Other,
    }
}

fn of_kms(kind: KmsErrorKind) -> KeyringErrorKind {
    match kind {
        KmsErrorKind::Throttled => KeyringErrorKind::Throttled,
        KmsErrorKind::OverBudget => KeyringErrorKind::OverBudget,
        KmsErrorKind::TimedOut => KeyringErrorKind::TimedOut,
        KmsErrorKind::Unavailable => KeyringErrorKind::Unavailable,
        KmsErrorKind::AccessDenied => KeyringErrorKind::Denied,
        KmsErrorKind::KeyDisabled | KmsErrorKind::KeyInvalidState | KmsErrorKind::KeyNotFound => {
            KeyringErrorKind::Unusable
        }
        KmsErrorKind::CredentialsExpired
        | KmsErrorKind::CredentialsRejected
        | KmsErrorKind::CredentialsUnavailable => KeyringErrorKind::Credentials,
        KmsErrorKind::InvalidCiphertext | KmsErrorKind::IncorrectKey => {
            KeyringErrorKind::InvalidCiphertext
        }
        _ => KeyringErrorKind::Other,
    }
}
