//! One encryption context for many messages.

use std::{fmt, sync::Arc};

use super::Envelope;
use crate::{
    context::EncryptionContext,
    error::Error,
    materials::{EncryptionMaterialsRequest, PreparedEntry},
};

impl Envelope {
    /// Prepares `context` for many messages, which saves about 0.2 µs for each.
    ///
    /// Encrypting through the returned value checks the context only once, looks up its cache entry
    /// only once, and writes to nothing that threads share. (Async calls for messages over 256 KiB
    /// use the [`Envelope`].) Decryption gains nothing: each message names its own data key.
    ///
    /// This sends no request. Call [`warm`](Self::warm) if the first message must not wait either.
    ///
    /// ```
    /// # use envelope::{DataKey, EncryptionContext, Envelope, Error, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
    /// # let keyring = RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?;
    /// # let envelope = Envelope::new(keyring)?;
    /// let tenant = envelope.prepare(&EncryptionContext::new([("tenant", "42")])?)?;
    /// let message = tenant.encrypt(b"4111 1111 1111 1111").await?;
    /// let another = tenant.try_encrypt(b"4242 4242 4242 4242")?; // never waits
    /// let decrypted = envelope.decrypt(&message, tenant.context()).await?;
    /// assert_eq!(decrypted.plaintext(), b"4111 1111 1111 1111");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEncryptionContext`] for a key that starts with `aws-crypto-`, and
    /// [`Error::RequiredContextMissing`] if `context` lacks a
    /// [required key](super::EnvelopeBuilder::required_keys).
    pub fn prepare(&self, context: &EncryptionContext) -> Result<PreparedContext, Error> {
        Ok(PreparedContext {
            envelope: self.clone(),
            context: context.clone(),
            required_part: self.required_part(context)?,
            entry: Arc::default(),
        })
    }
}

/// An [`Envelope`] bound to one encryption context. Created by [`Envelope::prepare`].
///
/// Cheap to clone. It stays valid if its cache entry is evicted or invalidated: the next
/// [`encrypt`](Self::encrypt) then fetches another data key.
#[derive(Clone)]
pub struct PreparedContext {
    envelope: Envelope,
    context: EncryptionContext,
    /// The pairs that messages do not store.
    required_part: EncryptionContext,
    entry: Arc<PreparedEntry>,
}

impl PreparedContext {
    /// Returns the encryption context.
    #[must_use]
    pub fn context(&self) -> &EncryptionContext {
        &self.context
    }

    /// Returns the [`Envelope`], for example to decrypt.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Encrypts `plaintext`, like [`Envelope::encrypt`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::encrypt`].
    pub async fn encrypt(&self, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        let mut message = vec![];
        self.encrypt_into(plaintext, &mut message).await?;
        Ok(message)
    }

    /// Encrypts `plaintext`, like [`Envelope::encrypt_into`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::encrypt`].
    pub async fn encrypt_into(&self, plaintext: &[u8], message: &mut Vec<u8>) -> Result<(), Error> {
        // Lent materials cannot be kept while other tasks run.
        if self.envelope.is_one_slice(plaintext) {
            match self.try_encrypt_into(plaintext, message) {
                Err(Error::NotCached) => {}
                done => return done,
            }
        }
        self.envelope.encrypt_into(plaintext, &self.context, message).await
    }

    /// Encrypts `plaintext`, like [`Envelope::try_encrypt`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::try_encrypt`].
    pub fn try_encrypt(&self, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        let mut message = vec![];
        self.try_encrypt_into(plaintext, &mut message)?;
        Ok(message)
    }

    /// Encrypts `plaintext`, like [`Envelope::try_encrypt_into`].
    ///
    /// # Errors
    ///
    /// The errors of [`Envelope::try_encrypt`].
    pub fn try_encrypt_into(&self, plaintext: &[u8], message: &mut Vec<u8>) -> Result<(), Error> {
        let length = Some(plaintext.len() as u64);
        let request = EncryptionMaterialsRequest {
            prepared: Some(&self.entry),
            ..self.envelope.encryption_request(&self.context, &self.required_part, length)?
        };
        self.envelope.try_seal(request, plaintext, message)
    }
}

/// Shows the keys of the context, not their values.
impl fmt::Debug for PreparedContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedContext")
            .field("context_keys", &self.context.keys())
            .finish_non_exhaustive()
    }
}
