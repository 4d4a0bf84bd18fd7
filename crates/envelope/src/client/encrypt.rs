//! Sealing.

use std::{ops::Deref, sync::Arc};

use super::{Envelope, turns::in_turns};
use crate::{
    context::EncryptionContext,
    error::Error,
    format::encrypted_data_key,
    materials::{EncryptionMaterials, EncryptionMaterialsRequest},
    message::{
        Slices as _, seal,
        sealing::{self, Sealing},
    },
    suite::AlgorithmSuite,
};

impl Envelope {
    /// Encrypts `plaintext`, bound to `context`, into one message. Waits only if no data key is
    /// cached.
    ///
    /// With the feature `tokio`, it works under any executor. This method is cancel-safe: use for
    /// example `tokio::time::timeout` to set a deadline. For programs without async, see
    /// [`blocking`](Self::blocking).
    ///
    /// # Errors
    ///
    /// [`Error::DataKeyUnavailable`] if the keyring cannot supply a data key, [`Error::Overloaded`]
    /// if too many other data keys are being loaded, [`Error::Forked`] in a child process,
    /// [`Error::ThreadsNotStarted`], [`Error::InvalidEncryptionContext`] for a key that starts with
    /// `aws-crypto-`, [`Error::RequiredContextMissing`], [`Error::PlaintextTooLong`],
    /// [`Error::TooManyEncryptedDataKeys`], [`Error::Random`].
    pub async fn encrypt(
        &self,
        plaintext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, Error> {
        if self.is_one_slice(plaintext) {
            // Where nothing need be waited for, nothing is kept across an await either.
            match self.try_encrypt(plaintext, context) {
                Err(Error::NotCached) => {}
                done => return done,
            }
        }
        let mut message = vec![];
        self.encrypt_into(plaintext, context, &mut message).await?;
        Ok(message)
    }

    /// Encrypts like [`encrypt`](Self::encrypt), and appends the message to the caller's buffer.
    ///
    /// If the buffer has room and the data key is cached, nothing is allocated (except by AWS-LC,
    /// in C: the state of the message's key). After an error, or if the call is cancelled, the
    /// buffer has its previous content.
    ///
    /// # Errors
    ///
    /// The errors of [`encrypt`](Self::encrypt).
    pub async fn encrypt_into(
        &self,
        plaintext: &[u8],
        context: &EncryptionContext,
        message: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let materials = self.encryption_materials(context, Some(plaintext.len() as u64)).await?;
        if self.is_one_slice(plaintext) {
            return self.seal(&materials, plaintext, message);
        }
        in_turns(&mut self.sealing(materials, plaintext, message)?).await
    }

    /// Seals like [`encrypt`](Self::encrypt), but never waits, and fetches nothing that is missing:
    /// on [`Error::NotCached`], fall back to that.
    ///
    /// # Errors
    ///
    /// [`Error::NotCached`] when no usable data key is cached, and those of
    /// [`encrypt`](Self::encrypt).
    pub fn try_encrypt(
        &self,
        plaintext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, Error> {
        let mut message = vec![];
        self.try_encrypt_into(plaintext, context, &mut message)?;
        Ok(message)
    }

    /// Seals like [`encrypt_into`](Self::encrypt_into), but never waits.
    ///
    /// ```
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
    /// # let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
    /// let context = EncryptionContext::new([("table", "cards")])?;
    /// envelope.encrypt(b"", &context).await?; // now its data key is there
    /// let mut message = Vec::with_capacity(1024);
    /// for card in ["4111 1111 1111 1111", "4242 4242 4242 4242"] {
    ///     message.clear();
    ///     envelope.try_encrypt_into(card.as_bytes(), &context, &mut message)?;
    ///     let opened = envelope.decrypt_in_place(&mut message, &context).await?;
    ///     assert_eq!(opened.plaintext(), card.as_bytes());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`try_encrypt`](Self::try_encrypt).
    pub fn try_encrypt_into(
        &self,
        plaintext: &[u8],
        context: &EncryptionContext,
        message: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let request = self.encryption_request(context, Some(plaintext.len() as u64))?;
        let mut sealed = None;
        self.manager.lend_encryption_materials(request, &mut |materials| {
            sealed = Some(self.seal(materials, plaintext, message));
        })?;
        sealed.unwrap_or(Err(Error::NotCached))
    }

    pub(super) async fn encryption_materials(
        &self,
        context: &EncryptionContext,
        plaintext_bound: Option<u64>,
    ) -> Result<Arc<EncryptionMaterials>, Error> {
        let request = self.encryption_request(context, plaintext_bound)?;
        match self.manager.try_encryption_materials(request)? {
            Some(materials) => Ok(materials),
            None => self.manager.encryption_materials(request).await,
        }
    }

    pub(super) fn encryption_request<'a>(
        &self,
        encryption_context: &'a EncryptionContext,
        plaintext_length: Option<u64>,
    ) -> Result<EncryptionMaterialsRequest<'a>, Error> {
        if encryption_context.reserved_key().is_some() {
            let problem = "keys that start with `aws-crypto-` are reserved for the message format";
            return Err(Error::InvalidEncryptionContext { problem });
        }
        seal::check_length(plaintext_length.unwrap_or(0), self.content_type)?;
        Ok(EncryptionMaterialsRequest::new(self.suite, encryption_context, plaintext_length))
    }

    /// Whether sealing `plaintext` needs no turns.
    pub(super) fn is_one_slice(&self, plaintext: &[u8]) -> bool {
        sealing::is_one_slice(plaintext.len(), self.content_type, &self.workers)
    }

    /// Appends the message to the buffer, at once.
    pub(super) fn seal(
        &self,
        materials: &EncryptionMaterials,
        plaintext: &[u8],
        message: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.sealing(materials, plaintext, message)?.finish()
    }

    /// Begins to append the message to the buffer.
    fn sealing<'a, M: Deref<Target = EncryptionMaterials>>(
        &'a self,
        materials: M,
        plaintext: &'a [u8],
        message: &'a mut Vec<u8>,
    ) -> Result<Sealing<'a, M>, Error> {
        self.check_materials(&materials)?;
        Sealing::start(materials, self.content_type, plaintext, &self.workers, message)
    }

    /// Policy, legacy suites and caching were decided for the suite that was asked for.
    pub(super) fn check_materials(&self, materials: &EncryptionMaterials) -> Result<(), Error> {
        check_suite(materials.suite(), self.suite)?;
        encrypted_data_key::check_count(
            materials.encrypted_data_key_count(),
            self.max_encrypted_data_keys,
        )
    }
}

/// Refuses materials for another suite than was asked for.
pub(super) fn check_suite(supplied: AlgorithmSuite, asked: AlgorithmSuite) -> Result<(), Error> {
    if supplied != asked {
        let problem = format!("for suite {supplied}, but {asked} was asked for");
        return Err(Error::invalid_setting("materials", problem));
    }
    Ok(())
}
