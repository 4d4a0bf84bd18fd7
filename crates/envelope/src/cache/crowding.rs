//! Detects that a cache is too small for the encryption contexts in use: evicted entries are
//! requested again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Warns if at least one in this many operations requests an evicted entry.
const ONE_IN: u64 = 10;

/// Counts misses of evicted entries, and the operations in the same window.
#[derive(Debug)]
pub(super) struct Crowding {
    window: u64,
    evicted: AtomicU64,
    operations_before: AtomicU64,
    told: AtomicBool,
}

impl Crowding {
    /// A window ends after as many such misses as the capacity, but at least 1,000 and at most
    /// 10,000.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            window: (capacity as u64).clamp(1_000, 10_000),
            evicted: AtomicU64::new(0),
            operations_before: AtomicU64::new(0),
            told: AtomicBool::new(false),
        }
    }

    /// Records a miss whose entry had been evicted; `operations` is the total so far. Returns the
    /// numbers of misses and operations in this window if a warning is due.
    pub(super) fn evicted(&self, operations: impl FnOnce() -> u64) -> Option<(u64, u64)> {
        if !(self.evicted.fetch_add(1, Relaxed) + 1).is_multiple_of(self.window) {
            return None;
        }
        let operations = operations();
        let since = operations.saturating_sub(self.operations_before.swap(operations, Relaxed));
        let too_small = since < self.window * ONE_IN;
        (too_small && !self.told.swap(true, Relaxed)).then_some((self.window, since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_once_when_evicted_entries_are_often_requested_again() {
        let crowding = Crowding::new(100);
        let warnings = |operations: u64| -> Vec<_> {
            (0..1_000).filter_map(|_| crowding.evicted(|| operations)).collect()
        };
        assert_eq!(warnings(10_000), []);
        assert_eq!(warnings(19_999), [(1_000, 9_999)]);
        assert_eq!(warnings(20_000), []);
    }
}
