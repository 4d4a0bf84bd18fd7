//! The encryption context of items, and what items must have before AWS KMS sees them
//! (specification: `framework/branch-key-store.md`, "Encryption Context").

use std::collections::{BTreeMap, HashMap};

use time::OffsetDateTime;

use crate::error::Error;
use crate::info::BranchKeyInfo;
use crate::item::{Item, ItemType};
use crate::time::from_text;

/// The prefix of the names of custom encryption context.
pub(crate) const CUSTOM_PREFIX: &str = "aws-crypto-ec:";

const ID: &str = "branch-key-id";
const TYPE: &str = "type";
const KMS_KEY: &str = "kms-arn";
const CREATE_TIME: &str = "create-time";
const HIERARCHY_VERSION: &str = "hierarchy-version";
const VERSION: &str = "version";
const CIPHERTEXT: &str = "enc";
const TABLE: &str = "tablename";

/// The names that no further attribute may have: it would replace another value.
pub(crate) const RESERVED: [&str; 8] =
    [ID, TYPE, KMS_KEY, CREATE_TIME, HIERARCHY_VERSION, VERSION, CIPHERTEXT, TABLE];

/// The maximum length of a ciphertext that AWS KMS decrypts, in bytes.
const MAX_CIPHERTEXT: usize = 6_144;

/// The format that this key store writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// Returns the encryption context of an item: all attributes but the ciphertext, and the logical
/// name of the key store.
pub(crate) fn encryption_context(item: &Item, logical_name: &str) -> HashMap<String, String> {
    let mut context: HashMap<_, _> = item.attributes.clone().into_iter().collect();
    let item_type = item.item_type.to_string();
    let format = item.hierarchy_version.to_string();
    let own = [
        (ID, item.id.as_str()),
        (TYPE, &item_type),
        (KMS_KEY, &item.kms_key_arn),
        (CREATE_TIME, &item.create_time),
        (HIERARCHY_VERSION, &format),
        (TABLE, logical_name),
    ];
    let version = item.version.as_deref().map(|version| (VERSION, version));
    context.extend(own.into_iter().chain(version).map(|(name, value)| (name.into(), value.into())));
    context
}

/// An item that is well-formed. AWS KMS has not authenticated it yet.
#[derive(Debug)]
pub(crate) struct CheckedItem {
    pub(crate) item: Item,
    pub(crate) created: OffsetDateTime,
    /// The version that the secret has; of a beacon key, zeros.
    pub(crate) version: [u8; 16],
}

impl CheckedItem {
    /// Checks that `item` is the one that was asked for, and well-formed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidItem`].
    pub(crate) fn new(item: Item, id: &str, item_type: ItemType) -> Result<Self, Error> {
        let checked = if item.id == id && item.item_type == item_type {
            Self::checked(item)
        } else {
            Err("the storage returned another item")
        };
        checked.map_err(|problem| Error::InvalidItem { id: id.to_owned(), item_type, problem })
    }

    fn checked(item: Item) -> Result<Self, &'static str> {
        if item.hierarchy_version != FORMAT {
            return Err("unsupported hierarchy-version, expected 1");
        }
        if item.attributes.keys().any(|name| RESERVED.contains(&name.as_str())) {
            return Err("an attribute has a reserved name");
        }
        let created = from_text(&item.create_time).ok_or("create-time is not a date in UTC")?;
        let version = match (item.item_type, item.version.as_deref().map(str::parse)) {
            (ItemType::Active, Some(Ok(ItemType::Version(version))))
            | (ItemType::Version(version), None) => version,
            (ItemType::Active, _) => return Err("version does not name a version of a branch key"),
            (ItemType::Beacon, None) => [0; 16],
            (_, Some(_)) => return Err("only an active item has a version"),
            (ItemType::Tombstone, None) => return Err("a tombstone has no key"),
        };
        if !(1..=MAX_CIPHERTEXT).contains(&item.ciphertext.len()) {
            return Err("the ciphertext does not have 1 to 6,144 bytes");
        }
        Ok(Self { item, created, version })
    }

    pub(crate) fn info(&self) -> BranchKeyInfo {
        let Item { id, kms_key_arn, create_time, attributes, .. } = &self.item;
        BranchKeyInfo {
            id: id.clone(),
            version: self.version,
            kms_key_arn: kms_key_arn.clone(),
            create_time: create_time.clone(),
            context: custom(attributes),
        }
    }
}

/// The custom encryption context among the attributes, without its prefix.
fn custom(attributes: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let pair = |(name, value): (&String, &String)| {
        Some((name.strip_prefix(CUSTOM_PREFIX)?.to_owned(), value.clone()))
    };
    attributes.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active() -> Item {
        Item {
            id: "tenant".to_owned(),
            item_type: ItemType::Active,
            kms_key_arn: "arn".to_owned(),
            create_time: "2026-11-27T20:41:20.856881Z".to_owned(),
            hierarchy_version: 1,
            version: Some(ItemType::Version([0xab; 16]).to_string()),
            ciphertext: vec![1],
            attributes: BTreeMap::from([
                ("aws-crypto-ec:department".to_owned(), "7".to_owned()),
                ("further".to_owned(), "x".to_owned()),
            ]),
        }
    }

    #[test]
    fn the_context_has_every_attribute_but_the_ciphertext() {
        let context = encryption_context(&active(), "logical");
        let mut pairs: Vec<_> = context.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        pairs.sort_unstable();
        let expected = [
            ("aws-crypto-ec:department", "7"),
            ("branch-key-id", "tenant"),
            ("create-time", "2026-11-27T20:41:20.856881Z"),
            ("further", "x"),
            ("hierarchy-version", "1"),
            ("kms-arn", "arn"),
            ("tablename", "logical"),
            ("type", "branch:ACTIVE"),
            ("version", "branch:version:abababab-abab-abab-abab-abababababab"),
        ];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn malformed_items_are_refused() {
        let check = |item: Item| CheckedItem::new(item, "tenant", ItemType::Active).map(|_| ());
        check(active()).unwrap();
        let changes: [fn(&mut Item); 12] = [
            |item| item.id = "Tenant".to_owned(),
            |item| item.id.push(' '),
            |item| item.item_type = ItemType::Beacon,
            |item| item.hierarchy_version = 2,
            |item| item.create_time = "yesterday".to_owned(),
            |item| item.create_time.insert_str(20, &"8".repeat(100)),
            |item| item.ciphertext.clear(),
            |item| item.ciphertext = vec![1; 6_145],
            |item| item.version = None,
            |item| item.version = Some("branch:ACTIVE".to_owned()),
            |item| item.version.as_mut().unwrap().make_ascii_uppercase(),
            |item| drop(item.attributes.insert("tablename".to_owned(), "other".to_owned())),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut item = active();
            change(&mut item);
            let error = check(item).unwrap_err();
            assert!(matches!(error, Error::InvalidItem { .. }), "{number}: {error}");
        }
        let info = CheckedItem::new(active(), "tenant", ItemType::Active).unwrap().info();
        assert_eq!(info.version, [0xab; 16]);
        assert_eq!(info.context, BTreeMap::from([("department".to_owned(), "7".to_owned())]));
    }
}
