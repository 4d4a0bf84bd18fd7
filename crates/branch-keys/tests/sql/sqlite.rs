//! SQLite, and everything else that needs no server.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use branch_keys::{ItemType, SqlStorage, Storage, StorageErrorKind, conformance};
use futures_executor::block_on;
use sqlx::Connection as _;
use tempfile::{TempDir, tempdir};

use crate::items::{item, large_items_harm_only_their_branch_key, next};
use crate::support::Kms;

fn url(folder: &TempDir) -> String {
    format!("sqlite:{}", folder.path().join("keys.db").display())
}

async fn create(storage: &SqlStorage, id: &str) {
    let (active, version) = next(id);
    storage.create(&active, &version, &item(id, ItemType::Beacon)).await.unwrap();
}

#[tokio::test]
async fn conforms() {
    let folder = tempdir().unwrap();
    let storage = SqlStorage::connect(url(&folder)).await.unwrap();
    conformance::storage(Arc::new(storage)).await;
}

#[tokio::test]
async fn conforms_with_one_connection() {
    let folder = tempdir().unwrap();
    let storage = SqlStorage::builder(url(&folder)).max_connections(1).connect().await.unwrap();
    conformance::storage(Arc::new(storage)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_stores_conform() {
    let folder = tempdir().unwrap();
    let kms = Kms::start().await;
    let key = kms.key();
    let storage = SqlStorage::connect(url(&folder)).await.unwrap();
    conformance::key_store(Arc::new(storage), |it| kms.store(it, &key), 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_stores_under_a_root_conform() {
    let folder = tempdir().unwrap();
    let kms = Kms::start().await;
    let key = kms.key();
    let storage = Arc::new(SqlStorage::connect(url(&folder)).await.unwrap());
    kms.create_root(storage.clone(), &key).await;
    conformance::key_store(storage, |it| kms.store_under_root(it, &key), 10).await;
}

#[test]
fn storages_that_start_at_the_same_time_share_the_file() {
    for _ in 0..5 {
        let folder = tempdir().unwrap();
        let barrier = Barrier::new(8);
        std::thread::scope(|scope| {
            for caller in 0..8 {
                let (url, barrier) = (url(&folder), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let storage = block_on(SqlStorage::connect(url)).unwrap();
                    block_on(create(&storage, &caller.to_string()));
                });
            }
        });
        let storage = block_on(SqlStorage::connect(url(&folder))).unwrap();
        let ids = ["0", "1", "2", "3", "4", "5", "6", "7"];
        assert_eq!(block_on(storage.ids(None, 100)).unwrap(), ids);
        let files = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = files.map(|it| it.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["keys.db", "keys.db-shm", "keys.db-wal"], "nothing else is left");
    }
}

#[test]
#[cfg(unix)]
fn only_the_owner_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempdir().unwrap();
    let storage = block_on(SqlStorage::connect(url(&folder))).unwrap();
    block_on(create(&storage, "a"));
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", file.file_name());
    }
}

/// Runtimes of callers end while the storage and its connections stay.
#[test]
fn runtimes_come_and_go() {
    let folder = tempdir().unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let storage = runtime().block_on(SqlStorage::connect(url(&folder))).unwrap();
    for id in ["a", "b", "c"] {
        runtime().block_on(create(&storage, id));
    }
    let read = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| runtime().block_on(storage.ids(None, 10)).unwrap()))
            .collect();
        readers.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(read, vec![["a", "b", "c"]; 4]);
    // Without any runtime; and the last reference may be dropped inside of one.
    assert_eq!(block_on(storage.ids(Some("a"), 10)).unwrap(), ["b", "c"]);
    runtime().block_on(async move { drop(storage) });
}

#[tokio::test]
async fn a_cancelled_change_blocks_nobody() {
    let folder = tempdir().unwrap();
    let storage = SqlStorage::builder(url(&folder)).max_connections(1).connect().await.unwrap();
    for number in 0..200 {
        let id = number.to_string();
        let (active, version) = next(&id);
        let beacon = item(&id, ItemType::Beacon);
        let create = storage.create(&active, &version, &beacon);
        // Cancelled at a point that depends on the load of the machine.
        let _ = tokio::time::timeout(Duration::from_micros(10 * number), create).await;
    }
    create(&storage, "last").await;
    for id in storage.ids(None, 1000).await.unwrap() {
        assert_eq!(storage.items(&id).await.unwrap().len(), 3, "{id}");
    }
}

#[tokio::test]
async fn large_items_harm_nobody_else() {
    let folder = tempdir().unwrap();
    let storage = SqlStorage::builder(url(&folder)).max_connections(1).connect().await.unwrap();
    large_items_harm_only_their_branch_key(&storage).await;
}

/// Another process holds the lock for changes, and does not end.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_wait_for_a_lock_leave_connections_for_reads() {
    let folder = tempdir().unwrap();
    let storage = SqlStorage::builder(url(&folder)).max_connections(4).connect().await.unwrap();
    create(&storage, "a").await;
    let mut other = sqlx::SqliteConnection::connect(&url(&folder)).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let creations: Vec<_> = (0..8)
        .map(|number| {
            let storage = storage.clone();
            tokio::spawn(async move { create(&storage, &number.to_string()).await })
        })
        .collect();
    // All that is left is to wait for the lock.
    for _ in 0..100 {
        assert!(storage.read("a", ItemType::Active, true).await.unwrap().is_some());
    }
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    for creation in creations {
        creation.await.unwrap();
    }
}

#[tokio::test]
async fn a_deleted_ciphertext_is_in_no_file() {
    let folder = tempdir().unwrap();
    let storage = SqlStorage::connect(url(&folder)).await.unwrap();
    let (mut active, version) = next("a");
    active.ciphertext = b"open sesame".repeat(20);
    storage.create(&active, &version, &item("a", ItemType::Beacon)).await.unwrap();
    storage.shred(&item("a", ItemType::Tombstone)).await.unwrap();
    assert_eq!(storage.items("a").await.unwrap(), [item("a", ItemType::Tombstone)]);
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(!bytes.windows(11).any(|it| it == b"open sesame"), "{:?}", file.file_name());
    }
}

#[tokio::test]
async fn a_file_that_is_not_usable_is_an_error() {
    let folder = tempdir().unwrap();
    let missing = format!("sqlite:{}", folder.path().join("missing/keys.db").display());
    let error = SqlStorage::connect(missing).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Unavailable, "{error:?}");

    std::fs::write(folder.path().join("text"), "no database ".repeat(1000)).unwrap();
    let text = format!("sqlite:{}", folder.path().join("text").display());
    let error = SqlStorage::connect(text).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::Other, "{error:?}");

    let unmigrated = SqlStorage::builder(url(&folder)).migrate(false).connect().await.unwrap_err();
    assert!(unmigrated.to_string().contains("connect once with migration"), "{unmigrated}");
    drop(SqlStorage::connect(url(&folder)).await.unwrap());
    SqlStorage::builder(url(&folder)).migrate(false).connect().await.unwrap();
}

#[tokio::test]
async fn settings_have_ranges() {
    let builder = || SqlStorage::builder("sqlite:never-created.db");
    for builder in [
        builder().timeout(Duration::from_millis(9)),
        builder().timeout(Duration::from_secs(301)),
        builder().max_connections(0),
        builder().max_connections(1001),
    ] {
        let error = builder.connect().await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Other, "{error:?}");
    }
    assert!(!std::path::Path::new("never-created.db").exists());
}
