//! The cache that caching managers share.

mod builder;
mod names;
mod stats;

use std::{sync::Arc, time::Duration};

use self::names::is_under;
pub(super) use self::names::is_wrapped_by;
pub use self::{builder::MaterialsCacheBuilder, stats::CacheStats};
use crate::{
    background::Background,
    cache::{Cache, OwnedKey},
    context::EncryptionContext,
    format::encrypted_data_key::EncryptedDataKeys,
    materials::{DecryptionMaterials, EncryptionMaterials},
    time::Clock,
};

/// A cache of materials, for one or several [`CachingMaterialsManager`]s. Cloning is cheap and
/// shares the entries.
///
/// A cached data key is wiped when its entry has been evicted, replaced or dropped and the last
/// operation under it has ended. An expired entry is never used, but stays in memory until it is
/// requested again, evicted or dropped: see [`remove_older_than`](Self::remove_older_than). An
/// entry takes about 1.5 KB with one encrypted data key and a short encryption context.
///
/// [`CachingMaterialsManager`]: crate::materials::CachingMaterialsManager
///
/// # Threads
///
/// With the feature `tokio` (on by default), data keys are loaded and refreshed on threads of the
/// cache, named `envelope-cache`: one per processor, but at least two and at most 16. They have
/// their own Tokio runtime. Your keyring and your [`Observer`](crate::observer::Observer) run on
/// them: they should not block for long, and must not use a
/// [`BlockingEnvelope`](crate::BlockingEnvelope) over this cache.
///
/// The threads start with the first load, and end when the last user of the cache is dropped, on
/// any thread. Callers can therefore use any executor, or none, and the end of their runtime does
/// not affect a load. A load that has started continues when its callers are cancelled; one that
/// still waits is cancelled with them.
///
/// Threads do not survive a `fork`. If the parent had started them, loads in the child fail with
/// [`Error::Forked`](crate::Error::Forked): create clients after the fork. Cached data keys still
/// work in the child, unless another thread was using the cache during the fork: that thread may
/// have held a lock, and the child may wait for it forever. Each process counts its own messages
/// and bytes, so that both together may exceed a data key's limits.
///
/// Without the feature, the waiting callers drive a load. It is cancelled when the last of them is
/// cancelled.
///
/// # Observability
///
/// [`stats`](Self::stats) returns the counts so far. An [`Observer`](crate::observer::Observer)
/// receives each event as it happens. With the feature `tracing` (on by default), the same events
/// are emitted under the target `envelope::cache`, and each load is a span `load_data_key`. They
/// contain the keys of encryption contexts, never their values. With the feature `metrics`, the
/// `metrics` facade gets:
///
/// | metric | labels in addition to `operation` (`encryption`, `decryption`), and to `partition` if the cache [labels partitions](MaterialsCacheBuilder::label_partitions) |
/// | --- | --- |
/// | `envelope_cache_hits_total`; updated with other events and by [`stats`](Self::stats), otherwise delayed by up to 1,024 hits per thread | |
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
    /// Drops all entries, and returns how many there were.
    ///
    /// An operation that starts after this has returned uses no data key that was cached, or
    /// requested, before. Remembered failures are dropped as well, except those of whole wrapping
    /// keys.
    pub fn clear(&self) -> u64 {
        // Encryption first: loads for encryption prime entries for decryption. They must have ended
        // when those entries are dropped.
        self.0.encryption.clear() + self.0.decryption.clear()
    }

    /// Drops the entries of one encryption context, with the guarantee of [`clear`](Self::clear).
    /// Scans all entries.
    pub fn invalidate(&self, context: &EncryptionContext) -> u64 {
        let is_same = |other: &EncryptionContext| other.without_reserved() == *context;
        self.0.encryption.invalidate(|_, materials| is_same(materials.encryption_context()))
            + self.0.decryption.invalidate(|_, materials| is_same(materials.encryption_context()))
    }

    /// Drops the entries under one wrapping key, with the guarantee of [`clear`](Self::clear).
    /// Scans all entries.
    ///
    /// Pass the ARN of an AWS KMS key, or the name or `NAMESPACE/NAME` of a raw key, as in error
    /// messages. Keys whose names start with `wrapping_key` match, too. If several keys encrypt a
    /// data key, each of them matches.
    ///
    /// A key id alone, or an alias, matches nothing: if this returns zero unexpectedly, compare the
    /// name with the one in messages. A multi-Region key has one ARN per region, and a message
    /// contains the ARN of the region that encrypted it.
    pub fn invalidate_key(&self, wrapping_key: &str) -> u64 {
        self.0
            .encryption
            .invalidate(|_, materials| is_under(materials.serialized_data_keys(), wrapping_key))
            + self.0.decryption.invalidate(|key, _| is_under(keys_of(key), wrapping_key))
    }

    /// Drops the entries of one partition, with the guarantee of [`clear`](Self::clear).
    ///
    /// Reports no events, because the caller may hold a lock. The result reports them.
    pub(super) fn drop_partition(&self, partition: &str) -> impl FnOnce() + use<> {
        let Self(halves) = self.clone();
        let is_here = |key: &OwnedKey| key.borrow().partition == partition;
        let encryption = halves.encryption.invalidate_quietly(|key, _| is_here(key));
        let decryption = halves.decryption.invalidate_quietly(|key, _| is_here(key));
        move || {
            halves.encryption.report_invalidated(encryption);
            halves.decryption.report_invalidated(decryption);
        }
    }

    /// Drops the entries under a wrapping key that was refused: in all partitions, or in one.
    pub(super) fn drop_refused(&self, wrapping_key: &str, partition: Option<&str>) {
        let here = |key: &OwnedKey| partition.is_none_or(|it| it == key.borrow().partition);
        self.0.encryption.drop_refused(|key, materials| {
            here(key) && is_wrapped_by(materials.serialized_data_keys(), wrapping_key)
        });
        self.0
            .decryption
            .drop_refused(|key, _| here(key) && is_wrapped_by(keys_of(key), wrapping_key));
    }

    /// Drops entries whose data keys are all older than `age`, and returns how many. Scans all
    /// entries.
    ///
    /// An expired data key is never used. Dropping its entry wipes it from memory.
    pub fn remove_older_than(&self, age: Duration) -> u64 {
        let now = self.0.clock.now();
        self.0.encryption.remove_older_than(age, now)
            + self.0.decryption.remove_older_than(age, now)
    }

    /// Returns the counts so far. Cheap: this does not scan the entries.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            encryption: self.0.encryption.counts(),
            decryption: self.0.decryption.counts(),
        }
    }

    /// Returns the age of the oldest data key in the cache. Scans all entries.
    #[must_use]
    pub fn oldest_data_key_age(&self) -> Option<Duration> {
        let now = self.0.clock.now();
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

/// Returns the encrypted data keys of an entry for decryption.
fn keys_of(key: &OwnedKey) -> EncryptedDataKeys<'_> {
    EncryptedDataKeys::from_checked(key.borrow().encrypted_data_keys)
}
