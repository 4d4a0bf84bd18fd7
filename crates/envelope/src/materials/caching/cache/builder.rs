//! Builds a cache.

use std::{sync::Arc, time::Duration};

use super::{Halves, MaterialsCache};
use crate::{
    background::Background,
    cache::{Cache, policy::Bounds},
    gate::Gate,
    observer::{Observer, Observers, Operation},
    time::Clock,
};

const CAPACITY: usize = 1_000;
const MAX_LOADS: usize = 16;
const MAX_WAITING: usize = 1_000;
const MAX_WAIT: Duration = Duration::from_secs(10);

impl MaterialsCache {
    /// Creates a cache of at most `capacity` entries for encryption, and as many for decryption.
    /// Other settings have the defaults of [`builder`](Self::builder).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::builder().capacity(capacity).build()
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> MaterialsCacheBuilder {
        MaterialsCacheBuilder {
            capacity: CAPACITY,
            max_bytes_held: None,
            max_loads: MAX_LOADS,
            max_waiting: MAX_WAITING,
            max_wait: MAX_WAIT,
            clock: Clock::system(),
            observer: None,
            label_partitions: false,
        }
    }
}

impl Default for MaterialsCache {
    fn default() -> Self {
        Self::builder().build()
    }
}

/// Builds a [`MaterialsCache`]. Created by [`MaterialsCache::builder`].
///
/// ```
/// use envelope::materials::MaterialsCache;
///
/// let cache = MaterialsCache::builder().capacity(10_000).max_loads(32).build();
/// assert_eq!(cache.stats().encryption.entries, 0);
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct MaterialsCacheBuilder {
    capacity: usize,
    max_bytes_held: Option<u64>,
    max_loads: usize,
    max_waiting: usize,
    max_wait: Duration,
    clock: Clock,
    observer: Option<Arc<dyn Observer>>,
    label_partitions: bool,
}

impl MaterialsCacheBuilder {
    /// Sets the maximum number of entries for encryption, and separately for decryption. Default:
    /// 1,000. Allowed: any; `usize::MAX` means no limit.
    ///
    /// For encryption, an entry is one encryption context; for decryption, one data key. With over
    /// 1,023, the cache may hold up to a quarter more, because entries are assigned to shards by
    /// their hash. Zero disables the cache: only failures of wrapping keys are then remembered.
    ///
    /// Memory is allocated as entries are added. In addition, up to 128 bytes per entry, and at
    /// most 16 MiB, are allocated in advance to record why an entry is missing.
    ///
    /// A cache that is too small requests the same data keys from KMS again and again. It warns
    /// once: see [`EventKind::CacheTooSmall`](crate::observer::EventKind::CacheTooSmall).
    ///
    /// Contexts that are used only once do not displace frequently used ones.
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Sets the maximum size of the entries for encryption in bytes, and separately for decryption.
    /// Default: 4 KiB for each entry of [`capacity`](Self::capacity), but at least 16 MiB. Allowed:
    /// any; zero disables the cache.
    ///
    /// Keys and values count, as
    /// [`CacheCounts::bytes`](crate::materials::CacheCounts::bytes) estimates them.
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
    pub fn max_bytes_held(mut self, bytes: u64) -> Self {
        self.max_bytes_held = Some(bytes);
        self
    }

    /// Sets how many data keys are loaded at once for encryption, and separately for decryption.
    /// Default: 16. Allowed: any; zero counts as one.
    ///
    /// When more loads are needed, those with waiting callers run before refreshes. Scheduling is
    /// fair between partitions, and within a partition between the encryption contexts that callers
    /// supplied: one tenant's flood does not delay other tenants, if you supply a context that
    /// names the tenant. (The context in the message itself does not count.) A load for encryption
    /// counts once against its context. A load for decryption counts once for each encrypted data
    /// key of the message.
    ///
    /// A message may turn out to be forged. Loads for decryption whose data key has not been used
    /// before therefore leave some of `max_loads` free: those of one context leave a quarter, those
    /// of one partition an eighth, and all of them together a sixteenth (rounded down).
    pub fn max_loads(mut self, max_loads: usize) -> Self {
        self.max_loads = max_loads.max(1);
        self
    }

    /// Sets how long a load waits while [`max_loads`](Self::max_loads) others are running. Default:
    /// 10 seconds. Allowed: any; with zero, loads do not wait.
    ///
    /// Its callers then get [`Error::Overloaded`](crate::Error::Overloaded). Requires the feature
    /// `tokio`. The time is monotonic, and does not include suspended time.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use envelope::materials::MaterialsCache;
    ///
    /// let cache = MaterialsCache::builder().max_wait(Duration::from_secs(2)).build();
    /// ```
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Sets how many loads of one encryption context may wait. Default: 1,000. Allowed: over zero;
    /// zero counts as one.
    ///
    /// Sixteen times as many loads of all contexts together may wait, for encryption and separately
    /// for decryption. A load over the limit of its context fails at once with
    /// [`Error::Overloaded`](crate::Error::Overloaded). If all contexts together reach their limit,
    /// the context with the most waiting loads loses one. A load that holds more than 4 KiB counts
    /// as several: a message with many or long encrypted data keys, for example.
    pub fn max_waiting(mut self, max_waiting: usize) -> Self {
        self.max_waiting = max_waiting.max(1);
        self
    }

    /// Sets the clock that ages are read from. Default: [`Clock::system`].
    pub fn clock(mut self, clock: &Clock) -> Self {
        self.clock = clock.clone();
        self
    }

    /// Sets an observer, which receives each event as it happens. Default: none.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Sets whether events and metrics have a label `partition` with the [`partition_id`] of the
    /// entry. Default: `false`.
    ///
    /// Use this to see each tenant's share, if each tenant has a partition. Each partition then
    /// adds time series to your metrics, and each hit is reported to the `metrics` facade by
    /// itself.
    ///
    /// [`partition_id`]: crate::materials::CachingBuilder::partition_id
    ///
    /// ```
    /// use envelope::materials::MaterialsCache;
    ///
    /// let cache = MaterialsCache::builder().label_partitions(true).build();
    /// ```
    pub fn label_partitions(mut self, label_partitions: bool) -> Self {
        self.label_partitions = label_partitions;
        self
    }

    /// Builds the cache.
    #[must_use]
    pub fn build(self) -> MaterialsCache {
        let gate = || Gate::bounded(self.max_loads, self.max_waiting, self.max_wait);
        let default = Bounds::from(self.capacity);
        let bounds = Bounds { bytes: self.max_bytes_held.unwrap_or(default.bytes), ..default };
        let observers = |operation| {
            Observers::new(operation, self.observer.clone()).label_partitions(self.label_partitions)
        };
        MaterialsCache(Arc::new(Halves {
            encryption: Arc::new(Cache::new(bounds, gate(), observers(Operation::Encryption))),
            decryption: Arc::new(Cache::new(bounds, gate(), observers(Operation::Decryption))),
            clock: self.clock,
            background: Background::default(),
        }))
    }
}
