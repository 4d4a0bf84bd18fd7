//! How long and how much one data key may be used, and what has been used of it.

use std::{
    num::NonZero,
    sync::{OnceLock, PoisonError},
    thread,
    time::Duration,
};

use super::{
    stripe::{Padded, thread_number},
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

/// How often threads must get into each other's way before each gets a lease of its own.
const CONTENTION: u32 = if cfg!(shuttle) { 1 } else { 64 };
/// How many messages a lease is for, unless little is left.
const LEASE: u64 = 64;

/// How long and how much one cached data key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the names that the settings have")]
pub(crate) struct Limits {
    pub(crate) max_age: Duration,
    pub(crate) max_messages: u64,
    pub(crate) max_bytes: u64,
}

/// What has been sealed, or is about to be, under one data key.
///
/// If threads contend for the totals, each takes a lease of some messages and bytes out of them,
/// and reserves from that lease. Leases count as used, so no limit is ever exceeded; when little is
/// left, the leases are recalled, so nothing stays unused.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    messages: AtomicU64,
    bytes: AtomicU64,
    contention: AtomicU32,
    leases: OnceLock<Box<[Padded<Lease>]>>,
    recall: Mutex<()>,
}

/// What one thread, or several, may take without asking.
#[derive(Debug, Default)]
struct Lease {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Usage {
    /// Reserves one message of `bytes` bytes, before it is encrypted. Never lets either total
    /// exceed its limit, even with concurrent calls; a reservation that fails leaves both totals as
    /// they were.
    #[inline]
    pub(crate) fn reserve(&self, limits: &Limits, bytes: u64) -> bool {
        let Some(leases) = self.leases.get() else { return self.take(limits, 1, bytes) };
        let lease = &leases[thread_number() % leases.len()].0;
        lease.take(bytes) || self.renew(lease, limits, bytes) || self.recall(leases, limits, bytes)
    }

    /// How many messages, and how many bytes, are reserved or leased.
    #[inline]
    pub(crate) fn used(&self) -> (u64, u64) {
        (self.messages.load(Relaxed), self.bytes.load(Relaxed))
    }

    /// Reserves, and fills the lease, as long as all leases together take no more than a part of
    /// the rest.
    fn renew(&self, lease: &Lease, limits: &Limits, bytes: u64) -> bool {
        // An amount that is just moving into a lease could not be recalled.
        let Ok(_no_recall) = self.recall.try_lock() else { return self.take(limits, 1, bytes) };
        let leases = self.leases.get().map_or(1, |leases| leases.len()) as u64;
        let (messages_used, bytes_used) = self.used();
        let share = |limit: u64, used: u64| limit.saturating_sub(used) / (4 * leases);
        let messages = share(limits.max_messages, messages_used).min(LEASE);
        let extra = share(limits.max_bytes, bytes_used).min(bytes.saturating_mul(messages));
        if messages > 0
            && bytes.checked_add(extra).is_some_and(|bytes| self.take(limits, 1 + messages, bytes))
        {
            lease.messages.fetch_add(messages, Relaxed);
            lease.bytes.fetch_add(extra, Relaxed);
            return true;
        }
        self.take(limits, 1, bytes)
    }

    /// Takes back what the leases have left, and reserves from that.
    fn recall(&self, leases: &[Padded<Lease>], limits: &Limits, bytes: u64) -> bool {
        let _one_at_a_time = self.recall.lock().unwrap_or_else(PoisonError::into_inner);
        for Padded(lease) in leases {
            self.messages.fetch_sub(lease.messages.swap(0, Relaxed), Relaxed);
            self.bytes.fetch_sub(lease.bytes.swap(0, Relaxed), Relaxed);
        }
        self.take(limits, 1, bytes)
    }

    /// Takes from the totals.
    #[inline]
    fn take(&self, limits: &Limits, messages: u64, bytes: u64) -> bool {
        if !self.add(&self.bytes, bytes, limits.max_bytes) {
            return false;
        }
        let taken = self.add(&self.messages, messages, limits.max_messages);
        if !taken {
            self.bytes.fetch_sub(bytes, Relaxed);
        }
        taken
    }

    /// Usage that is leased from the start.
    #[cfg(test)]
    pub(crate) fn leased(leases: usize) -> Self {
        let usage = Self::default();
        usage.leases.get_or_init(|| (0..leases).map(|_| Padded::default()).collect());
        usage
    }

    /// Adds to a total unless that would exceed `limit`. The totals guard nothing but themselves,
    /// so no ordering beyond their own is needed.
    #[inline]
    fn add(&self, total: &AtomicU64, amount: u64, limit: u64) -> bool {
        let mut used = total.load(Relaxed);
        loop {
            let Some(sum) = used.checked_add(amount).filter(|sum| *sum <= limit) else {
                return false;
            };
            match total.compare_exchange_weak(used, sum, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(found) => used = found,
            }
            if self.contention.fetch_add(1, Relaxed) == CONTENTION {
                self.leases.get_or_init(leases);
            }
        }
    }
}

impl Lease {
    /// Takes one message of `bytes` bytes, if that much is there.
    fn take(&self, bytes: u64) -> bool {
        if !subtract(&self.messages, 1) {
            return false;
        }
        let taken = subtract(&self.bytes, bytes);
        if !taken {
            self.messages.fetch_add(1, Relaxed);
        }
        taken
    }
}

fn subtract(from: &AtomicU64, amount: u64) -> bool {
    from.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(amount)).is_ok()
}

/// One for each thread that can run at once, up to a limit: an entry of many threads takes 2 KiB.
fn leases() -> Box<[Padded<Lease>]> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    (0..threads.next_power_of_two().min(16)).map(|_| Padded::default()).collect()
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
        for usage in [Usage::default(), Usage::leased(2)] {
            let limits = limits(u64::MAX, u64::MAX);
            assert!(usage.reserve(&limits, u64::MAX));
            assert!(!usage.reserve(&limits, 1));
            assert!(usage.reserve(&limits, 0));
        }
    }

    #[test]
    fn threads_together_get_exactly_the_limit() {
        let limits = limits(10_007, u64::MAX);
        for round in 0..50 {
            let usage = if round % 2 == 0 { Usage::default() } else { Usage::leased(4) };
            let start = Barrier::new(4);
            let work = || {
                start.wait();
                (0..5_000).filter(|_| usage.reserve(&limits, 3)).count()
            };
            let granted: usize = thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(granted, 10_007);
            assert_eq!(usage.used(), (10_007, 3 * 10_007));
        }
    }

    #[test]
    fn contention_brings_leases() {
        let (usage, limits) = (Usage::default(), limits(u64::MAX, u64::MAX));
        usage.contention.store(CONTENTION, Relaxed);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..1_000_000).for_each(|_| assert!(usage.reserve(&limits, 1))));
            }
        });
        // On one core nobody may have got into another's way.
        assert_eq!(usage.leases.get().is_some(), usage.contention.load(Relaxed) > CONTENTION);
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_count(
            max_messages in 0u64..400, max_bytes in 0u64..4000, sizes: Vec<u8>, leases in 0usize..4,
        ) {
            let usage = if leases == 0 { Usage::default() } else { Usage::leased(leases) };
            let limits = limits(max_messages, max_bytes);
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
