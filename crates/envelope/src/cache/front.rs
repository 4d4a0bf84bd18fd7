//! The places in frequent use, found without a lock, and without counting who holds them: what many threads look for at once
//! is found by each as fast as if it were alone.

use std::{array, hash::BuildHasher, sync::Arc};

use arc_swap::{ArcSwapOption, Guard};
use quick_cache::DefaultHashBuilder;

use super::store::{Key, Place};

/// How many places there are at the front. Keys that fall on the same one take turns.
const CELLS: usize = 64;

/// A few of the places in a store, and maybe some that have left it: those are retired, and hold nothing.
#[derive(Debug)]
pub(super) struct Front<V> {
    cells: Box<[ArcSwapOption<Place<V>>; CELLS]>,
    hasher: DefaultHashBuilder,
}

impl<V> Front<V> {
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

    fn cell(&self, key: &Key<'_>) -> &ArcSwapOption<Place<V>> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let number = self.hasher.hash_one(key) as usize;
        &self.cells[number % CELLS]
    }
}

impl<V> Default for Front<V> {
    fn default() -> Self {
        Self { cells: Box::new(array::from_fn(|_| ArcSwapOption::empty())), hasher: DefaultHashBuilder::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{sight::Sight, store::Store},
        observer::Operation,
        time::Clock,
    };

    #[test]
    fn a_key_finds_its_own_place_or_none() {
        let store = Store::<u8>::new(1_000, Arc::new(Sight::new(1_000, Operation::Encryption, None)));
        let (front, now, contexts) = (Front::default(), Clock::system().moment(), (0..1_000u32).map(u32::to_be_bytes));
        let mut found = 0;
        for context in contexts.clone() {
            let key = Key {
                partition: "p",
                suite_id: 1,
                encryption_context: &context,
                required_context: b"",
                encrypted_data_keys: b"",
            };
            let place = store.slot(&key.to_owned(), now);
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
    }
}
