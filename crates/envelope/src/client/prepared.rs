//! One encryption context, for many messages.

use std::{fmt, sync::Arc};

use super::{Decrypted, Envelope};
use crate::{
    context::EncryptionContext, error::Error, materials::PreparedMaterials, message::seal,
};

impl Envelope {
    /// Binds `context` once for many messages: sealing through the handle looks up no cache entry,
    /// shares nothing that is written to with other threads, and checks the context no more. (That
    /// saves some 0.2 µs, so async calls do not do it for messages over 256 KiB; and opening
    /// looks up the data key that the message names, as ever.)
    ///
    /// Makes no request; follow it by [`warm`](Self::warm), so that the first message does not wait
    /// either.
    ///
    /// ```
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
    /// # let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
    /// let tenant = envelope.prepare(&EncryptionContext::new([("tenant", "42")])?)?;
    /// let message = tenant.encrypt(b"4111 1111 1111 1111").await?;
    /// let another = tenant.try_encrypt(b"4242 4242 4242 4242")?; // never waits
    /// assert_eq!(tenant.decrypt(&message).await?.plaintext(), b"4111 1111 1111 1111");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEncryptionContext`] for a key that starts with `aws-crypto-`,
    /// [`Error::RequiredContextMissing`].
    pub fn prepare(&self, context: &EncryptionContext) -> Result<PreparedContext, Error> {
        let request = self.encryption_request(context, None)?;
        let materials = self.manager.prepare(request)?;
        Ok(PreparedContext { envelope: self.clone(), context: context.clone(), materials })
    }
}

/// An [`Envelope`] bound to one encryption context: from [`Envelope::prepare`]. Cheap to clone.
///
/// It stays valid if its entry is evicted or invalidated: the next [`encrypt`](Self::encrypt) then
/// fetches another data key.
#[derive(Clone)]
pub struct PreparedContext {
    envelope: Envelope,
    context: EncryptionContext,
    materials: Option<Arc<dyn PreparedMaterials>>,
}

impl PreparedContext {
    /// The encryption context.
    #[must_use]
    pub fn context(&self) -> &EncryptionContext {
        &self.context
    }

    /// Seals `plaintext`, like [`Envelope::encrypt`].
    ///
    /// # Errors
    ///
    /// Those of [`Envelope::encrypt`].
    pub async fn encrypt(&self, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        let mut message = vec![];
        self.encrypt_into(plaintext, &mut message).await?;
        Ok(message)
    }

    /// Seals `plaintext`, like [`Envelope::encrypt_into`].
    ///
    /// # Errors
    ///
    /// Those of [`Envelope::encrypt`].
    pub async fn encrypt_into(&self, plaintext: &[u8], message: &mut Vec<u8>) -> Result<(), Error> {
        // Lent materials cannot be kept while other tasks run.
        if self.envelope.is_one_slice(plaintext)
            && let Some(sealed) = self.seal(plaintext, message)
        {
            return sealed;
        }
        self.envelope.encrypt_into(plaintext, &self.context, message).await
    }

    /// Seals `plaintext`, like [`Envelope::try_encrypt`]: never waits.
    ///
    /// # Errors
    ///
    /// Those of [`Envelope::try_encrypt`].
    pub fn try_encrypt(&self, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        let mut message = vec![];
        self.try_encrypt_into(plaintext, &mut message)?;
        Ok(message)
    }

    /// Seals `plaintext`, like [`Envelope::try_encrypt_into`]: never waits.
    ///
    /// # Errors
    ///
    /// Those of [`Envelope::try_encrypt`].
    pub fn try_encrypt_into(&self, plaintext: &[u8], message: &mut Vec<u8>) -> Result<(), Error> {
        if self.materials.is_none() {
            return self.envelope.try_encrypt_into(plaintext, &self.context, message);
        }
        self.seal(plaintext, message).unwrap_or(Err(Error::NotCached))
    }

    /// Opens one whole message that was sealed in this context, like [`Envelope::decrypt`].
    ///
    /// # Errors
    ///
    /// Those of [`Envelope::decrypt`].
    pub async fn decrypt(&self, message: &[u8]) -> Result<Decrypted, Error> {
        self.envelope.decrypt(message, &self.context).await
    }

    /// Opens one whole message that was sealed in this context, like [`Envelope::decrypt_into`].
    ///
    /// # Errors
    ///
    /// Those of [`Envelope::decrypt`].
    pub async fn decrypt_into<'p>(
        &self,
        message: &[u8],
        plaintext: &'p mut Vec<u8>,
    ) -> Result<Decrypted<&'p mut [u8]>, Error> {
        self.envelope.decrypt_into(message, &self.context, plaintext).await
    }

    /// Opens one whole message that was sealed in this context, like
    /// [`Envelope::decrypt_in_place`].
    ///
    /// # Errors
    ///
    /// Those of [`Envelope::decrypt`].
    pub async fn decrypt_in_place<'m>(
        &self,
        message: &'m mut [u8],
    ) -> Result<Decrypted<&'m mut [u8]>, Error> {
        self.envelope.decrypt_in_place(message, &self.context).await
    }

    /// Opens one whole message that was sealed in this context, like [`Envelope::try_decrypt`]:
    /// never waits.
    ///
    /// # Errors
    ///
    /// Those of [`Envelope::try_decrypt`].
    pub fn try_decrypt(&self, message: &[u8]) -> Result<Decrypted, Error> {
        self.envelope.try_decrypt(message, &self.context)
    }

    /// Opens one whole message that was sealed in this context, like
    /// [`Envelope::try_decrypt_into`]: never waits.
    ///
    /// # Errors
    ///
    /// Those of [`Envelope::try_decrypt`].
    pub fn try_decrypt_into<'p>(
        &self,
        message: &[u8],
        plaintext: &'p mut Vec<u8>,
    ) -> Result<Decrypted<&'p mut [u8]>, Error> {
        self.envelope.try_decrypt_into(message, &self.context, plaintext)
    }

    /// Opens one whole message that was sealed in this context, like
    /// [`Envelope::try_decrypt_in_place`]: never waits.
    ///
    /// # Errors
    ///
    /// Those of [`Envelope::try_decrypt`].
    pub fn try_decrypt_in_place<'m>(
        &self,
        message: &'m mut [u8],
    ) -> Result<Decrypted<&'m mut [u8]>, Error> {
        self.envelope.try_decrypt_in_place(message, &self.context)
    }

    /// Seals with materials that are there; `None` where there are none.
    fn seal(&self, plaintext: &[u8], message: &mut Vec<u8>) -> Option<Result<(), Error>> {
        if let Err(too_long) =
            seal::check_length(plaintext.len() as u64, self.envelope.content_type)
        {
            return Some(Err(too_long));
        }
        let mut sealed = None;
        self.materials.as_ref()?.lend(plaintext.len() as u64, &mut |materials| {
            sealed = Some(self.envelope.seal(materials, plaintext, message));
        });
        sealed
    }
}

/// The keys of the context, not their values.
impl fmt::Debug for PreparedContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedContext")
            .field("context_keys", &self.context.keys())
            .finish_non_exhaustive()
    }
}
