//! A generic cache with usage limits, shared loads, refresh ahead of need, and a memory for
//! failures. It knows neither keys nor clocks.
//!
//! # The life of an entry
//!
//! A [`Cache`] finds an [`Entry`] by its [`Key`]. The entry holds up to two values: the current
//! one, which is lent to operations, and a standby that replaces it when it is spent.
//!
//! ```text
//!               find                                 obtain
//!                │                                     │
//!     usable     ▼      nothing usable                 ▼       refused: a failure is remembered
//!   ◄───────── Entry ────────────────────────►  SharedLoads ──────────────────────────────────►
//!     value    ▲   │                                   │ one load for each key
//!              │   │ low: refresh                      ▼
//!              │   └─────────────────────────────►   Gate       turn by turn
//!              │                                       │
//!              │ put                                   ▼
//!              └──────────── proven? ◄───────────   Source      the keyring, KMS
//!                   value                              │
//!                                                      ▼ error
//!                                                  Failures
//! ```
//!
//! 1. **Miss.** [`Cache::find`] finds no usable value. The caller then waits in [`Cache::obtain`].
//!    If the key or all its wrapping keys have just failed, the remembered failure is returned at
//!    once. Otherwise the caller joins the load for this key, or starts one ([`shared_loads`]).
//! 2. **Load.** The load waits at the [gate](crate::gate), where partitions and encryption contexts
//!    take turns. Then it asks its [`Source`](source::Source). It runs on the cache's threads if
//!    there are any, or else its callers drive it.
//! 3. **Put.** The value becomes [`Loaded`](loaded::Loaded): with the time of its request, from
//!    which its age counts, and what has been used of it. If the source can prove that it is the
//!    right one, it is put into its entry. A value that was requested before an invalidation is
//!    returned to the callers that wait for it, but never put in.
//! 4. **Use.** [`Entry::take`] reserves the message and its bytes, and then lends the value,
//!    without a lock. Frequently used entries are found in the store's front, without a lock, too.
//! 5. **Refresh.** When the current value runs low, the operation that notices it starts a load in
//!    the background. Its value becomes the standby. When the current value is spent, one atomic
//!    swap promotes the standby. Values for decryption are limited by age only, so a new one
//!    replaces the current one at once ([`IN_PLACE`](source::Source::IN_PLACE)).
//! 6. **Failure.** A failure is remembered under the key and its wrapping key ([`failures`]): for a
//!    fixed time if it is permanent, or else for a back-off. Meanwhile, callers that find no value
//!    are refused at once. The entry remembers it, too: the next refresh waits, and while KMS is
//!    unavailable, a value may be used past its age ([`Policy::stale`]). If KMS refuses the
//!    request, the entry is dropped.
//! 7. **End.** An entry leaves when it is evicted for others, invalidated, or refused. It is
//!    retired before it leaves, so a caller that still holds it gets no value from it. The value is
//!    wiped when the last operation that uses it ends.
//!
//! # Invalidation
//!
//! When [`Cache::invalidate`] has returned, no operation that begins after it uses a value that was
//! requested before it. Three things ensure this. All loads are detached, so no caller joins them
//! any more. Each load remembers the number of invalidations at its request, and puts its value in
//! only if that number is still the same. And while a value is put in, the number cannot change.
//!
//! # Locks and observers
//!
//! An observer may use the cache, so events are reported when no lock is held. What happens under
//! a lock is collected, and reported after its release: evictions in [`store::Evicted`],
//! invalidations by their number.

mod counts;
mod entry;
pub(crate) mod failures;
mod key;
mod load;
mod loaded;
#[cfg(any(test, fuzzing))]
pub(crate) mod model;
mod outcome;
pub(crate) mod policy;
mod shared_loads;
pub(crate) mod source;
mod store;
mod telemetry;
pub(crate) mod tenure;

#[cfg(all(test, shuttle))]
mod shuttle_tests;

use std::{
    hash::RandomState,
    sync::{Arc, PoisonError},
    time::Duration,
};

pub use self::counts::Counts;
pub(crate) use self::{
    entry::{Entry, Taken},
    key::{Key, OwnedKey},
};
use self::{
    failures::Failures,
    loaded::Outcome,
    policy::{Bounds, Policy},
    shared_loads::SharedLoads,
    store::{Evicted, Store},
    telemetry::Telemetry,
};
use crate::{
    gate::Gate,
    observer::{EventKind, MissReason, Observers},
    sync::RwLock,
    time::Moment,
};

/// The maximum number of entries that are compared to pick one: so many that one tenant can hardly
/// own all of them, and few enough to compare in milliseconds.
const PICKED_AMONG: usize = 10_000;

/// Returns whether a hit that was looked up moves its entry to the front: one in 32, at random.
/// With keys in a fixed order, counting would select the same ones each time.
fn goes_to_the_front() -> bool {
    cfg!(any(test, fuzzing)) || fastrand::u8(..) < 8
}

/// Values under keys, and the loads of those that are missing. See the [module](self).
#[derive(Debug)]
pub(crate) struct Cache<V> {
    store: Store<V>,
    loads: SharedLoads<Outcome<V>>,
    gate: Arc<Gate>,
    /// By fingerprint, so that memory does not grow with the length of the keys.
    failures: Failures<u128>,
    /// Keyed at random, so that nobody can choose keys or contexts with the same hash.
    hasher: RandomState,
    /// How many invalidations there were. Locked for reading while a value is put in, so that no
    /// invalidation misses it.
    invalidations: RwLock<u64>,
    telemetry: Arc<Telemetry>,
}

impl<V: Send + Sync + 'static> Cache<V> {
    /// Returns an empty cache with these bounds.
    pub(crate) fn new(
        bounds: impl Into<Bounds>,
        gate: impl Into<Arc<Gate>>,
        observers: Observers,
    ) -> Self {
        let bounds = bounds.into();
        let hasher = RandomState::new();
        let telemetry = Arc::new(Telemetry::new(bounds, hasher.clone(), observers));
        Self {
            store: Store::new(bounds, Arc::clone(&telemetry)),
            loads: SharedLoads::new(),
            gate: gate.into(),
            failures: Failures::new(bounds.entries),
            hasher,
            invalidations: RwLock::new(0),
            telemetry,
        }
    }

    /// Lends a value of the entry under `key`, for one message of `bytes` bytes. Does not wait for
    /// a load.
    pub(crate) fn find<R>(
        &self,
        key: &Key<'_>,
        now: Moment,
        policy: &Policy,
        bytes: Option<u64>,
        mut borrow: impl FnMut(&Arc<V>) -> R,
    ) -> Result<Taken<R>, MissReason> {
        let found = self.store.find_in_front(key);
        if let Some(entry) = found.as_deref().and_then(Option::as_ref) {
            match entry.take(now, policy, bytes, &mut borrow) {
                Err(MissReason::Absent) if entry.is_retired() => {}
                taken => return taken.inspect(|taken| self.used(entry, taken)),
            }
        }
        let entry = self.store.find(key).ok_or(MissReason::Absent)?;
        let taken = entry.take(now, policy, bytes, &mut borrow)?;
        self.telemetry.taken(key, &taken);
        if found.is_some() || goes_to_the_front() {
            self.store.put_in_front(entry);
        }
        Ok(taken)
    }

    /// Returns the entry under `key`, created without a value if it does not exist, for
    /// [`find_at`](Self::find_at).
    pub(crate) fn entry(&self, key: Key<'_>, now: Moment) -> Arc<Entry<V>> {
        let key = key.to_owned();
        let bytes = Store::<V>::bytes_with(&key, 0);
        let mut evicted = Evicted::default();
        // An invalidation would not see an entry that is being created.
        let _no_invalidation = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        self.store.entry(&key, bytes, now, &mut evicted)
    }

    /// Lends a value of an entry that was found before, as [`find`](Self::find) does.
    #[inline]
    pub(crate) fn find_at<R>(
        &self,
        entry: &Arc<Entry<V>>,
        now: Moment,
        policy: &Policy,
        bytes: Option<u64>,
        mut borrow: impl FnMut(&Arc<V>) -> R,
    ) -> Result<Taken<R>, MissReason> {
        let taken = match entry.take(now, policy, bytes, &mut borrow) {
            Err(MissReason::Absent) if self.put_back(entry) => {
                entry.take(now, policy, bytes, &mut borrow)
            }
            taken => taken,
        };
        taken.inspect(|taken| self.used(entry, taken))
    }

    /// Records a use of an entry that was not looked up in the store, so that it is not evicted as
    /// unused.
    #[inline]
    fn used<R>(&self, entry: &Entry<V>, taken: &Taken<R>) {
        self.telemetry.taken(&entry.key(), taken);
        self.store.touch(entry);
    }

    /// Puts an entry back in the store, if it was retired. Returns whether it was.
    #[cold]
    fn put_back(&self, entry: &Arc<Entry<V>>) -> bool {
        if !entry.is_retired() {
            return false;
        }
        let mut evicted = Evicted::default();
        let _one_at_a_time = self.invalidations.write().unwrap_or_else(PoisonError::into_inner);
        if entry.is_retired() {
            self.store.put_back(entry, &mut evicted);
        }
        true
    }

    /// Returns the current value under `key`. Reserves nothing and reports nothing.
    pub(crate) fn peek(&self, key: &Key<'_>) -> Option<Arc<V>> {
        self.store.find(key)?.current()
    }

    /// Returns the entry with the lowest rank among the first ones that have a rank, and its value.
    ///
    /// Prefers entries that can be refreshed now; ties are broken at random. May look at every
    /// entry.
    pub(crate) fn pick(
        &self,
        now: Moment,
        rank: impl Fn(&Key<'_>, &V) -> Option<usize>,
    ) -> Option<(Arc<Entry<V>>, Arc<V>)> {
        let found = self.store.iter().filter_map(|entry| {
            let value = entry.current()?;
            let rank = (!entry.may_refresh(now), rank(&entry.key(), &value)?, fastrand::u32(..));
            Some((rank, entry, value))
        });
        let lowest = found.take(PICKED_AMONG).min_by_key(|(rank, ..)| *rank);
        lowest.map(|(_, entry, value)| (entry, value))
    }

    /// Counts and reports an operation that may not use the cache.
    pub(crate) fn bypass(&self, key: &Key<'_>) {
        self.telemetry.report(key, EventKind::Bypassed);
    }

    /// Drops the entries that `doomed` selects, and all memory of failures. Returns how many
    /// entries.
    ///
    /// No operation that begins after this has returned uses a value that was requested before.
    pub(crate) fn invalidate(&self, doomed: impl Fn(&OwnedKey, &V) -> bool) -> u64 {
        let entries = self.invalidate_quietly(doomed);
        self.report_invalidated(entries);
        entries
    }

    /// Does what [`invalidate`](Self::invalidate) does, but does not report it.
    pub(crate) fn invalidate_quietly(&self, doomed: impl Fn(&OwnedKey, &V) -> bool) -> u64 {
        let mut invalidations = self.invalidations.write().unwrap_or_else(PoisonError::into_inner);
        *invalidations += 1;
        self.loads.detach();
        let entries = self.remove_where(doomed);
        self.failures.clear();
        entries
    }

    /// Reports that this many entries were invalidated. Must be called without locks.
    pub(crate) fn report_invalidated(&self, entries: u64) {
        self.telemetry.invalidated(entries);
    }

    /// Drops the entries that `doomed` selects, and nothing else. Values that are being loaded may
    /// still arrive, because their source is asked at this moment.
    pub(crate) fn drop_refused(&self, doomed: impl Fn(&OwnedKey, &V) -> bool) {
        let no_put = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        let entries = self.remove_where(doomed);
        drop(no_put);
        self.report_invalidated(entries);
    }

    fn remove_where(&self, doomed: impl Fn(&OwnedKey, &V) -> bool) -> u64 {
        self.store.remove_where(|entry| {
            let is_doomed = entry.holds(|loaded| doomed(entry.owned_key(), loaded.value()));
            if is_doomed {
                self.telemetry.left(&entry.key(), MissReason::Invalidated);
            }
            is_doomed
        })
    }

    /// Drops the entry under `key`, and reports it.
    fn remove(&self, key: &Key<'_>) {
        let no_put_back = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        let removed = self.store.remove(key);
        if removed {
            self.telemetry.left(key, MissReason::Invalidated);
        }
        drop(no_put_back);
        self.report_invalidated(removed.into());
    }

    /// Drops every entry, as [`invalidate`](Self::invalidate) does.
    pub(crate) fn clear(&self) -> u64 {
        self.invalidate(|_, _| true)
    }

    /// Drops the entries whose values are all older than `age`, and returns how many. A value that
    /// is being loaded may arrive later.
    pub(crate) fn remove_older_than(&self, age: Duration, now: Moment) -> u64 {
        let _no_put_back = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        self.store.remove_where(|entry| !entry.holds(|loaded| loaded.age(now) < age))
    }

    /// Returns the age of the oldest value. Looks at each entry.
    pub(crate) fn oldest(&self, now: Moment) -> Option<Duration> {
        self.store.iter().filter_map(|entry| entry.oldest(now)).max()
    }

    /// Returns the counts so far.
    pub(crate) fn counts(&self) -> Counts {
        self.telemetry.counts(self.store.len(), self.store.bytes())
    }

    /// Returns the number of invalidations so far.
    fn invalidations(&self) -> u64 {
        *self.invalidations.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{key::tests::key, loaded::Loaded, policy::tests::policy, *};
    use crate::time::Clock;

    /// An entry in the front is used and counted like one that is looked up, until the store drops
    /// it.
    #[test]
    fn a_dropped_entry_is_not_found_and_its_successor_is() {
        let now = Clock::system().now();
        let policy = policy(Duration::from_secs(10), 100, 100);
        let cache = Cache::new(
            10,
            Gate::new(1),
            Observers::new(crate::observer::Operation::Encryption, None),
        );
        let key = key(b"k");
        let put = |value| {
            let entry = cache.entry(key, now);
            let loaded = Loaded::new(Arc::new(value), (now, 0), now, &policy);
            assert!(entry.put(&Arc::new(loaded), now, &policy, true));
            entry
        };
        let find = || {
            cache.find(&key, now, &policy, Some(1), |value| **value).ok().map(|taken| taken.outcome)
        };
        let first = put(1);
        assert_eq!((find(), find()), (Some(1), Some(1)));
        assert!(cache.store.find_in_front(&key).is_some());
        cache.clear();
        assert_eq!((find(), Arc::strong_count(&first)), (None, 1));
        // As if it had been evicted.
        cache.store.put_in_front(first);
        put(2);
        assert_eq!((find(), find()), (Some(2), Some(2)));
        assert_eq!(cache.counts().hits, 4);
    }
}
