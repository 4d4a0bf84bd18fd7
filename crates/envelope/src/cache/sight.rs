//! Everything that looks on: counts, observers, and the memory that gives misses their reason.

use std::sync::Arc;
#[cfg(feature = "metrics")]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{
    counts::{Counters, Counts},
    crowding::Crowding,
    departed::{Cause, Departed},
    repeats::Repeats,
    slot::{Taken, Vacant},
    store::{Bounds, Key},
};
use crate::{
    context::ContextKeys,
    observer::{EventKind, MissReason, Observer, Observers, Operation},
};

/// After how many hits on one stripe the `metrics` facade hears of them.
#[cfg(feature = "metrics")]
const HITS_AT_ONCE: u64 = 1024;

/// What looks on at one half of a cache.
#[derive(Debug)]
pub(super) struct Sight {
    counters: Counters,
    departed: Departed,
    repeats: Repeats,
    crowding: Crowding,
    bounds: Bounds,
    observers: Observers,
    #[cfg(feature = "metrics")]
    published: AtomicU64,
}

impl Sight {
    pub(super) fn new(
        bounds: impl Into<Bounds>,
        operation: Operation,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        let bounds = bounds.into();
        Self {
            counters: Counters::default(),
            departed: Departed::new(bounds.entries),
            repeats: Repeats::new(bounds.entries),
            crowding: Crowding::new(bounds.entries),
            bounds,
            observers: Observers::new(operation, observer),
            #[cfg(feature = "metrics")]
            published: AtomicU64::new(0),
        }
    }

    /// Counts and tells what happened to the entry under `key`.
    pub(super) fn tell(&self, key: &Key<'_>, kind: EventKind<'_>) {
        self.counters.count(&kind);
        self.observers.tell(keys_of(key), kind);
        #[cfg(feature = "metrics")]
        self.publish_hits();
    }

    /// Something was taken out of the entry under `key`.
    #[inline]
    pub(super) fn taken<R>(&self, key: &Key<'_>, taken: &Taken<R>) {
        #[cfg_attr(
            not(feature = "metrics"),
            expect(unused_variables, reason = "published without it, when asked for")
        )]
        let hits = self.counters.hits.count();
        self.observers.hit(|| keys_of(key));
        if taken.stale {
            self.tell(key, EventKind::StaleServed);
        }
        if taken.promoted {
            self.tell(key, EventKind::Promoted);
        }
        #[cfg(feature = "metrics")]
        if hits.is_multiple_of(HITS_AT_ONCE) {
            self.publish_hits();
        }
    }

    /// Nothing usable was found under `key`.
    pub(super) fn missed(&self, key: &Key<'_>, why: Vacant) {
        let reason = match why {
            Vacant::Absent => match self.departed.take(key) {
                Some(Cause::Evicted) => {
                    self.came_back(key);
                    MissReason::Evicted
                }
                Some(Cause::Invalidated) => MissReason::Invalidated,
                None => {
                    if self.repeats.first(|| self.counters.hits.total()) {
                        self.tell(key, EventKind::ContextsNeverRepeat);
                    }
                    if self.repeats.never() { MissReason::NeverRepeats } else { MissReason::Absent }
                }
            },
            Vacant::Age => MissReason::Age,
            Vacant::Messages => MissReason::Messages,
            Vacant::Bytes => MissReason::Bytes,
        };
        self.tell(key, EventKind::Missed(reason));
    }

    /// Records a miss of an entry that had been evicted.
    fn came_back(&self, key: &Key<'_>) {
        if let Some((evicted, operations)) = self.crowding.evicted(|| self.counters.operations()) {
            let Bounds { entries: capacity, bytes: max_bytes_held } = self.bounds;
            self.tell(
                key,
                EventKind::CacheTooSmall { evicted, operations, capacity, max_bytes_held },
            );
        }
    }

    /// The entry under `key` made room for another.
    pub(super) fn evicted(&self, key: &Key<'_>) {
        self.departed.note(key, Cause::Evicted);
        self.tell(key, EventKind::Evicted);
    }

    /// The entry under `key` was invalidated: to be told together with others.
    pub(super) fn invalidated(&self, key: &Key<'_>) {
        self.departed.note(key, Cause::Invalidated);
    }

    /// So many entries were invalidated.
    pub(super) fn invalidated_in_all(&self, entries: u64) {
        let kind = EventKind::Invalidated { entries };
        self.counters.count(&kind);
        self.observers.tell(ContextKeys::of_serialized(&[]), kind);
    }

    /// The counts so far.
    pub(super) fn counts(&self, entries: usize, bytes: u64) -> Counts {
        #[cfg(feature = "metrics")]
        self.publish_hits();
        self.counters.snapshot(entries, bytes)
    }

    #[cfg(feature = "metrics")]
    fn publish_hits(&self) {
        let total = self.counters.hits.total();
        let before = self.published.fetch_max(total, Relaxed);
        if total > before {
            self.observers.hits(total - before);
        }
    }
}

fn keys_of<'a>(key: &Key<'a>) -> ContextKeys<'a> {
    ContextKeys::of_serialized(key.encryption_context)
}
