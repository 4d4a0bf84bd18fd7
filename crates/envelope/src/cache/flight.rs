//! Single flight: those who miss the same entry together wait for one load and share how it ends.
//!
//! A flight is driven by whoever waits for it, so a cancelled caller hands over to the next by
//! construction; when the last one is gone the load is dropped, unless something [`hold`]s it. A
//! failure is shared by all who waited for it. A load must not panic, or its waiters would.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError},
};

use futures_channel::oneshot;
use futures_util::{
    FutureExt,
    future::{Shared, WeakShared},
};

use super::{
    store::OwnedKey,
    sync::{Mutex, MutexGuard},
};

type Load<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A load that any number of callers wait for.
pub(crate) type Flight<T> = Shared<Load<T>>;

/// The same, for one who does not wait.
pub(crate) type WeakFlight<T> = WeakShared<Load<T>>;

/// What a caller who missed does next.
pub(crate) enum Boarding<T, H> {
    /// The value came in the meantime.
    Landed(H),
    /// Wait for the load; `started` tells whether this caller began it.
    Wait { flight: Flight<T>, started: bool },
}

/// Once it has `begun`, keeps a load going when all who waited for it have gone: what comes of it
/// is worth knowing. One that has not begun goes with them.
pub(crate) async fn hold<T: Clone>(flight: Option<WeakFlight<T>>, begun: oneshot::Receiver<()>) {
    if begun.await.is_ok()
        && let Some(flight) = flight.and_then(|flight| flight.upgrade())
    {
        let _ = flight.await;
    }
}

/// The loads under way, by key.
pub(crate) struct Flights<T: Clone> {
    under_way: Arc<Mutex<UnderWay<T>>>,
}

struct UnderWay<T: Clone> {
    flights: HashMap<OwnedKey, (u64, WeakFlight<T>)>,
    started: u64,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// No loads under way.
    pub(crate) fn new() -> Self {
        Self { under_way: Arc::new(Mutex::new(UnderWay { flights: HashMap::new(), started: 0 })) }
    }

    /// Joins the load under way for `key`, or starts `load`.
    ///
    /// `find` looks once more for the value, while no load can begin or end: a load puts its value
    /// where `find` sees it before it ends, so no two loads run where one would do.
    pub(crate) fn board<H, L>(
        &self,
        key: &OwnedKey,
        find: impl FnOnce() -> Option<H>,
        load: impl FnOnce() -> L,
    ) -> Boarding<T, H>
    where
        L: Future<Output = T> + Send + 'static,
    {
        let mut under_way = lock(&self.under_way);
        if let Some(found) = find() {
            return Boarding::Landed(found);
        }
        if let Some(flight) = under_way.flights.get(key).and_then(|(_, flight)| flight.upgrade()) {
            return Boarding::Wait { flight, started: false };
        }
        // Called before there is a `Landing`, whose drop would lock again.
        let load = load();
        under_way.started += 1;
        let number = under_way.started;
        let landing = Landing { under_way: Arc::clone(&self.under_way), key: key.clone(), number };
        let flight = async move {
            let _landing = landing;
            load.await
        };
        let flight: Flight<T> = (Box::pin(flight) as Load<T>).shared();
        let weak = flight.downgrade().expect("a flight that was never polled has not ended");
        under_way.flights.insert(key.clone(), (number, weak));
        Boarding::Wait { flight, started: true }
    }

    /// From now on nobody joins the loads that are under way.
    pub(crate) fn detach(&self) {
        lock(&self.under_way).flights.clear();
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
struct Landing<T: Clone> {
    under_way: Arc<Mutex<UnderWay<T>>>,
    key: OwnedKey,
    number: u64,
}

impl<T: Clone> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);
        if under_way.flights.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            under_way.flights.remove(&self.key);
        }
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

    fn key(context: &[u8]) -> OwnedKey {
        Key {
            partition: "p",
            suite_id: 1,
            encryption_context: context,
            required_context: b"",
            encrypted_data_keys: b"",
        }
        .to_owned()
    }

    fn wait<T: Clone>(boarding: Boarding<T, ()>) -> Flight<T> {
        match boarding {
            Boarding::Wait { flight, .. } => flight,
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
                wait(flights.board(
                    &key(b"a"),
                    || None,
                    || async move {
                        loads.fetch_add(1, Ordering::Relaxed);
                        gate.acquire().await.unwrap().forget();
                        7
                    },
                ))
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
        let mut leader =
            wait(flights.board(&key(b"a"), || None, || async { receive.await.unwrap() }));
        let follower =
            wait(flights.board(&key(b"a"), || None, || async { unreachable!("joined instead") }));
        assert!(poll_immediate(&mut leader).await.is_none());
        drop(leader);
        send.send(7).unwrap();
        assert_eq!(follower.await, 7);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn when_all_are_cancelled_nothing_is_left() {
        let flights = Flights::new();
        let mut only = wait(flights.board(&key(b"a"), || None, std::future::pending::<u8>));
        assert!(poll_immediate(&mut only).await.is_none());
        drop(only);
        assert_eq!(flights.len(), 0);
        assert_eq!(wait(flights.board(&key(b"a"), || None, || async { 7 })).await, 7);
    }

    #[tokio::test]
    async fn a_late_landing_does_not_end_the_next_flight() {
        let flights = Flights::new();
        let _next = wait(flights.board(&key(b"a"), || None, std::future::pending::<u8>));
        drop(Landing { under_way: Arc::clone(&flights.under_way), key: key(b"a"), number: 0 });
        assert_eq!(flights.len(), 1);
    }

    #[tokio::test]
    async fn a_panic_takes_the_flight_off_the_list() {
        let flights = Flights::<u8>::new();
        let doomed = wait(flights.board(&key(b"a"), || None, || async { panic!("keyring bug") }));
        assert!(tokio::spawn(doomed).await.is_err());
        assert_eq!(flights.len(), 0);
        assert_eq!(wait(flights.board(&key(b"a"), || None, || async { 7 })).await, 7);
    }

    #[tokio::test]
    async fn keys_do_not_wait_for_one_another() {
        let flights = Flights::new();
        let _stuck = wait(flights.board(&key(b"a"), || None, std::future::pending::<u8>));
        assert_eq!(wait(flights.board(&key(b"b"), || None, || async { 7 })).await, 7);
    }
}
