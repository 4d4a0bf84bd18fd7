//! Changes whose outcome is unknown.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use branch_keys::{
    Error, Item, ItemType, KeyStore, MemoryStorage, Storage, StorageError, StorageErrorKind,
    StorageFuture,
};

use super::support::Kms;
use super::{ID, new_key};

/// What happens to the next change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// It is committed, and the response is lost.
    Committed,
    /// It is lost, or will be committed later.
    Lost,
    /// As `Committed`, and then another process rotates.
    Overtaken,
    /// It is lost, and then another process rotates.
    Beaten,
    /// It is committed, sent again, and refused the second time.
    Repeated,
}

/// A storage that loses its responses to changes.
#[derive(Debug)]
struct Lossy {
    memory: Arc<MemoryStorage>,
    fate: Mutex<Fate>,
    /// How many reads fail after the next change.
    failing_reads: AtomicU8,
    other: Mutex<Option<KeyStore>>,
    is_changed: Mutex<bool>,
}

impl Lossy {
    async fn lose<'a>(
        &self,
        change: impl Fn() -> StorageFuture<'a, ()>,
    ) -> Result<(), StorageError> {
        let fate = *self.fate.lock().unwrap();
        if fate == Fate::Repeated {
            change().await?;
            return change().await;
        }
        if matches!(fate, Fate::Committed | Fate::Overtaken) {
            change().await?;
        }
        let other = self.other.lock().unwrap().clone();
        if matches!(fate, Fate::Overtaken | Fate::Beaten) {
            other.expect("another process").rotate(ID).await.unwrap();
        }
        *self.is_changed.lock().unwrap() = true;
        Err(StorageError::new(StorageErrorKind::UnknownOutcome))
    }
}

impl Storage for Lossy {
    fn identity(&self) -> String {
        self.memory.identity()
    }

    fn read<'a>(
        &'a self,
        id: &'a str,
        item_type: ItemType,
        consistent: bool,
    ) -> StorageFuture<'a, Option<Item>> {
        let fails = *self.is_changed.lock().unwrap()
            && self
                .failing_reads
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| it.checked_sub(1))
                .is_ok();
        if fails {
            return Box::pin(async { Err(StorageError::new(StorageErrorKind::Unavailable)) });
        }
        self.memory.read(id, item_type, consistent)
    }

    fn items<'a>(&'a self, id: &'a str) -> StorageFuture<'a, Vec<Item>> {
        self.memory.items(id)
    }

    fn ids<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StorageFuture<'a, Vec<String>> {
        self.memory.ids(after, limit)
    }

    fn create<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        beacon: &'a Item,
    ) -> StorageFuture<'a, ()> {
        Box::pin(self.lose(|| self.memory.create(active, version, beacon)))
    }

    fn rotate<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        old_ciphertext: &'a [u8],
    ) -> StorageFuture<'a, ()> {
        Box::pin(self.lose(|| self.memory.rotate(active, version, old_ciphertext)))
    }

    fn shred<'a>(&'a self, tombstone: &'a Item) -> StorageFuture<'a, u64> {
        self.memory.shred(tombstone)
    }
}

struct Scene {
    kms: Kms,
    memory: Arc<MemoryStorage>,
    /// Another process, whose storage responds.
    other: KeyStore,
    key: kms_pool::KmsKeyArn,
}

impl Scene {
    async fn new() -> Self {
        let kms = Kms::start().await;
        let key = kms.key();
        let memory = Arc::new(MemoryStorage::new());
        let other = kms.store(memory.clone(), &key);
        Self { kms, memory, other, key }
    }

    fn lossy(&self, fate: Fate, failing_reads: u8) -> KeyStore {
        let storage = Lossy {
            memory: self.memory.clone(),
            fate: Mutex::new(fate),
            failing_reads: AtomicU8::new(failing_reads),
            other: Mutex::new(Some(self.other.clone())),
            is_changed: Mutex::new(false),
        };
        self.kms.store(storage, &self.key)
    }
}

#[tokio::test]
async fn a_creation_is_published_only_if_it_is_stored() {
    let scene = Scene::new().await;
    for (fate, failing_reads) in [(Fate::Lost, 0), (Fate::Lost, 1)] {
        let error = scene.lossy(fate, failing_reads).create(new_key(ID)).await.unwrap_err();
        assert!(matches!(error, Error::UnknownOutcome { .. }), "{error:?}");
        assert!(scene.memory.items(ID).await.unwrap().is_empty());
    }
    for (id, fate, failing_reads, is_known) in [
        ("a", Fate::Committed, 0, true),
        ("b", Fate::Committed, 1, false),
        ("c", Fate::Repeated, 0, true),
    ] {
        let created = scene.lossy(fate, failing_reads).create(new_key(id)).await;
        match created {
            Ok(created) => assert_eq!(scene.other.info(id).await.unwrap(), created),
            Err(Error::UnknownOutcome { .. }) => assert!(!is_known, "{id}"),
            Err(error) => panic!("{error:?}"),
        }
        // It is there: the next call gets it.
        let ensured = scene.lossy(Fate::Lost, 0).ensure(new_key(id)).await.unwrap();
        assert_eq!(ensured, scene.other.info(id).await.unwrap());
    }
    // Another process created it before.
    let error = scene.lossy(Fate::Lost, 0).create(new_key("a")).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
}

#[tokio::test]
async fn a_rotation_wins_only_if_it_is_stored() {
    let scene = Scene::new().await;
    let created = scene.other.create(new_key(ID)).await.unwrap();
    for failing_reads in [0, 1] {
        let error = scene.lossy(Fate::Lost, failing_reads).rotate(ID).await.unwrap_err();
        assert!(matches!(error, Error::UnknownOutcome { .. }), "{error:?}");
        assert_eq!(scene.other.info(ID).await.unwrap(), created);
    }
    for fate in [Fate::Committed, Fate::Repeated] {
        let rotated = scene.lossy(fate, 0).rotate(ID).await.unwrap();
        assert_eq!(scene.other.info(ID).await.unwrap(), rotated);
    }
    let error = scene.lossy(Fate::Committed, 1).rotate(ID).await.unwrap_err();
    assert!(matches!(error, Error::UnknownOutcome { .. }), "{error:?}");

    // It was stored, and then another rotation took place: its version exists.
    let overtaken = scene.lossy(Fate::Overtaken, 0).rotate(ID).await.unwrap();
    let version = ItemType::Version(overtaken.version);
    assert!(scene.memory.read(ID, version, true).await.unwrap().is_some());
    assert_ne!(scene.other.info(ID).await.unwrap().version, overtaken.version);

    // It was not, and can no longer be.
    let items = scene.memory.items(ID).await.unwrap().len();
    let error = scene.lossy(Fate::Beaten, 0).rotate(ID).await.unwrap_err();
    let Error::VersionRace { winner } = error else { panic!("{error:?}") };
    assert_eq!(*winner, scene.other.info(ID).await.unwrap());
    assert_eq!(scene.memory.items(ID).await.unwrap().len(), items + 1);
    assert!(scene.other.verify(ID).await.unwrap().is_ok());
}
