//! A key store over the storage: what several processes see of each other.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use futures_util::future::join_all;

use super::items::fresh;
use crate::error::Error;
use crate::item::{Item, ItemType};
use crate::storage::{Storage, StorageFuture};
use crate::store::{CreateBranchKey, KeyStore};

/// How many key stores race.
const RACERS: usize = 4;

/// Tests key stores over a storage. `open` returns a new one, as another process would have it, and
/// which can create. `rounds` is how many rotations race.
///
/// # Panics
///
/// If a key store does not do what [`KeyStore`] describes.
pub async fn key_store(
    storage: Arc<dyn Storage>,
    open: impl Fn(Arc<dyn Storage>) -> KeyStore,
    rounds: usize,
) {
    let id = fresh("key store");
    let stores: Vec<_> = (0..RACERS).map(|_| open(storage.clone())).collect();
    let new = || CreateBranchKey::new(&id, [("tenant", "42")]);
    let missing = stores[0].active(&id).await.expect_err("no branch key");
    assert!(matches!(missing, Error::NotFound { .. }), "{missing:?}");

    // All of them create it, and get the same one.
    let ensured = join_all(stores.iter().map(|store| store.ensure(new()))).await;
    let ensured: Vec<_> = ensured.into_iter().map(|info| info.expect("ensure")).collect();
    assert!(ensured.iter().all(|info| *info == ensured[0]), "{ensured:?}");
    let error = stores[1].create(new()).await.expect_err("created twice");
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");

    let mut versions = BTreeSet::from([ensured[0].version]);
    for _ in 0..rounds {
        versions.insert(race(&storage, &open, &id).await);
        // What a rotation has changed is seen at once by all.
        for store in &stores {
            let active = store.active(&id).await.expect("active");
            assert!(versions.contains(&active.version()));
        }
    }
    assert_eq!(versions.len(), rounds + 1);
    for version in &versions {
        let key = stores[0].version(&id, *version).await.expect("an earlier version");
        assert_eq!(key.version(), *version);
    }
    let items = storage.items(&id).await.expect("items");
    // The versions, the active item and the beacon key, and nothing of those that lost.
    assert_eq!(items.len(), versions.len() + 2);
    let verification = stores[0].verify(&id).await.expect("verification");
    assert!(verification.is_ok(), "{verification:?}");

    let deleted = stores[0].shred(&id).await.expect("shred");
    assert_eq!(deleted, items.len() as u64);
    for store in &stores {
        for error in [
            store.active(&id).await.expect_err("active"),
            store.version(&id, ensured[0].version).await.expect_err("version"),
            store.ensure(new()).await.expect_err("ensure"),
            store.create(new()).await.expect_err("create"),
            store.rotate(&id).await.expect_err("rotate"),
            store.verify(&id).await.expect_err("verify"),
        ] {
            assert!(matches!(error, Error::Shredded { .. }), "{error:?}");
        }
    }
}

/// Rotates in all key stores at once: each has read the active item before one of them writes.
/// Returns the version of the only winner.
async fn race(
    storage: &Arc<dyn Storage>,
    open: impl Fn(Arc<dyn Storage>) -> KeyStore,
    id: &str,
) -> [u8; 16] {
    let meeting = Arc::new(Meeting { storage: storage.clone(), arrived: Mutex::default() });
    let stores: Vec<_> = (0..RACERS).map(|_| open(meeting.clone())).collect();
    let results = join_all(stores.iter().map(|store| async {
        let rotated = store.rotate(id).await;
        // If it failed before it met the others, they must not wait for it.
        meeting.arrive();
        rotated
    }))
    .await;
    let winners: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    for result in &results {
        match result {
            Ok(_) => {}
            Err(Error::VersionRace { winner }) => assert_eq!(**winner, *winners[0]),
            Err(error) => panic!("{error:?}"),
        }
    }
    let info = stores[0].info(id).await.expect("info");
    assert_eq!(info, *winners[0]);
    info.version
}

/// A storage in which all rotations wait until all key stores have called it.
#[derive(Debug)]
struct Meeting {
    storage: Arc<dyn Storage>,
    /// How many have arrived, and whom to wake when all have.
    arrived: Mutex<(usize, Vec<Waker>)>,
}

impl Meeting {
    fn arrive(&self) {
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.0 += 1;
        if arrived.0 >= RACERS {
            arrived.1.drain(..).for_each(Waker::wake);
        }
    }

    async fn wait(&self) {
        self.arrive();
        poll_fn(|context| {
            let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
            if arrived.0 >= RACERS {
                return Poll::Ready(());
            }
            arrived.1.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Storage for Meeting {
    fn identity(&self) -> String {
        self.storage.identity()
    }

    fn read<'a>(
        &'a self,
        id: &'a str,
        item_type: ItemType,
        consistent: bool,
    ) -> StorageFuture<'a, Option<Item>> {
        self.storage.read(id, item_type, consistent)
    }

    fn items<'a>(&'a self, id: &'a str) -> StorageFuture<'a, Vec<Item>> {
        self.storage.items(id)
    }

    fn ids<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StorageFuture<'a, Vec<String>> {
        self.storage.ids(after, limit)
    }

    fn create<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        beacon: &'a Item,
    ) -> StorageFuture<'a, ()> {
        self.storage.create(active, version, beacon)
    }

    fn rotate<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        old_ciphertext: &'a [u8],
    ) -> StorageFuture<'a, ()> {
        Box::pin(async move {
            self.wait().await;
            self.storage.rotate(active, version, old_ciphertext).await
        })
    }

    fn replace<'a>(&'a self, item: &'a Item, old_ciphertext: &'a [u8]) -> StorageFuture<'a, ()> {
        self.storage.replace(item, old_ciphertext)
    }

    fn shred<'a>(&'a self, tombstone: &'a Item) -> StorageFuture<'a, u64> {
        self.storage.shred(tombstone)
    }
}
