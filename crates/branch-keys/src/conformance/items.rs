//! Items are found by exact ids, with everything that was stored.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::item::{Item, ItemType};
use crate::storage::Storage;

/// The items of a new branch key.
pub(super) struct NewKey {
    pub(super) active: Item,
    pub(super) version: Item,
    pub(super) beacon: Item,
}

impl NewKey {
    pub(super) fn new(id: &str) -> Self {
        let (active, version) = next(id);
        Self { active, version, beacon: item(id, ItemType::Beacon) }
    }

    pub(super) async fn create(self, storage: &dyn Storage) -> Self {
        let Self { active, version, beacon } = &self;
        storage.create(active, version, beacon).await.expect("creation of a new branch key");
        self
    }

    pub(super) fn all(&self) -> BTreeMap<ItemType, Item> {
        by_type([&self.active, &self.version, &self.beacon].map(Clone::clone))
    }
}

/// An id that no other test uses.
pub(super) fn fresh(name: &str) -> String {
    format!("{name} {}", Uuid::new_v4())
}

/// The active item and the version of the next rotation.
pub(super) fn next(id: &str) -> (Item, Item) {
    let item_type = ItemType::Version(Uuid::new_v4().into_bytes());
    let version = item(id, item_type);
    let active = item(id, ItemType::Active);
    (Item { version: Some(item_type.to_string()), ..active }, version)
}

pub(super) fn item(id: &str, item_type: ItemType) -> Item {
    Item {
        id: id.to_owned(),
        item_type,
        kms_key_arn: "arn:aws:kms:us-east-1:111122223333:key/a".to_owned(),
        create_time: "2026-11-27T20:41:20.856881Z".to_owned(),
        hierarchy_version: 1,
        version: None,
        ciphertext: Uuid::new_v4().into_bytes().repeat(12),
        attributes: BTreeMap::from([("aws-crypto-ec:tenant".to_owned(), id.to_owned())]),
    }
}

pub(super) fn tombstone(id: &str) -> Item {
    Item { ciphertext: vec![], ..item(id, ItemType::Tombstone) }
}

pub(super) fn by_type(items: impl IntoIterator<Item = Item>) -> BTreeMap<ItemType, Item> {
    let mut by_type = BTreeMap::new();
    for item in items {
        let previous = by_type.insert(item.item_type, item);
        assert!(previous.is_none(), "two items of one type");
    }
    by_type
}

pub(super) async fn stored(storage: &dyn Storage, id: &str) -> BTreeMap<ItemType, Item> {
    by_type(storage.items(id).await.expect("items"))
}

pub(super) async fn attributes_survive(storage: &dyn Storage) {
    let id = fresh("attributes");
    let mut key = NewKey::new(&id);
    key.active.ciphertext = (0..=255).collect();
    key.beacon.hierarchy_version = 2;
    for (name, value) in [
        ("aws-crypto-ec:Größe", "\u{1f511} \n'\"\\%_;--"),
        ("aws-crypto-ec:grösse", ""),
        ("aws-crypto-ec:GRÖSSE", "other case"),
        ("further", "attribute"),
    ] {
        key.active.attributes.insert(name.to_owned(), value.to_owned());
    }
    key.version.attributes.clear();
    let key = key.create(storage).await;
    assert_eq!(stored(storage, &id).await, key.all());
    for (item_type, item) in key.all() {
        let read = storage.read(&id, item_type, true).await.expect("consistent read");
        assert_eq!(read, Some(item));
        let read = storage.read(&id, item_type, false).await.expect("read");
        assert!(read.is_none_or(|read| read == key.all()[&item_type]), "another item");
    }
    let (active, version) = next(&id);
    storage.rotate(&active, &version, &key.active.ciphertext).await.expect("rotation");
    let mut expected = key.all();
    expected.extend(by_type([active, version]));
    assert_eq!(stored(storage, &id).await, expected);
}

pub(super) async fn ids_are_compared_by_bytes(storage: &dyn Storage) {
    let tail = fresh("");
    let ids = [
        format!("Tenant-A{tail}"),
        format!("tenant-a{tail}"),
        format!("tenant-a{tail} "),
        format!(" tenant-a{tail}"),
        format!("t\u{e9}nant-a{tail}"),
        format!("te\u{301}nant-a{tail}"),
        format!("t%nant_a{tail}"),
        format!("tenant-\u{ff41}{tail}"),
        // As long as key provider information of a message can usefully be.
        format!("{}{tail}", "x".repeat(1_500)),
    ];
    let mut keys = vec![];
    for id in &ids {
        assert_eq!(storage.read(id, ItemType::Active, true).await.expect("read"), None, "{id:?}");
        keys.push(NewKey::new(id).create(storage).await);
    }
    for (id, key) in ids.iter().zip(&keys) {
        assert_eq!(stored(storage, id).await, key.all(), "{id:?}");
    }
    storage.shred(&tombstone(&ids[1])).await.expect("shred");
    for (id, key) in ids.iter().zip(&keys).filter(|(id, _)| **id != ids[1]) {
        assert_eq!(stored(storage, id).await, key.all(), "{id:?}");
    }
}

pub(super) async fn pages_have_each_id_once(storage: &dyn Storage) {
    let mut created = BTreeSet::new();
    for number in 0..7 {
        let id = fresh(&format!("page {number}"));
        let key = NewKey::new(&id).create(storage).await;
        // Further items do not add branch keys to the list.
        let (active, version) = next(&id);
        storage.rotate(&active, &version, &key.active.ciphertext).await.expect("rotation");
        created.insert(id);
    }
    let shredded = created.pop_first().expect("seven ids");
    storage.shred(&tombstone(&shredded)).await.expect("shred");
    for limit in [1, 3, 1_000] {
        let mut found = vec![];
        let mut after = None;
        loop {
            let page = storage.ids(after.as_deref(), limit).await.expect("page");
            assert!(page.len() <= limit, "{} of {limit} ids", page.len());
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            found.extend(page);
        }
        let distinct: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(distinct.len(), found.len(), "an id in two pages of {limit}");
        assert!(distinct.is_superset(&created), "an id is in no page of {limit}");
        assert!(!distinct.contains(&shredded), "a shredded id in a page of {limit}");
    }
}

pub(super) async fn absent_items_are_none(storage: &dyn Storage) {
    let id = fresh("absent");
    let types =
        [ItemType::Active, ItemType::Version([7; 16]), ItemType::Beacon, ItemType::Tombstone];
    for item_type in types {
        for consistent in [false, true] {
            assert_eq!(storage.read(&id, item_type, consistent).await.expect("read"), None);
        }
    }
    assert!(storage.items(&id).await.expect("items").is_empty());
    NewKey::new(&id).create(storage).await;
    let absent = storage.read(&id, ItemType::Version([7; 16]), true).await.expect("read");
    assert_eq!(absent, None);
}
