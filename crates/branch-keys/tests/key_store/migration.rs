//! Moves between the tiers, which may be interrupted anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use branch_keys::{
    Error, Item, ItemType, KeyStore, Storage, StorageError, StorageErrorKind, StorageFuture, Tier,
};
use envelope::branch_key::BranchKeys;
use envelope::keyring::HierarchicalKeyring;
use envelope::materials::DefaultMaterialsManager;
use envelope::{EncryptionContext, Envelope};

use super::root::{ROOT, Scene};
use super::{ID, new_key};

/// A storage whose process ends at a replacement: before it, or after it was committed.
#[derive(Debug)]
struct Mortal {
    storage: Arc<branch_keys::MemoryStorage>,
    left: AtomicUsize,
    commits: bool,
}

impl Storage for Mortal {
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
        self.storage.rotate(active, version, old_ciphertext)
    }

    fn replace<'a>(&'a self, item: &'a Item, old_ciphertext: &'a [u8]) -> StorageFuture<'a, ()> {
        let left =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| it.checked_sub(1));
        Box::pin(async move {
            if left.is_ok() {
                return self.storage.replace(item, old_ciphertext).await;
            }
            if self.commits {
                self.storage.replace(item, old_ciphertext).await?;
            }
            Err(StorageError::new(StorageErrorKind::UnknownOutcome))
        })
    }

    fn shred<'a>(&'a self, tombstone: &'a Item) -> StorageFuture<'a, u64> {
        self.storage.shred(tombstone)
    }
}

fn envelope(store: &KeyStore) -> Envelope {
    let keyring = HierarchicalKeyring::new(BranchKeys::new(store.clone()), ID).unwrap();
    Envelope::builder(DefaultMaterialsManager::new(keyring)).build().unwrap()
}

/// One message under each of two versions, of a branch key on the tier of AWS KMS, and its beacon
/// key.
async fn tenant(scene: &Scene) -> (Vec<Vec<u8>>, Vec<u8>) {
    let store = scene.kms_tier();
    store.create(new_key(ID)).await.unwrap();
    let mut messages = vec![];
    for version in 0..2 {
        if version == 1 {
            store.rotate(ID).await.unwrap();
        }
        let context = EncryptionContext::empty();
        messages.push(envelope(&store).encrypt(b"secret", &context).await.unwrap());
    }
    (messages, store.beacon(ID).await.unwrap().expose_secret().to_vec())
}

async fn assert_readable(store: &KeyStore, messages: &[Vec<u8>], beacon: &[u8]) {
    let context = EncryptionContext::empty();
    for message in messages {
        let decrypted = envelope(store).decrypt(message, &context).await.unwrap();
        assert_eq!(decrypted.plaintext(), b"secret");
    }
    assert_eq!(store.beacon(ID).await.unwrap().expose_secret(), beacon);
    let verification = store.verify(ID).await.unwrap();
    assert!(verification.is_ok(), "{verification:?}");
}

/// The tiers of the items of `ID`: under AWS KMS, and under the root.
async fn tiers(scene: &Scene) -> (u64, u64) {
    let items = scene.storage.items(ID).await.unwrap();
    let under_root = items.iter().filter(|it| it.kms_key_arn.starts_with("envelope:root:"));
    let under_root = under_root.count() as u64;
    (items.len() as u64 - under_root, under_root)
}

#[tokio::test]
async fn a_migration_that_is_killed_anywhere_resumes() {
    let scene = Scene::new().await;
    let (messages, beacon) = tenant(&scene).await;
    for tier in [Tier::Root, Tier::Kms, Tier::Root, Tier::Kms] {
        for commits in [false, true] {
            // The items are two versions, the active one and the beacon key.
            for kill_at in 0..4 {
                let storage = Mortal {
                    storage: scene.storage.clone(),
                    left: AtomicUsize::new(kill_at),
                    commits,
                };
                let store = scene.kms.store(storage, &scene.key).under_root(ROOT, |it| it);
                let error = store.unwrap().migration_to(tier).unwrap().migrate_all().await;
                let error = error.unwrap_err();
                assert!(matches!(error, Error::UnknownOutcome { .. }), "{error:?}");
                let moved = kill_at as u64 + u64::from(commits);
                let (kms, root) = tiers(&scene).await;
                let (old, new) = if tier == Tier::Root { (kms, root) } else { (root, kms) };
                assert_eq!((old, new), (4 - moved, moved));

                // Halfway, only a migrating key store reads everything.
                let migration = scene.root_tier().migration_to(tier).unwrap();
                assert_readable(migration.key_store(), &messages, &beacon).await;
                for (store, refused) in [(scene.kms_tier(), root), (scene.root_tier(), kms)] {
                    let problems = store.verify(ID).await.unwrap().problems;
                    let is_other = |it: &&branch_keys::ItemProblem| {
                        matches!(it.error, Error::OtherTier { .. })
                    };
                    assert_eq!(problems.iter().filter(is_other).count() as u64, refused);
                }
                assert_eq!(migration.migrate_all().await.unwrap(), old);
                assert_eq!(migration.migrate_all().await.unwrap(), 0);
                let store = match tier {
                    Tier::Root => scene.root_tier(),
                    Tier::Kms => scene.kms_tier(),
                };
                assert_readable(&store, &messages, &beacon).await;

                // Back, for the next round.
                let back = if tier == Tier::Root { Tier::Kms } else { Tier::Root };
                let back = scene.root_tier().migration_to(back).unwrap();
                assert_eq!(back.migrate_all().await.unwrap(), 4);
            }
        }
        scene.root_tier().migration_to(tier).unwrap().migrate_all().await.unwrap();
    }
}

#[tokio::test]
async fn what_changes_during_a_migration_has_the_new_tier() {
    let scene = Scene::new().await;
    let (messages, beacon) = tenant(&scene).await;
    let migration = scene.root_tier().migration_to(Tier::Root).unwrap();
    let store = migration.key_store();
    store.rotate(ID).await.unwrap();
    assert_eq!(tiers(&scene).await, (3, 2));
    store.create(new_key("tenant-b")).await.unwrap();
    assert_eq!(migration.migrate_all().await.unwrap(), 3);
    assert_readable(&scene.root_tier(), &messages, &beacon).await;
    scene.root_tier().active("tenant-b").await.unwrap();

    let shredded = store.shred(ID).await.unwrap();
    assert_eq!(shredded, 5);
    let error = migration.migrate(ID).await.unwrap_err();
    assert!(matches!(error, Error::Shredded { .. }), "{error:?}");
    let error = migration.migrate("absent").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert_eq!(migration.migrate_all().await.unwrap(), 0);
}

#[tokio::test]
async fn a_changed_item_is_not_moved() {
    let scene = Scene::new().await;
    tenant(&scene).await;
    let mut active = scene.storage.read(ID, ItemType::Active, true).await.unwrap().unwrap();
    active.attributes.insert("aws-crypto-ec:tenant".to_owned(), "43".to_owned());
    scene.storage.put(active.clone());
    let migration = scene.root_tier().migration_to(Tier::Root).unwrap();
    let error = migration.migrate_all().await.unwrap_err();
    assert!(super::is_inauthentic(&error), "{error:?}");
    let stored = scene.storage.read(ID, ItemType::Active, true).await.unwrap().unwrap();
    assert_eq!(stored, active);
}

#[tokio::test]
async fn two_migrations_at_once_move_each_item_once() {
    let scene = Scene::new().await;
    let (messages, beacon) = tenant(&scene).await;
    let migrate = async || {
        let migration = scene.root_tier().migration_to(Tier::Root).unwrap();
        migration.migrate_all().await.unwrap()
    };
    let (one, other) = tokio::join!(migrate(), migrate());
    assert_eq!(one + other, 4);
    assert_readable(&scene.root_tier(), &messages, &beacon).await;
}

#[tokio::test]
async fn items_move_to_the_new_version_of_the_root() {
    let scene = Scene::new().await;
    let (messages, beacon) = tenant(&scene).await;
    let migration = scene.root_tier().migration_to(Tier::Root).unwrap();
    migration.migrate_all().await.unwrap();
    scene.kms_tier().rotate(ROOT).await.unwrap();
    migration.key_store().root_keys().unwrap().invalidate(ROOT);
    assert_eq!(migration.migrate_all().await.unwrap(), 4);
    assert_eq!(migration.migrate_all().await.unwrap(), 0);
    let before = scene.decrypts();
    let store = scene.root_tier();
    assert!(store.verify(ID).await.unwrap().is_ok());
    assert_eq!(scene.decrypts(), before + 1);
    assert_readable(&store, &messages, &beacon).await;
}
