//! Items for the storage.

use std::collections::BTreeMap;

use branch_keys::{Item, ItemType};

/// The version that was put with number `number`.
pub(crate) fn version_of(number: u8) -> [u8; 16] {
    let mut version = [number; 16];
    version[6] = 0x4f;
    version[8] = 0x8f;
    version
}

/// An item of the branch key `id`, with a ciphertext of its own.
pub(crate) fn item(id: &str, item_type: ItemType, number: u8) -> Item {
    let version = ItemType::Version(version_of(number)).to_string();
    Item {
        id: id.to_owned(),
        item_type,
        kms_key_arn: "arn:aws:kms:us-east-1:111122223333:key/test".to_owned(),
        create_time: "2026-11-28T05:00:00.000000Z".to_owned(),
        hierarchy_version: 1,
        version: (item_type == ItemType::Active).then_some(version),
        ciphertext: format!("{item_type} {number}").into_bytes(),
        attributes: BTreeMap::from([("aws-crypto-ec:tenant".to_owned(), id.to_owned())]),
    }
}

/// The ACTIVE item and the version that a rotation with this number puts.
pub(crate) fn generation(id: &str, number: u8) -> (Item, Item) {
    let version = item(id, ItemType::Version(version_of(number)), number);
    (item(id, ItemType::Active, number), version)
}
