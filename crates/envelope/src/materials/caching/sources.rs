//! Loads the entries of a caching manager.

use std::sync::Arc;

use super::{CachingMaterialsManager, probes::Probe};
use crate::{
    cache::{
        Key,
        source::{Settings, Source},
    },
    context::{ContextKeys, EncryptionContext},
    error::Error,
    format::{codec::Reader, encrypted_data_key::EncryptedDataKeys, header::UnverifiedHeader},
    keyring::KeyringRequest,
    materials::{
        DecryptionMaterials, DecryptionMaterialsRequest, EncryptionMaterials,
        EncryptionMaterialsRequest, Proof,
    },
    observer::{Operation, traced},
    suite::AlgorithmSuite,
    time::Moment,
};

/// The maximum length of the name of a wrapping key whose failures are remembered separately. ARNs
/// of AWS have at most 2,048 bytes.
const MAX_NAME: usize = 2_048;

/// Loads the encryption materials of one context.
#[derive(Clone)]
pub(super) struct EncryptionSource {
    manager: CachingMaterialsManager,
    suite: AlgorithmSuite,
    context: EncryptionContext,
    required: EncryptionContext,
    bytes: Option<u64>,
    probe: Option<Arc<Probe>>,
}

impl EncryptionSource {
    pub(super) fn new(
        manager: CachingMaterialsManager,
        request: EncryptionMaterialsRequest<'_>,
        bytes: Option<u64>,
    ) -> Self {
        let context = request.encryption_context.clone();
        let required = request.required_context.clone();
        Self { manager, suite: request.suite, context, required, bytes, probe: None }
    }

    /// Returns the source for the entry that `probe` refreshes.
    pub(super) fn probing(
        manager: CachingMaterialsManager,
        key: &Key<'_>,
        probe: Arc<Probe>,
    ) -> Option<Self> {
        Some(Self {
            manager,
            suite: AlgorithmSuite::from_id(key.suite_id)?,
            context: EncryptionContext::from_serialized(key.encryption_context, 0).ok()?,
            required: EncryptionContext::from_serialized(key.required_context, 0).ok()?,
            bytes: None,
            probe: Some(probe),
        })
    }

    /// Requests materials that are not cached, for a message of this length.
    pub(super) async fn load_of(
        self,
        plaintext_length: Option<u64>,
    ) -> Result<Arc<EncryptionMaterials>, Error> {
        let request = EncryptionMaterialsRequest { plaintext_length, ..self.request() };
        self.manager.0.source.encryption_materials(request).await
    }

    /// Caches the materials for decryption, too, if the manager primes decryption. The result
    /// reports events.
    fn prime_decryption(
        &self,
        materials: &Arc<EncryptionMaterials>,
        asked: Moment,
    ) -> Option<impl FnOnce() + use<>> {
        if !self.manager.0.prime_decrypt {
            return None;
        }
        let primed = materials.to_decryption()?;
        let stored = materials.stored_context().to_canonical();
        let keys = materials.serialized_data_keys();
        let primed = Arc::new(primed);
        let source = DecryptionSource {
            manager: self.manager.clone(),
            suite: materials.suite(),
            supplied: materials.encryption_context().clone(),
            required: materials.required_context().clone(),
            stored,
            keys: keys.as_serialized().into(),
            evidence: Evidence::Known(Arc::clone(&primed)),
            probe: None,
        };
        Some(self.manager.0.cache.decryption().prime(&source.key(), primed, asked, &source))
    }

    fn request(&self) -> EncryptionMaterialsRequest<'_> {
        let plaintext_length = Some(self.bytes.unwrap_or(0));
        EncryptionMaterialsRequest {
            required_context: &self.required,
            ..EncryptionMaterialsRequest::new(self.suite, &self.context, plaintext_length)
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

    fn supplied_context(&self) -> &[u8] {
        self.context.as_serialized()
    }

    fn held_bytes(&self) -> usize {
        2 * self.context.as_serialized().len()
    }

    fn wrapping_keys(&self) -> Vec<Arc<str>> {
        let keyring = self.manager.0.source.keyring();
        let request = KeyringRequest::new(self.suite, &self.context);
        keyring.and_then(|keyring| keyring.wrapping_key(request)).into_iter().collect()
    }

    async fn load(self, ahead: bool) -> Result<Arc<EncryptionMaterials>, Error> {
        let request = EncryptionMaterialsRequest { background: ahead, ..self.request() };
        let materials = self.manager.0.source.encryption_materials(request);
        traced(Operation::Encryption, self.context.keys(), materials).await
    }

    fn weight(&self, materials: &EncryptionMaterials) -> usize {
        materials.held_bytes()
    }

    fn failed(&self, error: &Error, had: bool) {
        let refused = (Operation::Encryption, &self.context);
        self.manager.refused(error, had, refused, self.probe.as_ref());
    }

    fn loaded(&self, materials: &Arc<EncryptionMaterials>, asked: Moment) -> impl FnOnce() + use<> {
        self.manager.probe_succeeded(self.probe.as_deref());
        let report = self.prime_decryption(materials, asked);
        move || {
            if let Some(report) = report {
                report();
            }
        }
    }
}

/// Loads the decryption materials of one data key.
#[derive(Clone)]
pub(super) struct DecryptionSource {
    manager: CachingMaterialsManager,
    suite: AlgorithmSuite,
    supplied: EncryptionContext,
    required: EncryptionContext,
    stored: Arc<[u8]>,
    keys: Arc<[u8]>,
    evidence: Evidence,
    probe: Option<Arc<Probe>>,
}

/// A [`Proof`] that owns its data.
#[derive(Clone)]
enum Evidence {
    Header(Arc<[u8]>),
    Known(Arc<DecryptionMaterials>),
}

impl DecryptionSource {
    pub(super) fn new(
        manager: CachingMaterialsManager,
        request: DecryptionMaterialsRequest<'_>,
    ) -> Self {
        let evidence = match request.proof {
            Proof::Header(header) => Evidence::Header(header.to_bytes().into()),
            Proof::Known(known) => Evidence::Known(Arc::clone(known)),
        };
        Self {
            manager,
            suite: request.suite,
            supplied: request.supplied_context.clone(),
            required: request.required_context.clone(),
            stored: request.stored_context.into(),
            keys: request.encrypted_data_keys.as_serialized().into(),
            evidence,
            probe: None,
        }
    }

    /// Returns the source for the entry that `probe` refreshes.
    pub(super) fn probing(
        manager: CachingMaterialsManager,
        key: &Key<'_>,
        known: Arc<DecryptionMaterials>,
        probe: Arc<Probe>,
    ) -> Option<Self> {
        Some(Self {
            manager,
            suite: AlgorithmSuite::from_id(key.suite_id)?,
            supplied: known.encryption_context().clone(),
            required: EncryptionContext::from_serialized(key.required_context, 0).ok()?,
            stored: key.encryption_context.into(),
            keys: key.encrypted_data_keys.into(),
            evidence: Evidence::Known(known),
            probe: Some(probe),
        })
    }

    /// Returns the received header, if that is the evidence.
    fn header(&self) -> Option<UnverifiedHeader<'_>> {
        match &self.evidence {
            Evidence::Header(bytes) => {
                let header = UnverifiedHeader::read(&mut Reader::new(bytes, 0), usize::MAX);
                Some(header.expect("was parsed before"))
            }
            Evidence::Known(_) => None,
        }
    }

    /// Returns the request; `header` is the result of [`header`](Self::header).
    fn request<'a>(
        &'a self,
        header: Option<&'a UnverifiedHeader<'a>>,
    ) -> DecryptionMaterialsRequest<'a> {
        let proof = match (&self.evidence, header) {
            (Evidence::Header(_), Some(header)) => Proof::Header(header),
            (Evidence::Known(known), _) => Proof::Known(known),
            (Evidence::Header(_), None) => unreachable!("`header` returned it"),
        };
        DecryptionMaterialsRequest {
            suite: self.suite,
            encrypted_data_keys: EncryptedDataKeys::from_checked(&self.keys),
            supplied_context: &self.supplied,
            required_context: &self.required,
            stored_context: &self.stored,
            proof,
            background: false,
        }
    }

    fn key(&self) -> Key<'_> {
        Key {
            partition: &self.manager.0.partition,
            suite_id: self.suite.id(),
            encryption_context: &self.stored,
            required_context: self.required.as_serialized(),
            encrypted_data_keys: &self.keys,
        }
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

    fn supplied_context(&self) -> &[u8] {
        self.supplied.as_serialized()
    }

    fn requests(&self) -> usize {
        EncryptedDataKeys::from_checked(&self.keys).count()
    }

    fn held_bytes(&self) -> usize {
        // The cache key, this source and the header each hold a copy.
        3 * (self.keys.len() + self.stored.len())
    }

    fn wrapping_keys(&self) -> Vec<Arc<str>> {
        let keys = EncryptedDataKeys::from_checked(&self.keys);
        let named = keys.iter().map(|key| {
            let name = Some(key.key_provider_information).filter(|name| name.len() <= MAX_NAME)?;
            String::from_utf8(name).ok().map(Arc::from)
        });
        named.collect::<Option<_>>().unwrap_or_default()
    }

    fn weight(&self, materials: &DecryptionMaterials) -> usize {
        materials.held_bytes()
    }

    fn proves(&self, materials: &Arc<DecryptionMaterials>) -> bool {
        self.request(self.header().as_ref()).is_authentic_under(materials)
    }

    fn replacing(&self, known: &Arc<DecryptionMaterials>) -> Self {
        Self { evidence: Evidence::Known(Arc::clone(known)), ..self.clone() }
    }

    fn answered(&self, materials: &DecryptionMaterials) -> Option<Arc<str>> {
        materials.data_key().wrapping_key().map(Into::into)
    }

    fn failed(&self, error: &Error, had: bool) {
        let stored = EncryptionContext::from_serialized(&self.stored, 0);
        if let Ok(context) = stored.and_then(|stored| stored.with(&self.required)) {
            let refused = (Operation::Decryption, &context);
            self.manager.refused(error, had, refused, self.probe.as_ref());
        }
    }

    fn loaded(&self, _: &Arc<DecryptionMaterials>, _: Moment) -> impl FnOnce() + use<> {
        self.manager.probe_succeeded(self.probe.as_deref());
        || ()
    }

    async fn load(self, ahead: bool) -> Result<Arc<DecryptionMaterials>, Error> {
        let header = self.header();
        let request =
            DecryptionMaterialsRequest { background: ahead, ..self.request(header.as_ref()) };
        let materials = self.manager.0.source.decryption_materials(request);
        traced(Operation::Decryption, ContextKeys::of_serialized(&self.stored), materials).await
    }
}

impl std::fmt::Debug for EncryptionSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncryptionSource")
            .field("context_keys", &self.context.keys())
            .finish_non_exhaustive()
    }
}
