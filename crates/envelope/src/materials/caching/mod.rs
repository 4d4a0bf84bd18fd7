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
    sources::{DecryptionSource, EncryptionSource, Prepared},
};
use super::{
    DecryptionMaterials, DecryptionMaterialsRequest, EncryptionMaterials,
    EncryptionMaterialsRequest, MaterialsFuture, MaterialsManager, PreparedMaterials,
    manager::WarmFuture,
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
    time::{Clock, Moment},
};

/// Keeps data keys for reuse within limits on age, messages and bytes.
///
/// - A message's share of the limits is reserved before it is sealed, so no limit is ever exceeded,
///   however many tasks seal at once.
/// - While a data key is in use, its successor is fetched in the background before it is spent, and
///   takes its place by one swap: whoever seals or opens does not wait for it. That takes the
///   feature `tokio`.
/// - Those who miss the same entry together wait for one request and share its result, or its
///   failure. A failure is remembered for a while, see [`Error::Remembered`]. Where three requests
///   in a row fail under one wrapping key in a way that may pass, or where one is told that nobody
///   may use it, all others under it are refused for a while, too.
/// - When a data key that is cached, or that is to be made, meets the answer that nobody may use
///   its wrapping key ([`Unusable`]), everything that is cached under that key is dropped. When
///   access is [`Denied`], that may be about its encryption context alone: its entry is dropped,
///   and an entry of another context in the same partition is refreshed in the background, as a
///   probe. If that is denied, too, a second one is; and if that is denied, or there is none, the
///   rest of the partition under that key is dropped. Once a probe has succeeded, further denials
///   cause none for a tenth of `max_age`, or for `longest_backoff` if that is more.
/// - A message longer than `max_bytes`, of unknown length, or of a suite without key derivation
///   gets a data key of its own, uncached.
///
/// | setting | default | what it bounds |
/// | --- | --- | --- |
/// | [`max_age`](CachingBuilder::max_age) | 5 minutes | how long a data key is used after it was asked for |
/// | [`max_messages`](CachingBuilder::max_messages) | 2^32 | messages sealed under one data key |
/// | [`max_bytes`](CachingBuilder::max_bytes) | 2^63 - 1 | plaintext bytes sealed under one data key |
/// | [`serve_stale_for`](CachingBuilder::serve_stale_for) | zero | how long past `max_age` while KMS is out of reach |
/// | [`remember_failures_for`](CachingBuilder::remember_failures_for) | 1 second | how long what can't work is refused at once |
/// | [`longest_backoff`](CachingBuilder::longest_backoff) | 5 seconds | the same for what may work again |
/// | [`prime_decrypt`](CachingBuilder::prime_decrypt) | no | whether what was just sealed opens without asking KMS |
/// | [`cache`](CachingBuilder::cache) | 1,000 entries | data keys held for encryption, and as many for decryption |
///
/// The limits on messages and bytes count what is sealed; opening is bounded by age alone.
///
/// # Revocation
///
/// A key that KMS no longer allows is used on for as long as it is cached and nobody asked KMS
/// again:
///
/// | | at most |
/// | --- | --- |
/// | sealing and opening, by default | `max_age` after the data key was asked for |
/// | while the entry is in use all the time, with `refresh_ahead` | seven to eight tenths of that, plus the time that KMS takes to refuse |
/// | opening, with `prime_decrypt` | the same, from when the data key was asked for to seal |
/// | with `serve_stale_for`, while KMS is out of reach | `max_age` and that much more |
/// | other entries under a key, after one was refused because nobody may use it | not at all, but for operations under way |
/// | other entries of the partition, after one was denied | the time of two more requests, in the background; where a probe gets no answer, or one succeeded just before, as above |
/// | after [`MaterialsCache::invalidate_key`], [`invalidate`](MaterialsCache::invalidate) or [`clear`](MaterialsCache::clear) has returned | not at all, but for operations under way |
///
/// Without the feature `tokio` there is no background, and a denial drops the rest at once.
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
    /// A manager that asks `source` for what it does not hold. A
    /// [`RequiredContextMaterialsManager`] belongs over it, not under it: what is cached is not
    /// checked again, and [`build`](CachingBuilder::build) refuses it.
    ///
    /// [`RequiredContextMaterialsManager`]: super::RequiredContextMaterialsManager
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

    /// Lends the materials that the cache holds, if they are usable.
    fn find_to_encrypt<R>(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        borrow: impl FnMut(&Arc<EncryptionMaterials>) -> R,
    ) -> Option<R> {
        self.drop_what_others_obtained();
        let bytes = self.cacheable_length(request)?;
        let (key, half) = (self.encryption_key(request), self.0.cache.encryption());
        let taken = half.find(&key, self.now(), self.policy(), Some(bytes), borrow).ok()?;
        if taken.wants_refresh {
            half.refresh(&key, &self.encryption_source(request, Some(bytes)));
        }
        Some(taken.outcome)
    }

    /// Lends the materials that the cache holds, if they are usable.
    fn find_to_decrypt<R>(
        &self,
        request: DecryptionMaterialsRequest<'_>,
        borrow: impl FnMut(&Arc<DecryptionMaterials>) -> R,
    ) -> Option<R> {
        self.drop_what_others_obtained();
        let (key, half) = (self.decryption_key(request), self.0.cache.decryption());
        let taken = half.find(&key, self.now(), self.policy(), None, borrow).ok()?;
        // This message may be a forged one, so that its header proves nothing.
        if let Some(known) = taken.wants_refresh.then(|| half.peek(&key)).flatten() {
            let source = DecryptionSource::new(self.clone(), request);
            half.refresh(&key, &source.replacing(&known));
        }
        Some(taken.outcome)
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
    /// Drops the partition when another identity has taken the place of the one that obtained what
    /// is in it. Afterwards nothing is used that was obtained, or asked for, before.
    fn drop_what_others_obtained(&self) {
        let inner = &*self.0;
        let tenure = inner.source.tenure();
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
    fn try_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<EncryptionMaterials>>, Error> {
        Ok(self.find_to_encrypt(request, Arc::clone))
    }

    fn try_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<DecryptionMaterials>>, Error> {
        Ok(self.find_to_decrypt(request, Arc::clone))
    }

    fn lend_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&EncryptionMaterials),
    ) -> Result<bool, Error> {
        Ok(self.find_to_encrypt(request, |materials| borrow(materials)).is_some())
    }

    fn lend_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&DecryptionMaterials),
    ) -> Result<bool, Error> {
        Ok(self.find_to_decrypt(request, |materials| borrow(materials)).is_some())
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
            half.obtain(key, self.encryption_source(request, Some(bytes))).await
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

    fn wrapping_key(&self, request: EncryptionMaterialsRequest<'_>) -> Option<Arc<str>> {
        self.0.source.wrapping_key(request)
    }

    fn cache(&self) -> Option<&MaterialsCache> {
        Some(&self.0.cache)
    }

    fn identity(&self) -> Option<String> {
        self.0.source.identity()
    }

    fn tenure(&self) -> u64 {
        self.0.source.tenure()
    }

    fn prepare(
        &self,
        request: EncryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<dyn PreparedMaterials>>, Error> {
        if request.suite.is_legacy() {
            return Ok(None);
        }
        let place = self.0.cache.encryption().place(self.encryption_key(request), self.now());
        Ok(Some(Arc::new(Prepared::new(place, self.encryption_source(request, None)))))
    }

    fn warm<'a>(&'a self, request: EncryptionMaterialsRequest<'a>) -> WarmFuture<'a> {
        Box::pin(async move {
            self.drop_what_others_obtained();
            if !request.suite.is_legacy() {
                let source = self.encryption_source(request, None);
                self.0.cache.encryption().obtain(self.encryption_key(request), source).await?;
            }
            Ok(())
        })
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
