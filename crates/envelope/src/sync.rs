//! Locks and atomics whose order matters, and what keeps threads out of each other's way.
//!
//! These are the standard library's, or shuttle's, with which `tests/shuttle` tries many orders of
//! threads. Atomics that only count always use the standard library's.

#[cfg(not(shuttle))]
use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock, atomic};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, atomic};

/// A value on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// Lets shuttle switch threads before an operation that it cannot see.
#[cfg(not(shuttle))]
pub(crate) const fn switch_point() {}

/// Lets shuttle switch threads before an operation that it cannot see.
#[cfg(shuttle)]
pub(crate) fn switch_point() {
    atomic::AtomicBool::new(false).load(atomic::Ordering::SeqCst);
}

/// Returns a number that differs from thread to thread.
#[cfg(shuttle)]
pub(crate) fn thread_number() -> usize {
    shuttle::thread::current().id().into()
}

/// Returns a number that differs from thread to thread.
#[cfg(not(shuttle))]
#[inline]
pub(crate) fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = Cell::new(NEXT.fetch_add(1, Relaxed));
    }
    NUMBER.get()
}
