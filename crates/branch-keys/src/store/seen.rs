//! The newest active items that this process has seen.

use std::sync::{Mutex, PoisonError};

use quick_cache::unsync::Cache;
use time::OffsetDateTime;

/// How many branch keys are remembered, of 2 KiB each at most.
const MAX_IDS: usize = 10_000;

/// When the newest active item of each branch key was created, of those that AWS KMS authenticated.
pub(super) struct Seen(Mutex<Cache<Box<str>, OffsetDateTime>>);

impl Default for Seen {
    fn default() -> Self {
        Self(Mutex::new(Cache::new(MAX_IDS)))
    }
}

impl Seen {
    /// Returns when the newest active item was created.
    ///
    /// Call it before the item is read: a consistent read that begins now returns no older one.
    pub(super) fn newest(&self, id: &str) -> Option<OffsetDateTime> {
        self.lock().get(id).copied()
    }

    /// Remembers an authentic active item.
    pub(super) fn record(&self, id: &str, created: OffsetDateTime) {
        let mut seen = self.lock();
        if seen.get(id).is_none_or(|newest| *newest < created) {
            seen.insert(id.into(), created);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache<Box<str>, OffsetDateTime>> {
        // One insertion at a time: a panic leaves the cache as it was before.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stays_and_memory_is_bounded() {
        let seen = Seen::default();
        let date = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        assert_eq!(seen.newest("a"), None);
        for (created, newest) in [(5, 5), (3, 5), (7, 7)] {
            seen.record("a", date(created));
            assert_eq!(seen.newest("a"), Some(date(newest)));
        }
        assert_eq!(seen.newest("A"), None);
        for number in 0..2 * MAX_IDS {
            seen.record(&number.to_string(), date(1));
        }
        assert!(seen.lock().len() <= MAX_IDS);
    }
}
