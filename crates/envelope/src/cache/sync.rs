//! Locks and atomics that decide something: the standard library's, or shuttle's, under which
//! `tests/shuttle` tries out how threads may take turns. What merely counts stays with the standard
//! library's.

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock, atomic};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, atomic};

/// Where another thread may take its turn, before something is done to what shuttle does not see.
#[cfg(not(shuttle))]
pub(crate) const fn turn() {}

/// Where another thread may take its turn, before something is done to what shuttle does not see.
#[cfg(shuttle)]
pub(crate) fn turn() {
    atomic::AtomicBool::new(false).load(atomic::Ordering::SeqCst);
}
