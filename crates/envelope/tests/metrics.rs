//! The output on the `metrics` facade. The only test of its binary, because the recorder is global.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use envelope::{keyring::KeyringErrorKind, materials::MaterialsCache};
use metrics::{SharedString, Unit};
use metrics_util::{
    CompositeKey,
    debugging::{DebugValue, DebuggingRecorder},
};
use support::{GatedKeyring, caching, context};

/// The metrics agree with the statistics.
#[tokio::test]
async fn metrics_agree_with_the_statistics() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().unwrap();
    let keyring = GatedKeyring::open();
    let cache = MaterialsCache::new(10);
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    for tenant in ["a", "b"] {
        for _ in 0..1_500 {
            envelope.encrypt(b"x", &context(tenant)).await.unwrap();
        }
    }
    keyring.fail(Some(KeyringErrorKind::Other));
    assert!(envelope.encrypt(b"x", &context("c")).await.is_err());
    assert!(envelope.encrypt(b"x", &context("c")).await.is_err());
    cache.clear();
    let stats = cache.stats();
    let snapshot = snapshotter.snapshot().into_vec();
    let total = |name: &str, labels: &[(&str, &str)]| sum(&snapshot, name, labels);
    let encryption = ("operation", "encryption");
    assert_eq!(stats.encryption.hits, 2 * 1_499);
    assert_eq!(total("envelope_cache_hits_total", &[encryption]), stats.encryption.hits);
    assert_eq!(total("envelope_cache_misses_total", &[encryption, ("reason", "absent")]), 4);
    assert_eq!(total("envelope_cache_loads_total", &[("outcome", "ok"), ("ahead", "false")]), 2);
    assert_eq!(total("envelope_cache_loads_total", &[("outcome", "other")]), 1);
    assert_eq!(total("envelope_cache_refused_total", &[encryption]), stats.encryption.refused);
    assert_eq!(total("envelope_cache_invalidations_total", &[encryption]), 2);
    assert!(snapshot.iter().any(|(key, ..)| key.key().name() == "envelope_cache_load_seconds"));

    // Another cache, which labels partitions.
    let cache = MaterialsCache::builder().label_partitions(true).build();
    let tenant =
        |id: &str| caching(GatedKeyring::open(), |builder| builder.cache(&cache).partition_id(id));
    let tenants = [tenant("tenant-1"), tenant("tenant/2")];
    for (envelope, messages) in tenants.iter().zip([3, 5]) {
        for _ in 0..messages {
            envelope.encrypt(b"x", &context("a")).await.unwrap();
        }
    }
    let snapshot = snapshotter.snapshot().into_vec();
    let total = |name: &str, labels: &[(&str, &str)]| sum(&snapshot, name, labels);
    for (partition, hits) in [("tenant-1", 2), ("tenant/2", 4)] {
        let labels = [encryption, ("partition", partition)];
        assert_eq!(total("envelope_cache_hits_total", &labels), hits, "{partition}");
        assert_eq!(total("envelope_cache_misses_total", &labels), 1, "{partition}");
        assert_eq!(total("envelope_cache_loads_total", &labels), 1, "{partition}");
    }
}

type Snapshot = [(CompositeKey, Option<Unit>, Option<SharedString>, DebugValue)];

/// Returns the sum of the counters of this name that have all of these labels.
fn sum(snapshot: &Snapshot, name: &str, labels: &[(&str, &str)]) -> u64 {
    let has = |key: &CompositeKey, (label, value): (&str, &str)| {
        key.key().labels().any(|it| (it.key(), it.value()) == (label, value))
    };
    let counters = snapshot.iter().filter(|(key, ..)| {
        key.key().name() == name && labels.iter().all(|label| has(key, *label))
    });
    counters
        .map(|(.., value)| if let DebugValue::Counter(count) = value { *count } else { 0 })
        .sum()
}
