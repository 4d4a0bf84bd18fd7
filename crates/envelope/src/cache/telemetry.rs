//! What users see of a cache: counts, events, and the reasons for misses.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::{
    counts::{Counters, Counts},
    entry::Taken,
    key::Key,
    policy::Bounds,
};
use crate::{
    context::ContextKeys,
    observer::{EventKind, MissReason, Observers},
};

/// After how many hits of one stripe they are published to the `metrics` facade.
#[cfg(feature = "metrics")]
const HITS_AT_ONCE: u64 = 1024;

/// Counts and reports what happens in one half of a cache.
///
/// Observers may use the cache. The methods that report events must therefore be called without
/// locks: [`report`](Self::report), [`taken`](Self::taken), [`missed`](Self::missed),
/// [`invalidated`](Self::invalidated) and [`counts`](Self::counts).
#[derive(Debug)]
pub(super) struct Telemetry {
    counters: Counters,
    misses: Misses,
    bounds: Bounds,
    observers: Observers,
    #[cfg(feature = "metrics")]
    published: AtomicU64,
}

impl Telemetry {
    pub(super) fn new(
        bounds: impl Into<Bounds>,
        hasher: RandomState,
        observers: Observers,
    ) -> Self {
        let bounds = bounds.into();
        Self {
            counters: Counters::default(),
            misses: Misses::new(bounds.entries, hasher),
            bounds,
            observers,
            #[cfg(feature = "metrics")]
            published: AtomicU64::new(0),
        }
    }

    /// Counts and reports an event of the entry under `key`.
    pub(super) fn report(&self, key: &Key<'_>, kind: EventKind<'_>) {
        self.counters.count(&kind);
        self.observers.tell(Some(key.partition_id()), key.context_keys(), kind);
        #[cfg(feature = "metrics")]
        self.publish_hits();
    }

    /// Counts and reports a hit of the entry under `key`.
    #[inline]
    pub(super) fn taken<R>(&self, key: &Key<'_>, taken: &Taken<R>) {
        #[cfg_attr(
            not(feature = "metrics"),
            expect(unused_variables, reason = "only the metrics facade needs it")
        )]
        let hits = self.counters.hit();
        self.observers.hit(|| (key.partition_id(), key.context_keys()));
        if taken.stale {
            self.report(key, EventKind::StaleServed);
        }
        if taken.promoted {
            self.report(key, EventKind::Promoted);
        }
        #[cfg(feature = "metrics")]
        if hits.is_multiple_of(HITS_AT_ONCE) {
            self.publish_hits();
        }
    }

    /// Counts and reports a miss of the entry under `key`, which cannot be used for this reason.
    pub(super) fn missed(&self, key: &Key<'_>, reason: MissReason) {
        let reason = match reason {
            MissReason::Absent => self.misses.take(key).unwrap_or_else(|| self.first_miss(key)),
            other => other,
        };
        if reason == MissReason::Evicted
            && let Some((evicted, operations)) = self.misses.evicted(|| self.counters.operations())
        {
            let Bounds { entries: capacity, bytes: max_bytes_held } = self.bounds;
            self.report(
                key,
                EventKind::CacheTooSmall { evicted, operations, capacity, max_bytes_held },
            );
        }
        self.report(key, EventKind::Missed(reason));
    }

    /// Returns the reason for the miss of a key that was not seen recently.
    fn first_miss(&self, key: &Key<'_>) -> MissReason {
        if self.misses.first(|| self.counters.hits()) {
            self.report(key, EventKind::ContextsNeverRepeat);
        }
        if self.misses.never_repeat.load(Relaxed) {
            MissReason::NeverRepeats
        } else {
            MissReason::Absent
        }
    }

    /// Remembers that the entry under `key` was [evicted](MissReason::Evicted) or
    /// [invalidated](MissReason::Invalidated). Reports nothing.
    pub(super) fn left(&self, key: &Key<'_>, reason: MissReason) {
        self.misses.note(key, reason);
    }

    /// Counts and reports that this many entries were invalidated.
    pub(super) fn invalidated(&self, entries: u64) {
        if entries > 0 {
            let kind = EventKind::Invalidated { entries };
            self.counters.count(&kind);
            self.observers.tell(None, ContextKeys::of_serialized(&[]), kind);
        }
    }

    /// Returns the counts so far.
    pub(super) fn counts(&self, entries: usize, bytes: u64) -> Counts {
        #[cfg(feature = "metrics")]
        self.publish_hits();
        self.counters.snapshot(entries, bytes)
    }

    #[cfg(feature = "metrics")]
    fn publish_hits(&self) {
        let total = self.counters.hits();
        let before = self.published.fetch_max(total, Relaxed);
        if total > before {
            self.observers.hits(total - before);
        }
    }
}

/// Finds the reasons for misses, and whether the cache is too small or has no effect.
#[derive(Debug)]
struct Misses {
    hasher: RandomState,
    /// Which entries have left recently, and why: a part of the key's hash, with the reason in the
    /// lowest bit. Keys that fall on the same cell replace each other.
    left: Box<[AtomicU64]>,
    /// Misses of evicted entries, against all operations.
    evicted: Window,
    /// Misses of keys that were not seen recently, against hits.
    first: Window,
    /// Whether keys hardly ever repeated in the last window.
    never_repeat: AtomicBool,
}

/// If at least one in this many operations requests an evicted entry, the cache is too small.
const EVICTED_ONE_IN: u64 = 10;
/// If fewer than one in this many misses comes with a hit, keys hardly ever repeat.
const HIT_ONE_IN: u64 = 100;

impl Misses {
    /// Remembers about four times `capacity` keys: if a cache is too small, more entries than it
    /// holds are evicted before one of them is requested again.
    fn new(capacity: usize, hasher: RandomState) -> Self {
        let cells = capacity.saturating_mul(4).clamp(16, 1 << 20).next_power_of_two();
        let size = |keys: usize| (keys as u64).clamp(1_000, 10_000);
        Self {
            hasher,
            left: (0..cells).map(|_| AtomicU64::new(0)).collect(),
            evicted: Window::new(size(capacity)),
            first: Window::new(size(capacity.saturating_mul(2))),
            never_repeat: AtomicBool::new(false),
        }
    }

    /// Remembers why the entry under `key` left.
    fn note(&self, key: &Key<'_>, reason: MissReason) {
        let (cell, mark) = self.cell(key);
        cell.store(mark | u64::from(reason == MissReason::Invalidated), Relaxed);
    }

    /// Returns why the entry under `key` left, if that is known, and forgets it.
    fn take(&self, key: &Key<'_>) -> Option<MissReason> {
        let (cell, mark) = self.cell(key);
        let found = cell.load(Relaxed);
        (found & !1 == mark).then(|| {
            cell.store(0, Relaxed);
            if found & 1 == 1 { MissReason::Invalidated } else { MissReason::Evicted }
        })
    }

    /// Returns where a key is remembered, and its mark: the hash without the lowest bit, never
    /// zero.
    fn cell(&self, key: &Key<'_>) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(key);
        let cell = usize::try_from(hash >> 33).unwrap_or_default() & (self.left.len() - 1);
        (&self.left[cell], hash << 1 | 2)
    }

    /// Records a miss of an evicted entry. If a warning is due, returns the numbers of such misses
    /// and of operations in the last window.
    fn evicted(&self, operations: impl FnOnce() -> u64) -> Option<(u64, u64)> {
        let operations = self.evicted.step(operations)?;
        let is_too_small = operations < self.evicted.size * EVICTED_ONE_IN;
        (is_too_small && self.evicted.warn()).then_some((self.evicted.size, operations))
    }

    /// Records a miss of a key that was not seen recently. Returns whether a warning is due.
    fn first(&self, hits: impl FnOnce() -> u64) -> bool {
        let Some(hits) = self.first.step(hits) else { return false };
        let never_repeat = hits < self.first.size / HIT_ONE_IN;
        self.never_repeat.store(never_repeat, Relaxed);
        never_repeat && self.first.warn()
    }
}

/// Compares misses of one kind with another count, each time that there were `size` of them.
#[derive(Debug)]
struct Window {
    size: u64,
    misses: AtomicU64,
    /// The other count at the end of the last window.
    before: AtomicU64,
    has_warned: AtomicBool,
}

impl Window {
    fn new(size: u64) -> Self {
        let misses = AtomicU64::new(0);
        Self { size, misses, before: AtomicU64::new(0), has_warned: AtomicBool::new(false) }
    }

    /// Records a miss. At the end of a window, returns by how much `count` has grown in it.
    fn step(&self, count: impl FnOnce() -> u64) -> Option<u64> {
        if !(self.misses.fetch_add(1, Relaxed) + 1).is_multiple_of(self.size) {
            return None;
        }
        let count = count();
        Some(count.saturating_sub(self.before.swap(count, Relaxed)))
    }

    /// Returns true the first time.
    fn warn(&self) -> bool {
        !self.has_warned.swap(true, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::tests::key;

    #[test]
    fn each_reason_is_returned_once() {
        let misses = Misses::new(100, RandomState::new());
        misses.note(&key(b"a"), MissReason::Evicted);
        assert_eq!(misses.take(&key(b"b")), None);
        assert_eq!(misses.take(&key(b"a")), Some(MissReason::Evicted));
        assert_eq!(misses.take(&key(b"a")), None);
        misses.note(&key(b"a"), MissReason::Invalidated);
        assert_eq!(misses.take(&key(b"a")), Some(MissReason::Invalidated));
    }

    #[test]
    fn warns_once_when_hits_stay_near_zero() {
        let misses = Misses::new(100, RandomState::new());
        let never = || misses.never_repeat.load(Relaxed);
        let warnings = |hits: u64| (0..1_000).filter(|_| misses.first(|| hits)).count();
        assert_eq!((warnings(10), never()), (0, false));
        assert_eq!((warnings(19), never()), (1, true));
        assert_eq!((warnings(19), never()), (0, true));
        assert_eq!((warnings(100), never()), (0, false));
        assert_eq!((warnings(100), never()), (0, true));
    }

    #[test]
    fn warns_once_when_evicted_entries_are_often_requested_again() {
        let misses = Misses::new(100, RandomState::new());
        let warnings = |operations: u64| -> Vec<_> {
            (0..1_000).filter_map(|_| misses.evicted(|| operations)).collect()
        };
        assert_eq!(warnings(10_000), []);
        assert_eq!(warnings(19_999), [(1_000, 9_999)]);
        assert_eq!(warnings(20_000), []);
    }
}
