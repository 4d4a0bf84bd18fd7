//! A keyring for the rotation of wrapping keys.

use std::sync::Arc;

use super::{
    EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringRequest, try_unwrap_with_any,
    unwrap_with_any,
};
use crate::{
    data_key::DataKey,
    error::{Error, ResultFuture},
};

/// Encrypts under the newest wrapping key, and decrypts messages under any of several.
///
/// Use it to replace a wrapping key. New messages are under the newest key only. Messages under
/// older keys stay readable, until you have encrypted them again or no longer need them.
/// [`UnverifiedHeader::wrapping_keys`](crate::stream::UnverifiedHeader::wrapping_keys) tells which
/// keys a message is under, without decrypting it.
///
/// ```
/// use envelope::{DataKey, EncryptionContext, Envelope, keyring::{RawAesKeyring, RotatingKeyring}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
/// # let old_key = DataKey::generate(32)?;
/// # let new_key = DataKey::generate(32)?;
/// let context = EncryptionContext::new([("tenant", "42")])?;
/// let before = Envelope::new(RawAesKeyring::new("payments", "2025-key", &old_key)?)?;
/// let message = before.encrypt(b"secret", &context).await?;
///
/// let newest = RawAesKeyring::new("payments", "2026-key", &new_key)?;
/// let older = RawAesKeyring::new("payments", "2025-key", &old_key)?;
/// let after = Envelope::new(RotatingKeyring::new(newest).with_older(older))?;
/// assert_eq!(after.decrypt(&message, &context).await?.plaintext(), b"secret");
/// # Ok(()) }
/// ```
///
/// The keyrings may be of any type. With AWS KMS, the principal needs `kms:GenerateDataKey` and
/// `kms:Decrypt` for the newest key, and only `kms:Decrypt` for the older ones.
///
/// Decryption tries the newest keyring first, then the older ones in the order in which they were
/// added. A keyring sends no request for a message that does not name its key, so older keyrings
/// cost newer messages nothing.
///
/// Cached data keys of the previous keyring are not used: in a shared cache partition, the first
/// message after a rotation is already under the newest key.
#[derive(Debug)]
pub struct RotatingKeyring {
    newest: Box<dyn Keyring>,
    older: Vec<Box<dyn Keyring>>,
}

impl RotatingKeyring {
    /// Creates a keyring that encrypts and decrypts with `newest`.
    #[must_use]
    pub fn new(newest: impl Keyring + 'static) -> Self {
        Self { newest: Box::new(newest), older: vec![] }
    }

    /// Adds a keyring that only decrypts. Default: none.
    ///
    /// ```
    /// # use envelope::{DataKey, keyring::{RawAesKeyring, RotatingKeyring}};
    /// # let new = DataKey::generate(32)?;
    /// # let old = DataKey::generate(32)?;
    /// # let oldest = DataKey::generate(32)?;
    /// let keyring = RotatingKeyring::new(RawAesKeyring::new("payments", "2026-key", &new)?)
    ///     .with_older(RawAesKeyring::new("payments", "2025-key", &old)?)
    ///     .with_older(RawAesKeyring::new("payments", "2024-key", &oldest)?);
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn with_older(mut self, keyring: impl Keyring + 'static) -> Self {
        self.older.push(Box::new(keyring));
        self
    }

    /// Returns the newest keyring, then the older ones.
    fn keyrings(&self) -> impl Iterator<Item = &dyn Keyring> {
        std::iter::once(&self.newest).chain(&self.older).map(|keyring| &**keyring)
    }
}

impl Keyring for RotatingKeyring {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        self.newest.generate(request)
    }

    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        self.newest.wrap(request, data_key)
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(unwrap_with_any(self.keyrings(), request, encrypted_data_keys))
    }

    fn try_generate(&self, request: KeyringRequest<'_>) -> Option<Result<GeneratedDataKey, Error>> {
        self.newest.try_generate(request)
    }

    fn try_wrap(
        &self,
        request: KeyringRequest<'_>,
        data_key: &DataKey,
    ) -> Option<Result<Vec<EncryptedDataKey>, Error>> {
        self.newest.try_wrap(request, data_key)
    }

    fn try_unwrap(
        &self,
        request: KeyringRequest<'_>,
        encrypted_data_keys: &[EncryptedDataKey],
    ) -> Option<Result<DataKey, Vec<KeyringError>>> {
        try_unwrap_with_any(self.keyrings(), request, encrypted_data_keys)
    }

    fn wrapping_key(&self, request: KeyringRequest<'_>) -> Option<Arc<str>> {
        self.newest.wrapping_key(request)
    }

    fn identity(&self) -> Option<String> {
        let identities: Vec<_> = self.keyrings().map(Keyring::identity).collect::<Option<_>>()?;
        Some(format!("rotating {identities:?}"))
    }

    fn tenure(&self) -> u64 {
        self.keyrings().map(Keyring::tenure).fold(0, u64::wrapping_add)
    }
}
