//! Items for the tests.

use std::collections::BTreeMap;

use branch_keys::{Item, ItemType};

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
