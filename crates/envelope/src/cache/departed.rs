//! Remembers which entries were dropped recently, and why, to give misses a reason.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::store::Key;

/// A bounded, forgetful memory: one word for each place, the latest to leave wins it.
#[derive(Debug)]
pub(super) struct Departed {
    hasher: RandomState,
    places: Box<[AtomicU64]>,
}

/// Why an entry left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Evicted,
    Invalidated,
}

impl Departed {
    /// Remembers about four times `capacity` keys: if a cache is too small, more entries than it
    /// holds are evicted before one of them is requested again.
    pub(super) fn new(capacity: usize) -> Self {
        let places = capacity.saturating_mul(4).clamp(16, 1 << 20).next_power_of_two();
        Self {
            hasher: RandomState::new(),
            places: (0..places).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Notes that the entry under `key` left.
    pub(super) fn note(&self, key: &Key<'_>, cause: Cause) {
        let (place, mark) = self.place(key);
        place.store(mark | u64::from(cause == Cause::Invalidated), Relaxed);
    }

    /// Why there is nothing under `key`, where that is known; and forgets it.
    pub(super) fn take(&self, key: &Key<'_>) -> Option<Cause> {
        let (place, mark) = self.place(key);
        let found = place.load(Relaxed);
        (found & !1 == mark).then(|| {
            place.store(0, Relaxed);
            if found & 1 == 1 { Cause::Invalidated } else { Cause::Evicted }
        })
    }

    /// Where a key is remembered, and as what: its hash but for the lowest bit, and never zero.
    fn place(&self, key: &Key<'_>) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(key);
        let place = usize::try_from(hash >> 33).unwrap_or_default() & (self.places.len() - 1);
        (&self.places[place], hash << 1 | 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_is_known_once_by_its_cause() {
        let departed = Departed::new(100);
        let key = |context: &'static [u8]| Key {
            partition: "p",
            suite_id: 1,
            encryption_context: context,
            required_context: b"",
            encrypted_data_keys: b"",
        };
        departed.note(&key(b"a"), Cause::Evicted);
        assert_eq!(departed.take(&key(b"b")), None);
        assert_eq!(departed.take(&key(b"a")), Some(Cause::Evicted));
        assert_eq!(departed.take(&key(b"a")), None);
        departed.note(&key(b"a"), Cause::Invalidated);
        assert_eq!(departed.take(&key(b"a")), Some(Cause::Invalidated));
    }
}
