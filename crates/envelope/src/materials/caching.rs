//! Materials kept for reuse (specification: `framework/caching-cmm.md`).

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

#[cfg(feature = "tokio")]
use tokio::runtime::Handle;

use super::{
    DecryptionMaterials, DecryptionMaterialsRequest, EncryptedDataKeys, EncryptionMaterials,
    EncryptionMaterialsRequest, MaterialsFuture, MaterialsManager,
};
pub use crate::cache::Counts as CacheCounts;
use crate::{
    cache::{Cache, Settings, Source, Task, gate::Gate, limits::Limits, policy::Policy, store::Key},
    context::EncryptionContext,
    crypto::random,
    error::{Error, Refusal},
    suite::AlgorithmSuite,
    time::Clock,
};

/// The specification's default and upper limit for messages under one data key.
const MAX_MESSAGES: u64 = 1 << 32;
/// The specification's default and upper limit for bytes under one data key.
const MAX_BYTES: u64 = (1 << 63) - 1;
const MAX_LOADS: usize = 16;

/// Keeps data keys for reuse within limits on age, messages and bytes.
///
/// - A message's share of the limits is reserved before it is sealed, so no limit is ever exceeded,
///   however many tasks seal at once.
/// - While a data key is in use, its successor is fetched in the background before it is spent, and takes its place by one
///   swap: whoever seals or opens does not wait for it. That takes the feature `tokio`, and a runtime.
/// - Those who miss the same entry together wait for one request and share its result, or its failure. A failure is
///   remembered for a while, see [`Error::Remembered`].
/// - When a refresh is told that a wrapping key may not be used any more, what is cached under it is dropped.
/// - A message longer than `max_bytes`, of unknown length, or of a suite without key derivation gets a data key
///   of its own, uncached.
///
/// | setting | default | what it bounds |
/// | --- | --- | --- |
/// | [`max_age`](CachingBuilder::max_age) | 5 minutes | how long a data key is used after it was asked for |
/// | [`max_messages`](CachingBuilder::max_messages) | 2^32 | messages sealed under one data key |
/// | [`max_bytes`](CachingBuilder::max_bytes) | 2^63 - 1 | plaintext bytes sealed under one data key |
/// | [`serve_stale_for`](CachingBuilder::serve_stale_for) | zero | how long past `max_age` while KMS is out of reach |
/// | [`remember_failures_for`](CachingBuilder::remember_failures_for) | 1 second | how long what can't work is refused at once |
/// | [`longest_backoff`](CachingBuilder::longest_backoff) | 5 seconds | the same for what may work again |
/// | [`cache`](CachingBuilder::cache) | 1,000 entries | data keys held for encryption, and as many for decryption |
///
/// The limits on messages and bytes count what is sealed; opening is bounded by age alone.
///
/// # Revocation
///
/// A key that KMS no longer allows is used on for as long as it is cached and nobody asked KMS again:
///
/// | | at most |
/// | --- | --- |
/// | sealing and opening, by default | `max_age` after the data key was asked for; while it is in use, KMS is asked again at seven to eight tenths of that |
/// | with `serve_stale_for`, while KMS is out of reach | `max_age` and that much more |
/// | after [`MaterialsCache::invalidate_key`], [`invalidate`](MaterialsCache::invalidate) or [`clear`](MaterialsCache::clear) has returned | not at all, but for operations under way |
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
    policy: Arc<Policy>,
    clock: Clock,
    #[cfg(feature = "tokio")]
    runtime: Option<Handle>,
}

impl CachingMaterialsManager {
    /// A manager that asks `source` for what it does not hold.
    pub fn builder(source: impl MaterialsManager + 'static) -> CachingBuilder {
        let policy = Policy {
            limits: Limits { max_age: Duration::from_mins(5), max_messages: MAX_MESSAGES, max_bytes: MAX_BYTES },
            stale: Duration::ZERO,
            refuse_for: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(5),
            refresh_ahead: true,
            jitter: fastrand::f64(),
        };
        CachingBuilder { source: Arc::new(source), cache: None, partition: None, policy, clock: Clock::system() }
    }

    /// The cache this manager uses, alone or with others.
    #[must_use]
    pub fn cache(&self) -> &MaterialsCache {
        &self.cache
    }

    /// What the message takes from an entry; `None` if it may not take from any. A data key that seals without
    /// key derivation serves one message only (specification: `framework/caching-cmm.md#get-encryption-materials`).
    fn cacheable_length(&self, request: EncryptionMaterialsRequest<'_>) -> Option<u64> {
        let length = request.plaintext_length.filter(|length| *length <= self.policy.limits.max_bytes);
        length.filter(|_| !request.suite.is_legacy())
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

    fn encryption_source(&self, request: EncryptionMaterialsRequest<'_>, bytes: u64) -> EncryptionSource {
        let (context, required) = (request.encryption_context.clone(), request.required_context.clone());
        EncryptionSource { manager: self.clone(), suite: request.suite, context, required, bytes }
    }

    fn decryption_source(&self, request: DecryptionMaterialsRequest<'_>) -> DecryptionSource {
        DecryptionSource {
            manager: self.clone(),
            suite: request.suite,
            supplied: request.supplied_context.clone(),
            required: request.required_context.clone(),
            stored: request.stored_context.into(),
            keys: request.encrypted_data_keys.as_serialized().into(),
        }
    }
}

impl MaterialsManager for CachingMaterialsManager {
    fn try_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<EncryptionMaterials>>, Error> {
        let Some(bytes) = self.cacheable_length(request) else { return Ok(None) };
        let (key, half) = (self.encryption_key(request), &self.cache.encryption);
        let Ok(taken) = half.find(&key, self.clock.now(), &self.policy, Some(bytes)) else { return Ok(None) };
        if taken.wants_refresh {
            half.refresh(&key, &self.encryption_source(request, bytes));
        }
        Ok(Some(taken.value))
    }

    fn try_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<DecryptionMaterials>>, Error> {
        let (key, half) = (self.decryption_key(request), &self.cache.decryption);
        let Ok(taken) = half.find(&key, self.clock.now(), &self.policy, None) else { return Ok(None) };
        if taken.wants_refresh {
            half.refresh(&key, &self.decryption_source(request));
        }
        Ok(Some(taken.value))
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
            let source = self.encryption_source(request, bytes);
            self.cache.encryption.obtain(self.encryption_key(request), source).await
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
            self.cache.decryption.obtain(self.decryption_key(request), self.decryption_source(request)).await
        })
    }
}

/// Where the materials of one context come from.
#[derive(Clone)]
struct EncryptionSource {
    manager: CachingMaterialsManager,
    suite: AlgorithmSuite,
    context: EncryptionContext,
    required: EncryptionContext,
    bytes: u64,
}

impl Source for EncryptionSource {
    type Value = EncryptionMaterials;
    const IN_PLACE: bool = false;

    fn settings(&self) -> &impl Settings {
        &self.manager
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }

    async fn load(self) -> Result<Arc<EncryptionMaterials>, Error> {
        let request = EncryptionMaterialsRequest {
            suite: self.suite,
            encryption_context: &self.context,
            required_context: &self.required,
            plaintext_length: Some(self.bytes),
        };
        self.manager.source.encryption_materials(request).await
    }
}

/// Where the materials of one data key come from.
#[derive(Clone)]
struct DecryptionSource {
    manager: CachingMaterialsManager,
    suite: AlgorithmSuite,
    supplied: EncryptionContext,
    required: EncryptionContext,
    stored: Arc<[u8]>,
    keys: Arc<[u8]>,
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

    async fn load(self) -> Result<Arc<DecryptionMaterials>, Error> {
        let request = DecryptionMaterialsRequest {
            suite: self.suite,
            encrypted_data_keys: EncryptedDataKeys::from_checked(&self.keys),
            supplied_context: &self.supplied,
            required_context: &self.required,
            stored_context: &self.stored,
        };
        self.manager.source.decryption_materials(request).await
    }
}

impl Settings for CachingMaterialsManager {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn chance(&self) -> f64 {
        fastrand::f64()
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What came of a wrapping key that nobody may use any more must go; and where this caller may not, once it was told so
    /// of a key that it had. (Who is denied a first time may have sent a message that is not theirs to open.)
    fn failed(&self, error: &Error, refresh: bool) {
        for failure in error.keyring_errors() {
            match failure.refusal() {
                Some(Refusal::Unusable) => self.cache.invalidate_key(failure.wrapping_key()),
                Some(Refusal::Denied) if refresh => self.cache.invalidate_key(failure.wrapping_key()),
                _ => {}
            }
        }
    }

    /// Runs the task on the caller's runtime, or else on the one that the manager was built on. Without any, it is dropped.
    fn spawn(&self, task: Task) {
        #[cfg(feature = "tokio")]
        if let Some(runtime) = Handle::try_current().ok().or_else(|| self.runtime.clone()) {
            runtime.spawn(task);
            return;
        }
        drop(task);
    }
}

/// Builds a [`CachingMaterialsManager`].
#[derive(Debug)]
pub struct CachingBuilder {
    source: Arc<dyn MaterialsManager>,
    cache: Option<MaterialsCache>,
    partition: Option<Arc<str>>,
    policy: Policy,
    clock: Clock,
}

impl CachingBuilder {
    /// How long a data key is used after it was asked for. Default: 5 minutes. Allowed: over zero.
    ///
    /// This also bounds how long a key goes on being used after KMS would have refused it.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.policy.limits.max_age = max_age;
        self
    }

    /// How many messages are sealed under one data key. Default: 2^32. Allowed: 1 to 2^32.
    #[must_use]
    pub fn max_messages(mut self, max_messages: u64) -> Self {
        self.policy.limits.max_messages = max_messages;
        self
    }

    /// How many plaintext bytes are sealed under one data key. Default: 2^63 - 1. Allowed: 0 to 2^63 - 1.
    ///
    /// A longer message gets a data key of its own.
    #[must_use]
    pub fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.policy.limits.max_bytes = max_bytes;
        self
    }

    /// Whether the successor of a data key in use is fetched in the background before that one is spent: past seven to eight
    /// tenths of its age (by chance, so that a fleet does not ask in step), half of its messages or bytes, or when at this
    /// pace it would be spent within four times as long as a request takes. Default: `true`.
    ///
    /// With `false`, or without a tokio runtime, whoever finds a data key spent waits for the next one.
    #[must_use]
    pub fn refresh_ahead(mut self, ahead: bool) -> Self {
        self.policy.refresh_ahead = ahead;
        self
    }

    /// How long a data key serves past its `max_age` while KMS is out of reach: when asking for a new one failed by
    /// throttling, a time-out, a connection or an internal error, and not by a refusal. Default: zero. Allowed: any.
    ///
    /// `max_messages` and `max_bytes` go on binding. It makes the bound on revocation longer.
    #[must_use]
    pub fn serve_stale_for(mut self, ceiling: Duration) -> Self {
        self.policy.stale = ceiling;
        self
    }

    /// How long a failure that does not pass by itself is remembered: access denied, a disabled or missing key, a wrapped
    /// key that does not unwrap. Whoever asks again in that time gets [`Error::Remembered`] at once. Default: 1 second.
    /// Allowed: any; zero remembers none.
    #[must_use]
    pub fn remember_failures_for(mut self, duration: Duration) -> Self {
        self.policy.refuse_for = duration;
        self
    }

    /// The longest wait between requests for one entry that fail in a way that may pass, as by throttling: 50 to 100
    /// milliseconds after the first failure, twice as long after each further one. Whoever asks in between gets
    /// [`Error::Remembered`] at once. Default: 5 seconds. Allowed: any; zero asks each time.
    #[must_use]
    pub fn longest_backoff(mut self, duration: Duration) -> Self {
        self.policy.longest_backoff = duration;
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
        let Limits { max_age, max_messages, max_bytes } = self.policy.limits;
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
            policy: Arc::new(self.policy),
            clock: self.clock,
            #[cfg(feature = "tokio")]
            runtime: Handle::try_current().ok(),
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
    ///
    /// A scan of contexts that are used once does not flush those that are used often.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::with_max_loads(capacity, MAX_LOADS)
    }

    /// The same, with at most `max_loads` requests to keyrings at once, for encryption and decryption together; those that
    /// somebody waits for go first. Default: 16. Allowed: over zero, which zero is taken for.
    #[must_use]
    pub fn with_max_loads(capacity: usize, max_loads: usize) -> Self {
        let gate = Gate::new(max_loads.max(1));
        Self {
            encryption: Arc::new(Cache::new(capacity, gate.clone())),
            decryption: Arc::new(Cache::new(capacity, gate)),
        }
    }

    /// Drops every entry. No operation that begins after this has returned uses what was cached, or asked for, before.
    pub fn clear(&self) {
        self.encryption.clear();
        self.decryption.clear();
    }

    /// Drops the entries of one encryption context, for sealing and opening, as [`clear`](Self::clear) drops all. Looks at
    /// each entry.
    pub fn invalidate(&self, context: &EncryptionContext) {
        self.encryption.invalidate(|_, materials| materials.encryption_context().without_reserved() == *context);
        self.decryption.invalidate(|_, materials| materials.encryption_context().without_reserved() == *context);
    }

    /// Drops the entries under one wrapping key, for sealing and opening, as [`clear`](Self::clear) drops all: an AWS KMS key
    /// by its ARN, a raw key by its name (and with it those whose names begin with that). Of a data key that several keys wrap, each one counts. Looks at each entry.
    pub fn invalidate_key(&self, wrapping_key: &str) {
        let under = |keys: EncryptedDataKeys<'_>| {
            keys.iter().any(|key| key.key_provider_information.starts_with(wrapping_key.as_bytes()))
        };
        self.encryption.invalidate(|_, materials| under(materials.encrypted_data_keys()));
        self.decryption.invalidate(|key, _| under(EncryptedDataKeys::from_checked(key.borrow().encrypted_data_keys)));
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
