//! Materials, and the managers that supply them (specification: `framework/structures.md`,
//! `framework/cmm-interface.md`).

mod caching;
mod default;
mod manager;

pub use self::{
    caching::{CacheCounts, CacheStats, CachingBuilder, CachingMaterialsManager, MaterialsCache},
    default::DefaultMaterialsManager,
    manager::{DecryptionMaterialsRequest, EncryptionMaterialsRequest, MaterialsFuture, MaterialsManager},
};
pub use crate::format::encrypted_data_key::{EncryptedDataKey, EncryptedDataKeys};
use crate::{
    context::EncryptionContext, data_key::DataKey, error::Error, format::encrypted_data_key, suite::AlgorithmSuite,
};

/// What a message is sealed with: a data key and the same key as each keyring wrapped it.
#[derive(Debug)]
pub struct EncryptionMaterials {
    suite: AlgorithmSuite,
    encryption_context: EncryptionContext,
    data_key: DataKey,
    /// Serialized once, written into every header.
    encrypted_data_keys: Vec<u8>,
    count: usize,
}

impl EncryptionMaterials {
    /// Materials for `suite` and `encryption_context`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when the data key's length is not the suite's, or when the encrypted
    /// data keys are none or do not fit the message format.
    pub fn new(
        suite: AlgorithmSuite,
        encryption_context: EncryptionContext,
        data_key: DataKey,
        encrypted_data_keys: &[EncryptedDataKey],
    ) -> Result<Self, Error> {
        check_length(suite, &data_key)?;
        let count = encrypted_data_keys.len();
        let encrypted_data_keys = encrypted_data_key::serialize(encrypted_data_keys)?;
        Ok(Self { suite, encryption_context, data_key, encrypted_data_keys, count })
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

    /// The plaintext data key.
    #[must_use]
    pub fn data_key(&self) -> &DataKey {
        &self.data_key
    }

    /// The wrapped data keys, as they stand in a message's header.
    #[must_use]
    pub fn encrypted_data_keys(&self) -> EncryptedDataKeys<'_> {
        EncryptedDataKeys::from_checked(&self.encrypted_data_keys)
    }

    /// How many wrapped data keys there are.
    #[must_use]
    pub fn encrypted_data_key_count(&self) -> usize {
        self.count
    }
}

/// What a message is opened with.
#[derive(Debug)]
pub struct DecryptionMaterials {
    suite: AlgorithmSuite,
    encryption_context: EncryptionContext,
    data_key: DataKey,
}

impl DecryptionMaterials {
    /// Materials for `suite` and `encryption_context`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when the data key's length is not the suite's.
    pub fn new(suite: AlgorithmSuite, encryption_context: EncryptionContext, data_key: DataKey) -> Result<Self, Error> {
        check_length(suite, &data_key)?;
        Ok(Self { suite, encryption_context, data_key })
    }

    /// The algorithm suite the data key is for.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.suite
    }

    /// The message's encryption context.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        &self.encryption_context
    }

    /// The plaintext data key.
    #[must_use]
    pub fn data_key(&self) -> &DataKey {
        &self.data_key
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
