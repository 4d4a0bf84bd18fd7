//! Supplies materials from the cache, or loads them into it.

use std::{sync::Arc, time::Duration};

use super::{
    CachingMaterialsManager, MaterialsCache,
    sources::{DecryptionSource, EncryptionSource},
};
use crate::{
    cache::source::{Settings as _, Source as _},
    error::{Error, ResultFuture},
    keyring::Keyring,
    materials::{
        DecryptionMaterials, DecryptionMaterialsRequest, EncryptionMaterials,
        EncryptionMaterialsRequest, MaterialsManager,
    },
};

impl MaterialsManager for CachingMaterialsManager {
    fn cached_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<EncryptionMaterials>),
    ) -> Result<bool, Error> {
        Ok(self.find_to_encrypt(request, borrow).is_some())
    }

    fn cached_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<DecryptionMaterials>),
    ) -> Result<bool, Error> {
        Ok(self.find_to_decrypt(request, borrow).is_some())
    }

    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<EncryptionMaterials>> {
        Box::pin(async move {
            self.drop_what_others_obtained();
            let key = self.encryption_key(request);
            let half = self.0.cache.encryption();
            let Some(bytes) = self.cacheable_length(request) else {
                half.bypass(&key);
                let source = self.encryption_source(request, None);
                let load = source.clone().load_of(request.plaintext_length);
                return half.load_apart(key.to_owned(), source, Duration::ZERO, load).await;
            };
            // Warming up reserves nothing.
            let bytes = (!request.warm_up).then_some(bytes);
            half.obtain(key, self.encryption_source(request, bytes)).await
        })
    }

    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<DecryptionMaterials>> {
        Box::pin(async move {
            self.drop_what_others_obtained();
            let key = self.decryption_key(request);
            let half = self.0.cache.decryption();
            if request.suite.is_legacy() {
                half.bypass(&key);
                let source = DecryptionSource::new(self.clone(), request);
                let load = source.clone().load(false);
                return half.load_apart(key.to_owned(), source, Duration::ZERO, load).await;
            }
            half.obtain(key, DecryptionSource::new(self.clone(), request)).await
        })
    }

    fn keyring(&self) -> Option<&dyn Keyring> {
        self.0.source.keyring()
    }

    fn cache(&self) -> Option<&MaterialsCache> {
        Some(&self.0.cache)
    }
}

impl CachingMaterialsManager {
    /// Passes usable materials from the cache to `borrow`.
    fn find_to_encrypt(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<EncryptionMaterials>),
    ) -> Option<()> {
        self.drop_what_others_obtained();
        let length = self.cacheable_length(request)?;
        let key = self.encryption_key(request);
        let half = self.0.cache.encryption();
        let now = self.now();
        let entry = request.prepared.and_then(|prepared| {
            let entry = prepared.in_cache(half, || half.entry(key, now))?;
            // A manager above may have changed the request.
            (entry.key() == key).then_some(entry)
        });
        let taken = match entry {
            Some(entry) => half.find_at(entry, now, self.policy(), Some(length), borrow),
            None => half.find(&key, now, self.policy(), Some(length), borrow),
        };
        if taken.ok()?.wants_refresh {
            half.refresh(&key, &self.encryption_source(request, Some(length)));
        }
        Some(())
    }

    /// Passes usable materials from the cache to `borrow`.
    fn find_to_decrypt(
        &self,
        request: DecryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<DecryptionMaterials>),
    ) -> Option<()> {
        self.drop_what_others_obtained();
        let key = self.decryption_key(request);
        let half = self.0.cache.decryption();
        let taken = half.find(&key, self.now(), self.policy(), None, borrow).ok()?;
        // This message may be forged, so its header proves nothing.
        if let Some(known) = taken.wants_refresh.then(|| half.peek(&key)).flatten() {
            let source = DecryptionSource::new(self.clone(), request);
            half.refresh(&key, &source.replacing(&known));
        }
        Some(())
    }

    fn encryption_source(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        bytes: Option<u64>,
    ) -> EncryptionSource {
        EncryptionSource::new(self.clone(), request, bytes)
    }
}
