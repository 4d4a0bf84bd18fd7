//! Materials kept for reuse (specification: `framework/caching-cmm.md`).

mod builder;
mod cache;
mod probes;
mod sources;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

pub use self::{
    builder::CachingBuilder,
    cache::{CacheStats, MaterialsCache, MaterialsCacheBuilder},
};
use self::{
    probes::Probes,
    sources::{DecryptionSource, EncryptionSource},
};
use super::{
    DecryptionMaterials, DecryptionMaterialsRequest, EncryptionMaterials,
    EncryptionMaterialsRequest, MaterialsFuture, MaterialsManager,
};
pub use crate::cache::{Counts as CacheCounts, FailureCounts};
use crate::{
    background::Background,
    cache::{
        failures::Failures,
        policy::Policy,
        source::{Settings, Source as _, Task},
        store::Key,
    },
    error::Error,
    keyring::Keyring,
    time::{Clock, Moment},
};

/// Keeps data keys for reuse within limits on age, messages and bytes.
///
/// - A message's share of the limits is reserved before it is encrypted, so no limit is ever
///   exceeded, however many tasks encrypt at once.
/// - While a data key is in use, the next one is fetched in the background before the current one
///   is spent. It replaces the current one by an atomic swap, so no operation waits for it. This
///   requires the feature `tokio`.
/// - Callers that miss the same entry at the same time share one request and its result, or its
///   failure. A failure is remembered for a while: see [`Error::Remembered`]. After three
///   consecutive transient failures under one wrapping key, or one response that nobody may use the
///   key, all other requests under it are refused for a while, too.
/// - If KMS responds that nobody may use a wrapping key ([`Unusable`]), for a data key that is
///   cached or is to be generated, all entries under that wrapping key are dropped.
/// - If KMS denies access ([`Denied`]), that may concern only the encryption context of the
///   request. Its entry is dropped, and an entry of another context in the same partition is
///   refreshed in the background, as a probe. If the probe is denied, a second one follows; if that
///   is denied too, or there is no entry to probe, the rest of the partition under that wrapping
///   key is dropped. After a successful probe, further denials start no probe for a tenth of
///   `max_age`, or for `longest_backoff` if that is longer.
/// - A message that is longer than `max_bytes`, of unknown length, or of a suite without key
///   derivation gets its own data key, which is not cached.
///
/// | setting | default | what it limits |
/// | --- | --- | --- |
/// | [`max_age`](CachingBuilder::max_age) | 5 minutes | how long a data key is used after its request |
/// | [`max_messages`](CachingBuilder::max_messages) | 2^32 | messages encrypted under one data key |
/// | [`max_bytes`](CachingBuilder::max_bytes) | 2^63 - 1 | plaintext bytes encrypted under one data key |
/// | [`serve_stale_for`](CachingBuilder::serve_stale_for) | zero | how long past `max_age` a data key is used while KMS is unavailable |
/// | [`remember_failures_for`](CachingBuilder::remember_failures_for) | 1 second | how long requests are refused at once after a permanent failure |
/// | [`longest_backoff`](CachingBuilder::longest_backoff) | 5 seconds | the same after a transient failure |
/// | [`prime_decrypt`](CachingBuilder::prime_decrypt) | no | whether this process decrypts its own messages without a request to KMS |
/// | [`cache`](CachingBuilder::cache) | 1,000 entries | entries for encryption, and separately for decryption |
///
/// The limits on messages and bytes apply to encryption; decryption is limited by age only.
///
/// # Revocation
///
/// After KMS has stopped allowing a key, its cached data keys are used until KMS is asked again:
///
/// | | at most |
/// | --- | --- |
/// | encryption and decryption, by default | `max_age` after the data key's request |
/// | while the entry is in use all the time, with `refresh_ahead` | 70 to 80 % of that, plus the time that KMS takes to refuse |
/// | decryption, with `prime_decrypt` | the same, counted from the request of the data key for encryption |
/// | with `serve_stale_for`, while KMS is unavailable | `max_age` plus `serve_stale_for` |
/// | other entries under a key, after one was refused because nobody may use it | not at all, except in running operations |
/// | other entries of the partition, after one was denied | the time of two more requests, in the background; as above if a probe gets no response, or if one has just succeeded |
/// | after [`MaterialsCache::invalidate_key`], [`invalidate`](MaterialsCache::invalidate) or [`clear`](MaterialsCache::clear) has returned | not at all, except in running operations |
///
/// Without the feature `tokio` there are no background probes, and a denial drops the rest at once.
///
/// [`Unusable`]: crate::keyring::KeyringErrorKind::Unusable
/// [`Denied`]: crate::keyring::KeyringErrorKind::Denied
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
#[derive(Clone)]
pub struct CachingMaterialsManager(Arc<Inner>);

struct Inner {
    source: Arc<dyn MaterialsManager>,
    cache: MaterialsCache,
    partition: Arc<str>,
    policy: Policy,
    /// By wrapping key. Not shared with other managers: their principals may fail for reasons of
    /// their own.
    backoffs: Failures<Arc<str>>,
    probes: Probes,
    prime_decrypt: bool,
    /// The source's tenure that the entries are of.
    tenure: AtomicU64,
    /// Held while those of another tenure are dropped.
    handover: Mutex<()>,
}

impl CachingMaterialsManager {
    /// Returns a builder for a manager that keeps the data keys of `source`.
    ///
    /// `source` is not asked again while its materials are cached. Therefore place a manager that
    /// checks requests above this one, not below it.
    pub fn builder(source: impl MaterialsManager + 'static) -> CachingBuilder {
        CachingBuilder::new(Arc::new(source))
    }

    /// The cache this manager uses, alone or with others.
    #[must_use]
    pub fn cache(&self) -> &MaterialsCache {
        &self.0.cache
    }

    fn clock(&self) -> &Clock {
        self.0.cache.clock()
    }

    /// What the message takes from an entry; `None` if it may not take from any. A data key that
    /// seals without key derivation serves one message only (specification:
    /// `framework/caching-cmm.md#get-encryption-materials`).
    fn cacheable_length(&self, request: EncryptionMaterialsRequest<'_>) -> Option<u64> {
        let length =
            request.plaintext_length.filter(|length| *length <= self.0.policy.limits.max_bytes);
        length.filter(|_| !request.suite.is_legacy())
    }

    fn encryption_key<'a>(&'a self, request: EncryptionMaterialsRequest<'a>) -> Key<'a> {
        Key {
            partition: &self.0.partition,
            suite_id: request.suite.id(),
            encryption_context: request.encryption_context.as_serialized(),
            required_context: request.required_context.as_serialized(),
            encrypted_data_keys: &[],
        }
    }

    fn decryption_key<'a>(&'a self, request: DecryptionMaterialsRequest<'a>) -> Key<'a> {
        Key {
            partition: &self.0.partition,
            suite_id: request.suite.id(),
            encryption_context: request.stored_context,
            required_context: request.required_context.as_serialized(),
            encrypted_data_keys: request.encrypted_data_keys.as_serialized(),
        }
    }

    /// Passes usable materials of the cache to `borrow`.
    fn find_to_encrypt(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<EncryptionMaterials>),
    ) -> Option<()> {
        self.drop_what_others_obtained();
        let length = self.cacheable_length(request)?;
        let (key, half, now) =
            (self.encryption_key(request), self.0.cache.encryption(), self.now());
        let place = request.prepared.and_then(|prepared| {
            let place = prepared.in_cache(half, || half.place(key, now))?;
            // A manager above may have changed the request.
            (place.key() == key).then_some(place)
        });
        let taken = match place {
            Some(place) => half.find_at(place, now, self.policy(), Some(length), borrow),
            None => half.find(&key, now, self.policy(), Some(length), borrow),
        };
        if taken.ok()?.wants_refresh {
            half.refresh(&key, &self.encryption_source(request, Some(length)));
        }
        Some(())
    }

    /// Passes usable materials of the cache to `borrow`.
    fn find_to_decrypt(
        &self,
        request: DecryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<DecryptionMaterials>),
    ) -> Option<()> {
        self.drop_what_others_obtained();
        let (key, half) = (self.decryption_key(request), self.0.cache.decryption());
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

impl CachingMaterialsManager {
    /// Drops the partition when another identity has replaced the one that obtained its entries.
    /// After that, nothing is used that was obtained, or requested, before.
    fn drop_what_others_obtained(&self) {
        let inner = &*self.0;
        let tenure = self.keyring().map_or(0, Keyring::tenure);
        if inner.tenure.load(Acquire) == tenure {
            return;
        }
        let _one_at_a_time = inner.handover.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.tenure.load(Acquire) != tenure {
            inner.cache.drop_partition(&inner.partition);
            inner.backoffs.clear();
            inner.tenure.store(tenure, Release);
        }
    }
}

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
    ) -> MaterialsFuture<'a, EncryptionMaterials> {
        Box::pin(async move {
            self.drop_what_others_obtained();
            let (key, half) = (self.encryption_key(request), self.0.cache.encryption());
            let Some(bytes) = self.cacheable_length(request) else {
                half.bypass(&key);
                let source = self.encryption_source(request, None);
                let load = source.clone().load_of(request.plaintext_length);
                return half.load_apart(key.to_owned(), source, load).await;
            };
            // Warming up reserves nothing.
            let bytes = (!request.warm_up).then_some(bytes);
            half.obtain(key, self.encryption_source(request, bytes)).await
        })
    }

    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, DecryptionMaterials> {
        Box::pin(async move {
            self.drop_what_others_obtained();
            let (key, half) = (self.decryption_key(request), self.0.cache.decryption());
            if request.suite.is_legacy() {
                half.bypass(&key);
                let source = DecryptionSource::new(self.clone(), request);
                let load = source.clone().load(false);
                return half.load_apart(key.to_owned(), source, load).await;
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

impl Settings for CachingMaterialsManager {
    fn now(&self) -> Moment {
        self.clock().moment()
    }

    fn chance(&self) -> f64 {
        fastrand::f64()
    }

    fn policy(&self) -> &Policy {
        &self.0.policy
    }

    fn backoffs(&self) -> &Failures<Arc<str>> {
        &self.0.backoffs
    }

    fn loads_in_background(&self) -> Result<bool, Error> {
        self.0.cache.background().start()
    }

    fn run(&self, load: Task) {
        self.spawn(load);
    }

    fn spawn(&self, task: Task) {
        self.0.cache.background().spawn(task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        Background::sleep(duration)
    }
}

impl fmt::Debug for CachingMaterialsManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { source, partition, policy, .. } = &*self.0;
        f.debug_struct("CachingMaterialsManager")
            .field("source", source)
            .field("partition", partition)
            .field("policy", policy)
            .finish_non_exhaustive()
    }
}
