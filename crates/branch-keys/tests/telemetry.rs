//! Metrics and log lines of a key store, against an AWS KMS over real sockets. The only test of its
//! binary: whether an event is enabled is remembered for all threads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io;
use std::sync::{Arc, Mutex};

use branch_keys::{CreateBranchKey, Error, ItemType, MemoryStorage, Storage};
use futures_util::future::join;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshot};
use support::Kms;
use tracing_subscriber::filter::LevelFilter;

// On one thread, whose recorder and subscriber these are.
#[tokio::test]
async fn operations_are_counted_and_logged_by_their_outcome() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::DEBUG);
    let subscriber = subscriber.with_ansi(false).with_writer(move || writer.clone()).finish();
    let kms = Kms::start().await;
    let storage = Arc::new(MemoryStorage::new());
    let key = kms.key();
    let store = kms.store(Arc::clone(&storage), &key);
    let another = kms.store(Arc::clone(&storage), &key);

    {
        let _recorder = metrics::set_default_local_recorder(&recorder);
        let _subscriber = tracing::subscriber::set_default(subscriber);
        let new = || CreateBranchKey::new("tenant\nWARN", [("tenant", "42")]);
        let created = store.create(new()).await.unwrap();
        assert!(matches!(store.create(new()).await, Err(Error::AlreadyExists { .. })));
        let id = &created.id;
        store.active(id).await.unwrap();
        store.version(id, created.version).await.unwrap();
        assert!(store.version(id, [7; 16]).await.is_err());
        let rotated = store.rotate(id).await.unwrap();
        let old = storage.read(id, ItemType::Active, true).await.unwrap().unwrap();
        store.rotate_if_older_than(id, std::time::Duration::from_hours(1)).await.unwrap();
        assert_ne!(another.rotate(id).await.unwrap().version, rotated.version);
        // Both read the active item before one of them replaces it.
        let outcomes = join(store.rotate(id), another.rotate(id)).await;
        assert!(matches!(
            outcomes,
            (Ok(_), Err(Error::VersionRace { .. })) | (Err(Error::VersionRace { .. }), Ok(_))
        ));
        store.active(id).await.unwrap();
        storage.put(old);
        assert!(matches!(store.active(id).await, Err(Error::OlderThanSeen { .. })));
        store.shred(id).await.unwrap();
        assert!(matches!(store.active(id).await, Err(Error::Shredded { .. })));
    }

    let counts = Counts::new(snapshotter.snapshot());
    for (operation, outcome, count) in [
        ("create", "ok", 1),
        ("create", "already_exists", 1),
        ("active", "ok", 2),
        ("active", "older_than_seen", 1),
        ("active", "shredded", 1),
        ("version", "ok", 1),
        ("version", "item_not_found", 1),
        ("rotate", "ok", 3),
        ("rotate", "version_race", 1),
        ("shred", "ok", 1),
    ] {
        let labels = format!("operation={operation}, outcome={outcome}, store=logical name");
        assert_eq!(counts.of("branch_keys_operations_total", &labels), count, "{labels}");
    }
    assert_eq!(counts.of("branch_keys_active_age_seconds", "store=logical name"), 2);
    let labels = "operation=rotate, store=logical name";
    assert_eq!(counts.of("branch_keys_operation_seconds", labels), 4);

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines = |level: &str| log.lines().filter(|line| line.contains(level)).count();
    assert_eq!((lines(" INFO "), lines(" WARN ")), (5, 1), "{log}");
    for expected in [
        "branch_key_operation{store=\"logical name\" operation=\"active\"",
        "outcome=\"older_than_seen\"",
        "is older than one seen before",
        // An id writes no line of its own.
        "branch_key=\"tenant\\nWARN\"",
    ] {
        assert!(log.contains(expected), "{expected} is not in {log}");
    }
}

/// The counts of counters and histograms.
struct Counts(Vec<(String, String, usize)>);

impl Counts {
    fn new(snapshot: Snapshot) -> Self {
        let entries = snapshot.into_vec().into_iter().map(|(key, _, _, value)| {
            let labels = key.key().labels();
            let mut labels: Vec<_> =
                labels.map(|label| format!("{}={}", label.key(), label.value())).collect();
            labels.sort();
            let count = match value {
                DebugValue::Counter(count) => usize::try_from(count).unwrap(),
                DebugValue::Histogram(values) => values.len(),
                DebugValue::Gauge(_) => 0,
            };
            (key.key().name().to_owned(), labels.join(", "), count)
        });
        Self(entries.collect())
    }

    fn of(&self, name: &str, labels: &str) -> usize {
        let found = self.0.iter().find(|(it, its, _)| (&**it, &**its) == (name, labels));
        found.map_or(0, |(.., count)| *count)
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
