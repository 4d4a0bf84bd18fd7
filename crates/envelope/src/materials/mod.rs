//! Data keys for messages, and the managers that supply them.
//!
//! Specification: `framework/structures.md`, `framework/cmm-interface.md`.

mod caching;
mod default;
mod manager;

use std::sync::Arc;

pub(crate) use self::manager::{PreparedEntry, Proof};
pub use self::{
    caching::{
        CacheCounts, CacheStats, CachingBuilder, CachingMaterialsManager, MaterialsCache,
        MaterialsCacheBuilder,
    },
    default::DefaultMaterialsManager,
    manager::{DecryptionMaterialsRequest, EncryptionMaterialsRequest, MaterialsManager},
};
pub use crate::format::encrypted_data_key::EncryptedDataKey;
use crate::{
    context::EncryptionContext,
    crypto::signature::{SigningKey, VerificationKey},
    data_key::DataKey,
    error::Error,
    format::encrypted_data_key::{self, EncryptedDataKeys},
    suite::AlgorithmSuite,
};

/// The materials to encrypt a message: a data key, in plaintext and as each wrapping key encrypted
/// it.
#[derive(Debug)]
pub struct EncryptionMaterials {
    suite: AlgorithmSuite,
    encryption_context: EncryptionContext,
    required_context: EncryptionContext,
    stored_context: EncryptionContext,
    data_key: DataKey,
    /// Serialized once, and written into every header.
    encrypted_data_keys: Vec<u8>,
    count: usize,
    signing_key: Option<SigningKey>,
}

impl EncryptionMaterials {
    /// Creates materials for an unsigned `suite`. The message stores all of `encryption_context`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if the suite is signed, if the data key has the wrong length for
    /// the suite, or if there are no encrypted data keys or they do not fit the message format.
    pub fn new(
        suite: AlgorithmSuite,
        encryption_context: EncryptionContext,
        data_key: DataKey,
        encrypted_data_keys: &[EncryptedDataKey],
    ) -> Result<Self, Error> {
        let required = EncryptionContext::empty();
        Self::with_parts(suite, encryption_context, required, data_key, encrypted_data_keys, None)
    }

    /// Creates materials of any kind. `required_context` is the part of the context that is not
    /// stored. Signed suites, and only they, have a signing key, with its public key in the
    /// context.
    pub(crate) fn with_parts(
        suite: AlgorithmSuite,
        encryption_context: EncryptionContext,
        required_context: EncryptionContext,
        data_key: DataKey,
        encrypted_data_keys: &[EncryptedDataKey],
        signing_key: Option<SigningKey>,
    ) -> Result<Self, Error> {
        check_length(suite, &data_key)?;
        if suite.is_signed() != signing_key.is_some() {
            let problem =
                format!("suite {suite} needs a signing key: get them from DefaultMaterialsManager");
            return Err(Error::invalid_setting("encryption materials", problem));
        }
        let count = encrypted_data_keys.len();
        let encrypted_data_keys = encrypted_data_key::serialize(encrypted_data_keys)?;
        let stored_context = if required_context.is_empty() {
            encryption_context.clone()
        } else {
            encryption_context.filtered(|key| required_context.get(key).is_none())
        };
        Ok(Self {
            suite,
            encryption_context,
            required_context,
            stored_context,
            data_key,
            encrypted_data_keys,
            count,
            signing_key,
        })
    }

    /// Returns the algorithm suite that the data key is for.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.suite
    }

    /// Returns the encryption context that the data key is bound to.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        &self.encryption_context
    }

    /// Returns the part of the context that the message authenticates, but does not store.
    #[must_use]
    pub fn required_context(&self) -> &EncryptionContext {
        &self.required_context
    }

    /// Returns the part of the context that the message stores.
    #[must_use]
    pub fn stored_context(&self) -> &EncryptionContext {
        &self.stored_context
    }

    /// Returns the plaintext data key.
    #[must_use]
    pub fn data_key(&self) -> &DataKey {
        &self.data_key
    }

    /// Returns the data key as each wrapping key encrypted it, in the order of the message.
    pub fn encrypted_data_keys(&self) -> impl Iterator<Item = EncryptedDataKey> + use<'_> {
        self.serialized_data_keys().iter()
    }

    /// Returns the encrypted data keys as they stand in a message's header.
    pub(crate) fn serialized_data_keys(&self) -> EncryptedDataKeys<'_> {
        EncryptedDataKeys::from_checked(&self.encrypted_data_keys)
    }

    /// Returns the number of encrypted data keys.
    pub(crate) fn encrypted_data_key_count(&self) -> usize {
        self.count
    }

    /// Returns the approximate size in memory, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let contexts = [&self.encryption_context, &self.required_context, &self.stored_context];
        let contexts = contexts.map(|context| context.as_serialized().len());
        size_of::<Self>() + contexts.iter().sum::<usize>() + self.encrypted_data_keys.len()
    }

    /// Returns the materials to decrypt messages that were encrypted with these materials; `None`
    /// if their public key is invalid.
    pub(crate) fn to_decryption(&self) -> Option<DecryptionMaterials> {
        let verification_key = match (&self.signing_key, self.suite.curve()) {
            (Some(key), Some(curve)) => {
                Some(VerificationKey::from_point(curve, &key.public_key())?)
            }
            _ => None,
        };
        Some(DecryptionMaterials {
            suite: self.suite,
            encryption_context: self.encryption_context.clone(),
            required_context: self.required_context.clone(),
            data_key: DataKey::copied_from(self.data_key.expose_secret()),
            verification_key: verification_key.map(Arc::new),
        })
    }

    /// Returns the key that signs the message, for signed suites.
    pub(crate) fn signing_key(&self) -> Option<&SigningKey> {
        self.signing_key.as_ref()
    }
}

/// The materials to decrypt a message.
#[derive(Debug)]
pub struct DecryptionMaterials {
    suite: AlgorithmSuite,
    encryption_context: EncryptionContext,
    required_context: EncryptionContext,
    data_key: DataKey,
    verification_key: Option<Arc<VerificationKey>>,
}

impl DecryptionMaterials {
    /// Creates materials for an unsigned `suite`. The message stores all of `encryption_context`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if the suite is signed, or if the data key has the wrong length
    /// for the suite.
    pub fn new(
        suite: AlgorithmSuite,
        encryption_context: EncryptionContext,
        data_key: DataKey,
    ) -> Result<Self, Error> {
        Self::with_parts(suite, encryption_context, EncryptionContext::empty(), data_key, None)
    }

    /// Creates materials of any kind. `required_context` is the part of the context that is not
    /// stored. Signed suites, and only they, have a verification key.
    pub(crate) fn with_parts(
        suite: AlgorithmSuite,
        encryption_context: EncryptionContext,
        required_context: EncryptionContext,
        data_key: DataKey,
        verification_key: Option<VerificationKey>,
    ) -> Result<Self, Error> {
        check_length(suite, &data_key)?;
        if suite.is_signed() != verification_key.is_some() {
            let problem = format!("suite {suite} needs a verification key");
            return Err(Error::invalid_setting("decryption materials", problem));
        }
        let verification_key = verification_key.map(Arc::new);
        Ok(Self { suite, encryption_context, required_context, data_key, verification_key })
    }

    /// Returns the algorithm suite that the data key is for.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.suite
    }

    /// Returns the message's encryption context, including required pairs that it does not store.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        &self.encryption_context
    }

    /// Returns the part of the context that the message authenticates, but does not store.
    #[must_use]
    pub fn required_context(&self) -> &EncryptionContext {
        &self.required_context
    }

    /// Returns the plaintext data key.
    #[must_use]
    pub fn data_key(&self) -> &DataKey {
        &self.data_key
    }

    /// Returns the approximate size in memory, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let contexts = [&self.encryption_context, &self.required_context];
        size_of::<Self>()
            + contexts.map(|context| context.as_serialized().len()).iter().sum::<usize>()
    }

    /// Returns the key that verifies the message's signature, for signed suites.
    pub(crate) fn verification_key(&self) -> Option<&Arc<VerificationKey>> {
        self.verification_key.as_ref()
    }
}

fn check_length(suite: AlgorithmSuite, data_key: &DataKey) -> Result<(), Error> {
    let length = data_key.len();
    let expected = suite.data_key_length();
    if length != expected {
        let problem = format!("expected {expected} bytes for suite {suite}, got {length}");
        return Err(Error::invalid_setting("data key", problem));
    }
    Ok(())
}
