//! The key of an entry.

use std::{
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use quick_cache::Equivalent;

use crate::context::ContextKeys;

/// Identifies an entry by everything that its materials depend on, byte for byte.
///
/// The specification hashes these parts (`framework/caching-cmm.md#appendix-a-cache-entry-
/// identifier-formulas`). Here the bytes themselves are compared. None of them is secret.
#[derive(Debug, Clone, Copy, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) partition: &'a str,
    pub(crate) suite_id: u16,
    /// The canonical serialization of the encryption context.
    pub(crate) encryption_context: &'a [u8],
    /// The canonical serialization of the part of it that the message does not store.
    pub(crate) required_context: &'a [u8],
    /// The serialized encrypted data keys; empty for encryption.
    pub(crate) encrypted_data_keys: &'a [u8],
}

impl<'a> Key<'a> {
    /// Copies the key.
    pub(crate) fn to_owned(self) -> OwnedKey {
        OwnedKey {
            partition: self.partition.into(),
            suite_id: self.suite_id,
            encryption_context: self.encryption_context.into(),
            required_context: self.required_context.into(),
            encrypted_data_keys: self.encrypted_data_keys.into(),
        }
    }

    /// Returns the partition id that the user has set: the partition without the identity of the
    /// wrapping keys, which follows the last `/`.
    pub(crate) fn partition_id(&self) -> &'a str {
        self.partition.rsplit_once('/').map_or(self.partition, |(id, _)| id)
    }

    /// Returns a number that stands for the key where memory must not grow with its length.
    ///
    /// The hasher is keyed at random, so nobody can choose keys with the same fingerprint.
    pub(crate) fn fingerprint(&self, hasher: &impl BuildHasher) -> u128 {
        let half = |number: u8| u128::from(hasher.hash_one((number, self)));
        half(0) << 64 | half(1)
    }

    /// Returns the keys of the encryption context, without their values.
    pub(crate) fn context_keys(&self) -> ContextKeys<'a> {
        ContextKeys::of_serialized(self.encryption_context)
    }
}

/// Compares the parts, but calls nothing to compare empty ones, which most keys have.
impl PartialEq for Key<'_> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &[u8], b: &[u8]| a.len() == b.len() && (a.is_empty() || a == b);
        self.suite_id == other.suite_id
            && same(self.encryption_context, other.encryption_context)
            && same(self.required_context, other.required_context)
            && same(self.encrypted_data_keys, other.encrypted_data_keys)
            && same(self.partition.as_bytes(), other.partition.as_bytes())
    }
}

/// Hashes the lengths of the parts at once, and then the parts that are not empty.
///
/// A context is shorter than 2¹⁶ bytes, so the lengths do not overlap. The bytes that follow the
/// other parts are the partition. Different keys therefore never hash the same bytes.
impl Hash for Key<'_> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let lengths = u128::from(self.suite_id)
            | (self.encryption_context.len() as u128) << 16
            | (self.required_context.len() as u128) << 32
            | (self.encrypted_data_keys.len() as u128) << 64;
        state.write_u128(lengths);
        let contexts = [self.encryption_context, self.required_context, self.encrypted_data_keys];
        for part in contexts {
            if !part.is_empty() {
                state.write(part);
            }
        }
        state.write(self.partition.as_bytes());
    }
}

impl Equivalent<OwnedKey> for Key<'_> {
    fn equivalent(&self, other: &OwnedKey) -> bool {
        *self == other.borrow()
    }
}

/// A [`Key`] that the cache holds. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct OwnedKey {
    partition: Arc<str>,
    suite_id: u16,
    encryption_context: Arc<[u8]>,
    required_context: Arc<[u8]>,
    encrypted_data_keys: Arc<[u8]>,
}

impl OwnedKey {
    /// Returns the key for a lookup.
    pub(crate) fn borrow(&self) -> Key<'_> {
        Key {
            partition: &self.partition,
            suite_id: self.suite_id,
            encryption_context: &self.encryption_context,
            required_context: &self.required_context,
            encrypted_data_keys: &self.encrypted_data_keys,
        }
    }

    /// Returns the length of all parts in bytes.
    pub(crate) fn len(&self) -> usize {
        let parts = [&self.encryption_context, &self.required_context, &self.encrypted_data_keys];
        self.partition.len() + parts.map(|part| part.len()).iter().sum::<usize>()
    }
}

/// Shows the keys of the encryption context, without their values.
impl fmt::Debug for OwnedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedKey")
            .field("context_keys", &self.borrow().context_keys())
            .finish_non_exhaustive()
    }
}

impl PartialEq for OwnedKey {
    fn eq(&self, other: &Self) -> bool {
        self.borrow() == other.borrow()
    }
}

impl Eq for OwnedKey {}

impl Hash for OwnedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrow().hash(state);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::hash::RandomState;

    use super::*;

    /// A key for encryption under this context.
    pub(crate) fn key(context: &[u8]) -> Key<'_> {
        Key {
            partition: "p",
            suite_id: 1,
            encryption_context: context,
            required_context: b"",
            encrypted_data_keys: b"",
        }
    }

    #[test]
    fn each_part_changes_the_key_and_its_fingerprint() {
        let hasher = RandomState::new();
        let keys = [
            key(b"ab"),
            key(b"a"),
            Key { partition: "pa", ..key(b"b") },
            Key { suite_id: 2, ..key(b"ab") },
            Key { required_context: b"b", ..key(b"a") },
            Key { encrypted_data_keys: b"b", ..key(b"a") },
        ];
        for (number, key) in keys.iter().enumerate() {
            let fingerprint = key.fingerprint(&hasher);
            assert_eq!((*key).to_owned().borrow().fingerprint(&hasher), fingerprint);
            for other in &keys[..number] {
                assert_ne!(key, other);
                assert_ne!(other.fingerprint(&hasher), fingerprint);
            }
        }
    }
}
