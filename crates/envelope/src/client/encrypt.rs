//! Encryption.

use std::{ops::Deref, sync::Arc};

use super::{Envelope, yielding::finish_yielding};
use crate::{
    context::EncryptionContext,
    error::Error,
    format::encrypted_data_key,
    materials::{EncryptionMaterials, EncryptionMaterialsRequest},
    message::{
        Slices as _,
        encrypt::{self, Encryption},
        sealer,
    },
    suite::AlgorithmSuite,
};

impl Envelope {
    /// Encrypts `plaintext`, bound to `context`, and returns the message. Waits only if no data key
    /// is cached.
    ///
    /// This method is cancel-safe: use for example `tokio::time::timeout` to set a deadline. With
    /// the feature `tokio`, it works under any executor. For programs without async, see
    /// [`blocking`](Self::blocking).
    ///
    /// # Errors
    ///
    /// - [`Error::DataKeyUnavailable`] if the keyring cannot supply a data key, and
    ///   [`Error::Remembered`] if it failed a moment ago.
    /// - [`Error::RequiredContextMissing`] if `context` lacks a
    ///   [required key](super::EnvelopeBuilder::required_keys).
    /// - [`Error::InvalidEncryptionContext`] for a key that starts with `aws-crypto-`.
    /// - [`Error::PlaintextTooLong`] if the message format has no room for the plaintext.
    /// - [`Error::TooManyEncryptedDataKeys`] if the keyring returns more than
    ///   [`max_encrypted_data_keys`](super::EnvelopeBuilder::max_encrypted_data_keys).
    /// - [`Error::Overloaded`] if too many other data keys are being loaded.
    /// - [`Error::Forked`] in a child process, [`Error::ThreadsNotStarted`] if the cache cannot
    ///   start its threads, [`Error::Panicked`] if the keyring panics, and [`Error::Random`] if the
    ///   system's random number generator fails.
    pub async fn encrypt(
        &self,
        plaintext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, Error> {
        if self.is_one_slice(plaintext) {
            // Encrypts without waiting if a data key is cached: the future then stores no state.
            match self.try_encrypt(plaintext, context) {
                Err(Error::NotCached) => {}
                done => return done,
            }
        }
        let mut message = vec![];
        self.load_and_encrypt(plaintext, context, &mut message).await?;
        Ok(message)
    }

    /// Like [`encrypt`](Self::encrypt), but appends the message to `message`.
    ///
    /// If the buffer has room and the data key is cached, this does not allocate (except in AWS-LC,
    /// for the state of the message's key). After an error, or if the future is dropped, the buffer
    /// has its previous content.
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
        if self.is_one_slice(plaintext) {
            match self.try_encrypt_into(plaintext, context, message) {
                Err(Error::NotCached) => {}
                done => return done,
            }
        }
        self.load_and_encrypt(plaintext, context, message).await
    }

    /// Like [`encrypt`](Self::encrypt), but never waits and never fetches a data key. On
    /// [`Error::NotCached`], call `encrypt`.
    ///
    /// # Errors
    ///
    /// [`Error::NotCached`] if no usable data key is cached, and the errors of
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

    /// Like [`encrypt_into`](Self::encrypt_into), but never waits and never fetches a data key.
    ///
    /// ```
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
    /// # let keyring = RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?;
    /// # let envelope = Envelope::new(keyring)?;
    /// let context = EncryptionContext::new([("table", "cards")])?;
    /// envelope.warm([&context]).await; // now the data key is cached
    /// let mut message = Vec::with_capacity(1024);
    /// for card in ["4111 1111 1111 1111", "4242 4242 4242 4242"] {
    ///     message.clear();
    ///     envelope.try_encrypt_into(card.as_bytes(), &context, &mut message)?;
    ///     let decrypted = envelope.decrypt_in_place(&mut message, &context).await?;
    ///     assert_eq!(decrypted.plaintext(), card.as_bytes());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`try_encrypt`](Self::try_encrypt).
    pub fn try_encrypt_into(
        &self,
        plaintext: &[u8],
        context: &EncryptionContext,
        message: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let required = self.required_part(context)?;
        let length = Some(plaintext.len() as u64);
        let request = self.encryption_request(context, &required, length)?;
        self.try_seal(request, plaintext, message)
    }

    /// Encrypts under a cached data key.
    pub(super) fn try_seal(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        plaintext: &[u8],
        message: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let mut sealed = None;
        self.manager.cached_encryption_materials(request, &mut |materials| {
            sealed = Some(self.seal(materials, plaintext, message));
        })?;
        sealed.unwrap_or(Err(Error::NotCached))
    }

    async fn load_and_encrypt(
        &self,
        plaintext: &[u8],
        context: &EncryptionContext,
        message: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let materials = self.encryption_materials(context, Some(plaintext.len() as u64)).await?;
        if self.is_one_slice(plaintext) {
            return self.seal(&materials, plaintext, message);
        }
        finish_yielding(&mut self.sealing(materials, plaintext, message)?).await
    }

    pub(super) async fn encryption_materials(
        &self,
        context: &EncryptionContext,
        plaintext_bound: Option<u64>,
    ) -> Result<Arc<EncryptionMaterials>, Error> {
        let required = self.required_part(context)?;
        let request = self.encryption_request(context, &required, plaintext_bound)?;
        let mut cached = None;
        self.manager.cached_encryption_materials(request, &mut |materials| {
            cached = Some(Arc::clone(materials));
        })?;
        match cached {
            Some(materials) => Ok(materials),
            None => self.manager.encryption_materials(request).await,
        }
    }

    /// Returns the part of `context` that a message must not store.
    pub(super) fn required_part(
        &self,
        context: &EncryptionContext,
    ) -> Result<EncryptionContext, Error> {
        if context.reserved_key().is_some() {
            let problem = "keys that start with `aws-crypto-` are reserved for the message format";
            return Err(Error::InvalidEncryptionContext { problem });
        }
        self.required_keys.required_part(context)
    }

    /// `required_context` is the [`required_part`](Self::required_part) of `encryption_context`.
    pub(super) fn encryption_request<'a>(
        &self,
        encryption_context: &'a EncryptionContext,
        required_context: &'a EncryptionContext,
        plaintext_length: Option<u64>,
    ) -> Result<EncryptionMaterialsRequest<'a>, Error> {
        sealer::check_length(plaintext_length.unwrap_or(0), self.content_type)?;
        Ok(EncryptionMaterialsRequest {
            required_context,
            ..EncryptionMaterialsRequest::new(self.suite, encryption_context, plaintext_length)
        })
    }

    /// Whether `plaintext` is encrypted without yielding to other tasks.
    pub(super) fn is_one_slice(&self, plaintext: &[u8]) -> bool {
        encrypt::is_one_slice(plaintext.len(), self.content_type, &self.workers)
    }

    /// Appends the message to the buffer, without yielding to other tasks.
    fn seal(
        &self,
        materials: &EncryptionMaterials,
        plaintext: &[u8],
        message: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.sealing(materials, plaintext, message)?.finish()
    }

    /// Starts to append the message to the buffer.
    fn sealing<'a, M: Deref<Target = EncryptionMaterials>>(
        &'a self,
        materials: M,
        plaintext: &'a [u8],
        message: &'a mut Vec<u8>,
    ) -> Result<Encryption<'a, M>, Error> {
        self.check_materials(&materials)?;
        Encryption::start(materials, self.content_type, plaintext, &self.workers, message)
    }

    /// Checks that materials have the requested suite, for which policy, legacy suites and caching
    /// were checked, authenticate the required pairs without storing them, and have not too many
    /// encrypted data keys.
    pub(super) fn check_materials(&self, materials: &EncryptionMaterials) -> Result<(), Error> {
        check_suite(materials.suite(), self.suite)?;
        if self.required_keys.check(materials.required_context()).is_err() {
            return Err(without_required_context());
        }
        encrypted_data_key::check_count(
            materials.encrypted_data_key_count(),
            self.max_encrypted_data_keys,
        )
    }
}

/// Returns the error of materials that do not authenticate the pairs that the message does not
/// store.
pub(super) fn without_required_context() -> Error {
    let problem = "the materials manager returned materials without the request's \
        `required_context`: get them from `DefaultMaterialsManager`";
    Error::invalid_setting("materials", problem)
}

/// Refuses materials for another suite than the requested one.
pub(super) fn check_suite(supplied: AlgorithmSuite, expected: AlgorithmSuite) -> Result<(), Error> {
    if supplied != expected {
        let problem =
            format!("the materials manager returned suite {supplied}, expected {expected}");
        return Err(Error::invalid_setting("materials", problem));
    }
    Ok(())
}
