//! The places in frequent use, found without a lock, and without counting who holds them: what many
//! threads look for at once is found by each as fast as if it were alone.

use std::{fmt, hash::BuildHasher, sync::Arc};

use arc_swap::{ArcSwapOption, Guard};
use quick_cache::DefaultHashBuilder;

use super::store::{Key, Place};

/// How many places there are at the front, at the most. Keys that fall on the same one take turns.
const CELLS: usize = 64;

/// A few of the places in a store, and maybe some that have left it: those are retired, and hold
/// nothing but their keys.
pub(super) struct Front<V> {
    cells: Box<[ArcSwapOption<Place<V>>]>,
    hasher: DefaultHashBuilder,
}

impl<V> Front<V> {
    /// The front of a store of `capacity` slots.
    pub(super) fn new(capacity: usize) -> Self {
        let cells = (0..capacity.clamp(1, CELLS)).map(|_| ArcSwapOption::empty()).collect();
        Self { cells, hasher: DefaultHashBuilder::default() }
    }

    /// The place of `key`, if it is at the front.
    #[inline]
    pub(super) fn find(&self, key: &Key<'_>) -> Option<Guard<Option<Arc<Place<V>>>>> {
        let place = self.cell(key).load();
        place.as_ref().is_some_and(|place| place.key() == *key).then_some(place)
    }

    /// Brings a place to the front.
    pub(super) fn put(&self, place: Arc<Place<V>>) {
        self.cell(&place.key()).store(Some(place));
    }

    /// Lets go of all places, so that nothing is kept of what has left the store.
    pub(super) fn clear(&self) {
        self.cells.iter().for_each(|cell| cell.store(None));
    }

    fn cell(&self, key: &Key<'_>) -> &ArcSwapOption<Place<V>> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let number = self.hasher.hash_one(key) as usize;
        &self.cells[number % self.cells.len()]
    }
}

/// Shows nothing of its content.
impl<V> fmt::Debug for Front<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        cache::{
            Cache, entry::Entry, gate::Gate, policy::tests::policy, sight::Sight, store::Store,
        },
        observer::Operation,
        time::Clock,
    };

    /// An entry at the front serves and counts like one that is looked up. It is gone when the
    /// store drops it.
    #[test]
    fn what_was_dropped_is_found_no_more_and_what_came_after_is() {
        let (now, policy) = (Clock::system().now(), policy(Duration::from_secs(10), 100, 100));
        let cache = Cache::new(10, Gate::new(1), Operation::Encryption, None);
        let key = Key {
            partition: "p",
            suite_id: 1,
            encryption_context: b"k",
            required_context: b"",
            encrypted_data_keys: b"",
        };
        let place = |value| {
            let (place, entry) =
                (cache.place(key, now), Entry::new(Arc::new(value), (now, 0), now, &policy));
            assert!(place.put(&Arc::new(entry), now, &policy, true));
            place
        };
        let find = || {
            cache.find(&key, now, &policy, Some(1), |value| **value).ok().map(|taken| taken.outcome)
        };
        let first = place(1);
        assert_eq!((find(), find()), (Some(1), Some(1)));
        assert!(cache.front.find(&key).is_some());
        cache.clear();
        assert_eq!((find(), Arc::strong_count(&first)), (None, 1));
        // As one that was evicted would be.
        cache.front.put(first);
        place(2);
        assert_eq!((find(), find()), (Some(2), Some(2)));
        assert_eq!(cache.counts().hits, 4);
    }

    #[test]
    fn a_key_finds_its_own_place_or_none() {
        let store =
            Store::<u8>::new(1_000, Arc::new(Sight::new(1_000, Operation::Encryption, None)));
        let (front, now, contexts) =
            (Front::new(1_000), Clock::system().now(), (0..1_000u32).map(u32::to_be_bytes));
        let mut found = 0;
        for context in contexts.clone() {
            let key = Key {
                partition: "p",
                suite_id: 1,
                encryption_context: &context,
                required_context: b"",
                encrypted_data_keys: b"",
            };
            let place = store.slot(&key.to_owned(), 1, now);
            assert!(front.find(&key).is_none());
            front.put(Arc::clone(&place));
            assert!(Arc::ptr_eq(front.find(&key).unwrap().as_ref().unwrap(), &place));
        }
        for context in contexts {
            let key = Key {
                partition: "p",
                suite_id: 1,
                encryption_context: &context,
                required_context: b"",
                encrypted_data_keys: b"",
            };
            found += usize::from(front.find(&key).is_some());
        }
        assert!((1..=CELLS).contains(&found), "{found}");
        front.clear();
        assert!(front.cells.iter().all(|cell| cell.load().is_none()));
    }
}
