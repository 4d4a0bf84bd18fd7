//! What a pool has done so far, in numbers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A snapshot of what a [`KmsPool`](crate::KmsPool) holds and has done since it was built.
///
/// The counters are read one after the other, so under load they may be a few calls apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Slots held now, one for each region and principal in use.
    pub slots: usize,
    /// KMS clients built: the first of each slot, and one for each rotation of credentials.
    pub builds: u64,
    /// Calls answered at once, with a client that was there already.
    pub hits: u64,
    /// Times a credentials provider was asked, for a first client or to renew one.
    pub refreshes: u64,
    /// Times a credentials provider failed, panicked or ran out of time.
    pub failures: u64,
}

/// The live counters behind [`PoolStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) builds: Counter,
    pub(crate) hits: Counter,
    pub(crate) refreshes: Counter,
    pub(crate) failures: Counter,
}

impl Counters {
    pub(crate) fn snapshot(&self, slots: usize) -> PoolStats {
        PoolStats {
            slots,
            builds: self.builds.value(),
            hits: self.hits.value(),
            refreshes: self.refreshes.value(),
            failures: self.failures.value(),
        }
    }
}

/// A count that orders nothing else, hence relaxed.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
