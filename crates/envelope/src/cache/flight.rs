//! Single flight: callers that miss the same entry at the same time share one load and its outcome.
//!
//! If the cache has its own threads, loads run there, and all callers wait on a channel. A load
//! that has not started is dropped with its last waiter; a load that has started runs to its end.
//!
//! Without threads, the waiters drive the load. If one of them is cancelled, another one continues;
//! when the last one is gone, the load is dropped.
//!
//! All waiters share a failure. A load must not panic, because the panic would reach its waiters.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{Shared, WeakShared},
};

use super::{
    store::OwnedKey,
    sync::{Mutex, MutexGuard},
};

/// The future that callers of a load wait for.
pub(crate) type Load<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A load that any number of callers wait for.
pub(crate) type Flight<T> = Shared<Load<T>>;

/// What a caller who missed does next.
pub(crate) enum Boarding<T, H> {
    /// The value came in the meantime.
    Landed(H),
    /// Wait for the load that another caller started.
    Join(Flight<T>),
    /// Wait for the load that this caller started.
    Begin(Flight<T>),
}

/// Callers share a load only if they have the same key and supplied the same context. Otherwise a
/// sender of messages could make other callers wait in a queue that the sender has filled.
pub(crate) type FlightKey = (OwnedKey, u64);

/// The loads under way, by key.
pub(crate) struct Flights<T: Clone> {
    under_way: Arc<Mutex<UnderWay<T>>>,
}

struct UnderWay<T: Clone> {
    flights: HashMap<FlightKey, Listed<T>>,
    started: u64,
}

struct Listed<T: Clone> {
    number: u64,
    flight: WeakShared<Load<T>>,
    /// Keeps the load on the list when all its waiters are gone.
    held: Option<Flight<T>>,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// No loads under way.
    pub(crate) fn new() -> Self {
        Self { under_way: Arc::new(Mutex::new(UnderWay { flights: HashMap::new(), started: 0 })) }
    }

    /// Joins the load in progress for `key`, or starts a new one. `load` creates it from a
    /// [`Landing`], which must be dropped when the load ends. `load` itself must not drop it,
    /// because it is called under the lock.
    ///
    /// `find` looks for the value once more, while no load can start or end. A load stores its
    /// value where `find` sees it before it ends, so a value is never loaded twice without need.
    pub(crate) fn board<H>(
        &self,
        key: &FlightKey,
        find: impl FnOnce() -> Option<H>,
        load: impl FnOnce(Landing<T>) -> Load<T>,
    ) -> Boarding<T, H> {
        let mut under_way = lock(&self.under_way);
        if let Some(found) = find() {
            return Boarding::Landed(found);
        }
        if let Some(flight) = under_way.flights.get(key).and_then(|it| it.flight.upgrade()) {
            return Boarding::Join(flight);
        }
        under_way.started += 1;
        let number = under_way.started;
        let landing = Landing { under_way: Arc::clone(&self.under_way), key: key.clone(), number };
        let flight = load(landing).shared();
        let weak = flight.downgrade().expect("a flight that was never polled has not ended");
        under_way.flights.insert(key.clone(), Listed { number, flight: weak, held: None });
        Boarding::Begin(flight)
    }

    /// From now on nobody joins the loads that are under way.
    pub(crate) fn detach(&self) {
        let flights = std::mem::take(&mut lock(&self.under_way).flights);
        drop(flights);
    }

    /// How many loads are under way.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.under_way).flights.len()
    }
}

impl<T: Clone> fmt::Debug for Flights<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

/// Takes a flight off the list when it ends, by result, panic or cancellation.
pub(crate) struct Landing<T: Clone> {
    under_way: Arc<Mutex<UnderWay<T>>>,
    key: FlightKey,
    number: u64,
}

impl<T: Clone> Landing<T> {
    /// Keeps the load on the list when all its waiters are gone. Only for loads that do not depend
    /// on their waiters.
    pub(crate) fn hold(&self) {
        let mut under_way = lock(&self.under_way);
        if let Some(listed) =
            under_way.flights.get_mut(&self.key).filter(|listed| listed.number == self.number)
        {
            listed.held = listed.flight.upgrade();
        }
    }
}

impl<T: Clone> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);
        let is_own = under_way.flights.get(&self.key).is_some_and(|it| it.number == self.number);
        let landed = if is_own { under_way.flights.remove(&self.key) } else { None };
        drop(under_way);
        drop(landed);
    }
}

/// The list is whole between any two statements, so a panic elsewhere does not spoil it.
fn lock<T: Clone>(under_way: &Mutex<UnderWay<T>>) -> MutexGuard<'_, UnderWay<T>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::poll_immediate;
    use tokio::sync::{Semaphore, oneshot};

    use super::{super::store::Key, *};

    fn key(context: &[u8]) -> FlightKey {
        let key = Key {
            partition: "p",
            suite_id: 1,
            encryption_context: context,
            required_context: b"",
            encrypted_data_keys: b"",
        };
        (key.to_owned(), 0)
    }

    /// Waits for the load in progress, or for this new one, which its waiters drive.
    fn wait<T, L>(flights: &Flights<T>, key: &FlightKey, load: impl FnOnce() -> L) -> Flight<T>
    where
        T: Clone + Send + Sync + 'static,
        L: Future<Output = T> + Send + 'static,
    {
        let load = |landing| -> Load<T> {
            let load = load();
            Box::pin(async move {
                let _landing = landing;
                load.await
            })
        };
        match flights.board(key, || None::<()>, load) {
            Boarding::Join(flight) | Boarding::Begin(flight) => flight,
            Boarding::Landed(()) => panic!("nothing can have landed"),
        }
    }

    #[tokio::test]
    async fn one_load_serves_all_who_wait() {
        let flights = Flights::new();
        let loads = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let (loads, gate) = (Arc::clone(&loads), Arc::clone(&gate));
                wait(&flights, &key(b"a"), || async move {
                    loads.fetch_add(1, Ordering::Relaxed);
                    gate.acquire().await.unwrap().forget();
                    7
                })
            })
            .collect();
        gate.add_permits(1);
        for flight in waiting {
            assert_eq!(flight.await, 7);
        }
        assert_eq!((loads.load(Ordering::Relaxed), flights.len()), (1, 0));
    }

    #[tokio::test]
    async fn a_cancelled_leader_hands_over() {
        let flights = Flights::new();
        let (send, receive) = oneshot::channel::<u8>();
        let mut leader = wait(&flights, &key(b"a"), || async { receive.await.unwrap() });
        let follower = wait(&flights, &key(b"a"), || async { unreachable!("joined instead") });
        assert!(poll_immediate(&mut leader).await.is_none());
        drop(leader);
        send.send(7).unwrap();
        assert_eq!(follower.await, 7);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn when_all_are_cancelled_nothing_is_left() {
        let flights = Flights::new();
        let mut only = wait(&flights, &key(b"a"), std::future::pending::<u8>);
        assert!(poll_immediate(&mut only).await.is_none());
        drop(only);
        assert_eq!(flights.len(), 0);
        assert_eq!(wait(&flights, &key(b"a"), || async { 7 }).await, 7);
    }

    #[tokio::test]
    async fn a_late_landing_does_not_end_the_next_flight() {
        let flights = Flights::new();
        let _next = wait(&flights, &key(b"a"), std::future::pending::<u8>);
        drop(Landing { under_way: Arc::clone(&flights.under_way), key: key(b"a"), number: 0 });
        assert_eq!(flights.len(), 1);
    }

    #[tokio::test]
    async fn a_panic_takes_the_flight_off_the_list() {
        let flights = Flights::<u8>::new();
        let doomed = wait(&flights, &key(b"a"), || async { panic!("keyring bug") });
        assert!(tokio::spawn(doomed).await.is_err());
        assert_eq!(flights.len(), 0);
        assert_eq!(wait(&flights, &key(b"a"), || async { 7 }).await, 7);
    }

    #[tokio::test]
    async fn keys_do_not_wait_for_one_another() {
        let flights = Flights::new();
        let _stuck = wait(&flights, &key(b"a"), std::future::pending::<u8>);
        assert_eq!(wait(&flights, &key(b"b"), || async { 7 }).await, 7);
    }

    /// A load that runs on other threads is found by later callers when all previous waiters are
    /// gone.
    #[tokio::test]
    async fn a_held_load_continues_without_waiters() {
        let flights = Flights::new();
        let (send, receive) = oneshot::channel::<u8>();
        let mut landing = None;
        let load = |it| -> Load<u8> {
            landing = Some(it);
            Box::pin(async { receive.await.unwrap() })
        };
        let Boarding::Begin(first) = flights.board(&key(b"a"), || None::<()>, load) else {
            panic!("this is the first load")
        };
        let landing = landing.unwrap();
        landing.hold();
        drop(first);
        let second = wait(&flights, &key(b"a"), || async { unreachable!("joined instead") });
        send.send(7).unwrap();
        drop(landing);
        assert_eq!((second.await, flights.len()), (7, 0));
    }
}
