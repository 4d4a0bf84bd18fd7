//! Detects whether encryption contexts repeat at all: a cache does not help contexts that never do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Watches, over windows of misses that were the first of their kind, how many hits came along.
#[derive(Debug)]
pub(super) struct Repeats {
    window: u64,
    firsts: AtomicU64,
    hits_before: AtomicU64,
    never: AtomicBool,
    told: AtomicBool,
}

impl Repeats {
    /// Judges after twice as many contexts as the cache holds, but no sooner than after 1,000.
    pub(super) fn new(capacity: usize) -> Self {
        let window = (capacity as u64).saturating_mul(2).clamp(1_000, 10_000);
        Self {
            window,
            firsts: AtomicU64::new(0),
            hits_before: AtomicU64::new(0),
            never: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }
    }

    /// Notes a context that was never seen before, when there have been so many hits; tells whether
    /// this is the moment to warn.
    pub(super) fn first(&self, hits: impl FnOnce() -> u64) -> bool {
        if !(self.firsts.fetch_add(1, Relaxed) + 1).is_multiple_of(self.window) {
            return false;
        }
        let hits = hits();
        let since = hits.saturating_sub(self.hits_before.swap(hits, Relaxed));
        // Under one in a hundred.
        let never = since < self.window / 100;
        self.never.store(never, Relaxed);
        never && !self.told.swap(true, Relaxed)
    }

    /// Whether contexts hardly ever repeat, by the latest window.
    pub(super) fn never(&self) -> bool {
        self.never.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_once_when_hits_stay_near_zero() {
        let repeats = Repeats::new(100);
        let warnings = |hits: u64| (0..1_000).filter(|_| repeats.first(|| hits)).count();
        assert_eq!((warnings(10), repeats.never()), (0, false));
        assert_eq!((warnings(19), repeats.never()), (1, true));
        assert_eq!((warnings(19), repeats.never()), (0, true));
        assert_eq!((warnings(100), repeats.never()), (0, false));
        assert_eq!((warnings(100), repeats.never()), (0, true));
    }
}
