//! Drops what a previous identity obtained.

use std::sync::{
    Mutex, PoisonError,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};

/// The tenure under which the entries of a cache were obtained: a number that increases when
/// another identity calls the key provider.
#[derive(Debug)]
pub(crate) struct Tenure {
    number: AtomicU64,
    /// Held while entries of a previous tenure are dropped.
    handover: Mutex<()>,
}

impl Tenure {
    /// Returns the tenure with this number.
    pub(crate) fn new(number: u64) -> Self {
        Self { number: AtomicU64::new(number), handover: Mutex::default() }
    }

    /// Calls `drop_entries` if the tenure has changed to `number`, unless another call has done so.
    ///
    /// After this has returned, the entries of the previous tenure are dropped. `drop_entries` must
    /// not report events. Its result is called without a lock, and reports them.
    #[inline]
    pub(crate) fn change<R: FnOnce()>(&self, number: u64, drop_entries: impl FnOnce() -> R) {
        if self.number.load(Acquire) != number {
            self.hand_over(number, drop_entries);
        }
    }

    #[cold]
    fn hand_over<R: FnOnce()>(&self, number: u64, drop_entries: impl FnOnce() -> R) {
        let one_at_a_time = self.handover.lock().unwrap_or_else(PoisonError::into_inner);
        if self.number.load(Acquire) != number {
            let report = drop_entries();
            self.number.store(number, Release);
            // An observer may use the cache.
            drop(one_at_a_time);
            report();
        }
    }
}
