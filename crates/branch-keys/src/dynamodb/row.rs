//! Converts between items of a key store and items of a table.
//!
//! Branch key store specification, "Record Format". AWS's clients read and write the same items.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use crate::item::{Item, ItemType};
use crate::storage::StorageError;

use super::error::invalid;

pub(super) const ID: &str = "branch-key-id";
pub(super) const TYPE: &str = "type";
pub(super) const CIPHERTEXT: &str = "enc";
const KMS_KEY: &str = "kms-arn";
const CREATE_TIME: &str = "create-time";
const HIERARCHY_VERSION: &str = "hierarchy-version";
const VERSION: &str = "version";

/// The attributes of an item of a table.
pub(super) type Attributes = HashMap<String, AttributeValue>;

/// Returns the primary key of an item.
pub(super) fn key(id: &str, item_type: ItemType) -> Attributes {
    HashMap::from([
        (ID.to_owned(), AttributeValue::S(id.to_owned())),
        (TYPE.to_owned(), AttributeValue::S(item_type.to_string())),
    ])
}

pub(super) fn write(item: &Item) -> Attributes {
    let text = |name: &str, value: &str| (name.to_owned(), AttributeValue::S(value.to_owned()));
    let mut attributes = key(&item.id, item.item_type);
    attributes.extend(item.attributes.iter().map(|(name, value)| text(name, value)));
    attributes.extend(item.version.iter().map(|version| text(VERSION, version)));
    attributes.extend([
        text(KMS_KEY, &item.kms_key_arn),
        text(CREATE_TIME, &item.create_time),
        (HIERARCHY_VERSION.to_owned(), AttributeValue::N(item.hierarchy_version.to_string())),
        (CIPHERTEXT.to_owned(), AttributeValue::B(Blob::new(item.ciphertext.clone()))),
    ]);
    attributes
}

/// Reads an item.
///
/// # Errors
///
/// [`StorageErrorKind::Invalid`](crate::StorageErrorKind::Invalid) if an attribute of the schema is
/// missing or has another type, and if there is another attribute that is not a string.
pub(super) fn read(attributes: Attributes) -> Result<Item, StorageError> {
    let mut rest = attributes;
    let id = text(&mut rest, ID)?;
    let name = text(&mut rest, TYPE)?;
    let item_type =
        name.parse::<ItemType>().map_err(|_| invalid(format!("unknown type {}", shown(&name))))?;
    let kms_key_arn = text(&mut rest, KMS_KEY)?;
    let create_time = text(&mut rest, CREATE_TIME)?;
    let hierarchy_version = number(&mut rest, HIERARCHY_VERSION)?;
    let ciphertext = bytes(&mut rest, CIPHERTEXT)?;
    let version = match item_type {
        ItemType::Active => Some(text(&mut rest, VERSION)?),
        _ => None,
    };
    let mut others = BTreeMap::new();
    for (name, value) in rest {
        let AttributeValue::S(value) = value else {
            return Err(invalid(format!("the attribute {} is not a string", shown(&name))));
        };
        others.insert(name, value);
    }
    Ok(Item {
        id,
        item_type,
        kms_key_arn,
        create_time,
        hierarchy_version,
        version,
        ciphertext,
        attributes: others,
    })
}

/// A name in an item, shortened and escaped: anybody may have written it.
fn shown(name: &str) -> String {
    format!("{:?}", name.chars().take(100).collect::<String>())
}

fn text(attributes: &mut Attributes, name: &str) -> Result<String, StorageError> {
    match attributes.remove(name) {
        Some(AttributeValue::S(text)) => Ok(text),
        _ => Err(invalid(format!("the attribute \"{name}\" is missing or not a string"))),
    }
}

fn number(attributes: &mut Attributes, name: &str) -> Result<u32, StorageError> {
    let number = match attributes.remove(name) {
        Some(AttributeValue::N(number)) => number.parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| invalid(format!("the attribute \"{name}\" is missing or not a number")))
}

fn bytes(attributes: &mut Attributes, name: &str) -> Result<Vec<u8>, StorageError> {
    match attributes.remove(name) {
        Some(AttributeValue::B(bytes)) => Ok(bytes.into_inner()),
        _ => Err(invalid(format!("the attribute \"{name}\" is missing or not binary"))),
    }
}
