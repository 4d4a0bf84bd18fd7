//! Keeps materials for reuse (specification: `framework/caching-cmm.md`).

mod builder;
mod cache;
mod probes;
mod refused;
mod sources;
mod supply;

use std::{fmt, sync::Arc, time::Duration};

use self::probes::Probes;
pub use self::{
    builder::CachingBuilder,
    cache::{CacheStats, MaterialsCache, MaterialsCacheBuilder},
};
use super::{DecryptionMaterialsRequest, EncryptionMaterialsRequest, MaterialsManager};
pub use crate::cache::Counts as CacheCounts;
use crate::{
    background::Background,
    cache::{
        Key,
        failures::Failures,
        policy::Policy,
        source::{Settings, Task},
        tenure::Tenure,
    },
    error::Error,
    keyring::Keyring,
    time::Moment,
};

/// Keeps data keys for reuse within limits on age, messages and bytes.
///
/// - The limits are reserved before a message is encrypted, so they are never exceeded, however
///   many tasks encrypt at the same time.
/// - While a data key is in use, the next one is fetched in the background before a limit is
///   reached, and replaces it atomically, so that callers do not wait. This requires the feature
///   `tokio`.
/// - Callers that miss the same entry at the same time share one load, and its result or failure.
///   A failure is remembered for a while: see [`Error::Remembered`]. All loads under a wrapping key
///   are refused for a while after three consecutive retryable failures under it, or after KMS has
///   said that nobody may use it.
/// - If KMS responds that nobody may use a wrapping key ([`Unusable`]), for a data key that is
///   cached or is to be generated, all entries under that wrapping key are dropped.
/// - If KMS denies access ([`Denied`]), that may concern only the encryption context of the
///   request. Its entry is dropped, and an entry of another context in the same partition is
///   refreshed in the background, as a probe. If the probe is denied, a second one follows. If that
///   is denied too, or there is no entry to probe, the rest of the partition under that wrapping
///   key is dropped. After a successful probe, further denials start no probe for a tenth of
///   `max_age`, or for `max_backoff` if that is longer.
/// - A message that is longer than `max_bytes`, of unknown length, or of a suite without key
///   derivation gets its own data key, which is not cached.
///
/// | setting | default | what it limits |
/// | --- | --- | --- |
/// | [`max_age`](CachingBuilder::max_age) | 5 minutes | how long a data key is used after its request |
/// | [`max_messages`](CachingBuilder::max_messages) | 2^32 | messages encrypted under one data key |
/// | [`max_bytes`](CachingBuilder::max_bytes) | 2^63 - 1 | plaintext bytes encrypted under one data key |
/// | [`serve_stale_for`](CachingBuilder::serve_stale_for) | zero | how long past `max_age` a data key is used while KMS is unavailable |
/// | [`remember_failures_for`](CachingBuilder::remember_failures_for) | 1 second | how long a permanent failure is remembered |
/// | [`max_backoff`](CachingBuilder::max_backoff) | 5 seconds | the pause between requests after retryable failures |
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
/// | while the entry is in use all the time, with `refresh_ahead` | 70 to 80 % of that, plus the duration of the refused request |
/// | decryption, with `prime_decrypt` | the same, counted from the request of the data key for encryption |
/// | with `serve_stale_for`, while KMS is unavailable | `max_age` plus `serve_stale_for` |
/// | other entries under a key, after one was refused because nobody may use it | not at all, except in running operations |
/// | other entries of the partition, after one was denied | the duration of two more requests, in the background; as above if a probe gets no response, or if one has just succeeded |
/// | after [`MaterialsCache::invalidate_key`], [`invalidate`](MaterialsCache::invalidate) or [`clear`](MaterialsCache::clear) has returned | not at all, except in running operations |
///
/// Without the feature `tokio` there are no probes, and a denial drops the rest at once.
///
/// [`Unusable`]: crate::keyring::KeyringErrorKind::Unusable
/// [`Denied`]: crate::keyring::KeyringErrorKind::Denied
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use envelope::{DataKey, Envelope, keyring::RawAesKeyring};
/// use envelope::materials::{CachingMaterialsManager, DefaultMaterialsManager};
///
/// # let keyring = RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?;
/// let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring))
///     .max_age(Duration::from_secs(60))
///     .max_messages(1_000_000)
///     .build()?;
/// let cache = manager.cache().clone();
/// let envelope = Envelope::builder(manager).build()?;
/// assert_eq!(cache.stats().requests(), 0);
/// # Ok::<(), envelope::Error>(())
/// ```
#[derive(Clone)]
pub struct CachingMaterialsManager(Arc<Inner>);

struct Inner {
    source: Arc<dyn MaterialsManager>,
    cache: MaterialsCache,
    partition: Arc<str>,
    policy: Policy,
    /// Failures by wrapping key. Not shared with other managers: their principals may have other
    /// permissions.
    backoffs: Failures<Arc<str>>,
    probes: Probes,
    prime_decrypt: bool,
    /// The tenure of the keyring when it supplied the entries: see [`Keyring::tenure`].
    tenure: Tenure,
}

impl CachingMaterialsManager {
    /// Returns the cache of this manager, which it may share with others.
    #[must_use]
    pub fn cache(&self) -> &MaterialsCache {
        &self.0.cache
    }

    /// Returns the number of bytes that a message reserves; `None` if it may not use the cache. A
    /// data key of a suite without key derivation encrypts one message only (specification:
    /// `framework/caching-cmm.md#get-encryption-materials`).
    fn cacheable_length(&self, request: EncryptionMaterialsRequest<'_>) -> Option<u64> {
        let length = request.plaintext_length.filter(|length| *length <= self.0.policy.max_bytes);
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

    /// Drops the partition if another identity has replaced the one that obtained its entries.
    /// After that, nothing is used that was obtained, or requested, before.
    #[inline]
    fn drop_what_others_obtained(&self) {
        let inner = &*self.0;
        let tenure = inner.source.keyring().map_or(0, Keyring::tenure);
        inner.tenure.change(tenure, || {
            let report = inner.cache.drop_partition(&inner.partition);
            inner.backoffs.clear();
            report
        });
    }
}

impl Settings for CachingMaterialsManager {
    fn now(&self) -> Moment {
        self.0.cache.clock().now()
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
