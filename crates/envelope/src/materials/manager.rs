//! Who supplies materials.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use super::{DecryptionMaterials, EncryptedDataKeys, EncryptionMaterials};
use crate::{context::EncryptionContext, error::Error, suite::AlgorithmSuite};

/// What a materials manager's operations return.
pub type MaterialsFuture<'a, T> = Pin<Box<dyn Future<Output = Result<Arc<T>, Error>> + Send + 'a>>;

/// Supplies the materials of each message: a cryptographic materials manager (specification:
/// `framework/cmm-interface.md`).
pub trait MaterialsManager: fmt::Debug + Send + Sync {
    /// Materials to seal one message with.
    ///
    /// # Errors
    ///
    /// Whatever keeps the manager from supplying them.
    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, EncryptionMaterials>;

    /// Materials to open one message with.
    ///
    /// # Errors
    ///
    /// Whatever keeps the manager from supplying them.
    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, DecryptionMaterials>;

    /// The same at once, or `None` where that takes waiting. Must not block.
    fn try_encryption_materials(&self, request: EncryptionMaterialsRequest<'_>) -> Option<Arc<EncryptionMaterials>> {
        let _ = request;
        None
    }

    /// The same at once, or `None` where that takes waiting. Must not block.
    fn try_decryption_materials(&self, request: DecryptionMaterialsRequest<'_>) -> Option<Arc<DecryptionMaterials>> {
        let _ = request;
        None
    }
}

/// What a message to be sealed asks of a materials manager.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EncryptionMaterialsRequest<'a> {
    /// The algorithm suite to be used.
    pub suite: AlgorithmSuite,
    /// The encryption context to be bound to the message.
    pub encryption_context: &'a EncryptionContext,
    /// The plaintext's length in bytes, or a bound on it; `None` when it is not known. A cached data key
    /// is lent only against a known length.
    pub plaintext_length: Option<u64>,
}

/// What a message to be opened asks of a materials manager. Nothing in it is authenticated yet.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct DecryptionMaterialsRequest<'a> {
    /// The message's algorithm suite.
    pub suite: AlgorithmSuite,
    /// The message's encrypted data keys.
    pub encrypted_data_keys: EncryptedDataKeys<'a>,
    pub(crate) encryption_context: &'a [u8],
}

impl DecryptionMaterialsRequest<'_> {
    /// The message's encryption context.
    ///
    /// # Errors
    ///
    /// None in practice: it was checked when the header was read.
    pub fn encryption_context(&self) -> Result<EncryptionContext, Error> {
        EncryptionContext::from_serialized(self.encryption_context, 0)
    }
}
