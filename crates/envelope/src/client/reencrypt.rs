//! Re-encryption, to rotate wrapping keys.

use std::{collections::BTreeSet, sync::Arc};

use zeroize::Zeroizing;

use super::{Decrypted, Envelope, batch::DecryptedBatch, yielding::pause};
use crate::{
    context::EncryptionContext,
    error::Error,
    format::encrypted_data_key::EncryptedDataKey,
    materials::{EncryptionMaterials, EncryptionMaterialsRequest},
    message::opener,
};

impl Envelope {
    /// Decrypts a message, and encrypts its plaintext again as [`encrypt`](Self::encrypt) does now.
    ///
    /// The new message has the same encryption context, but another message id and another data
    /// key: use it to bring messages under a new wrapping key, or to write another algorithm suite
    /// or [required keys](super::EnvelopeBuilder::required_keys). The keyring must decrypt under
    /// the old wrapping key and encrypt under the new one, as
    /// [`RotatingKeyring`](crate::keyring::RotatingKeyring) does. To skip messages for which this
    /// changes nothing, see [`is_current`](Self::is_current).
    ///
    /// With a signed suite, the new message has the signature of this client, even if the old one
    /// was not signed, and anyone who could decrypt it could have created it.
    ///
    /// In a database, replace the message only if it is still the one that you read: otherwise a
    /// write in between is lost.
    ///
    /// # Errors
    ///
    /// The errors of [`decrypt`](Self::decrypt) and of [`encrypt`](Self::encrypt).
    pub async fn reencrypt(
        &self,
        message: &[u8],
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, Error> {
        self.encrypt_again(self.decrypt(message, context).await?).await
    }

    /// Re-encrypts those of `messages` that are not [current](Self::is_current), and returns one
    /// result per message, in order: `None` if the message is current. Such a message is neither
    /// decrypted nor verified, and its encryption context is not compared with `context`.
    ///
    /// One failure does not stop the others. A rotation can therefore be interrupted at any time:
    /// run it again over all messages, and it continues where it was. Missing data keys are fetched
    /// as in [`decrypt_batch`](Self::decrypt_batch). The plaintexts of the whole batch are in
    /// memory at the same time: pass a few hundred messages at once.
    ///
    /// ```
    /// use envelope::{
    ///     DataKey, EncryptionContext, Envelope,
    ///     keyring::{RawAesKeyring, RotatingKeyring},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
    /// # let (old_key, new_key) = (DataKey::generate(32)?, DataKey::generate(32)?);
    /// # let context = EncryptionContext::new([("tenant", "42")])?;
    /// # let before = Envelope::new(RawAesKeyring::new("payments", "2025", &old_key)?)?;
    /// # let mut rows = vec![before.encrypt(b"one", &context).await?];
    /// let old = RawAesKeyring::new("payments", "2025", &old_key)?;
    /// let new = RawAesKeyring::new("payments", "2026", &new_key)?;
    /// let envelope = Envelope::new(RotatingKeyring::new(new).with_older(old))?;
    /// # rows.push(envelope.encrypt(b"two", &context).await?);
    ///
    /// let mut failed = 0;
    /// let outcomes = envelope.reencrypt_batch(&rows, &context).await;
    /// for (row, outcome) in rows.iter().zip(outcomes) {
    ///     match outcome {
    ///         // UPDATE cards SET number = $message WHERE id = $id AND number = $row
    ///         Ok(Some(message)) => assert_ne!(&message, row),
    ///         Ok(None) => {} // is under the new key already
    ///         Err(error) => {
    ///             eprintln!("not re-encrypted, still readable under the old key: {error}");
    ///             failed += 1;
    ///         }
    ///     }
    /// }
    /// assert_eq!(failed, 0); // now the old key can be disabled
    /// # Ok(()) }
    /// ```
    pub async fn reencrypt_batch<M: AsRef<[u8]> + Sync>(
        &self,
        messages: &[M],
        context: &EncryptionContext,
    ) -> Vec<Result<Option<Vec<u8>>, Error>> {
        if messages.is_empty() {
            return vec![];
        }
        let mut outcomes = Vec::with_capacity(messages.len());
        let mut outdated = vec![];
        let current = self.current_materials(context).await;
        for (at, message) in messages.iter().enumerate() {
            let is_current = current
                .as_ref()
                .map_err(Error::clone)
                .and_then(|current| self.is_as_now(message.as_ref(), current));
            if matches!(is_current, Ok(false)) {
                outdated.push(at);
            }
            outcomes.push(is_current.map(|_| None));
        }
        let outdated_messages: Vec<&[u8]> =
            outdated.iter().map(|at| messages[*at].as_ref()).collect();
        let mut decrypted = DecryptedBatch(self.decrypt_batch(&outdated_messages, context).await);
        for (at, decrypted) in outdated.into_iter().zip(&mut decrypted.0) {
            outcomes[at] = match std::mem::replace(decrypted, Err(Error::NotCached)) {
                Ok(decrypted) => self.encrypt_again(decrypted).await.map(Some),
                Err(error) => Err(error),
            };
            pause().await;
        }
        outcomes
    }

    /// Returns whether a message is encrypted as [`encrypt`](Self::encrypt) would encrypt it now:
    /// under the same wrapping keys, with the same algorithm suite, and without the pairs of
    /// [required keys](super::EnvelopeBuilder::required_keys).
    ///
    /// Reads the header only, which is not authenticated: a forged message may claim to be current.
    /// For the names of the keys, see
    /// [`UnverifiedHeader::wrapping_keys`](crate::stream::UnverifiedHeader::wrapping_keys).
    /// Fetches the data key of `context` if it is not cached. Without a
    /// [cache](crate::materials::CachingMaterialsManager), each call generates a data key.
    ///
    /// ```
    /// # use envelope::{DataKey, EncryptionContext, Envelope};
    /// # use envelope::keyring::{RawAesKeyring, RotatingKeyring};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
    /// # let (old_key, new_key) = (DataKey::generate(32)?, DataKey::generate(32)?);
    /// # let old = || RawAesKeyring::new("payments", "2025", &old_key);
    /// # let new = || RawAesKeyring::new("payments", "2026", &new_key);
    /// # let context = EncryptionContext::new([("tenant", "42")])?;
    /// let before = Envelope::new(old()?)?;
    /// let after = Envelope::new(RotatingKeyring::new(new()?).with_older(old()?))?;
    /// let message = before.encrypt(b"secret", &context).await?;
    /// assert!(!after.is_current(&message, &context).await?);
    /// let message = after.reencrypt(&message, &context).await?;
    /// assert!(after.is_current(&message, &context).await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Errors of the message format, and the errors of [`encrypt`](Self::encrypt).
    pub async fn is_current(
        &self,
        message: &[u8],
        context: &EncryptionContext,
    ) -> Result<bool, Error> {
        self.is_as_now(message, &*self.current_materials(context).await?)
    }

    async fn current_materials(
        &self,
        context: &EncryptionContext,
    ) -> Result<Arc<EncryptionMaterials>, Error> {
        let required = self.required_part(context)?;
        let request = EncryptionMaterialsRequest {
            warm_up: true,
            ..self.encryption_request(context, &required, Some(0))?
        };
        self.manager.encryption_materials(request).await
    }

    /// Returns whether a message names the wrapping keys of `current`, has this client's suite, and
    /// stores no required pairs.
    fn is_as_now(&self, message: &[u8], current: &EncryptionMaterials) -> Result<bool, Error> {
        let (header, _) = opener::read_header(message, self.max_encrypted_data_keys)?;
        let stored = EncryptionContext::from_serialized(header.encryption_context, 0)?;
        Ok(header.suite == self.suite
            && self.required_keys.required_part_of(&stored).is_empty()
            && wrapping_keys(header.encrypted_data_keys.iter())
                == wrapping_keys(current.encrypted_data_keys()))
    }

    async fn encrypt_again(&self, decrypted: Decrypted) -> Result<Vec<u8>, Error> {
        let context = decrypted.encryption_context().without_reserved();
        let plaintext = Zeroizing::new(decrypted.into_plaintext());
        self.encrypt(&plaintext, &context).await
    }
}

/// Returns the providers and names of wrapping keys.
fn wrapping_keys(
    keys: impl Iterator<Item = EncryptedDataKey>,
) -> BTreeSet<(String, Option<String>)> {
    keys.map(|key| {
        let name = key.key_name().map(str::to_owned);
        (key.key_provider_id, name)
    })
    .collect()
}
