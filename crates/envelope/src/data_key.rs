//! Plaintext data keys.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretBox, SecretSlice};
use zeroize::Zeroize;

use crate::error::Error;

/// A plaintext data key. It is wiped on drop, and cannot be cloned or printed.
///
/// ```
/// let key = envelope::DataKey::from_vec(vec![7; 32]);
/// assert_eq!(key.len(), 32);
/// assert!(!format!("{key:?}").contains('7'));
/// ```
#[derive(Debug)]
pub struct DataKey {
    secret: SecretSlice<u8>,
    wrapping_key: Option<Arc<str>>,
}

impl DataKey {
    /// Creates a data key from bytes. Wipes the vector, including its spare capacity.
    #[must_use]
    pub fn from_vec(mut bytes: Vec<u8>) -> Self {
        let key = Self::copied_from(&bytes);
        bytes.zeroize();
        key
    }

    /// Generates a random data key of `length` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Random`] when the system's random number generator fails.
    pub fn generate(length: usize) -> Result<Self, Error> {
        let mut bytes = SecretBox::new(vec![0; length].into_boxed_slice());
        let buffer = secrecy::ExposeSecretMut::expose_secret_mut(&mut bytes);
        getrandom::fill(buffer).map_err(|cause| Error::Random(Arc::new(cause)))?;
        Ok(Self { secret: bytes, wrapping_key: None })
    }

    /// Copies a data key. The caller must wipe the original.
    pub(crate) fn copied_from(bytes: &[u8]) -> Self {
        Self { secret: SecretBox::new(bytes.into()), wrapping_key: None }
    }

    /// Sets the name of the wrapping key that decrypted this data key, as messages spell it.
    ///
    /// For keyrings whose messages may name several wrapping keys. The cache then knows which of
    /// them works again after failures.
    ///
    /// ```
    /// let key = envelope::DataKey::from_vec(vec![7; 32]).unwrapped_by("tenant-42");
    /// assert_eq!(key.wrapping_key(), Some("tenant-42"));
    /// ```
    #[must_use]
    pub fn unwrapped_by(mut self, wrapping_key: impl Into<Arc<str>>) -> Self {
        self.wrapping_key = Some(wrapping_key.into());
        self
    }

    /// Returns the name of the wrapping key that decrypted this data key, if its keyring
    /// [set](Self::unwrapped_by) it.
    #[must_use]
    pub fn wrapping_key(&self) -> Option<&str> {
        self.wrapping_key.as_deref()
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.expose_secret().len()
    }

    /// Returns whether the length is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the secret bytes, for keyrings that encrypt them. Do not copy them.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        self.secret.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_redacted() {
        let shown = format!("{:?}", DataKey::from_vec(vec![0xAB; 32]));
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("ab, "), "{shown}");
    }

    #[test]
    fn generated_keys_differ() {
        let a = DataKey::generate(32).unwrap();
        let b = DataKey::generate(32).unwrap();
        assert_ne!(a.expose_secret(), b.expose_secret());
    }
}
