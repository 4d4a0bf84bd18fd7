//! Where entries are kept: bounded, concurrent, with an eviction that a scan does not flush.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use quick_cache::{Equivalent, sync::Cache};

use super::entry::Entry;

/// What an entry is found by: everything that the materials depend on, byte for byte (specification:
/// `framework/caching-cmm.md#appendix-a-cache-entry-identifier-formulas`, without the hash: equal bytes,
/// not equal digests, decide). Nothing in it is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key<'a> {
    pub(crate) partition: &'a str,
    pub(crate) suite_id: u16,
    /// The encryption context's canonical serialization.
    pub(crate) encryption_context: &'a [u8],
    /// The same of the part of it that the message does not store.
    pub(crate) required_context: &'a [u8],
    /// The serialized encrypted data keys; empty for encryption.
    pub(crate) encrypted_data_keys: &'a [u8],
}

impl Key<'_> {
    /// The same key, independent of what it was made from.
    pub(crate) fn to_owned(self) -> OwnedKey {
        OwnedKey {
            partition: self.partition.into(),
            suite_id: self.suite_id,
            encryption_context: self.encryption_context.into(),
            required_context: self.required_context.into(),
            encrypted_data_keys: self.encrypted_data_keys.into(),
        }
    }
}

impl Equivalent<OwnedKey> for Key<'_> {
    fn equivalent(&self, other: &OwnedKey) -> bool {
        *self == other.borrow()
    }
}

/// A [`Key`] that the cache holds. Cloning is cheap.
#[derive(Debug, Clone)]
pub(crate) struct OwnedKey {
    partition: Arc<str>,
    suite_id: u16,
    encryption_context: Arc<[u8]>,
    required_context: Arc<[u8]>,
    encrypted_data_keys: Arc<[u8]>,
}

impl OwnedKey {
    /// The key as it is looked up.
    pub(crate) fn borrow(&self) -> Key<'_> {
        Key {
            partition: &self.partition,
            suite_id: self.suite_id,
            encryption_context: &self.encryption_context,
            required_context: &self.required_context,
            encrypted_data_keys: &self.encrypted_data_keys,
        }
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

/// A bounded set of entries.
#[derive(Debug)]
pub(crate) struct Store<V> {
    entries: Cache<OwnedKey, Arc<Entry<V>>>,
}

impl<V> Store<V> {
    /// A store of at most `capacity` entries.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: Cache::new(capacity) }
    }

    /// The entry under `key`.
    pub(crate) fn find(&self, key: &Key<'_>) -> Option<Arc<Entry<V>>> {
        self.entries.get(key)
    }

    /// Puts an entry in the place of the one under `key`, if any.
    pub(crate) fn insert(&self, key: OwnedKey, entry: Arc<Entry<V>>) {
        self.entries.insert(key, entry);
    }

    /// Drops the entry under `key` if it is `unwanted`.
    pub(crate) fn remove_if(&self, key: &Key<'_>, unwanted: impl FnOnce(&Entry<V>) -> bool) {
        self.entries.remove_if(key, |entry| unwanted(entry));
    }

    /// Drops every entry. Values still in use live until their last user drops them.
    pub(crate) fn clear(&self) {
        self.entries.clear();
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::time::Clock;

    fn key<'a>(partition: &'a str, context: &'a [u8], keys: &'a [u8]) -> Key<'a> {
        Key { partition, suite_id: 1, encryption_context: context, required_context: b"", encrypted_data_keys: keys }
    }

    fn entry(value: u8, now: Instant) -> Arc<Entry<u8>> {
        Arc::new(Entry::new(Arc::new(value), now))
    }

    #[test]
    fn parts_do_not_run_together() {
        let store = Store::new(10);
        store.insert(key("p", b"ab", b"c").to_owned(), entry(1, Clock::system().now()));
        assert!(store.find(&key("p", b"ab", b"c")).is_some());
        assert!(store.find(&key("p", b"a", b"bc")).is_none());
        assert!(store.find(&key("pa", b"b", b"c")).is_none());
    }

    #[test]
    fn the_capacity_holds() {
        let store = Store::new(50);
        for number in 0..1_000u32 {
            store.insert(key("p", &number.to_be_bytes(), b"").to_owned(), entry(0, Clock::system().now()));
        }
        assert!((1..=50).contains(&store.len()), "{}", store.len());
    }
}
