//! Branch keys in memory.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::item::{Item, ItemType};
use crate::storage::{Storage, StorageError, StorageErrorKind, StorageFuture};

/// Keeps the items of branch keys in memory, for tests. They are lost when it is dropped.
///
/// ```
/// use branch_keys::{MemoryStorage, Storage};
///
/// assert_ne!(MemoryStorage::new().identity(), MemoryStorage::new().identity());
/// ```
#[derive(Debug)]
pub struct MemoryStorage {
    number: u64,
    items: Mutex<Items>,
}

type Items = BTreeMap<(String, ItemType), Item>;

impl MemoryStorage {
    /// Returns an empty storage.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed), items: Mutex::default() }
    }

    /// Adds or replaces an item without any condition, as anybody with write access can.
    pub fn put(&self, item: Item) {
        self.with(|items| items.insert((item.id.clone(), item.item_type), item));
    }

    /// Deletes an item without any condition, as anybody with write access can.
    pub fn remove(&self, id: &str, item_type: ItemType) -> Option<Item> {
        self.with(|items| items.remove(&(id.to_owned(), item_type)))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Items) -> T) -> T {
        // Each change is checked before its first write, and no write panics.
        change(&mut self.items.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl Storage for MemoryStorage {
    fn identity(&self) -> String {
        format!("memory {}", self.number)
    }

    fn read<'a>(
        &'a self,
        id: &'a str,
        item_type: ItemType,
        _consistent: bool,
    ) -> StorageFuture<'a, Option<Item>> {
        let item = self.with(|items| items.get(&(id.to_owned(), item_type)).cloned());
        Box::pin(ready(Ok(item)))
    }

    fn items<'a>(&'a self, id: &'a str) -> StorageFuture<'a, Vec<Item>> {
        let found = self.with(|items| items.values().filter(|it| it.id == id).cloned().collect());
        Box::pin(ready(Ok(found)))
    }

    fn ids<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StorageFuture<'a, Vec<String>> {
        let ids = self.with(|items| {
            let active = items.keys().filter(|(_, item_type)| *item_type == ItemType::Active);
            let further = active.filter(|(id, _)| after.is_none_or(|after| id.as_str() > after));
            further.take(limit).map(|(id, _)| id.clone()).collect()
        });
        Box::pin(ready(Ok(ids)))
    }

    fn create<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        beacon: &'a Item,
    ) -> StorageFuture<'a, ()> {
        let created = self.with(|items| {
            check_unshredded(items, &active.id)?;
            let new = [active, version, beacon];
            if new.iter().any(|item| items.contains_key(&key(item))) {
                return Err(StorageError::new(StorageErrorKind::AlreadyExists));
            }
            items.extend(new.map(|item| (key(item), item.clone())));
            Ok(())
        });
        Box::pin(ready(created))
    }

    fn rotate<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        old_ciphertext: &'a [u8],
    ) -> StorageFuture<'a, ()> {
        let rotated = self.with(|items| {
            check_unchanged(items, active, old_ciphertext)?;
            if items.contains_key(&key(version)) {
                return Err(StorageError::new(StorageErrorKind::Race));
            }
            items.extend([version, active].map(|item| (key(item), item.clone())));
            Ok(())
        });
        Box::pin(ready(rotated))
    }

    fn replace<'a>(&'a self, item: &'a Item, old_ciphertext: &'a [u8]) -> StorageFuture<'a, ()> {
        let replaced = self.with(|items| {
            check_unchanged(items, item, old_ciphertext)?;
            items.insert(key(item), item.clone());
            Ok(())
        });
        Box::pin(ready(replaced))
    }

    fn shred<'a>(&'a self, tombstone: &'a Item) -> StorageFuture<'a, u64> {
        let deleted = self.with(|items| {
            items.entry(key(tombstone)).or_insert_with(|| tombstone.clone());
            let is_kept = |(id, item_type): &(String, ItemType)| {
                *id != tombstone.id || *item_type == ItemType::Tombstone
            };
            let before = items.len();
            items.retain(|key, _| is_kept(key));
            (before - items.len()) as u64
        });
        Box::pin(ready(Ok(deleted)))
    }
}

fn key(item: &Item) -> (String, ItemType) {
    (item.id.clone(), item.item_type)
}

fn check_unchanged(items: &Items, item: &Item, old_ciphertext: &[u8]) -> Result<(), StorageError> {
    check_unshredded(items, &item.id)?;
    match items.get(&key(item)) {
        Some(current) if current.ciphertext == old_ciphertext => Ok(()),
        _ => Err(StorageError::new(StorageErrorKind::Race)),
    }
}

fn check_unshredded(items: &Items, id: &str) -> Result<(), StorageError> {
    if items.contains_key(&(id.to_owned(), ItemType::Tombstone)) {
        return Err(StorageError::new(StorageErrorKind::Shredded));
    }
    Ok(())
}
