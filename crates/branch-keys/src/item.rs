//! The items of branch keys.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

const ACTIVE: &str = "branch:ACTIVE";
const VERSION_PREFIX: &str = "branch:version:";
const BEACON: &str = "beacon:ACTIVE";
const TOMBSTONE: &str = "envelope:SHREDDED";

/// One item of a branch key, as a [`Storage`](crate::Storage) keeps it.
///
/// All attributes but the ciphertext are authenticated by AWS KMS when the ciphertext is decrypted.
/// Before that, an item is untrusted. Its secret is encrypted: an item contains no plaintext key.
///
/// # Examples
///
/// ```
/// use branch_keys::{Item, ItemType};
///
/// fn is_of_tenant(item: &Item, tenant: &str) -> bool {
///     item.attributes.get("aws-crypto-ec:tenant").is_some_and(|it| it == tenant)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The id of the branch key: the attribute `branch-key-id`.
    pub id: String,
    /// Which item of the branch key it is: the attribute `type`.
    pub item_type: ItemType,
    /// The ARN of the KMS key: the attribute `kms-arn`.
    pub kms_key_arn: String,
    /// When the item was created, as text: the attribute `create-time`.
    pub create_time: String,
    /// The version of the format of items: the attribute `hierarchy-version`, a number.
    pub hierarchy_version: u32,
    /// In the active item, the type of the item of its version: the attribute `version`.
    ///
    /// It is `None` for every other type.
    pub version: Option<String>,
    /// What AWS KMS encrypted: the attribute `enc`. Empty in a tombstone.
    pub ciphertext: Vec<u8>,
    /// All other attributes by their full names. Their values are text.
    ///
    /// Custom encryption context has names with the prefix `aws-crypto-ec:`.
    pub attributes: BTreeMap<String, String>,
}

/// Which item of a branch key an [`Item`] is.
///
/// Its text is the value of the attribute `type`:
///
/// ```
/// use branch_keys::ItemType;
///
/// assert_eq!(ItemType::Active.to_string(), "branch:ACTIVE");
/// let version = ItemType::Version([0xab; 16]);
/// assert_eq!(version.to_string(), "branch:version:abababab-abab-abab-abab-abababababab");
/// assert_eq!(version.to_string().parse(), Ok(version));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ItemType {
    /// The version that wraps new data keys: `branch:ACTIVE`.
    Active,
    /// One version, by the 16 bytes of its UUID: `branch:version:UUID`.
    Version([u8; 16]),
    /// The key for beacons of searchable encryption: `beacon:ACTIVE`.
    Beacon,
    /// The mark that the branch key was deleted for good: `envelope:SHREDDED`.
    Tombstone,
}

impl fmt::Display for ItemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str(ACTIVE),
            Self::Version(version) => {
                write!(f, "{VERSION_PREFIX}{}", Uuid::from_bytes(*version).hyphenated())
            }
            Self::Beacon => f.write_str(BEACON),
            Self::Tombstone => f.write_str(TOMBSTONE),
        }
    }
}

/// The error for a text that is not an item type of branch keys.
///
/// ```
/// use branch_keys::{InvalidItemType, ItemType};
///
/// assert_eq!("branch:active".parse::<ItemType>(), Err(InvalidItemType));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid item type: expected branch:ACTIVE, branch:version:UUID, beacon:ACTIVE or \
     envelope:SHREDDED"
)]
pub struct InvalidItemType;

impl FromStr for ItemType {
    type Err = InvalidItemType;

    /// Parses the text that [`Display`](fmt::Display) writes, and no other spelling of a UUID.
    fn from_str(text: &str) -> Result<Self, InvalidItemType> {
        match text {
            ACTIVE => Ok(Self::Active),
            BEACON => Ok(Self::Beacon),
            TOMBSTONE => Ok(Self::Tombstone),
            _ => {
                let uuid = text.strip_prefix(VERSION_PREFIX).ok_or(InvalidItemType)?;
                let version = Uuid::try_parse(uuid).map_err(|_| InvalidItemType)?;
                let version = Self::Version(version.into_bytes());
                if version.to_string() == text { Ok(version) } else { Err(InvalidItemType) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_has_one_spelling() {
        for text in [
            "branch:ACTIVE",
            "beacon:ACTIVE",
            "envelope:SHREDDED",
            "branch:version:1234abcd-12ab-34cd-56ef-1234567890ab",
        ] {
            assert_eq!(text.parse::<ItemType>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "ACTIVE",
            "branch:active",
            "branch:ACTIVE ",
            "branch:version:",
            "branch:version:1234ABCD-12AB-34CD-56EF-1234567890AB",
            "branch:version:1234abcd12ab34cd56ef1234567890ab",
            "branch:version:{1234abcd-12ab-34cd-56ef-1234567890ab}",
            "branch:version:1234abcd-12ab-34cd-56ef-1234567890abc",
        ] {
            assert_eq!(text.parse::<ItemType>(), Err(InvalidItemType), "{text}");
        }
    }
}
