//! Counts that many threads add to without getting into each other's way.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
#[cfg(not(shuttle))]
use std::{cell::Cell, sync::atomic::AtomicUsize};

const STRIPES: usize = 8;

/// A value on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// A count.
#[derive(Debug, Default)]
pub(crate) struct Counter([Padded<AtomicU64>; STRIPES]);

impl Counter {
    /// Counts one more, and tells how many this thread's stripe had before.
    #[inline]
    pub(crate) fn count(&self) -> u64 {
        self.0[thread_number() % STRIPES].0.fetch_add(1, Relaxed)
    }

    /// The count so far.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.load(Relaxed)).sum()
    }
}

/// A number that differs from thread to thread.
#[cfg(shuttle)]
pub(crate) fn thread_number() -> usize {
    shuttle::thread::current().id().into()
}

/// A number that differs from thread to thread.
#[cfg(not(shuttle))]
#[inline]
pub(crate) fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = Cell::new(NEXT.fetch_add(1, Relaxed));
    }
    NUMBER.get()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn nothing_is_lost() {
        let counter = Counter::default();
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1_000).for_each(|_| _ = counter.count()));
            }
        });
        assert_eq!(counter.total(), 20_000);
    }
}
