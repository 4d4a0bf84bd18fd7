//! Servers, behind a proxy that loses connections and responses.

use std::sync::Arc;
use std::time::Duration;

use branch_keys::{Item, ItemType, SqlStorage, Storage, StorageErrorKind, conformance};
use futures_executor::block_on;
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::items::{item, large_items_harm_only_their_branch_key, next};
use crate::proxy::{Mode, Proxy};
use crate::support::Kms;

/// How long operations of a silent server take. Others are faster, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(4);

/// The URLs of the servers to test, each with a new database.
async fn databases() -> Vec<String> {
    let mut urls = vec![];
    let name = format!("keys_{:016x}", fastrand::u64(..));
    let create = || sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")));
    if let Ok(url) = std::env::var("BRANCH_KEYS_POSTGRES") {
        let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
        create().execute(&mut connection).await.unwrap();
        urls.push(with_database(&url, &name));
    }
    if let Ok(url) = std::env::var("BRANCH_KEYS_MYSQL") {
        let mut connection = sqlx::MySqlConnection::connect(&url).await.unwrap();
        create().execute(&mut connection).await.unwrap();
        urls.push(with_database(&url, &name));
    }
    urls
}

fn with_database(url: &str, name: &str) -> String {
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}

/// The items of a new branch key.
fn new(id: &str) -> [Item; 3] {
    let (active, version) = next(id);
    [active, version, item(id, ItemType::Beacon)]
}

async fn create(storage: &SqlStorage, [active, version, beacon]: &[Item; 3]) -> StorageErrorKind {
    // Success is told as a kind that a creation never has.
    let created = storage.create(active, version, beacon).await;
    created.map_or_else(|error| error.kind(), |()| StorageErrorKind::Race)
}

const CREATED: StorageErrorKind = StorageErrorKind::Race;

#[tokio::test(flavor = "multi_thread")]
async fn conform() {
    for url in databases().await {
        let storage = SqlStorage::connect(url).await.unwrap();
        println!("{}", storage.identity());
        let storage = Arc::new(storage);
        conformance::storage(storage.clone()).await;
        let kms = Kms::start().await;
        let key = kms.key();
        conformance::key_store(storage, |it| kms.store(it, &key), 10).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn storages_that_start_at_the_same_time_share_the_table() {
    for _ in 0..3 {
        for url in databases().await {
            let storages = join_all((0..8).map(|_| SqlStorage::connect(url.clone()))).await;
            let storages: Vec<_> = storages.into_iter().map(Result::unwrap).collect();
            let key = new("a");
            let created = join_all(storages.iter().map(|it| create(it, &key))).await;
            let winners = created.iter().filter(|kind| **kind == CREATED).count();
            assert_eq!(winners, 1, "{created:?}");
            for storage in &storages {
                assert_eq!(storage.identity(), storages[0].identity());
                assert_eq!(storage.items("a").await.unwrap().len(), 3);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_items_harm_nobody_else() {
    for url in databases().await {
        let storage = SqlStorage::builder(url).max_connections(1).connect().await.unwrap();
        large_items_harm_only_their_branch_key(&storage).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_and_not_shown() {
    for url in databases().await {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (user, rest) = rest.split_once(':').unwrap();
        let (_, rest) = rest.split_once('@').unwrap();
        let wrong = format!("{scheme}://{user}:sesame@{rest}");
        let error = SqlStorage::connect(wrong).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::Denied, "{error:?}");
        assert!(!format!("{error:?}{error}").contains("sesame"));
        let storage = SqlStorage::connect(&url).await.unwrap();
        assert!(!format!("{storage:?}{}", storage.identity()).contains('@'));
        assert!(!format!("{:?}", SqlStorage::builder(url)).contains('@'));
    }
}

/// `BRANCH_KEYS_CA` is the certificate authority of the servers' certificates for `localhost`.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_verified() {
    let Ok(authority) = std::env::var("BRANCH_KEYS_CA") else { return };
    for url in databases().await {
        let (mode, file, strict) = if url.starts_with("mysql") {
            ("ssl-mode", "ssl-ca", "verify_identity")
        } else {
            ("sslmode", "sslrootcert", "verify-full")
        };
        let other_name = format!("{url}?{mode}={strict}&{file}={authority}");
        let name = other_name.replace("127.0.0.1", "localhost");
        assert!(name != other_name);
        let storage = SqlStorage::connect(name).await.unwrap();
        assert_eq!(create(&storage, &new("a")).await, CREATED);
        let other_authority = format!("{url}?{mode}={strict}").replace("127.0.0.1", "localhost");
        for url in [other_name, other_authority] {
            let error = SqlStorage::connect(url).await.unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::Other, "{error:?}");
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains("certificate"), "{cause}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_are_replaced_without_an_error() {
    for url in databases().await {
        let proxy = Proxy::start(&url).await;
        let storage = SqlStorage::connect(proxy.url()).await.unwrap();
        assert_eq!(create(&storage, &new("a")).await, CREATED);
        join_all((0..8).map(|_| storage.items("a"))).await;
        for id in ["b", "c"] {
            proxy.cut().await;
            assert_eq!(storage.items("a").await.unwrap().len(), 3);
            proxy.cut().await;
            assert_eq!(create(&storage, &new(id)).await, CREATED);
        }
    }
}

/// A network that drops every packet must not block a caller, or use up all connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_wedges_nobody() {
    for url in databases().await {
        let proxy = Proxy::start(&url).await;
        let builder = SqlStorage::builder(proxy.url()).timeout(LIMIT).max_connections(2);
        let storage = builder.connect().await.unwrap();
        assert_eq!(create(&storage, &new("a")).await, CREATED);
        proxy.set(Mode::Silent);
        let results = join_all((0..6).map(|_| storage.items("a"))).await;
        for result in results {
            let kind = result.unwrap_err().kind();
            let expected = [StorageErrorKind::Unavailable, StorageErrorKind::Throttled];
            assert!(expected.contains(&kind), "{kind:?}");
        }
        proxy.set(Mode::Forward);
        assert_eq!(storage.items("a").await.unwrap().len(), 3);
        let results = join_all((0..6).map(|_| storage.items("a"))).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}

/// Connections were idle while the network lost them: the first request already succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_idle_connection_costs_no_request() {
    for url in databases().await {
        let proxy = Proxy::start(&url).await;
        let storage = SqlStorage::builder(proxy.url()).timeout(LIMIT).connect().await.unwrap();
        assert_eq!(create(&storage, &new("a")).await, CREATED);
        proxy.silence_open_connections();
        assert_eq!(storage.items("a").await.unwrap().len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_response_to_a_commit_leaves_the_outcome_unknown() {
    for url in databases().await {
        let proxy = Proxy::start(&url).await;
        let connect = |limit| SqlStorage::builder(proxy.url()).timeout(limit).connect();
        for (mode, limit, is_committed) in [
            (Mode::CutBeforeCommit, Duration::from_mins(1), false),
            (Mode::CutAfterCommit, Duration::from_mins(1), true),
            (Mode::SilentAfterCommit, LIMIT, true),
        ] {
            let storage = connect(limit).await.unwrap();
            let id = format!("{mode:?}");
            let key = new(&id);
            proxy.set(mode);
            assert_eq!(create(&storage, &key).await, StorageErrorKind::UnknownOutcome, "{mode:?}");
            proxy.set(Mode::Forward);
            let items = storage.items(&id).await.unwrap();
            assert_eq!(items.len(), if is_committed { 3 } else { 0 }, "{mode:?}");
            if is_committed {
                assert_eq!(create(&storage, &key).await, StorageErrorKind::AlreadyExists);
                let (active, version) = next(&id);
                proxy.set(mode);
                let rotated = storage.rotate(&active, &version, &key[0].ciphertext).await;
                assert_eq!(rotated.unwrap_err().kind(), StorageErrorKind::UnknownOutcome);
                proxy.set(Mode::Forward);
                let read = storage.read(&id, ItemType::Active, true).await.unwrap();
                assert_eq!(read, Some(active));
            }
        }
    }
}

#[test]
fn runtimes_come_and_go() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for url in runtime().block_on(databases()) {
        let storage = runtime().block_on(SqlStorage::connect(url)).unwrap();
        for id in ["a", "b"] {
            assert_eq!(runtime().block_on(create(&storage, &new(id))), CREATED);
        }
        assert_eq!(block_on(storage.ids(None, 10)).unwrap(), ["a", "b"]);
    }
}

/// `BRANCH_KEYS_RESTART` is a shell command that kills the servers and starts them again.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_no_acknowledged_version() {
    let Ok(restart) = std::env::var("BRANCH_KEYS_RESTART") else { return };
    for url in databases().await {
        let storage = SqlStorage::connect(url).await.unwrap();
        let ids: Vec<_> = (0..8).map(|number| number.to_string()).collect();
        for id in &ids {
            assert_eq!(create(&storage, &new(id)).await, CREATED);
        }
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let rotations = ids.iter().map(|id| {
            let (storage, id, stopped) = (storage.clone(), id.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut acknowledged = vec![];
                while !*stopped.borrow() {
                    let read = storage.read(&id, ItemType::Active, true).await;
                    let Ok(Some(old)) = read else { continue };
                    let (active, version) = next(&id);
                    if storage.rotate(&active, &version, &old.ciphertext).await.is_ok() {
                        acknowledged.push(version);
                    }
                }
                acknowledged
            })
        });
        let rotations: Vec<_> = rotations.collect();
        for _ in 0..2 {
            let command = restart.clone();
            let run = || std::process::Command::new("sh").args(["-c", &command]).status();
            assert!(tokio::task::block_in_place(run).unwrap().success());
        }
        // Each caller goes on after the restart.
        for id in &ids {
            let before = storage.items(id).await.unwrap().len();
            while storage.items(id).await.unwrap().len() == before {}
        }
        stop.send_replace(true);
        for (id, rotation) in ids.iter().zip(rotations) {
            let acknowledged = rotation.await.unwrap();
            let items = storage.items(id).await.unwrap();
            assert!(!acknowledged.is_empty());
            assert!(acknowledged.iter().all(|it| items.contains(it)), "{id} lost a version");
            let active = storage.read(id, ItemType::Active, true).await.unwrap().unwrap();
            let version = active.version.unwrap();
            assert!(items.iter().any(|it| it.item_type.to_string() == version));
        }
    }
}
