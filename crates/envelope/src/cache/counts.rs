//! Counts what happens in a cache.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    error::{Error, KeyringError, KeyringErrorKind},
    observer::{EventKind, MissReason},
    sync::{Padded, thread_number},
};

/// How many parts the count of hits has, so that threads do not contend for it.
const STRIPES: usize = 8;

/// What has happened in one half of a cache since it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Counts {
    /// The number of entries now, including expired ones that were not requested again.
    pub entries: usize,
    /// The approximate size of the entries in bytes, including their keys.
    pub bytes: u64,
    /// Operations served from an entry without waiting.
    pub hits: u64,
    /// Operations that found no usable data key, and waited or were refused: the sum of the next
    /// seven counts. Operations that return [`Error::NotCached`] are not counted.
    pub misses: u64,
    /// Misses of entries that were not seen recently.
    pub misses_absent: u64,
    /// Misses of entries that had been evicted. A larger capacity may help.
    pub misses_evicted: u64,
    /// Misses of entries that had been invalidated, or dropped because their wrapping key was
    /// refused.
    pub misses_invalidated: u64,
    /// Misses while encryption contexts hardly ever repeat. Caching does not help them.
    pub misses_never_repeats: u64,
    /// Misses of entries whose data key had reached its maximum age.
    pub misses_age: u64,
    /// Misses of entries whose data key had encrypted its maximum number of messages.
    pub misses_messages: u64,
    /// Misses of entries whose data key had fewer bytes left than the message has.
    pub misses_bytes: u64,
    /// Requests to the underlying materials manager: one `GenerateDataKey` or `Decrypt` each.
    pub loads: u64,
    /// Loads that failed: the sum of the next ten counts, by the kind of the first keyring's
    /// failure.
    pub load_failures: u64,
    /// Loads that failed with [`KeyringErrorKind::Throttled`].
    pub failures_throttled: u64,
    /// Loads that failed with [`KeyringErrorKind::OverBudget`].
    pub failures_over_budget: u64,
    /// Loads that failed with [`KeyringErrorKind::TimedOut`].
    pub failures_timed_out: u64,
    /// Loads that failed with [`KeyringErrorKind::Unavailable`].
    pub failures_unavailable: u64,
    /// Loads that failed with [`KeyringErrorKind::Denied`].
    pub failures_denied: u64,
    /// Loads that failed with [`KeyringErrorKind::Unusable`].
    pub failures_unusable: u64,
    /// Loads that failed with [`KeyringErrorKind::Credentials`].
    pub failures_credentials: u64,
    /// Loads that failed with [`KeyringErrorKind::InvalidCiphertext`].
    pub failures_invalid_ciphertext: u64,
    /// Loads that failed with [`KeyringErrorKind::InvalidResponse`].
    pub failures_invalid_response: u64,
    /// Loads that failed with [`KeyringErrorKind::Other`], or without a failure of a keyring.
    pub failures_other: u64,
    /// How often an operation waited for a load that another one had started.
    pub coalesced: u64,
    /// Operations that may not use the cache: on messages longer than `max_bytes` or of unknown
    /// length, or without key derivation. Each is a request to the underlying materials manager.
    pub bypasses: u64,
    /// Loads that refreshed an entry ahead, in the background.
    pub refreshes: u64,
    /// How often a standby data key replaced a spent one.
    pub promotions: u64,
    /// Operations that used a data key past its age, because KMS was unavailable.
    pub stale: u64,
    /// Operations that were refused at once, because of a remembered failure.
    pub refused: u64,
    /// Entries that were evicted to make room for others.
    pub evictions: u64,
    /// Entries that were invalidated, or dropped because their wrapping key was refused.
    pub invalidated: u64,
}

impl Counts {
    /// Returns the number of requests to the underlying materials manager: with the AWS KMS
    /// keyring, one request to KMS each.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.loads + self.bypasses
    }

    /// Returns how many more requests there would have been without the cache.
    #[must_use]
    pub fn requests_avoided(&self) -> u64 {
        let operations = self.hits + self.misses + self.bypasses;
        operations.saturating_sub(self.refused).saturating_sub(self.requests())
    }
}

/// The running counts of one half of a cache.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Hits are frequent, and come from many threads.
    hits: [Padded<AtomicU64>; STRIPES],
    misses: [AtomicU64; MissReason::ALL.len()],
    failures: [AtomicU64; KeyringErrorKind::ALL.len()],
    loads: AtomicU64,
    coalesced: AtomicU64,
    bypasses: AtomicU64,
    refreshes: AtomicU64,
    promotions: AtomicU64,
    stale: AtomicU64,
    refused: AtomicU64,
    evictions: AtomicU64,
    invalidated: AtomicU64,
}

impl Counters {
    /// Counts a hit, and returns how many hits this thread's stripe had before.
    #[inline]
    pub(super) fn hit(&self) -> u64 {
        self.hits[thread_number() % STRIPES].0.fetch_add(1, Relaxed)
    }

    /// Returns the number of hits.
    pub(super) fn hits(&self) -> u64 {
        self.hits.iter().map(|stripe| stripe.0.load(Relaxed)).sum()
    }

    /// Counts an event.
    pub(super) fn count(&self, kind: &EventKind<'_>) {
        let loaded = |ahead: bool| {
            self.loads.fetch_add(1, Relaxed);
            self.refreshes.fetch_add(ahead.into(), Relaxed);
        };
        match kind {
            EventKind::Hit => _ = self.hit(),
            EventKind::Missed(reason) => _ = self.misses[*reason as usize].fetch_add(1, Relaxed),
            EventKind::Coalesced => _ = self.coalesced.fetch_add(1, Relaxed),
            EventKind::Bypassed => _ = self.bypasses.fetch_add(1, Relaxed),
            EventKind::Refused { .. } => _ = self.refused.fetch_add(1, Relaxed),
            EventKind::Loaded { ahead, .. } => loaded(*ahead),
            EventKind::LoadFailed { ahead, cause, .. } => {
                loaded(*ahead);
                self.failures[kind_of(cause) as usize].fetch_add(1, Relaxed);
            }
            EventKind::Promoted => _ = self.promotions.fetch_add(1, Relaxed),
            EventKind::StaleServed => _ = self.stale.fetch_add(1, Relaxed),
            EventKind::Evicted => _ = self.evictions.fetch_add(1, Relaxed),
            EventKind::Invalidated { entries } => _ = self.invalidated.fetch_add(*entries, Relaxed),
            EventKind::ContextsNeverRepeat | EventKind::CacheTooSmall { .. } => {}
        }
    }

    /// Returns the number of hits and misses.
    pub(super) fn operations(&self) -> u64 {
        let misses = self.misses.iter().map(|count| count.load(Relaxed));
        self.hits() + misses.sum::<u64>()
    }

    /// Returns the counts so far.
    pub(super) fn snapshot(&self, entries: usize, bytes: u64) -> Counts {
        let load = |count: &AtomicU64| count.load(Relaxed);
        let [absent, evicted, invalidated, never_repeats, age, messages, too_few_bytes] =
            self.misses.each_ref().map(load);
        let failures = self.failures.each_ref().map(load);
        let [
            throttled,
            over_budget,
            timed_out,
            unavailable,
            denied,
            unusable,
            credentials,
            invalid_ciphertext,
            invalid_response,
            other,
        ] = failures;
        Counts {
            entries,
            bytes,
            hits: self.hits(),
            misses: absent + evicted + invalidated + never_repeats + age + messages + too_few_bytes,
            misses_absent: absent,
            misses_evicted: evicted,
            misses_invalidated: invalidated,
            misses_never_repeats: never_repeats,
            misses_age: age,
            misses_messages: messages,
            misses_bytes: too_few_bytes,
            loads: load(&self.loads),
            load_failures: failures.iter().sum(),
            failures_throttled: throttled,
            failures_over_budget: over_budget,
            failures_timed_out: timed_out,
            failures_unavailable: unavailable,
            failures_denied: denied,
            failures_unusable: unusable,
            failures_credentials: credentials,
            failures_invalid_ciphertext: invalid_ciphertext,
            failures_invalid_response: invalid_response,
            failures_other: other,
            coalesced: load(&self.coalesced),
            bypasses: load(&self.bypasses),
            refreshes: load(&self.refreshes),
            promotions: load(&self.promotions),
            stale: load(&self.stale),
            refused: load(&self.refused),
            evictions: load(&self.evictions),
            invalidated: load(&self.invalidated),
        }
    }
}

/// Returns the kind of failure of a load: that of the first keyring that failed.
fn kind_of(error: &Error) -> KeyringErrorKind {
    error.keyring_errors().first().map_or(KeyringErrorKind::Other, KeyringError::kind)
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn hits_of_all_threads_are_counted() {
        let counters = Counters::default();
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1_000).for_each(|_| _ = counters.hit()));
            }
        });
        assert_eq!(counters.hits(), 20_000);
    }

    #[test]
    fn each_event_has_a_count_of_its_own() {
        let counters = Counters::default();
        for (count, reason) in (1..).zip(MissReason::ALL) {
            (0..count).for_each(|_| counters.count(&EventKind::Missed(reason)));
        }
        for (count, kind) in (1..).zip(KeyringErrorKind::ALL) {
            let cause = &Error::DataKeyUnavailable(KeyringError::new("key", kind, "so it is"));
            let failed =
                EventKind::LoadFailed { ahead: kind.is_retryable(), took: Duration::ZERO, cause };
            (0..count).for_each(|_| counters.count(&failed));
        }
        let counts = counters.snapshot(3, 99);
        assert_eq!(
            (counts.entries, counts.bytes, counts.misses, counts.load_failures, counts.refreshes),
            (3, 99, 28, 55, 10)
        );
        assert_eq!(
            (counts.misses_absent, counts.misses_never_repeats, counts.misses_bytes),
            (1, 4, 7)
        );
        assert_eq!(
            (counts.failures_throttled, counts.failures_denied, counts.failures_other),
            (1, 5, 10)
        );
    }
}
