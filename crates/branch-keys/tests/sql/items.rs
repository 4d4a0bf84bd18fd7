//! Items for the tests.

use std::collections::BTreeMap;

use branch_keys::{Item, ItemType, Storage, StorageErrorKind};

pub(crate) fn item(id: &str, item_type: ItemType) -> Item {
    Item {
        id: id.to_owned(),
        item_type,
        kms_key_arn: "arn:aws:kms:us-east-1:111122223333:key/a".to_owned(),
        create_time: "2026-11-27T20:41:20.856881Z".to_owned(),
        hierarchy_version: 1,
        version: None,
        ciphertext: if item_type == ItemType::Tombstone { vec![] } else { random().to_vec() },
        attributes: BTreeMap::from([("aws-crypto-ec:tenant".to_owned(), id.to_owned())]),
    }
}

/// The active item and the version of a rotation.
pub(crate) fn next(id: &str) -> (Item, Item) {
    let version = item(id, ItemType::Version(random()));
    let active = item(id, ItemType::Active);
    (Item { version: Some(version.item_type.to_string()), ..active }, version)
}

fn random() -> [u8; 16] {
    fastrand::u128(..).to_be_bytes()
}

/// Somebody writes values and items to the table that are too large to be read.
pub(crate) async fn large_items_harm_only_their_branch_key(storage: &dyn Storage) {
    let large = |item: Item, length: usize| {
        let attributes = BTreeMap::from([("aws-crypto-ec:a".to_owned(), "x".repeat(length))]);
        Item { attributes, ..item }
    };
    let create = async |id: &str, length: usize| {
        let (active, version) = next(id);
        let active = large(active, length);
        storage.create(&active, &version, &item(id, ItemType::Beacon)).await.unwrap();
        active
    };
    let is_invalid = async |id: &str| {
        assert_eq!(storage.items(id).await.unwrap_err().kind(), StorageErrorKind::Invalid);
        storage.items("other").await.unwrap();
        assert_eq!(storage.ids(None, usize::MAX).await.unwrap().len(), 3);
    };
    let readable = create("large", 409_000).await;
    assert_eq!(storage.read("large", ItemType::Active, true).await.unwrap(), Some(readable));
    storage.shred(&item("large", ItemType::Tombstone)).await.unwrap();
    create("other", 1).await;
    let mut active = create("many", 1).await;
    create("too large", 410_000).await;
    let error = storage.read("too large", ItemType::Active, true).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Invalid);
    is_invalid("too large").await;

    for _ in 0..45 {
        let (next, version) = next("many");
        storage.rotate(&next, &large(version, 400_000), &active.ciphertext).await.unwrap();
        active = next;
    }
    is_invalid("many").await;
    // One item of many can be read, and all can be deleted.
    assert_eq!(storage.read("many", ItemType::Active, true).await.unwrap(), Some(active));
    assert_eq!(storage.shred(&item("many", ItemType::Tombstone)).await.unwrap(), 48);
}
