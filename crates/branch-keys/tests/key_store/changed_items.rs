//! Changes by somebody who can write to the table: each is refused, with the right error.

use std::sync::Arc;
use std::time::Duration;

use branch_keys::StorageFuture;
use branch_keys::{Error, Item, ItemType, KeyStore, KmsKeys, MemoryStorage, Storage};
use kms_pool::KmsKeyArn;

use super::support::{Kms, VIRGINIA};
use super::{ID, changed, is_inauthentic, new_key};

struct Scene {
    kms: Kms,
    key: KmsKeyArn,
    storage: Arc<MemoryStorage>,
    active: Item,
    version: Item,
    beacon: Item,
}

impl Scene {
    async fn new() -> Self {
        let kms = Kms::start().await;
        let key = kms.key();
        let storage = Arc::new(MemoryStorage::new());
        let created = kms.store(storage.clone(), &key).create(new_key(ID)).await.unwrap();
        let item = async |item_type| storage.read(ID, item_type, true).await.unwrap().unwrap();
        let active = item(ItemType::Active).await;
        let version = item(ItemType::Version(created.version)).await;
        let beacon = item(ItemType::Beacon).await;
        Self { kms, key, storage, active, version, beacon }
    }

    /// A key store that has seen nothing yet, as that of a new process.
    fn store(&self) -> KeyStore {
        self.kms.store(self.storage.clone(), &self.key)
    }

    fn version_id(&self) -> [u8; 16] {
        let ItemType::Version(version) = self.version.item_type else { panic!("no version") };
        version
    }

    /// How each of the three items is refused after `change`.
    async fn errors(&self, change: impl Fn(&mut Item)) -> Vec<Error> {
        let mut errors = vec![];
        for item in [&self.active, &self.version, &self.beacon] {
            self.storage.put(changed(item, &change));
            let store = self.store();
            let result = match item.item_type {
                ItemType::Active => store.active(ID).await.map(drop),
                ItemType::Version(version) => store.version(ID, version).await.map(drop),
                _ => store.beacon(ID).await.map(drop),
            };
            let error = result.expect_err("a changed item was accepted");
            let verification = store.verify(ID).await.unwrap();
            let problems = &verification.problems;
            assert!(
                problems.iter().any(|problem| problem.item_type == item.item_type),
                "{item:?}: {problems:?}"
            );
            if item.item_type == ItemType::Active {
                store.rotate(ID).await.expect_err("a changed item was rotated");
            }
            self.storage.put(item.clone());
            errors.push(error);
        }
        let verification = self.store().verify(ID).await.unwrap();
        assert!(verification.is_ok(), "{verification:?}");
        errors
    }

    async fn are_inauthentic(&self, change: impl Fn(&mut Item)) {
        let errors = self.errors(change).await;
        assert!(errors.iter().all(is_inauthentic), "{errors:?}");
    }
}

#[tokio::test]
async fn no_byte_of_the_ciphertext_may_change() {
    let scene = Scene::new().await;
    let length = scene.active.ciphertext.len();
    for at in (0..length).step_by(7).chain([length - 1]) {
        let errors = scene.errors(|item| item.ciphertext[at] ^= 1).await;
        // In its first bytes, AWS KMS finds which key it needs.
        let is_refused = |error: &Error| matches!(error, Error::Kms { .. });
        assert!(errors.iter().all(is_refused), "{at}: {errors:?}");
    }
    scene.are_inauthentic(|item| item.ciphertext.truncate(length - 1)).await;
    scene.are_inauthentic(|item| *item.ciphertext.last_mut().unwrap() ^= 0x80).await;
}

#[tokio::test]
async fn no_attribute_may_change() {
    let scene = Scene::new().await;
    let other = scene.kms.key().to_string();
    let before = scene.kms.requests();
    for error in scene.errors(|item| item.kms_key_arn.clone_from(&other)).await {
        assert!(matches!(error, Error::KmsKeyNotAllowed { .. }), "{error:?}");
    }
    assert!(scene.kms.requests() > before, "the other items were not verified");
    let tenant = "aws-crypto-ec:tenant";
    scene.are_inauthentic(|item| item.create_time = later(&item.create_time)).await;
    scene
        .are_inauthentic(|item| drop(item.attributes.insert(tenant.to_owned(), "43".to_owned())))
        .await;
    scene.are_inauthentic(|item| drop(item.attributes.remove(tenant))).await;
    for error in scene.errors(|item| item.hierarchy_version = 2).await {
        assert!(matches!(error, Error::InvalidItem { .. }), "{error:?}");
    }

    // The active item names another version, which exists.
    let rotated = scene.store().rotate(ID).await.unwrap();
    let active = scene.storage.read(ID, ItemType::Active, true).await.unwrap().unwrap();
    scene.storage.put(changed(&active, |item| item.version.clone_from(&scene.active.version)));
    let error = scene.store().active(ID).await.unwrap_err();
    assert!(is_inauthentic(&error), "{error:?}");
    scene.storage.put(active);
    assert_eq!(scene.store().active(ID).await.unwrap().version(), rotated.version);
}

fn later(create_time: &str) -> String {
    create_time.replacen("20", "21", 1)
}

#[tokio::test]
async fn no_attribute_may_be_added() {
    let scene = Scene::new().await;
    for name in ["aws-crypto-ec:role", "role", "aws-crypto-ec:branch-key-id", "tenant"] {
        scene
            .are_inauthentic(|item| {
                item.attributes.insert(name.to_owned(), "admin".to_owned());
            })
            .await;
    }
    for name in ["tablename", "kms-arn", "type", "enc", "branch-key-id", "hierarchy-version"] {
        let add = |item: &mut Item| {
            item.attributes.insert(name.to_owned(), "logical name".to_owned());
        };
        for error in scene.errors(add).await {
            assert!(matches!(error, Error::InvalidItem { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn items_may_not_take_each_others_places() {
    let scene = Scene::new().await;
    let ciphertexts = [&scene.active, &scene.version, &scene.beacon].map(|it| &it.ciphertext);
    for ciphertext in ciphertexts {
        for item in [&scene.active, &scene.version, &scene.beacon] {
            if *ciphertext == item.ciphertext {
                continue;
            }
            scene.storage.put(changed(item, |item| item.ciphertext.clone_from(ciphertext)));
            let verification = scene.store().verify(ID).await.unwrap();
            let problem = verification.problems.iter().find(|it| it.item_type == item.item_type);
            assert!(is_inauthentic(&problem.unwrap().error), "{verification:?}");
            scene.storage.put(item.clone());
        }
    }
    // The items of one branch key under the id of another, and in another table.
    for item in [&scene.active, &scene.version, &scene.beacon] {
        scene.storage.put(changed(item, |item| item.id = "tenant-b".to_owned()));
    }
    let store = scene.store();
    for result in [
        store.active("tenant-b").await.map(drop),
        store.version("tenant-b", scene.version_id()).await.map(drop),
        store.beacon("tenant-b").await.map(drop),
    ] {
        assert!(is_inauthentic(&result.unwrap_err()));
    }
    let keys = KmsKeys::exact(scene.key.clone());
    let clients = scene.kms.clients.clone();
    let other = KeyStore::builder(scene.storage.clone(), "other", keys, clients).build().unwrap();
    assert!(is_inauthentic(&other.active(ID).await.unwrap_err()));
}

#[tokio::test]
async fn an_unknown_key_of_another_account_is_not_called_by_discovery() {
    let scene = Scene::new().await;
    let foreign = scene.key.as_str().replace(scene.key.account(), "444455556666");
    scene.storage.put(changed(&scene.active, |item| item.kms_key_arn = foreign));
    let keys = KmsKeys::discovery([scene.key.account()], [VIRGINIA]).unwrap();
    let store = scene.kms.builder(scene.storage.clone(), keys).build().unwrap();
    let before = scene.kms.requests();
    let error = store.active(ID).await.unwrap_err();
    assert!(matches!(error, Error::KmsKeyNotAllowed { .. }), "{error:?}");
    assert_eq!(scene.kms.requests(), before);
}

/// A storage that takes capital letters for small ones, as some collations do.
#[derive(Debug)]
struct CaseBlind(Arc<MemoryStorage>);

impl Storage for CaseBlind {
    fn identity(&self) -> String {
        self.0.identity()
    }

    fn read<'a>(
        &'a self,
        id: &'a str,
        item_type: ItemType,
        consistent: bool,
    ) -> StorageFuture<'a, Option<Item>> {
        let id = id.to_lowercase();
        Box::pin(async move { self.0.read(&id, item_type, consistent).await })
    }

    fn items<'a>(&'a self, id: &'a str) -> StorageFuture<'a, Vec<Item>> {
        let id = id.to_lowercase();
        Box::pin(async move { self.0.items(&id).await })
    }

    fn ids<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StorageFuture<'a, Vec<String>> {
        self.0.ids(after, limit)
    }

    fn create<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        beacon: &'a Item,
    ) -> StorageFuture<'a, ()> {
        self.0.create(active, version, beacon)
    }

    fn rotate<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        old_ciphertext: &'a [u8],
    ) -> StorageFuture<'a, ()> {
        self.0.rotate(active, version, old_ciphertext)
    }

    fn shred<'a>(&'a self, tombstone: &'a Item) -> StorageFuture<'a, u64> {
        self.0.shred(tombstone)
    }
}

#[tokio::test]
async fn an_id_that_differs_in_case_is_another_one() {
    let scene = Scene::new().await;
    let error = scene.store().active("Tenant-A").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");

    let store = scene.kms.store(CaseBlind(scene.storage.clone()), &scene.key);
    store.active(ID).await.unwrap();
    let before = scene.kms.requests();
    for result in [
        store.active("Tenant-A").await.map(drop),
        store.version("Tenant-A", scene.version_id()).await.map(drop),
        store.beacon("Tenant-A").await.map(drop),
        store.rotate("Tenant-A").await.map(drop),
        store.ensure(new_key("Tenant-A")).await.map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::InvalidItem { .. }), "{error:?}");
    }
    assert_eq!(scene.kms.requests(), before);
    let verification = store.verify("Tenant-A").await.unwrap();
    assert_eq!((verification.authentic, verification.problems.len()), (0, 3));
}

#[tokio::test]
async fn an_older_active_item_is_refused() {
    let scene = Scene::new().await;
    let witness = scene.store();
    let rotated = witness.rotate(ID).await.unwrap();
    let reader = scene.store();
    reader.active(ID).await.unwrap();

    scene.storage.put(scene.active.clone());
    for store in [&witness, &reader] {
        for result in [store.active(ID).await.map(drop), store.rotate(ID).await.map(drop)] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::OlderThanSeen { .. }), "{error:?}");
        }
    }
    // A process that has not seen the newer one cannot know, but `verify` does.
    let fresh = scene.store();
    fresh.active(ID).await.unwrap();
    let verification = fresh.verify(ID).await.unwrap();
    let [problem] = &verification.problems[..] else { panic!("{verification:?}") };
    assert_eq!(problem.item_type, ItemType::Active);
    assert!(problem.error.to_string().contains("restored"), "{}", problem.error);

    // What only claims to be newer is not authentic, and is not remembered.
    let fake = changed(&scene.active, |item| item.create_time = later(&item.create_time));
    scene.storage.put(fake);
    assert!(is_inauthentic(&fresh.active(ID).await.unwrap_err()));
    scene.storage.put(scene.active.clone());
    fresh.active(ID).await.unwrap();
    assert_ne!(rotated.version, scene.version_id());
}

#[tokio::test]
async fn an_active_item_expires_where_an_age_is_set() {
    let scene = Scene::new().await;
    let keys = KmsKeys::exact(scene.key.clone());
    let minute = Duration::from_mins(1);
    let builder = || scene.kms.builder(scene.storage.clone(), keys.clone());
    let store = builder().max_active_age(minute).build().unwrap();
    store.active(ID).await.unwrap();

    let old = |item: &mut Item| item.create_time = "2020-01-01T00:00:00.000000Z".to_owned();
    scene.storage.put(changed(&scene.active, old));
    let before = scene.kms.requests();
    let error = builder().max_active_age(minute).build().unwrap().active(ID).await.unwrap_err();
    assert!(matches!(error, Error::TooOld { .. }), "{error:?}");
    assert_eq!(scene.kms.requests(), before);
}

#[tokio::test]
async fn missing_items_are_found() {
    let scene = Scene::new().await;
    let rotated = scene.store().rotate(ID).await.unwrap();
    scene.storage.remove(ID, ItemType::Version(rotated.version)).unwrap();
    let verification = scene.store().verify(ID).await.unwrap();
    let [problem] = &verification.problems[..] else { panic!("{verification:?}") };
    assert_eq!(problem.item_type, ItemType::Version(rotated.version));
    scene.storage.remove(ID, ItemType::Beacon).unwrap();
    let verification = scene.store().verify(ID).await.unwrap();
    assert_eq!(verification.problems.len(), 2, "{verification:?}");
}

#[tokio::test]
async fn authentic_items_that_do_not_belong_together_are_found() {
    let scene = Scene::new().await;
    let problem = async || {
        let verification = scene.store().verify(ID).await.unwrap();
        let [problem] = &verification.problems[..] else { panic!("{verification:?}") };
        assert_eq!(problem.item_type, ItemType::Active);
        problem.error.to_string()
    };
    // The secret of the beacon key as that of the active item.
    let other_secret = |item: &mut Item| {
        item.item_type = ItemType::Active;
        item.version.clone_from(&scene.active.version);
    };
    scene.storage.put(scene.kms.re_encrypted(&scene.beacon, other_secret).await);
    assert!(problem().await.contains("not that of its version"));
    // An attribute that a reader may take for the pair of the context.
    let clash = |item: &mut Item| {
        item.attributes.insert("tenant".to_owned(), "43".to_owned());
    };
    scene.storage.put(scene.kms.re_encrypted(&scene.active, clash).await);
    assert!(problem().await.contains("clashes"));
    scene.storage.put(scene.active.clone());
    assert!(scene.store().verify(ID).await.unwrap().is_ok());
}
