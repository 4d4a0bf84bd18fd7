//! Where a caching manager's entries come from.

use std::sync::Arc;

use super::{
    CachingMaterialsManager, DecryptionMaterials, DecryptionMaterialsRequest, EncryptionMaterials,
    EncryptionMaterialsRequest, MaterialsManager, PreparedMaterials,
};
use crate::{
    cache::{
        source::{Settings, Source},
        store::{Key, Place},
    },
    context::{ContextKeys, EncryptionContext},
    error::Error,
    format::encrypted_data_key::EncryptedDataKeys,
    observer::{Operation, traced},
    suite::AlgorithmSuite,
    time::Moment,
};

/// Longer than any name of a wrapping key that can fail by itself: AWS's ARNs have at most 2,048
/// bytes.
const LONGEST_NAME: usize = 2_048;

/// Where the materials of one context come from.
#[derive(Clone)]
pub(super) struct EncryptionSource {
    manager: CachingMaterialsManager,
    suite: AlgorithmSuite,
    context: EncryptionContext,
    required: EncryptionContext,
    bytes: Option<u64>,
}

impl EncryptionSource {
    pub(super) fn new(
        manager: CachingMaterialsManager,
        request: EncryptionMaterialsRequest<'_>,
        bytes: Option<u64>,
    ) -> Self {
        let (context, required) =
            (request.encryption_context.clone(), request.required_context.clone());
        Self { manager, suite: request.suite, context, required, bytes }
    }

    fn request(&self) -> EncryptionMaterialsRequest<'_> {
        EncryptionMaterialsRequest {
            suite: self.suite,
            encryption_context: &self.context,
            required_context: &self.required,
            plaintext_length: Some(self.bytes.unwrap_or(0)),
            background: false,
        }
    }
}

impl Source for EncryptionSource {
    type Value = EncryptionMaterials;
    const IN_PLACE: bool = false;

    fn settings(&self) -> &impl Settings {
        &self.manager
    }

    fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    fn is_use(&self) -> bool {
        self.bytes.is_some()
    }

    fn wrapping_keys(&self) -> Vec<Arc<str>> {
        self.manager.wrapping_key(self.request()).into_iter().collect()
    }

    async fn load(self, background: bool) -> Result<Arc<EncryptionMaterials>, Error> {
        let request = EncryptionMaterialsRequest { background, ..self.request() };
        let materials = self.manager.0.source.encryption_materials(request);
        traced(Operation::Encryption, self.context.keys(), materials).await
    }

    fn loaded(&self, materials: &Arc<EncryptionMaterials>, asked: Moment) {
        if !self.manager.0.prime_decrypt {
            return;
        }
        let Some(primed) = materials.to_decryption() else { return };
        let (stored, keys) =
            (materials.stored_context().to_canonical(), materials.encrypted_data_keys());
        let source = DecryptionSource {
            manager: self.manager.clone(),
            suite: materials.suite(),
            supplied: materials.encryption_context().clone(),
            required: materials.required_context().clone(),
            stored,
            keys: keys.as_serialized().into(),
        };
        self.manager.0.cache.decryption().prime(&source.key(), Arc::new(primed), asked, &source);
    }
}

/// Where the materials of one data key come from.
#[derive(Clone)]
pub(super) struct DecryptionSource {
    manager: CachingMaterialsManager,
    suite: AlgorithmSuite,
    supplied: EncryptionContext,
    required: EncryptionContext,
    stored: Arc<[u8]>,
    keys: Arc<[u8]>,
}

impl DecryptionSource {
    pub(super) fn new(
        manager: CachingMaterialsManager,
        request: DecryptionMaterialsRequest<'_>,
    ) -> Self {
        Self {
            manager,
            suite: request.suite,
            supplied: request.supplied_context.clone(),
            required: request.required_context.clone(),
            stored: request.stored_context.into(),
            keys: request.encrypted_data_keys.as_serialized().into(),
        }
    }

    fn request(&self) -> DecryptionMaterialsRequest<'_> {
        DecryptionMaterialsRequest {
            suite: self.suite,
            encrypted_data_keys: EncryptedDataKeys::from_checked(&self.keys),
            supplied_context: &self.supplied,
            required_context: &self.required,
            stored_context: &self.stored,
            background: false,
        }
    }

    fn key(&self) -> Key<'_> {
        self.manager.decryption_key(self.request())
    }
}

impl Source for DecryptionSource {
    type Value = DecryptionMaterials;
    const IN_PLACE: bool = true;

    fn settings(&self) -> &impl Settings {
        &self.manager
    }

    fn bytes(&self) -> Option<u64> {
        None
    }

    fn wrapping_keys(&self) -> Vec<Arc<str>> {
        let keys = self.request().encrypted_data_keys;
        let named = keys.iter().map(|key| {
            let name =
                Some(key.key_provider_information).filter(|name| name.len() <= LONGEST_NAME)?;
            String::from_utf8(name).ok().map(Arc::from)
        });
        named.collect::<Option<_>>().unwrap_or_default()
    }

    async fn load(self, background: bool) -> Result<Arc<DecryptionMaterials>, Error> {
        let request = DecryptionMaterialsRequest { background, ..self.request() };
        let materials = self.manager.0.source.decryption_materials(request);
        traced(Operation::Decryption, ContextKeys::of_serialized(&self.stored), materials).await
    }
}

/// Encryption materials whose entry was looked up once.
#[derive(Debug)]
pub(super) struct Prepared {
    place: Arc<Place<EncryptionMaterials>>,
    source: EncryptionSource,
}

impl Prepared {
    pub(super) fn new(place: Arc<Place<EncryptionMaterials>>, source: EncryptionSource) -> Self {
        Self { place, source }
    }
}

impl PreparedMaterials for Prepared {
    fn lend(&self, plaintext_length: u64, borrow: &mut dyn FnMut(&EncryptionMaterials)) -> bool {
        let manager = &self.source.manager;
        manager.drop_what_others_obtained();
        let (half, policy) = (manager.0.cache.encryption(), manager.policy());
        if plaintext_length > policy.limits.max_bytes {
            return false;
        }
        let taken = half.find_at(
            &self.place,
            manager.at_the_latest(),
            policy,
            Some(plaintext_length),
            |it| borrow(it),
        );
        let Ok(taken) = taken else { return false };
        if taken.wants_refresh {
            half.refresh(&self.place.key(), &self.source);
        }
        true
    }
}

impl std::fmt::Debug for EncryptionSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncryptionSource")
            .field("context_keys", &self.context.keys())
            .finish_non_exhaustive()
    }
}
