//! Where branch keys come from.

use std::fmt;

use super::{BranchKey, key::Uuid};
use crate::error::{KeyringError, KeyringErrorKind, ResultFuture};

/// Where branch keys come from: a store that keeps them under KMS keys.
///
/// What a source returns is cached, so a source need not cache it. Implement this trait to keep
/// branch keys in a store of your own. [`StaticBranchKeys`](super::StaticBranchKeys) is an
/// implementation without a store.
///
/// # Errors
///
/// The name in an error is the ARN of the KMS key if KMS refused it, or else the branch key id. The
/// kind decides what the cache drops:
///
/// | kind | meaning | the cache drops |
/// | --- | --- | --- |
/// | [`Denied`], [`InvalidCiphertext`] | this caller may not use the branch key, or its row was changed | this branch key |
/// | [`Unusable`] | nobody may use the KMS key that the error names | every branch key [under](BranchKey::under_kms_key) that KMS key |
/// | [`MissingBranchKey`] as the cause | there is no such branch key | this branch key |
/// | others | | nothing |
///
/// [`Denied`]: KeyringErrorKind::Denied
/// [`InvalidCiphertext`]: KeyringErrorKind::InvalidCiphertext
/// [`Unusable`]: KeyringErrorKind::Unusable
///
/// # Examples
///
/// A source that knows one branch key, with one version:
///
/// ```
/// use envelope::branch_key::{BranchKey, BranchKeySource, MissingBranchKey};
/// use envelope::{DataKey, ResultFuture, keyring::KeyringError};
///
/// #[derive(Debug)]
/// struct Only(DataKey);
///
/// const VERSION: [u8; 16] = [1; 16];
///
/// impl BranchKeySource for Only {
///     fn active<'a>(&'a self, id: &'a str, _: bool) -> ResultFuture<'a, BranchKey, KeyringError> {
///         Box::pin(async move {
///             if id != "only" {
///                 return Err(MissingBranchKey::NotFound.of(id));
///             }
///             Ok(BranchKey::new(id, VERSION, &self.0).expect("32 bytes"))
///         })
///     }
///
///     fn version<'a>(
///         &'a self,
///         id: &'a str,
///         version: [u8; 16],
///         background: bool,
///     ) -> ResultFuture<'a, BranchKey, KeyringError> {
///         if version != VERSION {
///             let error = MissingBranchKey::VersionNotFound { version }.of(id);
///             return Box::pin(async { Err(error) });
///         }
///         self.active(id, background)
///     }
///
///     fn identity(&self) -> String {
///         "only".to_owned()
///     }
/// }
/// ```
pub trait BranchKeySource: fmt::Debug + Send + Sync {
    /// Returns the active version of a branch key, read consistently.
    ///
    /// `background` is true if no caller waits for it.
    ///
    /// # Errors
    ///
    /// The reason why there is none, as the [trait](Self#errors) describes.
    fn active<'a>(
        &'a self,
        id: &'a str,
        background: bool,
    ) -> ResultFuture<'a, BranchKey, KeyringError>;

    /// Returns one version of a branch key.
    ///
    /// `version` may come from a forged message. `background` is true if no caller waits for it.
    ///
    /// # Errors
    ///
    /// The reason why there is none, as the [trait](Self#errors) describes.
    fn version<'a>(
        &'a self,
        id: &'a str,
        version: [u8; 16],
        background: bool,
    ) -> ResultFuture<'a, BranchKey, KeyringError>;

    /// Returns all versions of a branch key, read consistently, without a request to KMS. Default:
    /// `None`, for sources that cannot list them.
    ///
    /// One such read answers any number of messages that name versions which do not exist.
    ///
    /// # Errors
    ///
    /// The reason why they cannot be read. If the caller may not list them, return
    /// [`Denied`](KeyringErrorKind::Denied); if one of them is invalid,
    /// [`InvalidCiphertext`](KeyringErrorKind::InvalidCiphertext). Both count as a source that
    /// cannot list versions.
    fn versions<'a>(
        &'a self,
        id: &'a str,
    ) -> ResultFuture<'a, Option<Vec<[u8; 16]>>, KeyringError> {
        let _ = id;
        Box::pin(async { Ok(None) })
    }

    /// Returns text that identifies the store, its logical name, and how it uses KMS keys.
    ///
    /// Two sources may have the same identity only if each may use the branch keys of the other
    /// one. Errors show it: it must not contain secrets.
    fn identity(&self) -> String;

    /// Returns a number that increases when the identity that calls the store or KMS changes. The
    /// cache then drops what it obtained under the previous identity. Default: always 0.
    fn tenure(&self) -> u64 {
        0
    }
}

/// Why there is no such branch key: the cause of a [`KeyringError`].
///
/// ```
/// use envelope::branch_key::MissingBranchKey;
///
/// let error = MissingBranchKey::Shredded.of("tenant-42");
/// assert_eq!(MissingBranchKey::in_error(&error), Some(MissingBranchKey::Shredded));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MissingBranchKey {
    /// The store has no branch key with this id.
    #[error("branch key not found: create it first")]
    NotFound,
    /// The store has no such version of the branch key. The message may be forged.
    #[error("version {} of the branch key not found", Uuid(*version))]
    VersionNotFound {
        /// The bytes of the version's UUID.
        version: [u8; 16],
    },
    /// The branch key was deleted for good.
    #[error("branch key was shredded: what it protected is no longer readable")]
    Shredded,
}

impl MissingBranchKey {
    /// Returns the error of the branch key with this id.
    ///
    /// Its kind is [`InvalidCiphertext`](KeyringErrorKind::InvalidCiphertext) for a version,
    /// because a forged message may have named it, and [`Unusable`](KeyringErrorKind::Unusable)
    /// otherwise.
    #[must_use]
    pub fn of(self, id: &str) -> KeyringError {
        let kind = match self {
            Self::VersionNotFound { .. } => KeyringErrorKind::InvalidCiphertext,
            Self::NotFound | Self::Shredded => KeyringErrorKind::Unusable,
        };
        KeyringError::new(id, kind, self)
    }

    /// Returns the reason in an error, if a branch key is missing.
    #[must_use]
    pub fn in_error(error: &KeyringError) -> Option<Self> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.cause());
        while let Some(error) = cause {
            if let Some(missing) = error.downcast_ref() {
                return Some(*missing);
            }
            cause = error.source();
        }
        None
    }
}
