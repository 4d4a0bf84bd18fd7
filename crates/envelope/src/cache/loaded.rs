//! A loaded value, with its age and what has been used of it.

use std::{
    num::NonZero,
    sync::{Arc, OnceLock, PoisonError, atomic::AtomicBool},
    thread,
    time::Duration,
};

use super::policy::Policy;
use crate::{
    error::Error,
    sync::{
        Mutex, Padded,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
        thread_number,
    },
    time::{Moment, nanos},
};

/// How often threads must contend for the totals before each gets a lease.
const CONTENTION: u32 = if cfg!(shuttle) { 1 } else { 64 };
/// How many messages a lease is for, unless little is left.
const LEASE: u64 = 64;

/// The outcome of a load; `None` if the task that ran it ended early.
pub(crate) type Outcome<V> = Option<Result<Arc<Loaded<V>>, Error>>;

/// A value as a load returned it.
///
/// Its users share it. It is dropped (and wiped, if it is secret) with the last one.
#[derive(Debug)]
pub(crate) struct Loaded<V> {
    value: Arc<V>,
    asked: Moment,
    /// The number of invalidations when the value was requested.
    asked_after: u64,
    load_time: Duration,
    /// The age at which its replacement is loaded, however little it was used, in nanoseconds.
    refresh_age: u64,
    usage: Usage,
    kept: AtomicBool,
}

impl<V> Loaded<V> {
    /// Returns a value that was requested at `asked`, after `asked_after` invalidations, and
    /// arrived at `arrived`.
    ///
    /// Its age counts from the request: the last moment at which the caller was certainly
    /// authorized.
    pub(crate) fn new(
        value: Arc<V>,
        (asked, asked_after): (Moment, u64),
        arrived: Moment,
        policy: &Policy,
    ) -> Self {
        let load_time = arrived.since(asked);
        Self {
            value,
            asked,
            asked_after,
            load_time,
            refresh_age: nanos(policy.refresh_age(load_time)),
            usage: Usage::default(),
            kept: AtomicBool::new(false),
        }
    }

    /// Returns the time since the value was requested.
    pub(crate) fn age(&self, now: Moment) -> Duration {
        now.since(self.asked)
    }

    /// Returns the time since the value was requested, in nanoseconds, which compare faster.
    #[inline]
    pub(crate) fn age_nanos(&self, now: Moment) -> u64 {
        now.nanos_since(self.asked)
    }

    /// Returns whether the value is younger than `max_age`.
    #[inline]
    pub(crate) fn is_fresh(&self, now: Moment, max_age: Duration) -> bool {
        self.age_nanos(now) < nanos(max_age)
    }

    /// Reserves one message of `bytes` bytes, and returns whether the limits allow it.
    ///
    /// `None` is a use that is not counted.
    #[inline]
    pub(crate) fn reserve(&self, policy: &Policy, bytes: Option<u64>) -> bool {
        match bytes {
            Some(bytes) => self.usage.reserve(policy, bytes),
            None => !self.is_used_up(policy),
        }
    }

    /// Returns whether it is time to load the next value, for uses `gap` nanoseconds apart.
    #[inline]
    pub(crate) fn is_low(&self, now: Moment, gap: u64, policy: &Policy) -> bool {
        let age = self.age_nanos(now);
        age >= self.refresh_age
            || age.saturating_add(gap).saturating_add(gap) >= nanos(policy.max_age)
            || policy.is_nearly_used(self.age(now), self.usage.used(), self.load_time)
    }

    /// Returns whether hardly any further message fits.
    #[inline]
    pub(crate) fn is_used_up(&self, policy: &Policy) -> bool {
        // If messages are long, the last twentieth of the bytes may stay unused.
        self.has_no_message_left(policy)
            || self.usage.used().1 > policy.max_bytes - policy.max_bytes / 20
    }

    /// Returns whether all its messages are reserved or leased.
    pub(crate) fn has_no_message_left(&self, policy: &Policy) -> bool {
        self.usage.used().0 >= policy.max_messages
    }

    /// Returns when the value was requested, and the number of invalidations at that time.
    pub(crate) fn asked(&self) -> (Moment, u64) {
        (self.asked, self.asked_after)
    }

    /// Records that the cache keeps this value.
    pub(crate) fn keep(&self) {
        self.kept.store(true, Relaxed);
    }

    /// Returns whether the cache keeps this value, or has kept it.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Relaxed)
    }

    /// Returns the value.
    #[inline]
    pub(crate) fn value(&self) -> &Arc<V> {
        &self.value
    }
}

/// The messages and bytes that are reserved under one value.
///
/// If threads contend for the totals, each thread takes a lease of some messages and bytes, and
/// reserves from that lease. Leases count as used, so no limit is ever exceeded. When little is
/// left, the leases are recalled, so nothing stays unused.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    messages: AtomicU64,
    bytes: AtomicU64,
    contention: AtomicU32,
    leases: OnceLock<Box<[Padded<Lease>]>>,
    recall: Mutex<()>,
}

/// Messages and bytes that one or several threads may reserve without changing the totals.
#[derive(Debug, Default)]
struct Lease {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Usage {
    /// Reserves one message of `bytes` bytes, and returns whether the limits allow it.
    ///
    /// Called before the message is encrypted. Neither total ever exceeds its limit, even with
    /// concurrent calls. A reservation that fails leaves both totals as they were.
    #[inline]
    pub(crate) fn reserve(&self, policy: &Policy, bytes: u64) -> bool {
        let Some(leases) = self.leases.get() else { return self.take(policy, 1, bytes) };
        let lease = &leases[thread_number() % leases.len()].0;
        lease.take(bytes) || self.renew(lease, policy, bytes) || self.recall(leases, policy, bytes)
    }

    /// Returns how many messages, and how many bytes, are reserved or leased.
    #[inline]
    pub(crate) fn used(&self) -> (u64, u64) {
        (self.messages.load(Relaxed), self.bytes.load(Relaxed))
    }

    /// Reserves one message, and fills the lease with a small share of the rest, so that all leases
    /// together take only a part of it.
    fn renew(&self, lease: &Lease, policy: &Policy, bytes: u64) -> bool {
        // A recall would miss an amount that is being moved into a lease.
        let Ok(_no_recall) = self.recall.try_lock() else { return self.take(policy, 1, bytes) };
        let leases = self.leases.get().map_or(1, |leases| leases.len()) as u64;
        let (messages_used, bytes_used) = self.used();
        let share = |limit: u64, used: u64| limit.saturating_sub(used) / (4 * leases);
        let messages = share(policy.max_messages, messages_used).min(LEASE);
        let extra = share(policy.max_bytes, bytes_used).min(bytes.saturating_mul(messages));
        if messages > 0
            && bytes.checked_add(extra).is_some_and(|bytes| self.take(policy, 1 + messages, bytes))
        {
            lease.messages.fetch_add(messages, Relaxed);
            lease.bytes.fetch_add(extra, Relaxed);
            return true;
        }
        self.take(policy, 1, bytes)
    }

    /// Takes back the rest of all leases, and reserves from that.
    fn recall(&self, leases: &[Padded<Lease>], policy: &Policy, bytes: u64) -> bool {
        let _one_at_a_time = self.recall.lock().unwrap_or_else(PoisonError::into_inner);
        for Padded(lease) in leases {
            self.messages.fetch_sub(lease.messages.swap(0, Relaxed), Relaxed);
            self.bytes.fetch_sub(lease.bytes.swap(0, Relaxed), Relaxed);
        }
        self.take(policy, 1, bytes)
    }

    /// Takes messages and bytes from the totals.
    #[inline]
    fn take(&self, policy: &Policy, messages: u64, bytes: u64) -> bool {
        if !self.add(&self.bytes, bytes, policy.max_bytes) {
            return false;
        }
        let taken = self.add(&self.messages, messages, policy.max_messages);
        if !taken {
            self.bytes.fetch_sub(bytes, Relaxed);
        }
        taken
    }

    /// Returns a usage that is leased from the start.
    #[cfg(test)]
    pub(crate) fn leased(leases: usize) -> Self {
        let usage = Self::default();
        usage.leases.get_or_init(|| (0..leases).map(|_| Padded::default()).collect());
        usage
    }

    /// Adds to a total, unless it would exceed `limit`.
    ///
    /// The totals guard no other memory, so relaxed ordering is enough.
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
    /// Takes one message of `bytes` bytes, if the lease has that much left.
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

/// Returns one lease for each thread that can run at once, up to 16, which take 2 KiB.
fn leases() -> Box<[Padded<Lease>]> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    (0..threads.next_power_of_two().min(16)).map(|_| Padded::default()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use proptest::prelude::*;

    use super::*;
    use crate::cache::policy::tests::policy;

    fn limits(max_messages: u64, max_bytes: u64) -> Policy {
        policy(Duration::MAX, max_messages, max_bytes)
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
        let usage = Usage::default();
        let limits = limits(u64::MAX, u64::MAX);
        usage.contention.store(CONTENTION, Relaxed);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..1_000_000).for_each(|_| assert!(usage.reserve(&limits, 1))));
            }
        });
        // On one core, threads may never have contended.
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
