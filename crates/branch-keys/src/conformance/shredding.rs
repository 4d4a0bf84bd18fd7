//! A shredded branch key does not come back.

use futures_util::future::{join, join3};

use super::items::{NewKey, by_type, fresh, next, stored, tombstone};
use super::races::patiently;
use crate::item::{Item, ItemType};
use crate::storage::{Storage, StorageErrorKind};

pub(super) async fn a_tombstone_stays_and_blocks(storage: &dyn Storage) {
    let id = fresh("tombstone");
    let key = NewKey::new(&id).create(storage).await;
    let (active, version) = next(&id);
    storage.rotate(&active, &version, &key.active.ciphertext).await.expect("rotation");
    let first = tombstone(&id);
    assert_eq!(storage.shred(&first).await.expect("shred"), 4);
    let expected = by_type([first.clone()]);
    assert_eq!(stored(storage, &id).await, expected);

    // Repeated, as after a failure.
    let later = Item { create_time: "2027-01-01T00:00:00.000000Z".to_owned(), ..first };
    assert_eq!(storage.shred(&later).await.expect("shred again"), 0);
    assert_eq!(stored(storage, &id).await, expected, "the first tombstone stays");

    let created = storage.create(&key.active, &key.version, &key.beacon).await;
    assert_eq!(created.expect_err("created").kind(), StorageErrorKind::Shredded);
    let rotated = storage.rotate(&active, &version, &key.active.ciphertext).await;
    assert_eq!(rotated.expect_err("rotated").kind(), StorageErrorKind::Shredded);
    assert_eq!(stored(storage, &id).await, expected);
}

pub(super) async fn nothing_survives_a_race_with_shredding(storage: &dyn Storage) {
    for _ in 0..8 {
        let id = fresh("race with shredding");
        let stone = tombstone(&id);
        let key = NewKey::new(&id);
        let create = async { patiently!(storage.create(&key.active, &key.version, &key.beacon)) };
        let shred = async { patiently!(storage.shred(&stone)) };
        let (created, shredded) = join(create, shred).await;
        shredded.expect("shred");
        if let Err(error) = created {
            assert_eq!(error.kind(), StorageErrorKind::Shredded, "{error:?}");
        }
        assert_eq!(stored(storage, &id).await, by_type([stone]));

        let id = fresh("race with shredding");
        let stone = tombstone(&id);
        let key = NewKey::new(&id).create(storage).await;
        let old = &key.active.ciphertext;
        let rotate = async || {
            let (active, version) = next(&id);
            patiently!(storage.rotate(&active, &version, old))
        };
        let shred = async { patiently!(storage.shred(&stone)) };
        let (one, shredded, other) = join3(rotate(), shred, rotate()).await;
        shredded.expect("shred");
        assert!(one.is_err() || other.is_err(), "two winners");
        for error in [one, other].into_iter().filter_map(Result::err) {
            let lost = [StorageErrorKind::Race, StorageErrorKind::Shredded];
            assert!(lost.contains(&error.kind()), "{error:?}");
        }
        let left = stored(storage, &id).await;
        assert_eq!(left.keys().collect::<Vec<_>>(), [&ItemType::Tombstone]);
    }
}
