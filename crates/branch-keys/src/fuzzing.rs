//! Functions for the fuzz targets, which use private modules. Built only by `cargo fuzz` and for
//! tests.
#![allow(clippy::missing_panics_doc, reason = "a fuzz target reports by panicking")]

use std::collections::BTreeMap;

use kms_pool::{KmsKeyArn, Region};

use crate::context::{CheckedItem, encryption_context};
use crate::item::{Item, ItemType};
use crate::kms_keys::KmsKeys;
use crate::time::{after, from_text, now, to_text};

const ID: &str = "tenant-42";
const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";

/// Writes to the active item of a branch key, as anybody with write access can. Each change
/// is a field, and its text or the name and value of an attribute.
///
/// An item that the key store accepts must differ from the others in the encryption context.
/// Otherwise AWS KMS would not notice the change.
pub fn stored_item(changes: &[(u8, String, String)]) {
    let mut item = active();
    let mut before = context(&item);
    for change in changes {
        let previous = item.clone();
        apply(&mut item, change);
        let after = context(&item);
        if let (Some(before), Some(after)) = (&before, &after) {
            let is_same = Item { ciphertext: vec![], ..previous }
                == Item { ciphertext: vec![], ..item.clone() };
            assert_eq!(before == after, is_same, "{item:?}");
        }
        before = after;
    }
}

fn active() -> Item {
    Item {
        id: ID.to_owned(),
        item_type: ItemType::Active,
        kms_key_arn: KEY.to_owned(),
        create_time: "2026-11-27T20:41:20.856881Z".to_owned(),
        hierarchy_version: 1,
        version: Some(ItemType::Version([0xAB; 16]).to_string()),
        ciphertext: vec![1],
        attributes: BTreeMap::from([("aws-crypto-ec:tenant".to_owned(), "42".to_owned())]),
    }
}

fn apply(item: &mut Item, (field, text, value): &(u8, String, String)) {
    match field % 9 {
        0 => item.id.clone_from(text),
        1 => item.item_type = text.parse().unwrap_or(ItemType::Beacon),
        2 => item.kms_key_arn.clone_from(text),
        3 => item.create_time.clone_from(text),
        4 => item.hierarchy_version = text.parse().unwrap_or(1),
        5 => item.version = Some(text.clone()).filter(|version| !version.is_empty()),
        6 => item.ciphertext = text.clone().into_bytes(),
        7 => drop(item.attributes.remove(text)),
        _ => drop(item.attributes.insert(text.clone(), value.clone())),
    }
}

/// Returns the encryption context of an item that the key store accepts.
fn context(item: &Item) -> Option<BTreeMap<String, String>> {
    let checked = match CheckedItem::new(item.clone(), ID, ItemType::Active) {
        Ok(checked) => checked,
        Err(error) => {
            assert!(error.to_string().len() < 200, "{error}");
            return None;
        }
    };
    let key: KmsKeyArn = KEY.parse().expect("an ARN");
    let home: Region = "eu-west-1".parse().expect("a region");
    let (accounts, regions) = (["111122223333"], ["us-east-1"]);
    let discovery = KmsKeys::multi_region_discovery(home, accounts, regions).expect("valid");
    for keys in [KmsKeys::exact(key.clone()), KmsKeys::multi_region(key), discovery] {
        let called = keys.for_stored(&item.kms_key_arn);
        assert!(called.is_none_or(|key| key.account() == accounts[0]));
    }
    // The date of the next version.
    let next = to_text(after(checked.created, now()));
    assert!(from_text(&next).is_some() && next >= to_text(checked.created), "{next}");
    let context = encryption_context(&checked.item, "logical name");
    assert_eq!(context["branch-key-id"], ID);
    assert_eq!(context["type"], "branch:ACTIVE");
    assert_eq!(context["tablename"], "logical name");
    Some(context.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_each_field_are_noticed() {
        let other = ItemType::Version([7; 16]).to_string();
        let changes = [
            (3, "2026-11-27T20:41:20.8568810Z", ""),
            (3, "9999-12-31T23:59:59.999999999Z", ""),
            (3, "0000-01-01T00:00:00Z", ""),
            (2, "arn:aws:kms:us-east-1:111122223333:key/a", ""),
            (5, &other, ""),
            (8, "aws-crypto-ec:tenant", "43"),
            (8, "tablename", "other"),
            (7, "tablename", ""),
            (7, "aws-crypto-ec:tenant", ""),
            (6, "ciphertext", ""),
            (0, "tenant-4", ""),
        ];
        stored_item(&changes.map(|(field, text, value)| (field, text.into(), value.into())));
    }
}
