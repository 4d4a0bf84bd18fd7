//! How long and how much one data key may be used, and what has been used of it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How long and how much one cached data key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the names that the settings have")]
pub(crate) struct Limits {
    pub(crate) max_age: Duration,
    pub(crate) max_messages: u64,
    pub(crate) max_bytes: u64,
}

/// What has been sealed, or is about to be, under one data key.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Usage {
    /// Reserves one message of `bytes` bytes, before it is sealed. Never lets either total exceed its
    /// limit, whatever runs at the same time; a reservation that fails leaves both totals as they were.
    pub(crate) fn reserve(&self, limits: &Limits, bytes: u64) -> bool {
        if !add(&self.bytes, bytes, limits.max_bytes) {
            return false;
        }
        let reserved = add(&self.messages, 1, limits.max_messages);
        if !reserved {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        reserved
    }
}

/// Adds to a total unless that would exceed `limit`. The totals guard nothing but themselves, so no
/// ordering beyond their own is needed.
fn add(total: &AtomicU64, amount: u64, limit: u64) -> bool {
    let within = |used: u64| used.checked_add(amount).filter(|sum| *sum <= limit);
    total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use proptest::prelude::*;

    use super::*;

    fn limits(max_messages: u64, max_bytes: u64) -> Limits {
        Limits { max_age: Duration::MAX, max_messages, max_bytes }
    }

    #[test]
    fn overflow_is_a_refusal() {
        let usage = Usage::default();
        let limits = limits(u64::MAX, u64::MAX);
        assert!(usage.reserve(&limits, u64::MAX));
        assert!(!usage.reserve(&limits, 1));
        assert!(usage.reserve(&limits, 0));
    }

    #[test]
    fn threads_together_get_exactly_the_limit() {
        let limits = limits(10_007, u64::MAX);
        for _ in 0..50 {
            let (usage, start) = (Usage::default(), Barrier::new(4));
            let work = || {
                start.wait();
                (0..5_000).filter(|_| usage.reserve(&limits, 3)).count()
            };
            let granted: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(granted, 10_007);
            assert_eq!(usage.bytes.load(Ordering::Relaxed), 3 * 10_007);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_count(max_messages in 0u64..40, max_bytes in 0u64..400, sizes: Vec<u8>) {
            let (usage, limits) = (Usage::default(), limits(max_messages, max_bytes));
            let (mut messages, mut bytes) = (0, 0);
            for size in sizes.into_iter().map(u64::from) {
                let fits = messages < max_messages && bytes + size <= max_bytes;
                prop_assert_eq!(usage.reserve(&limits, size), fits);
                if fits {
                    messages += 1;
                    bytes += size;
                }
            }
        }
    }
}
