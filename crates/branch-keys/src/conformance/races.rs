//! Creations, rotations and replacements that race have one winner.

use futures_util::future::join_all;

use super::items::{NewKey, by_type, fresh, item, next, stored, tombstone};
use crate::item::{Item, ItemType};
use crate::storage::{Storage, StorageError, StorageErrorKind};

/// How many callers race.
const CALLERS: usize = 8;

/// Repeats a call while the storage is overloaded: racing transactions can overload it.
macro_rules! patiently {
    ($call:expr) => {
        loop {
            match $call.await {
                Err(error) if error.kind() == StorageErrorKind::Throttled => {}
                result => break result,
            }
        }
    };
}
pub(super) use patiently;

pub(super) async fn one_of_many_creations_wins(storage: &dyn Storage) {
    let id = fresh("creations");
    let keys: Vec<_> = (0..CALLERS).map(|_| NewKey::new(&id)).collect();
    let create =
        async |key: &NewKey| patiently!(storage.create(&key.active, &key.version, &key.beacon));
    let results = join_all(keys.iter().map(create)).await;
    let winner = only_winner(&results, StorageErrorKind::AlreadyExists);
    assert_eq!(stored(storage, &id).await, keys[winner].all());
    // Of other items: a storage may take the same ones for a repetition of the first call.
    let again = create(&NewKey::new(&id)).await.expect_err("created twice");
    assert_eq!(again.kind(), StorageErrorKind::AlreadyExists);
}

pub(super) async fn one_of_many_rotations_wins(storage: &dyn Storage) {
    let id = fresh("rotations");
    let key = NewKey::new(&id).create(storage).await;
    let mut expected = key.all();
    for _ in 0..3 {
        // Each caller has read the same active item before the first one writes.
        let old = expected[&ItemType::Active].ciphertext.clone();
        let rotations: Vec<_> = (0..CALLERS).map(|_| next(&id)).collect();
        let rotate = async |(active, version)| patiently!(storage.rotate(active, version, &old));
        let results =
            join_all(rotations.iter().map(|(active, version)| rotate((active, version)))).await;
        let (active, version) = &rotations[only_winner(&results, StorageErrorKind::Race)];
        expected.extend(by_type([active.clone(), version.clone()]));
        assert_eq!(stored(storage, &id).await, expected, "a loser left an item behind");
    }
}

fn only_winner(results: &[Result<(), StorageError>], lost: StorageErrorKind) -> usize {
    let mut winner = None;
    for (caller, result) in results.iter().enumerate() {
        match result {
            Ok(()) => assert_eq!(winner.replace(caller), None, "two winners"),
            Err(error) => assert_eq!(error.kind(), lost, "{error:?}"),
        }
    }
    winner.expect("one winner")
}

pub(super) async fn a_rotation_needs_the_old_ciphertext(storage: &dyn Storage) {
    let id = fresh("old ciphertext");
    let (active, version) = next(&id);
    let error = storage.rotate(&active, &version, b"old").await.expect_err("nothing to rotate");
    assert_eq!(error.kind(), StorageErrorKind::Race, "{error:?}");
    assert!(stored(storage, &id).await.is_empty());

    let key = NewKey::new(&id).create(storage).await;
    let old = &key.active.ciphertext;
    let longer = [&old[..], &[0]].concat();
    for other in [&b""[..], &old[1..], &old[..old.len() - 1], &longer, &key.version.ciphertext] {
        let error = storage.rotate(&active, &version, other).await.expect_err("another ciphertext");
        assert_eq!(error.kind(), StorageErrorKind::Race, "{error:?}");
    }
    assert_eq!(stored(storage, &id).await, key.all());
}

pub(super) async fn a_version_is_never_replaced(storage: &dyn Storage) {
    let id = fresh("version");
    let key = NewKey::new(&id).create(storage).await;
    let (mut active, mut version) = next(&id);
    version.item_type = key.version.item_type;
    active.version = Some(version.item_type.to_string());
    let error = storage.rotate(&active, &version, &key.active.ciphertext).await;
    let error = error.expect_err("the version exists");
    assert_eq!(error.kind(), StorageErrorKind::Race, "{error:?}");
    assert_eq!(stored(storage, &id).await, key.all());
}

pub(super) async fn one_of_many_replacements_wins(storage: &dyn Storage) {
    let id = fresh("replacement");
    let absent = item(&id, ItemType::Beacon);
    let error = storage.replace(&absent, b"old").await.expect_err("nothing to replace");
    assert_eq!(error.kind(), StorageErrorKind::Race, "{error:?}");

    let key = NewKey::new(&id).create(storage).await;
    let mut expected = key.all();
    for old in [&key.active, &key.version, &key.beacon] {
        let other = Item { ciphertext: b"another".to_vec(), ..old.clone() };
        let error = storage.replace(&other, b"old").await.expect_err("another ciphertext");
        assert_eq!(error.kind(), StorageErrorKind::Race, "{error:?}");
        let new = |number: usize| Item {
            kms_key_arn: format!("key {number}"),
            ciphertext: vec![number.try_into().unwrap_or(0); 92],
            ..old.clone()
        };
        let items: Vec<_> = (0..CALLERS).map(new).collect();
        let replace = async |item| patiently!(storage.replace(item, &old.ciphertext));
        let results = join_all(items.iter().map(replace)).await;
        let winner = only_winner(&results, StorageErrorKind::Race);
        expected.extend(by_type([items[winner].clone()]));
        assert_eq!(stored(storage, &id).await, expected);
    }
    storage.shred(&tombstone(&id)).await.expect("shred");
    let winner = &expected[&ItemType::Active];
    let error = storage.replace(winner, &winner.ciphertext).await.expect_err("shredded");
    assert_eq!(error.kind(), StorageErrorKind::Shredded, "{error:?}");
}
