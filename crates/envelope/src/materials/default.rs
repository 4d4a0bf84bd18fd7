//! A new data key for every message, straight from a keyring (specification: `framework/default-cmm.md`).

use std::sync::Arc;

use super::{
    DecryptionMaterials, DecryptionMaterialsRequest, EncryptionMaterials, EncryptionMaterialsRequest, MaterialsFuture,
    MaterialsManager,
};
use crate::{
    error::Error,
    keyring::{Keyring, KeyringRequest},
};

/// Asks a keyring each time: no caching.
#[derive(Debug, Clone)]
pub struct DefaultMaterialsManager {
    keyring: Arc<dyn Keyring>,
}

impl DefaultMaterialsManager {
    /// A manager over `keyring`.
    pub fn new(keyring: impl Keyring + 'static) -> Self {
        Self { keyring: Arc::new(keyring) }
    }
}

impl MaterialsManager for DefaultMaterialsManager {
    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, EncryptionMaterials> {
        Box::pin(async move {
            let (suite, encryption_context) = (request.suite, request.encryption_context);
            let wrapped = self.keyring.generate(KeyringRequest { suite, encryption_context }).await?;
            let context = encryption_context.clone();
            EncryptionMaterials::new(suite, context, wrapped.data_key, &wrapped.encrypted_data_keys).map(Arc::new)
        })
    }

    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, DecryptionMaterials> {
        Box::pin(async move {
            let (suite, encryption_context) = (request.suite, request.encryption_context()?);
            let keys: Vec<_> = request.encrypted_data_keys.iter().collect();
            let keyring_request = KeyringRequest { suite, encryption_context: &encryption_context };
            let unwrapped = self.keyring.unwrap(keyring_request, &keys).await;
            let data_key = unwrapped.map_err(|failures| Error::DataKeyNotUnwrapped { failures })?;
            DecryptionMaterials::new(suite, encryption_context, data_key).map(Arc::new)
        })
    }
}
