//! Changes by somebody who can write to the table of a root tier: each is refused.

use std::sync::Arc;

use branch_keys::{Error, Item, ItemType, KeyStore, KmsKeys, MemoryStorage, Storage};
use envelope::keyring::KeyringErrorKind;

use super::root::{ROOT, Scene};
use super::{ID, changed, is_inauthentic, new_key};

/// Whether the root found that it did not protect the item.
fn is_refused(error: &Error) -> bool {
    let Error::Root { cause, .. } = error else { return false };
    cause.kind() == KeyringErrorKind::InvalidCiphertext
}

fn is_of_other_tier(error: &Error) -> bool {
    matches!(error, Error::OtherTier { .. })
}

async fn stored(storage: &dyn Storage, id: &str) -> [Item; 3] {
    let mut items = storage.items(id).await.unwrap();
    items.sort_by_key(|item| item.item_type);
    items.try_into().unwrap()
}

/// Why a key store refuses an item.
async fn refusal(store: &KeyStore, item: &Item) -> Error {
    let result = match item.item_type {
        ItemType::Active => store.active(&item.id).await.map(drop),
        ItemType::Version(version) => store.version(&item.id, version).await.map(drop),
        _ => store.beacon(&item.id).await.map(drop),
    };
    let error = result.expect_err("the item was accepted");
    let verification = store.verify(&item.id).await.unwrap();
    let problems = &verification.problems;
    assert!(problems.iter().any(|it| it.item_type == item.item_type), "{item:?}: {problems:?}");
    if item.item_type == ItemType::Active {
        store.rotate(&item.id).await.expect_err("the item was rotated");
    }
    error
}

/// How each item of `ID` is refused after `change`, under the root.
async fn refusals(scene: &Scene, change: impl Fn(&mut Item)) -> Vec<Error> {
    let mut errors = vec![];
    for item in stored(&*scene.storage, ID).await {
        let new = changed(&item, &change);
        scene.storage.put(new.clone());
        errors.push(refusal(&scene.root_tier(), &new).await);
        scene.storage.put(item);
    }
    assert!(scene.root_tier().verify(ID).await.unwrap().is_ok());
    errors
}

async fn with_tenant() -> Scene {
    let scene = Scene::new().await;
    scene.root_tier().create(new_key(ID)).await.unwrap();
    scene
}

#[tokio::test]
async fn an_item_says_what_protects_it() {
    let scene = with_tenant().await;
    for item in stored(&*scene.storage, ID).await {
        assert_eq!(item.kms_key_arn, "envelope:root:root");
        assert_eq!(item.ciphertext.len(), 92);
    }
    let [active, version, beacon] = stored(&*scene.storage, ID).await;
    assert_ne!(active.ciphertext[..28], version.ciphertext[..28]);
    assert_ne!(version.ciphertext[..28], beacon.ciphertext[..28]);
}

#[tokio::test]
async fn no_byte_of_the_ciphertext_may_change() {
    let scene = with_tenant().await;
    // The first and last byte of the salt, the IV, the version of the root, the secret and the tag.
    for at in [0, 15, 16, 27, 28, 43, 44, 75, 76, 91] {
        let errors = refusals(&scene, |item| item.ciphertext[at] ^= 1).await;
        assert!(errors.iter().all(is_refused), "{at}: {errors:?}");
    }
    for length in [1, 91] {
        let errors = refusals(&scene, |item| item.ciphertext.truncate(length)).await;
        let is_invalid = |error: &Error| matches!(error, Error::InvalidItem { .. });
        assert!(errors.iter().all(is_invalid), "{errors:?}");
    }
}

#[tokio::test]
async fn no_attribute_may_change_appear_or_vanish() {
    let scene = with_tenant().await;
    let tenant = "aws-crypto-ec:tenant";
    let set = |item: &mut Item, name: &str| {
        item.attributes.insert(name.to_owned(), "43".to_owned());
    };
    for errors in [
        refusals(&scene, |item| item.create_time = item.create_time.replacen("20", "21", 1)).await,
        refusals(&scene, |item| set(item, tenant)).await,
        refusals(&scene, |item| set(item, "further")).await,
        refusals(&scene, |item| drop(item.attributes.remove(tenant))).await,
    ] {
        assert!(errors.iter().all(is_refused), "{errors:?}");
    }
    let long = "a".repeat(70_000);
    let set_long = |item: &mut Item| drop(item.attributes.insert("long".into(), long.clone()));
    for error in refusals(&scene, set_long).await {
        assert!(matches!(error, Error::InvalidItem { .. }), "{error:?}");
    }
    // The active item names an earlier version.
    let [first, ..] = stored(&*scene.storage, ID).await;
    scene.root_tier().rotate(ID).await.unwrap();
    let active = scene.storage.read(ID, ItemType::Active, true).await.unwrap().unwrap();
    scene.storage.put(changed(&active, |item| item.version.clone_from(&first.version)));
    assert!(is_refused(&scene.root_tier().active(ID).await.unwrap_err()));
}

#[tokio::test]
async fn items_may_not_take_each_others_places() {
    let scene = with_tenant().await;
    let items = stored(&*scene.storage, ID).await;
    for ciphertext in items.iter().map(|item| &item.ciphertext) {
        for item in items.iter().filter(|item| item.ciphertext != *ciphertext) {
            scene.storage.put(changed(item, |item| item.ciphertext.clone_from(ciphertext)));
            let error = refusal(&scene.root_tier(), item).await;
            assert!(is_refused(&error), "{error:?}");
            scene.storage.put(item.clone());
        }
    }
    // Under the id of another tenant, and in a table with another name.
    for item in &items {
        let copy = changed(item, |item| item.id = "tenant-b".to_owned());
        scene.storage.put(copy.clone());
        let error = refusal(&scene.root_tier(), &copy).await;
        assert!(is_refused(&error), "{error:?}");
    }
    // The same root, known to a key store with another logical name.
    let root = scene.kms_tier();
    let keys = KmsKeys::exact(scene.key.clone());
    let clients = scene.kms.clients.clone();
    let other = Arc::new(MemoryStorage::new());
    let store = KeyStore::builder(other.clone(), "other", keys, clients).build().unwrap();
    store.create(new_key(ROOT)).await.unwrap();
    for item in scene.storage.items(ROOT).await.unwrap().into_iter().chain(items.clone()) {
        other.put(item);
    }
    root.active(ROOT).await.unwrap();
    let error = store.under_root(ROOT, |cache| cache).unwrap().active(ID).await.unwrap_err();
    assert!(matches!(error, Error::Root { .. }), "{error:?}");
}

#[tokio::test]
async fn a_row_of_the_other_tier_is_refused_without_a_request() {
    let scene = with_tenant().await;
    let under_root = stored(&*scene.storage, ID).await;
    // The same branch key id on the tier of AWS KMS, which a backup may have.
    let backup = Arc::new(MemoryStorage::new());
    scene.kms.store(backup.clone(), &scene.key).create(new_key(ID)).await.unwrap();
    let under_kms = stored(&*backup, ID).await;
    scene.kms_tier().create(new_key("another root")).await.unwrap();
    let another_root = scene.kms_tier().under_root("another root", |cache| cache).unwrap();

    let before = scene.kms.requests();
    for (items, store) in [
        (&under_root, scene.kms_tier()),
        (&under_root, another_root),
        (&under_kms, scene.root_tier()),
    ] {
        for item in scene.storage.items(ID).await.unwrap() {
            scene.storage.remove(ID, item.item_type);
        }
        for item in items {
            scene.storage.put(item.clone());
        }
        for item in items {
            let error = refusal(&store, item).await;
            assert!(is_of_other_tier(&error), "{error:?}");
        }
        let error = store.info(ID).await.unwrap_err();
        assert!(is_of_other_tier(&error), "{error:?}");
        let error = store.ensure(new_key(ID)).await.unwrap_err();
        assert!(is_of_other_tier(&error), "{error:?}");
    }
    assert_eq!(scene.kms.requests(), before);
}

#[tokio::test]
async fn a_row_that_is_marked_as_of_the_other_tier_is_not_authentic() {
    let scene = with_tenant().await;
    let [active, ..] = stored(&*scene.storage, ID).await;
    let arn = scene.key.to_string();
    scene.storage.put(changed(&active, |item| item.kms_key_arn.clone_from(&arn)));
    let migrating = scene.root_tier().migration_to(branch_keys::Tier::Kms).unwrap();
    for store in [&scene.kms_tier(), migrating.key_store()] {
        let error = store.active(ID).await.unwrap_err();
        assert!(matches!(error, Error::Kms { .. }), "{error:?}");
    }

    let storage = Arc::new(MemoryStorage::new());
    scene.kms.store(storage.clone(), &scene.key).create(new_key(ID)).await.unwrap();
    let [active, ..] = stored(&*storage, ID).await;
    let marked = changed(&active, |item| item.kms_key_arn = "envelope:root:root".to_owned());
    scene.storage.put(marked.clone());
    for store in [&scene.root_tier(), migrating.key_store()] {
        let error = store.active(ID).await.unwrap_err();
        assert!(matches!(error, Error::InvalidItem { .. }), "{error:?}");
    }
    // A ciphertext of the right length, with a version of the root that exists.
    let root = scene.kms_tier().info(ROOT).await.unwrap().version;
    let forged = [&[7; 28][..], &root, &[7; 48]].concat();
    scene.storage.put(changed(&marked, |item| item.ciphertext.clone_from(&forged)));
    assert!(is_refused(&scene.root_tier().active(ID).await.unwrap_err()));
    assert!(!is_inauthentic(&scene.root_tier().active(ID).await.unwrap_err()));
}

#[tokio::test]
async fn an_older_active_item_is_refused() {
    let scene = with_tenant().await;
    let [old, ..] = stored(&*scene.storage, ID).await;
    let store = scene.root_tier();
    store.rotate(ID).await.unwrap();
    scene.storage.put(old);
    for result in [store.active(ID).await.map(drop), store.rotate(ID).await.map(drop)] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::OlderThanSeen { .. }), "{error:?}");
    }
    // A process that has not seen the newer one cannot know, but `verify` does.
    let fresh = scene.root_tier();
    fresh.active(ID).await.unwrap();
    assert!(!fresh.verify(ID).await.unwrap().is_ok());
}
