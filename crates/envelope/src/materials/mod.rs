//! Materials, and the managers that supply them (specification: `framework/structures.md`,
//! `framework/cmm-interface.md`).

mod caching;
mod default;
mod manager;

use std::sync::Arc;

pub(crate) use self::manager::{PreparedEntry, Proof};
pub use self::{
    caching::{
        CacheCounts, CacheStats, CachingBuilder, CachingMaterialsManager, FailureCounts,
        MaterialsCache, MaterialsCacheBuilder,
    },
    default::DefaultMaterialsManager,
    manager::{
        DecryptionMaterialsRequest, EncryptionMaterialsRequest, MaterialsFuture, MaterialsManager,
    },
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

/// What a message is sealed with: a data key and the same key as each keyring wrapped it.
#[derive(Debug)]
pub struct EncryptionMaterials {
    suite: AlgorithmSuite,
    encryption_context: EncryptionContext,
    required_context: EncryptionContext,
    stored_context: EncryptionContext,
    data_key: DataKey,
    /// Serialized once, written into every header.
    encrypted_data_keys: Vec<u8>,
    count: usize,
    signing_key: Option<SigningKey>,
}

impl EncryptionMaterials {
    /// Materials for `suite`, which is not a signed one, and `encryption_context`, all of it to be
    /// stored.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when the suite is signed, when the data key's length is not the
    /// suite's, or when the encrypted data keys are none or do not fit the message format.
    pub fn new(
        suite: AlgorithmSuite,
        encryption_context: EncryptionContext,
        data_key: DataKey,
        encrypted_data_keys: &[EncryptedDataKey],
    ) -> Result<Self, Error> {
        let required = EncryptionContext::empty();
        Self::with_parts(suite, encryption_context, required, data_key, encrypted_data_keys, None)
    }

    /// Materials with all they can have. `required_context` is the part of the context that is not
    /// stored; the signing key is there exactly for signed suites, and its public key in the
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
            let problem = format!(
                "suite {suite} without its signing key: take DefaultMaterialsManager's materials"
            );
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

    /// The algorithm suite the data key is for.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.suite
    }

    /// The encryption context the data key is bound to.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        &self.encryption_context
    }

    /// The part of the context that the message authenticates, but does not store.
    #[must_use]
    pub fn required_context(&self) -> &EncryptionContext {
        &self.required_context
    }

    /// The part of the context that the message stores.
    #[must_use]
    pub fn stored_context(&self) -> &EncryptionContext {
        &self.stored_context
    }

    /// The plaintext data key.
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

    /// The approximate size in memory, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let contexts = [&self.encryption_context, &self.required_context, &self.stored_context];
        let contexts = contexts.map(|context| context.as_serialized().len());
        size_of::<Self>() + contexts.iter().sum::<usize>() + self.encrypted_data_keys.len()
    }

    /// Materials that open what these seal; `None` if their public key is not one.
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

    /// What the message is signed with, for signed suites.
    pub(crate) fn signing_key(&self) -> Option<&SigningKey> {
        self.signing_key.as_ref()
    }
}

/// What a message is opened with.
#[derive(Debug)]
pub struct DecryptionMaterials {
    suite: AlgorithmSuite,
    encryption_context: EncryptionContext,
    required_context: EncryptionContext,
    data_key: DataKey,
    verification_key: Option<Arc<VerificationKey>>,
}

impl DecryptionMaterials {
    /// Materials for `suite`, which is not a signed one, and `encryption_context`, all of it
    /// stored.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when the suite is signed, or the data key's length is not the
    /// suite's.
    pub fn new(
        suite: AlgorithmSuite,
        encryption_context: EncryptionContext,
        data_key: DataKey,
    ) -> Result<Self, Error> {
        Self::with_parts(suite, encryption_context, EncryptionContext::empty(), data_key, None)
    }

    /// Materials with all they can have. `required_context` is the part of the context that is not
    /// stored; the verification key is there exactly for signed suites.
    pub(crate) fn with_parts(
        suite: AlgorithmSuite,
        encryption_context: EncryptionContext,
        required_context: EncryptionContext,
        data_key: DataKey,
        verification_key: Option<VerificationKey>,
    ) -> Result<Self, Error> {
        check_length(suite, &data_key)?;
        if suite.is_signed() != verification_key.is_some() {
            let problem = format!("suite {suite} without its verification key");
            return Err(Error::invalid_setting("decryption materials", problem));
        }
        let verification_key = verification_key.map(Arc::new);
        Ok(Self { suite, encryption_context, required_context, data_key, verification_key })
    }

    /// The algorithm suite the data key is for.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.suite
    }

    /// The message's encryption context, with what it requires but does not store.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        &self.encryption_context
    }

    /// The part of the context that the message authenticates, but does not store.
    #[must_use]
    pub fn required_context(&self) -> &EncryptionContext {
        &self.required_context
    }

    /// The plaintext data key.
    #[must_use]
    pub fn data_key(&self) -> &DataKey {
        &self.data_key
    }

    /// The approximate size in memory, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let contexts = [&self.encryption_context, &self.required_context];
        size_of::<Self>()
            + contexts.map(|context| context.as_serialized().len()).iter().sum::<usize>()
    }

    /// What the message's signature is verified with, for signed suites.
    pub(crate) fn verification_key(&self) -> Option<&Arc<VerificationKey>> {
        self.verification_key.as_ref()
    }
}

fn check_length(suite: AlgorithmSuite, data_key: &DataKey) -> Result<(), Error> {
    let (length, expected) = (data_key.len(), suite.data_key_length());
    if length != expected {
        let problem = format!("{length} bytes, but suite {suite} takes {expected}");
        return Err(Error::invalid_setting("data key", problem));
    }
    Ok(())
}
