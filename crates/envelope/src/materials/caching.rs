//! Materials kept for reuse (specification: `framework/caching-cmm.md`).

use std::{fmt, sync::Arc, time::Duration};

use super::{
    DecryptionMaterials, DecryptionMaterialsRequest, EncryptedDataKeys, EncryptionMaterials,
    EncryptionMaterialsRequest, MaterialsFuture, MaterialsManager,
};
pub use crate::cache::Counts as CacheCounts;
use crate::{
    cache::{Cache, Loaded, entry::Entry, limits::Limits, store::Key},
    crypto::random,
    error::Error,
    time::Clock,
};

/// The specification's default and upper limit for messages under one data key.
const MAX_MESSAGES: u64 = 1 << 32;
/// The specification's default and upper limit for bytes under one data key.
const MAX_BYTES: u64 = (1 << 63) - 1;

/// Keeps data keys for reuse within limits on age, messages and bytes.
///
/// - A message's share of the limits is reserved before it is sealed, so no limit is ever exceeded,
///   however many tasks seal at once.
/// - Those who miss the same entry together wait for one request and share its result, or its failure.
/// - A message longer than `max_bytes`, of unknown length, or of a suite without key derivation gets a data key
///   of its own, uncached.
///
/// | setting | default | what it bounds |
/// | --- | --- | --- |
/// | [`max_age`](CachingBuilder::max_age) | 5 minutes | how long a data key is used after it was asked for |
/// | [`max_messages`](CachingBuilder::max_messages) | 2^32 | messages sealed under one data key |
/// | [`max_bytes`](CachingBuilder::max_bytes) | 2^63 - 1 | plaintext bytes sealed under one data key |
/// | [`cache`](CachingBuilder::cache) | 1,000 entries | data keys held for encryption, and as many for decryption |
///
/// The limits on messages and bytes count what is sealed; opening is bounded by age alone.
///
/// ```
/// use std::time::Duration;
/// use envelope::{DataKey, keyring::RawAesKeyring, materials::{CachingMaterialsManager, DefaultMaterialsManager}};
///
/// # let keyring = RawAesKeyring::new("ns", "name", &DataKey::generate(32)?)?;
/// let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring))
///     .max_age(Duration::from_secs(60))
///     .max_messages(1_000_000)
///     .build()?;
/// # Ok::<(), envelope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CachingMaterialsManager {
    source: Arc<dyn MaterialsManager>,
    cache: MaterialsCache,
    partition: Arc<str>,
    limits: Limits,
    clock: Clock,
}

impl CachingMaterialsManager {
    /// A manager that asks `source` for what it does not hold.
    pub fn builder(source: impl MaterialsManager + 'static) -> CachingBuilder {
        let limits = Limits { max_age: Duration::from_mins(5), max_messages: MAX_MESSAGES, max_bytes: MAX_BYTES };
        CachingBuilder { source: Arc::new(source), cache: None, partition: None, limits, clock: Clock::system() }
    }

    /// The cache this manager uses, alone or with others.
    #[must_use]
    pub fn cache(&self) -> &MaterialsCache {
        &self.cache
    }

    /// What the message takes from an entry; `None` if it may not take from any. A data key that seals without
    /// key derivation serves one message only (specification: `framework/caching-cmm.md#get-encryption-materials`).
    fn cacheable_length(&self, request: EncryptionMaterialsRequest<'_>) -> Option<u64> {
        let length = request.plaintext_length.filter(|length| *length <= self.limits.max_bytes);
        length.filter(|_| !request.suite.is_legacy())
    }

    fn is_fresh<V>(&self, entry: &Entry<V>) -> bool {
        entry.is_fresh(self.clock.now(), self.limits.max_age)
    }

    fn encryption_key<'a>(&'a self, request: EncryptionMaterialsRequest<'a>) -> Key<'a> {
        Key {
            partition: &self.partition,
            suite_id: request.suite.id(),
            encryption_context: request.encryption_context.as_serialized(),
            required_context: request.required_context.as_serialized(),
            encrypted_data_keys: &[],
        }
    }

    fn decryption_key<'a>(&'a self, request: DecryptionMaterialsRequest<'a>) -> Key<'a> {
        Key {
            partition: &self.partition,
            suite_id: request.suite.id(),
            encryption_context: request.stored_context,
            required_context: request.required_context.as_serialized(),
            encrypted_data_keys: request.encrypted_data_keys.as_serialized(),
        }
    }
}

// Whoever began a load and waited for it uses what it brought, however long that took; everybody else checks
// its age. The limits on usage bind all.
impl MaterialsManager for CachingMaterialsManager {
    fn try_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<EncryptionMaterials>>, Error> {
        let Some(bytes) = self.cacheable_length(request) else { return Ok(None) };
        let take = |entry: &Entry<_>| self.is_fresh(entry).then(|| entry.reserve(&self.limits, bytes)).flatten();
        Ok(self.cache.encryption.find(&self.encryption_key(request), take))
    }

    fn try_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<DecryptionMaterials>>, Error> {
        let take = |entry: &Entry<_>| self.is_fresh(entry).then(|| entry.value());
        Ok(self.cache.decryption.find(&self.decryption_key(request), take))
    }

    fn decryption_served(&self, request: DecryptionMaterialsRequest<'_>, authentic: bool) {
        self.cache.decryption.served(&self.decryption_key(request), authentic);
    }

    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, EncryptionMaterials> {
        Box::pin(async move {
            let Some(bytes) = self.cacheable_length(request) else {
                self.cache.encryption.bypass();
                return self.source.encryption_materials(request).await;
            };
            let take = |entry: &Entry<_>, loaded| {
                let usable = loaded == Loaded::ByCaller || self.is_fresh(entry);
                usable.then(|| entry.reserve(&self.limits, bytes)).flatten()
            };
            let load = || {
                let (source, suite) = (Arc::clone(&self.source), request.suite);
                let (context, required) = (request.encryption_context.clone(), request.required_context.clone());
                let load = async move {
                    let request = EncryptionMaterialsRequest {
                        suite,
                        encryption_context: &context,
                        required_context: &required,
                        plaintext_length: Some(bytes),
                    };
                    source.encryption_materials(request).await
                };
                (self.clock.now(), load)
            };
            self.cache.encryption.obtain(self.encryption_key(request), take, load).await
        })
    }

    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, DecryptionMaterials> {
        Box::pin(async move {
            if request.suite.is_legacy() {
                self.cache.decryption.bypass();
                return self.source.decryption_materials(request).await;
            }
            let take = |entry: &Entry<_>, loaded| {
                let usable = loaded == Loaded::ByCaller || self.is_fresh(entry);
                usable.then(|| entry.value())
            };
            let load = || {
                let (source, suite) = (Arc::clone(&self.source), request.suite);
                let (supplied, required) = (request.supplied_context.clone(), request.required_context.clone());
                let stored = request.stored_context.to_vec();
                let keys = request.encrypted_data_keys.as_serialized().to_vec();
                let load = async move {
                    let request = DecryptionMaterialsRequest {
                        suite,
                        encrypted_data_keys: EncryptedDataKeys::from_checked(&keys),
                        supplied_context: &supplied,
                        required_context: &required,
                        stored_context: &stored,
                    };
                    source.decryption_materials(request).await
                };
                (self.clock.now(), load)
            };
            self.cache.decryption.obtain(self.decryption_key(request), take, load).await
        })
    }
}

/// Builds a [`CachingMaterialsManager`].
#[derive(Debug)]
pub struct CachingBuilder {
    source: Arc<dyn MaterialsManager>,
    cache: Option<MaterialsCache>,
    partition: Option<Arc<str>>,
    limits: Limits,
    clock: Clock,
}

impl CachingBuilder {
    /// How long a data key is used after it was asked for. Default: 5 minutes. Allowed: over zero.
    ///
    /// This also bounds how long a key goes on being used after KMS would have refused it.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.limits.max_age = max_age;
        self
    }

    /// How many messages are sealed under one data key. Default: 2^32. Allowed: 1 to 2^32.
    #[must_use]
    pub fn max_messages(mut self, max_messages: u64) -> Self {
        self.limits.max_messages = max_messages;
        self
    }

    /// How many plaintext bytes are sealed under one data key. Default: 2^63 - 1. Allowed: 0 to 2^63 - 1.
    ///
    /// A longer message gets a data key of its own.
    #[must_use]
    pub fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.limits.max_bytes = max_bytes;
        self
    }

    /// The cache to use, which other managers may use, too. Default: one of its own, of 1,000 entries.
    #[must_use]
    pub fn cache(mut self, cache: &MaterialsCache) -> Self {
        self.cache = Some(cache.clone());
        self
    }

    /// Managers on the same cache share entries if, and only if, their partition ids are equal. Default: a
    /// random one, so that nothing is shared.
    ///
    /// Share a partition only between managers whose sources are interchangeable: an entry is used
    /// whoever loaded it.
    #[must_use]
    pub fn partition_id(mut self, partition_id: &str) -> Self {
        self.partition = Some(partition_id.into());
        self
    }

    /// The clock that ages are read from. Default: [`Clock::system`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The manager.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for a limit out of its range.
    pub fn build(self) -> Result<CachingMaterialsManager, Error> {
        let Limits { max_age, max_messages, max_bytes } = self.limits;
        if max_age.is_zero() {
            return Err(Error::invalid_setting(
                "max_age",
                "zero would cache nothing: use DefaultMaterialsManager instead",
            ));
        }
        if !(1..=MAX_MESSAGES).contains(&max_messages) {
            return Err(Error::invalid_setting("max_messages", format!("{max_messages} is not in 1..=2^32")));
        }
        if max_bytes > MAX_BYTES {
            return Err(Error::invalid_setting("max_bytes", format!("{max_bytes} is not in 0..=2^63-1")));
        }
        let partition = match self.partition {
            Some(partition) => partition,
            None => format!("{:032x}", u128::from_be_bytes(random::bytes()?)).into(),
        };
        Ok(CachingMaterialsManager {
            source: self.source,
            cache: self.cache.unwrap_or_default(),
            partition,
            limits: self.limits,
            clock: self.clock,
        })
    }
}

/// Where materials are kept, by one manager or several. Cloning is cheap and shares the entries.
///
/// Data keys in it are plain in memory, and wiped when their entry is evicted, replaced or cleared and
/// the last operation under them has ended.
#[derive(Debug, Clone)]
pub struct MaterialsCache {
    encryption: Arc<Cache<EncryptionMaterials>>,
    decryption: Arc<Cache<DecryptionMaterials>>,
}

impl MaterialsCache {
    /// A cache of at most `capacity` entries for encryption and as many for decryption. An entry is one
    /// encryption context, or for decryption one data key. Default: 1,000.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { encryption: Arc::new(Cache::new(capacity)), decryption: Arc::new(Cache::new(capacity)) }
    }

    /// Drops every entry. Loads under way at this moment still leave theirs.
    pub fn clear(&self) {
        self.encryption.clear();
        self.decryption.clear();
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        CacheStats { encryption: self.encryption.counts(), decryption: self.decryption.counts() }
    }
}

impl Default for MaterialsCache {
    fn default() -> Self {
        Self::new(1_000)
    }
}

/// What happened in a [`MaterialsCache`] since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheStats {
    /// For sealing.
    pub encryption: CacheCounts,
    /// For opening.
    pub decryption: CacheCounts,
}

impl fmt::Display for CacheStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { encryption, decryption } = self;
        write!(f, "sealing hit {} and missed {}, ", encryption.hits, encryption.misses)?;
        write!(f, "opening hit {} and missed {}", decryption.hits, decryption.misses)
    }
}
