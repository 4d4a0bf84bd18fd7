//! The loads under way, each shared by all callers that wait for it.
//!
//! If the cache has its own threads, a load runs there, and its callers wait on a channel. A load
//! that still waits for its turn is dropped with its last caller. One that has started runs to its
//! end.
//!
//! Without threads, the callers drive the load. If one of them is cancelled, another one continues.
//! The load is dropped with the last one.
//!
//! All callers share a failure. A load must not panic, because the panic would reach its callers.

use std::{
    collections::HashMap,
    fmt,
    ops::ControlFlow,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

use super::key::OwnedKey;
use crate::sync::{Mutex, MutexGuard};

/// The loads under way.
///
/// Callers share a load only if they have the same key and supplied the same encryption context,
/// which is given by its hash. Otherwise a sender of messages could make other callers wait in a
/// queue that the sender has filled.
pub(crate) struct SharedLoads<T: Clone> {
    list: Arc<Mutex<List<T>>>,
    started: AtomicU64,
}

/// The number of each load, and the load.
type List<T> = HashMap<(OwnedKey, u64), (u64, WeakShared<BoxFuture<'static, T>>)>;

impl<T: Clone + Send + Sync + 'static> SharedLoads<T> {
    /// Returns an empty list.
    pub(crate) fn new() -> Self {
        Self { list: Arc::default(), started: AtomicU64::new(0) }
    }

    /// Joins the load for `key`, or starts a new one. Returns `Continue` with the load, and with
    /// whether it was started.
    ///
    /// Returns `Break` with the value if `find` finds it: `find` looks for the value once more,
    /// while no load can start or end. A load stores its value before it ends, so no value is
    /// loaded twice without need.
    ///
    /// `load` makes the load from a [`Landing`], which must be dropped when the load ends, but not
    /// by `load` itself.
    ///
    /// Both functions are called while the list is locked. They must not call an observer.
    pub(crate) fn join_or_start<F>(
        &self,
        key: &(OwnedKey, u64),
        find: impl FnOnce() -> Option<F>,
        load: impl FnOnce(Landing<T>) -> BoxFuture<'static, T>,
    ) -> ControlFlow<F, (Shared<BoxFuture<'static, T>>, bool)> {
        let mut list = lock(&self.list);
        if let Some(found) = find() {
            return ControlFlow::Break(found);
        }
        if let Some(load) = list.get(key).and_then(|(_, load)| load.upgrade()) {
            return ControlFlow::Continue((load, false));
        }
        let number = self.started.fetch_add(1, Relaxed);
        let landing =
            Landing { list: Arc::clone(&self.list), key: key.clone(), number, held: None };
        let load = load(landing).shared();
        let weak = load.downgrade().expect("a load that was never polled has not ended");
        list.insert(key.clone(), (number, weak));
        ControlFlow::Continue((load, true))
    }

    /// Lets no further caller join the loads that are under way.
    pub(crate) fn detach(&self) {
        let loads = std::mem::take(&mut *lock(&self.list));
        drop(loads);
    }

    /// Returns the number of loads under way.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.list).len()
    }
}

impl<T: Clone> fmt::Debug for SharedLoads<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLoads").finish_non_exhaustive()
    }
}

/// Takes a load off the list when it ends, by result, panic or cancellation.
pub(crate) struct Landing<T: Clone> {
    list: Arc<Mutex<List<T>>>,
    key: (OwnedKey, u64),
    number: u64,
    held: Option<Shared<BoxFuture<'static, T>>>,
}

impl<T: Clone> Landing<T> {
    /// Keeps the load on the list when all its callers are gone.
    ///
    /// Only for a load that its callers do not drive.
    pub(crate) fn hold(&mut self) {
        let list = lock(&self.list);
        let own = list.get(&self.key).filter(|(number, _)| *number == self.number);
        self.held = own.and_then(|(_, load)| load.upgrade());
    }
}

impl<T: Clone> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut list = lock(&self.list);
        let is_own = list.get(&self.key).is_some_and(|(number, _)| *number == self.number);
        let landed = if is_own { list.remove(&self.key) } else { None };
        drop(list);
        drop(landed);
    }
}

/// The list is valid between any two statements, so a panic of another thread does no harm.
fn lock<T: Clone>(list: &Mutex<List<T>>) -> MutexGuard<'_, List<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::poll_immediate;
    use tokio::sync::{Semaphore, oneshot};

    use super::*;
    use crate::cache::key;

    fn key(context: &[u8]) -> (OwnedKey, u64) {
        (key::tests::key(context).to_owned(), 0)
    }

    /// Joins the load for `key`, or starts this one, which its callers drive.
    fn join<T, L>(
        loads: &SharedLoads<T>,
        key: &(OwnedKey, u64),
        load: impl FnOnce() -> L,
    ) -> Shared<BoxFuture<'static, T>>
    where
        T: Clone + Send + Sync + 'static,
        L: Future<Output = T> + Send + 'static,
    {
        let load = |landing| -> BoxFuture<'static, T> {
            let load = load();
            Box::pin(async move {
                let _landing = landing;
                load.await
            })
        };
        loads.join_or_start(key, || None::<()>, load).continue_value().unwrap().0
    }

    #[tokio::test]
    async fn one_load_serves_all_who_wait() {
        let loads = SharedLoads::new();
        let started = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let (started, gate) = (Arc::clone(&started), Arc::clone(&gate));
                join(&loads, &key(b"a"), || async move {
                    started.fetch_add(1, Relaxed);
                    gate.acquire().await.unwrap().forget();
                    7
                })
            })
            .collect();
        gate.add_permits(1);
        for load in waiting {
            assert_eq!(load.await, 7);
        }
        assert_eq!((started.load(Relaxed), loads.len()), (1, 0));
    }

    #[tokio::test]
    async fn a_cancelled_leader_hands_over() {
        let loads = SharedLoads::new();
        let (send, receive) = oneshot::channel::<u8>();
        let mut leader = join(&loads, &key(b"a"), || async { receive.await.unwrap() });
        let follower = join(&loads, &key(b"a"), || async { unreachable!("joined instead") });
        assert!(poll_immediate(&mut leader).await.is_none());
        drop(leader);
        send.send(7).unwrap();
        assert_eq!(follower.await, 7);
        assert_eq!(loads.len(), 0);
    }

    #[tokio::test]
    async fn when_all_are_cancelled_nothing_is_left() {
        let loads = SharedLoads::new();
        let mut only = join(&loads, &key(b"a"), std::future::pending::<u8>);
        assert!(poll_immediate(&mut only).await.is_none());
        drop(only);
        assert_eq!(loads.len(), 0);
        assert_eq!(join(&loads, &key(b"a"), || async { 7 }).await, 7);
    }

    #[tokio::test]
    async fn a_load_that_ends_late_leaves_the_next_one_on_the_list() {
        let loads = SharedLoads::new();
        let _next = join(&loads, &key(b"a"), std::future::pending::<u8>);
        drop(Landing { list: Arc::clone(&loads.list), key: key(b"a"), number: 1, held: None });
        assert_eq!(loads.len(), 1);
    }

    #[tokio::test]
    async fn a_panic_takes_the_load_off_the_list() {
        let loads = SharedLoads::<u8>::new();
        let doomed = join(&loads, &key(b"a"), || async { panic!("keyring bug") });
        assert!(tokio::spawn(doomed).await.is_err());
        assert_eq!(loads.len(), 0);
        assert_eq!(join(&loads, &key(b"a"), || async { 7 }).await, 7);
    }

    #[tokio::test]
    async fn keys_do_not_wait_for_one_another() {
        let loads = SharedLoads::new();
        let _stuck = join(&loads, &key(b"a"), std::future::pending::<u8>);
        assert_eq!(join(&loads, &key(b"b"), || async { 7 }).await, 7);
    }

    /// A load that runs on other threads is found by later callers when all previous waiters are
    /// gone.
    #[tokio::test]
    async fn a_held_load_continues_without_waiters() {
        let loads = SharedLoads::new();
        let (send, receive) = oneshot::channel::<u8>();
        let mut landing = None;
        let load = |it| -> BoxFuture<'static, u8> {
            landing = Some(it);
            Box::pin(async { receive.await.unwrap() })
        };
        let (first, started) =
            loads.join_or_start(&key(b"a"), || None::<()>, load).continue_value().unwrap();
        assert!(started);
        let mut landing = landing.unwrap();
        landing.hold();
        drop(first);
        let second = join(&loads, &key(b"a"), || async { unreachable!("joined instead") });
        send.send(7).unwrap();
        drop(landing);
        assert_eq!((second.await, loads.len()), (7, 0));
    }
}
