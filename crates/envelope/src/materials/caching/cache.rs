//! The cache that caching managers share.

use std::{fmt, sync::Arc, time::Duration};

use super::{CacheCounts, DecryptionMaterials, EncryptionMaterials};
use crate::{
    background::Background,
    cache::{
        Cache,
        gate::{self, Gate},
        store::{Bounds, OwnedKey},
    },
    context::EncryptionContext,
    format::encrypted_data_key::{EncryptedDataKey, EncryptedDataKeys},
    observer::{Observer, Operation},
    time::Clock,
};

const CAPACITY: usize = 1_000;
const MAX_LOADS: usize = 16;
const MAX_WAITING: usize = 1_000;
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Keeps materials for one or several managers. Cloning is cheap and shares the entries.
///
/// A cached data key is wiped when its entry has been evicted, replaced or cleared and the last
/// operation under it has ended. An entry takes about 1.5 KB with one wrapped key and a short
/// encryption context; `cargo run --release -p benches --bin residency` measures it. An expired
/// entry is not used any more, but stays in memory until it is requested again, evicted or dropped:
/// see [`remove_older_than`](Self::remove_older_than).
///
/// # Threads
///
/// With the feature `tokio` (a default one), data keys are loaded and refreshed on threads of the
/// cache, named `envelope-cache`: one per processor, but at least two and at most 16. They have
/// their own tokio runtime. Your keyring or [`Observer`] runs on them: it should not block for
/// long, and cannot wait there for a [`BlockingEnvelope`](crate::BlockingEnvelope) over this cache.
///
/// The threads start with the first load, and end when the last user of the cache is dropped, on
/// any thread. Callers can therefore use any executor, or none, and the end of their runtime does
/// not affect a load. A load that has started continues when its callers are cancelled; one that
/// still waits is cancelled with them.
///
/// Threads do not survive a `fork`. If the parent had started them, loads in the child fail with
/// [`Error::Forked`](crate::Error::Forked): make clients after the fork, or do not use them before.
/// Cached data keys still work in the child, if no other thread was using the cache during the
/// fork: otherwise that thread may have held a lock, and operations of the child may wait for it
/// for ever. Each process counts its own messages and bytes, so that both together may exceed a
/// data key's limits.
///
/// Without the feature, the waiting callers drive a load, and it is cancelled with the last of
/// them.
///
/// # Observability
///
/// [`stats`](Self::stats) returns the counts so far. An [`Observer`] receives each event as it
/// happens. With the feature `tracing` (a default one), the same events are emitted under the
/// target `envelope::cache`, and each load is a span `load_data_key`. They contain the keys of
/// encryption contexts, never their values. With the feature `metrics`, the `metrics` facade gets:
///
/// | metric | labels beside `operation` (`encryption`, `decryption`) |
/// | --- | --- |
/// | `envelope_cache_hits_total`; updated with other events and by [`stats`](Self::stats), otherwise late by up to 1,024 hits per thread | |
/// | `envelope_cache_misses_total` | `reason`: `absent`, `evicted`, `invalidated`, `never_repeats`, `age`, `messages`, `bytes` |
/// | `envelope_cache_loads_total` | `ahead`: `true`, `false`; `outcome`: `ok`, or the [kind](crate::keyring::KeyringErrorKind) of failure |
/// | `envelope_cache_load_seconds`, a histogram | `outcome` |
/// | `envelope_cache_coalesced_total`, `envelope_cache_bypasses_total`, `envelope_cache_refused_total`, `envelope_cache_promotions_total`, `envelope_cache_stale_served_total`, `envelope_cache_evictions_total`, `envelope_cache_invalidations_total`, `envelope_cache_contexts_never_repeat_total`, `envelope_cache_too_small_total` | |
#[derive(Debug, Clone)]
pub struct MaterialsCache(Arc<Halves>);

#[derive(Debug)]
struct Halves {
    encryption: Arc<Cache<EncryptionMaterials>>,
    decryption: Arc<Cache<DecryptionMaterials>>,
    clock: Clock,
    /// The threads that run loads.
    background: Background,
}

impl MaterialsCache {
    /// A cache of at most `capacity` entries for encryption and as many for decryption, else with
    /// the defaults of [`builder`](Self::builder).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::builder().capacity(capacity).build()
    }

    /// A cache with settings of its own.
    #[must_use]
    pub fn builder() -> MaterialsCacheBuilder {
        MaterialsCacheBuilder {
            capacity: CAPACITY,
            max_bytes_held: None,
            max_loads: MAX_LOADS,
            max_waiting: MAX_WAITING,
            max_wait: MAX_WAIT,
            clock: Clock::system(),
            observer: None,
        }
    }

    /// Drops every entry, and forgets every failure but that of a wrapping key as a whole. No
    /// operation that begins after this has returned uses what was cached, or asked for, before.
    /// Tells how many entries there were.
    pub fn clear(&self) -> u64 {
        // Sealing first: what primes the entries for opening must have ended when those are
        // dropped.
        self.0.encryption.clear() + self.0.decryption.clear()
    }

    /// Drops the entries of one encryption context, for sealing and opening, as
    /// [`clear`](Self::clear) drops all. Looks at each entry.
    pub fn invalidate(&self, context: &EncryptionContext) -> u64 {
        let sealing = |materials: &EncryptionMaterials| {
            materials.encryption_context().without_reserved() == *context
        };
        let opening = |materials: &DecryptionMaterials| {
            materials.encryption_context().without_reserved() == *context
        };
        self.0.encryption.invalidate(|_, materials| sealing(materials))
            + self.0.decryption.invalidate(|_, materials| opening(materials))
    }

    /// Drops the entries under one wrapping key, for sealing and opening, as [`clear`](Self::clear)
    /// drops all: an AWS KMS key by its ARN, a raw key by its name or by `NAMESPACE/NAME`, as
    /// errors name it (and with it those whose names begin with that). Of a data key that several
    /// keys wrap, each one counts. A key id alone, or an alias, matches nothing: zero, where you
    /// expect entries, may mean that the name is not as messages have it. A multi-Region key has an
    /// ARN in each region, and messages name that of the region that sealed. Looks at each entry.
    pub fn invalidate_key(&self, wrapping_key: &str) -> u64 {
        self.0
            .encryption
            .invalidate(|_, materials| is_under(materials.serialized_data_keys(), wrapping_key))
            + self.0.decryption.invalidate(|key, _| is_under(keys_of(key), wrapping_key))
    }

    /// Drops the entries of one partition, as [`clear`](Self::clear) drops all.
    pub(super) fn drop_partition(&self, partition: &str) {
        self.0.encryption.invalidate(|key, _| key.borrow().partition == partition);
        self.0.decryption.invalidate(|key, _| key.borrow().partition == partition);
    }

    /// Drops the entries under a wrapping key that was just refused: all entries, or those of one
    /// partition.
    pub(super) fn drop_refused(&self, wrapping_key: &str, partition: Option<&str>) {
        let here = |key: &OwnedKey| partition.is_none_or(|it| it == key.borrow().partition);
        self.0.encryption.drop_refused(|key, materials| {
            here(key) && is_wrapped_by(materials.serialized_data_keys(), wrapping_key)
        });
        self.0
            .decryption
            .drop_refused(|key, _| here(key) && is_wrapped_by(keys_of(key), wrapping_key));
    }

    /// Drops the entries whose data keys are all older than `age`, and so wipes them; tells how
    /// many. An expired data key is never used, but stays in memory until its entry is asked for
    /// again, evicted or dropped. Looks at each entry.
    pub fn remove_older_than(&self, age: Duration) -> u64 {
        let now = self.0.clock.moment();
        self.0.encryption.remove_older_than(age, now)
            + self.0.decryption.remove_older_than(age, now)
    }

    /// What happened so far. Cheap: it looks at no entry.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            encryption: self.0.encryption.counts(),
            decryption: self.0.decryption.counts(),
        }
    }

    /// How long ago the oldest data key that is held was asked for. Looks at each entry.
    #[must_use]
    pub fn oldest_data_key_age(&self) -> Option<Duration> {
        let now = self.0.clock.moment();
        self.0.encryption.oldest(now).max(self.0.decryption.oldest(now))
    }

    pub(super) fn encryption(&self) -> &Arc<Cache<EncryptionMaterials>> {
        &self.0.encryption
    }

    pub(super) fn decryption(&self) -> &Arc<Cache<DecryptionMaterials>> {
        &self.0.decryption
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(super) fn background(&self) -> &Background {
        &self.0.background
    }
}

/// Whether one of these is wrapped by the key with this name, or by a key whose name begins with
/// it.
pub(super) fn is_under(keys: EncryptedDataKeys<'_>, wrapping_key: &str) -> bool {
    keys.iter().any(|key| is_named(&key, wrapping_key))
}

fn is_named(key: &EncryptedDataKey, wrapping_key: &str) -> bool {
    let qualified =
        wrapping_key.strip_prefix(&*key.key_provider_id).and_then(|rest| rest.strip_prefix('/'));
    let is_named = |name: &str| key.key_provider_information.starts_with(name.as_bytes());
    is_named(wrapping_key) || qualified.is_some_and(is_named)
}

/// Whether one of these is wrapped by the key that a failure names. For AWS KMS, the whole ARN must
/// match: a message may contain a prefix of the ARNs of other keys.
pub(super) fn is_wrapped_by(keys: EncryptedDataKeys<'_>, wrapping_key: &str) -> bool {
    keys.iter().any(|key| match &*key.key_provider_id {
        "aws-kms" => key.key_provider_information == wrapping_key.as_bytes(),
        _ => is_named(&key, wrapping_key),
    })
}

/// The encrypted data keys of an entry for opening.
fn keys_of(key: &OwnedKey) -> EncryptedDataKeys<'_> {
    EncryptedDataKeys::from_checked(key.borrow().encrypted_data_keys)
}

impl Default for MaterialsCache {
    fn default() -> Self {
        Self::builder().build()
    }
}

/// Builds a [`MaterialsCache`].
///
/// ```
/// use envelope::materials::MaterialsCache;
///
/// let cache = MaterialsCache::builder().capacity(10_000).max_loads(32).build();
/// assert_eq!(cache.stats().encryption.entries, 0);
/// ```
#[derive(Debug, Clone)]
pub struct MaterialsCacheBuilder {
    capacity: usize,
    max_bytes_held: Option<u64>,
    max_loads: usize,
    max_waiting: usize,
    max_wait: Duration,
    clock: Clock,
    observer: Option<Arc<dyn Observer>>,
}

impl MaterialsCacheBuilder {
    /// The maximum number of entries for encryption, and separately for decryption. Default: 1,000.
    /// Allowed: any.
    ///
    /// An entry is one encryption context, or for decryption one data key. With over 1,023, the
    /// cache may hold up to a quarter more, because entries are assigned to shards at random. Zero
    /// disables the cache; only failures of wrapping keys are then remembered. `usize::MAX` means
    /// no limit.
    ///
    /// Memory is allocated as entries are added. In addition, up to 128 bytes per entry, and at
    /// most 16 MiB, are allocated in advance to determine the reasons of misses.
    ///
    /// A cache that is too small requests the same data keys from KMS again and again. It warns
    /// once: see [`EventKind::CacheTooSmall`](crate::observer::EventKind::CacheTooSmall).
    ///
    /// Contexts that are used only once do not displace frequently used ones.
    #[must_use]
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// The maximum size of the entries for encryption in bytes, and separately for decryption.
    ///
    /// Counts keys and values, as [`CacheCounts::bytes`] estimates them. Default: 4 KiB for each
    /// entry of [`capacity`](Self::capacity), but at least 16 MiB. Allowed: any; zero disables the
    /// cache.
    ///
    /// An entry counts as its share of these bytes (`max_bytes_held / capacity`), or as its size if
    /// that is larger. This enforces both limits: with large entries, fewer fit. An entry larger
    /// than an eighth of the bytes (of its shard's bytes in a cache of over 1,023 entries) is used
    /// once and not kept. That is rare: an entry takes about 1.5 KB, but anyone who may encrypt can
    /// write messages whose encrypted data keys take 3 MB.
    ///
    /// ```
    /// # use envelope::materials::MaterialsCache;
    /// let cache = MaterialsCache::builder().capacity(10_000).max_bytes_held(64 << 20).build();
    /// assert_eq!(cache.stats().decryption.bytes, 0);
    /// ```
    #[must_use]
    pub fn max_bytes_held(mut self, bytes: u64) -> Self {
        self.max_bytes_held = Some(bytes);
        self
    }

    /// How many data keys are loaded at once for encryption, and separately for decryption.
    /// Default: 16. Allowed: over zero; zero counts as one.
    ///
    /// When more loads are needed, those with waiting callers run before refreshes. Scheduling is
    /// fair between partitions, and within a partition between the encryption contexts that callers
    /// supplied: one tenant's flood does not delay other tenants, if you supply a context that
    /// names the tenant. (The context in the message itself does not count.) A load is charged to
    /// its context by its number of wrapped keys.
    ///
    /// A message may turn out to be forged. Loads for decryption whose data key has not been used
    /// before therefore leave some of `max_loads` free: the loads of one context a quarter, those
    /// of one partition an eighth, and all together a sixteenth, rounded down.
    #[must_use]
    pub fn max_loads(mut self, max_loads: usize) -> Self {
        self.max_loads = max_loads.max(1);
        self
    }

    /// How long a load waits while [`max_loads`](Self::max_loads) others are running. Its callers
    /// then get [`Error::Overloaded`](crate::Error::Overloaded). Default: 10 seconds. Allowed: any;
    /// with zero, loads do not wait.
    ///
    /// Requires the feature `tokio`. The time is monotonic, and does not include suspended time.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use envelope::materials::MaterialsCache;
    ///
    /// let cache = MaterialsCache::builder().max_wait(Duration::from_secs(2)).build();
    /// ```
    #[must_use]
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// How many loads of one encryption context may wait. The limit on all waiting loads is sixteen
    /// times as high, for encryption and decryption each.
    ///
    /// A load without room fails at once with [`Error::Overloaded`](crate::Error::Overloaded). When
    /// all room is taken, the context with the most waiting loads gives up one. A load that holds
    /// more than 4 KiB, such as that of a message with many or long wrapped keys, counts as
    /// several. Default: 1,000. Allowed: over zero; zero counts as one.
    #[must_use]
    pub fn max_waiting(mut self, max_waiting: usize) -> Self {
        self.max_waiting = max_waiting.max(1);
        self
    }

    /// The clock that ages are read from. Default: [`Clock::system`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Receives each event as it happens. Default: no observer.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The cache, empty.
    #[must_use]
    pub fn build(self) -> MaterialsCache {
        let Self { max_loads: width, max_waiting: waiting, max_wait: wait, observer, .. } = self;
        let gate = || Gate::bounded(gate::Bounds { width, waiting, wait });
        let default = Bounds::from(self.capacity);
        let bounds = Bounds { bytes: self.max_bytes_held.unwrap_or(default.bytes), ..default };
        let encryption = Cache::new(bounds, gate(), Operation::Encryption, observer.clone());
        let decryption = Cache::new(bounds, gate(), Operation::Decryption, observer);
        MaterialsCache(Arc::new(Halves {
            encryption: Arc::new(encryption),
            decryption: Arc::new(decryption),
            clock: self.clock,
            background: Background::default(),
        }))
    }
}

/// What happened in a [`MaterialsCache`] since it was made. With the feature `serde`, it can be
/// serialized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CacheStats {
    /// For sealing.
    pub encryption: CacheCounts,
    /// For opening.
    pub decryption: CacheCounts,
}

impl CacheStats {
    /// Requests to keyrings: one request to KMS each, with the AWS KMS keyring.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.encryption.requests() + self.decryption.requests()
    }

    /// Requests that there would have been without the cache, beyond [`requests`](Self::requests).
    #[must_use]
    pub fn requests_avoided(&self) -> u64 {
        self.encryption.requests_avoided() + self.decryption.requests_avoided()
    }

    /// What the avoided requests would have cost, at a price for 10,000 of them: AWS KMS takes 0.03
    /// US dollars in most regions.
    ///
    /// ```
    /// # let cache = envelope::materials::MaterialsCache::new(1_000);
    /// println!("saved {:.2} US dollars", cache.stats().saved(0.03));
    /// ```
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "nobody saves 2^53 requests")]
    pub fn saved(&self, price_of_10_000_requests: f64) -> f64 {
        self.requests_avoided() as f64 / 10_000.0 * price_of_10_000_requests
    }
}

impl fmt::Display for CacheStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { encryption, decryption } = self;
        write!(f, "sealing hit {} and missed {}, ", encryption.hits, encryption.misses)?;
        write!(f, "opening hit {} and missed {}, ", decryption.hits, decryption.misses)?;
        write!(f, "{} requests made and {} avoided", self.requests(), self.requests_avoided())?;
        let sum = |count: fn(&CacheCounts) -> u64| count(encryption) + count(decryption);
        let troubles = [
            (sum(|it| it.load_failures), "requests failed"),
            (sum(|it| it.refused), "operations refused by a remembered failure"),
            (sum(|it| it.stale), "served past their age"),
            (sum(|it| it.evictions), "entries evicted"),
        ];
        troubles
            .iter()
            .filter(|(count, _)| *count > 0)
            .try_for_each(|(count, what)| write!(f, ", {count} {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::encrypted_data_key::serialize;

    #[test]
    fn a_failure_concerns_only_the_key_with_the_same_arn() {
        let wrapped = |id: &str, name: &str| {
            let (key_provider_id, key_provider_information) = (id.to_owned(), name.into());
            let ciphertext = vec![1];
            serialize(&[EncryptedDataKey { key_provider_id, key_provider_information, ciphertext }])
                .unwrap()
        };
        let arn = "arn:aws:kms:us-east-1:1:key/1234";
        let of_aws = wrapped("aws-kms", arn);
        let of_aws = EncryptedDataKeys::from_checked(&of_aws);
        assert!(is_wrapped_by(of_aws, arn) && is_under(of_aws, arn));
        let beginning = &arn[..arn.len() - 1];
        assert!(!is_wrapped_by(of_aws, beginning) && is_under(of_aws, beginning));
        // Other providers may append data to the name, as raw keyrings do.
        let raw = wrapped("namespace", "name, and an IV");
        let raw = EncryptedDataKeys::from_checked(&raw);
        assert!(is_wrapped_by(raw, "name") && is_wrapped_by(raw, "namespace/name"));
    }
}
