//! A branch key.

use std::{fmt, sync::Arc};

use crate::{
    crypto::{aead, kdf::CounterKdf},
    data_key::DataKey,
    error::Error,
};

/// The length of a branch key in bytes.
pub(super) const LENGTH: usize = 32;
/// The maximum length of an id in bytes.
const MAX_ID: usize = 2_048;

/// One version of a branch key in memory. It is wiped on drop, and cannot be cloned or printed.
///
/// It never encrypts by itself: each wrapped data key has a key of its own, derived from it.
///
/// ```
/// use envelope::{DataKey, branch_key::BranchKey};
///
/// let key = BranchKey::new("tenant-42", [1; 16], &DataKey::from_vec(vec![7; 32]))?;
/// assert_eq!(key.id(), "tenant-42");
/// assert!(!format!("{key:?}").contains('7'));
/// # Ok::<(), envelope::Error>(())
/// ```
pub struct BranchKey {
    id: Arc<str>,
    version: [u8; 16],
    kdf: CounterKdf,
    kms_key: Option<Arc<str>>,
}

impl BranchKey {
    /// Creates a branch key from its id, the bytes of its version's UUID, and its 32 secret bytes.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] unless `id` has 1 to 2,048 bytes and `secret` has 32.
    pub fn new(
        id: impl Into<Arc<str>>,
        version: [u8; 16],
        secret: &DataKey,
    ) -> Result<Self, Error> {
        let id = id.into();
        check_id(&id)?;
        if secret.len() != LENGTH {
            let problem = format!("{} bytes, expected {LENGTH}", secret.len());
            return Err(Error::invalid_setting("branch key", problem));
        }
        let kdf = CounterKdf::new(secret.expose_secret());
        Ok(Self { id, version, kdf, kms_key: None })
    }

    /// Sets the ARN of the KMS key that protects this branch key. Default: none.
    ///
    /// If KMS responds that nobody may use that KMS key, the cache drops every branch key under it.
    ///
    /// ```
    /// # use envelope::{DataKey, branch_key::BranchKey};
    /// let arn = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    /// let key = BranchKey::new("tenant-42", [1; 16], &DataKey::generate(32)?)?.under_kms_key(arn);
    /// assert_eq!(key.kms_key(), Some(arn));
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn under_kms_key(mut self, arn: impl Into<Arc<str>>) -> Self {
        self.kms_key = Some(arn.into());
        self
    }

    /// Returns the id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the bytes of the version's UUID.
    #[must_use]
    pub fn version(&self) -> [u8; 16] {
        self.version
    }

    /// Returns the ARN of the KMS key that protects this branch key, if it was
    /// [set](Self::under_kms_key).
    #[must_use]
    pub fn kms_key(&self) -> Option<&str> {
        self.kms_key.as_deref()
    }

    /// Returns the id, shared with the branch key.
    pub(crate) fn shared_id(&self) -> Arc<str> {
        Arc::clone(&self.id)
    }

    /// Returns a cipher under the key that is derived for `label` and `context`.
    pub(crate) fn cipher(&self, label: &[u8], context: &[u8]) -> aead::Key {
        self.kdf.cipher(label, context)
    }
}

/// Shows no key material.
impl fmt::Debug for BranchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, version, kdf: _, kms_key } = self;
        f.debug_struct("BranchKey")
            .field("id", id)
            .field("version", &format_args!("{}", Uuid(*version)))
            .field("kms_key", kms_key)
            .finish_non_exhaustive()
    }
}

/// Checks the id of a branch key.
///
/// # Errors
///
/// [`Error::InvalidSetting`] unless it has 1 to 2,048 bytes.
pub(crate) fn check_id(id: &str) -> Result<(), Error> {
    if (1..=MAX_ID).contains(&id.len()) {
        return Ok(());
    }
    let problem = format!("{} bytes, expected 1 to {MAX_ID}", id.len());
    Err(Error::invalid_setting("branch key id", problem))
}

/// The version of a branch key, displayed as stores spell it.
pub(crate) struct Uuid(pub(crate) [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, length: usize) -> Result<BranchKey, Error> {
        BranchKey::new(id, [0xAB; 16], &DataKey::from_vec(vec![0xCD; length]))
    }

    #[test]
    fn debug_is_redacted() {
        let shown = format!("{:?}", key("tenant-42", 32).unwrap().under_kms_key("arn"));
        assert!(shown.contains("abababab-abab-abab-abab-abababababab"), "{shown}");
        assert!(!shown.to_lowercase().contains("cd") && !shown.contains("205"), "{shown}");
    }

    #[test]
    fn ids_and_secrets_have_limits() {
        assert!(key("a", 32).is_ok() && key(&"a".repeat(2_048), 32).is_ok());
        for (id, length) in
            [("", 32), (&*"a".repeat(2_049), 32), ("a", 0), ("a", 16), ("a", 31), ("a", 33)]
        {
            assert!(matches!(key(id, length), Err(Error::InvalidSetting { .. })), "{length}");
        }
    }
}
