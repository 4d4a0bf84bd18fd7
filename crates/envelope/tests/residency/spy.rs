//! A source of materials that records where data keys are in memory.

use std::sync::{Arc, Mutex, PoisonError};

use envelope::{
    DataKey, ResultFuture,
    materials::{
        DecryptionMaterials, DecryptionMaterialsRequest, DefaultMaterialsManager,
        EncryptionMaterials, EncryptionMaterialsRequest, MaterialsManager,
    },
};

use crate::memory::Masked;

/// Records the addresses of data keys, and keeps none.
#[derive(Debug)]
pub(crate) struct Spy {
    pub(crate) source: DefaultMaterialsManager,
    pub(crate) seen: Mutex<Vec<(usize, Masked)>>,
}

impl Spy {
    fn note(&self, key: &DataKey) {
        let key = key.expose_secret();
        let seen = (key.as_ptr().addr(), Masked::new(key));
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }

    pub(crate) fn first(&self) -> (usize, Masked) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)[0].clone()
    }

    pub(crate) fn forget(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A source of materials for a caching manager.
#[derive(Debug)]
pub(crate) struct Watched(pub(crate) Arc<Spy>);

impl MaterialsManager for Watched {
    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<EncryptionMaterials>> {
        Box::pin(async move {
            let materials = self.0.source.encryption_materials(request).await?;
            self.0.note(materials.data_key());
            Ok(materials)
        })
    }

    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<DecryptionMaterials>> {
        Box::pin(async move {
            let materials = self.0.source.decryption_materials(request).await?;
            self.0.note(materials.data_key());
            Ok(materials)
        })
    }
}
