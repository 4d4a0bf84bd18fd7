//! Converts between items and rows.
//!
//! All columns but one are binary, so that databases compare them byte by byte: no collation folds
//! case, ignores trailing spaces or depends on a locale.

use std::collections::BTreeMap;

use super::error::Failure;
use crate::item::{Item, ItemType};
use crate::storage::{StorageError, StorageErrorKind};

/// The columns that [`read`] needs.
///
/// A value that is longer than an item of `DynamoDB` can be is NULL instead, which is invalid. A
/// large value would fill the memory of every process that reads it.
macro_rules! columns {
    () => {
        concat!(
            "branch_key_id, ",
            columns!("item_type"),
            columns!("kms_arn"),
            columns!("create_time"),
            "hierarchy_version, ",
            columns!("active_version"),
            columns!("enc"),
            "CASE WHEN LENGTH(attributes) <= 409600 THEN attributes END"
        )
    };
    ($column:literal) => {
        concat!("CASE WHEN LENGTH(", $column, ") <= 409600 THEN ", $column, " END, ")
    };
}

/// A parameter, or a value of a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bytes(Vec<u8>),
    Integer(i64),
    Null,
}

impl Value {
    /// Returns about how much memory it takes.
    pub(super) fn len(&self) -> usize {
        let content = match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Integer(_) | Self::Null => 0,
        };
        size_of::<Self>() + content
    }
}

/// Inserts a row with the values of [`write`].
#[cfg(feature = "mysql")]
pub(super) const INSERT: &str = "INSERT INTO branch_keys (branch_key_id, item_type, kms_arn, \
    create_time, hierarchy_version, active_version, enc, attributes) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)";

/// Inserts the same row, unless its primary key exists.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) const INSERT_IF_NEW: &str = "INSERT INTO branch_keys (branch_key_id, item_type, \
    kms_arn, create_time, hierarchy_version, active_version, enc, attributes) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";

/// Selects the rows of an id and a type, for [`read`].
pub(super) const SELECT_ONE: &str =
    concat!("SELECT ", columns!(), " FROM branch_keys WHERE branch_key_id = ? AND item_type = ?");

/// Selects the rows of an id, for [`read`].
pub(super) const SELECT_ALL: &str =
    concat!("SELECT ", columns!(), " FROM branch_keys WHERE branch_key_id = ?");

/// Changes the row of an id and a type if it has a certain ciphertext.
///
/// Parameters: those of [`write`] from the third on, then id, type and old ciphertext.
pub(super) const UPDATE_ONE: &str = "UPDATE branch_keys SET kms_arn = ?, create_time = ?, \
    hierarchy_version = ?, active_version = ?, enc = ?, attributes = ? \
    WHERE branch_key_id = ? AND item_type = ? AND enc = ?";

/// Deletes the row of an id and a type.
pub(super) const DELETE_ONE: &str =
    "DELETE FROM branch_keys WHERE branch_key_id = ? AND item_type = ?";

/// Deletes all rows of an id but that of one type.
pub(super) const DELETE_OTHERS: &str =
    "DELETE FROM branch_keys WHERE branch_key_id = ? AND item_type <> ?";

/// Selects ids in the order of their bytes, but none that a key store refuses for its length.
pub(super) const SELECT_IDS: &str = "SELECT branch_key_id FROM branch_keys \
    WHERE branch_key_id > ? AND item_type = ? AND LENGTH(branch_key_id) <= 2048 \
    ORDER BY branch_key_id LIMIT ?";

pub(super) fn id(id: &str) -> Value {
    Value::Bytes(id.as_bytes().to_vec())
}

pub(super) fn item_type(item_type: ItemType) -> Value {
    Value::Bytes(item_type.to_string().into_bytes())
}

pub(super) fn write(item: &Item) -> Result<Vec<Value>, Failure> {
    let attributes = serde_json::to_vec(&item.attributes).map_err(|cause| {
        let error = StorageError::new(StorageErrorKind::Other);
        error.with_message("could not encode the attributes").with_source(cause)
    })?;
    let text = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    Ok(vec![
        text(&item.id),
        text(&item.item_type.to_string()),
        text(&item.kms_key_arn),
        text(&item.create_time),
        Value::Integer(item.hierarchy_version.into()),
        item.version.as_deref().map_or(Value::Null, text),
        Value::Bytes(item.ciphertext.clone()),
        Value::Bytes(attributes),
    ])
}

pub(super) fn read(row: Vec<Value>) -> Result<Item, Failure> {
    let Ok([id, item_type, kms_key_arn, create_time, hierarchy_version, version, enc, attributes]) =
        <[Value; 8]>::try_from(row)
    else {
        return Err(invalid("the number of columns").into());
    };
    let name = text(item_type, "item_type")?;
    let attributes = bytes(attributes, "attributes")?;
    let attributes: BTreeMap<String, String> =
        serde_json::from_slice(&attributes).map_err(|_| invalid("attributes"))?;
    Ok(Item {
        id: text(id, "branch_key_id")?,
        item_type: name.parse().map_err(|_| invalid("item_type"))?,
        kms_key_arn: text(kms_key_arn, "kms_arn")?,
        create_time: text(create_time, "create_time")?,
        hierarchy_version: match hierarchy_version {
            Value::Integer(number) => u32::try_from(number).ok(),
            _ => None,
        }
        .ok_or_else(|| invalid("hierarchy_version"))?,
        version: match version {
            Value::Null => None,
            value => Some(text(value, "active_version")?),
        },
        ciphertext: bytes(enc, "enc")?,
        attributes,
    })
}

pub(super) fn read_id(row: Vec<Value>) -> Result<String, Failure> {
    let id = row.into_iter().next().unwrap_or(Value::Null);
    Ok(text(id, "branch_key_id")?)
}

fn text(value: Value, column: &str) -> Result<String, StorageError> {
    String::from_utf8(bytes(value, column)?).map_err(|_| invalid(column))
}

fn bytes(value: Value, column: &str) -> Result<Vec<u8>, StorageError> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(invalid(column)),
    }
}

fn invalid(column: &str) -> StorageError {
    let message = format!("unexpected value in column \"{column}\"");
    StorageError::new(StorageErrorKind::Invalid).with_message(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_survives_with_any_text() {
        let item = Item {
            id: "Tenant-A \0\u{10ffff}".into(),
            item_type: ItemType::Active,
            kms_key_arn: "arn".into(),
            create_time: "now".into(),
            hierarchy_version: u32::MAX,
            version: Some(String::new()),
            ciphertext: vec![0, 255],
            attributes: [("aws-crypto-ec:\"\0é".into(), "\u{2028}\\".into())].into(),
        };
        assert_eq!(read(write(&item).unwrap()).unwrap(), item);
    }

    #[test]
    fn a_row_with_an_unexpected_value_is_invalid() {
        let item = Item {
            id: "id".into(),
            item_type: ItemType::Beacon,
            kms_key_arn: "arn".into(),
            create_time: "now".into(),
            hierarchy_version: 1,
            version: None,
            ciphertext: vec![1],
            attributes: BTreeMap::new(),
        };
        for (column, value) in [
            (0, Value::Null),
            (0, Value::Bytes(vec![0xff])),
            (1, Value::Bytes(b"branch:active".to_vec())),
            (2, Value::Integer(1)),
            (3, Value::Null),
            (4, Value::Integer(-1)),
            (4, Value::Null),
            (5, Value::Integer(1)),
            (6, Value::Null),
            (7, Value::Bytes(b"[]".to_vec())),
            (7, Value::Bytes(b"{\"a\":1}".to_vec())),
        ] {
            let mut row = write(&item).unwrap();
            row[column] = value;
            let error = read(row).unwrap_err().into_error();
            assert_eq!(error.kind(), StorageErrorKind::Invalid, "{column}");
        }
    }
}
