//! Whether a cache is too small for the encryption contexts that come: its entries make room for
//! others, and are asked for again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Of how many operations one must ask for an entry that was evicted, for a warning.
const ONE_IN: u64 = 10;

/// Watches, over windows of misses whose entries had been evicted, how many operations there were.
#[derive(Debug)]
pub(super) struct Crowding {
    window: u64,
    evicted: AtomicU64,
    operations_before: AtomicU64,
    told: AtomicBool,
}

impl Crowding {
    /// Judges after as many such misses as the cache holds entries: after 1,000 at the least, and
    /// 10,000 at the most.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            window: (capacity as u64).clamp(1_000, 10_000),
            evicted: AtomicU64::new(0),
            operations_before: AtomicU64::new(0),
            told: AtomicBool::new(false),
        }
    }

    /// Notes a miss whose entry had been evicted, when there have been so many operations. If this
    /// is the moment to warn, tells how many such misses there were of late, of how many
    /// operations.
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
    fn warns_once_when_evicted_entries_come_back_often() {
        let crowding = Crowding::new(100);
        let warnings = |operations: u64| -> Vec<_> {
            (0..1_000).filter_map(|_| crowding.evicted(|| operations)).collect()
        };
        assert_eq!(warnings(10_000), []);
        assert_eq!(warnings(19_999), [(1_000, 9_999)]);
        assert_eq!(warnings(20_000), []);
    }
}
