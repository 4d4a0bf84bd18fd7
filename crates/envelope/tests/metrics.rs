//! The output on the `metrics` facade. The only test of its binary, because the recorder is global.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use envelope::{keyring::KeyringErrorKind, materials::MaterialsCache};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
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
    let total = |name: &str, labels: &[(&str, &str)]| -> u64 {
        let of_name = snapshot.iter().filter(|(key, ..)| key.key().name() == name);
        let labeled = of_name.filter(|(key, ..)| {
            labels.iter().all(|(label, value)| {
                key.key().labels().any(|it| (it.key(), it.value()) == (*label, *value))
            })
        });
        labeled
            .map(|(.., value)| if let DebugValue::Counter(count) = value { *count } else { 0 })
            .sum()
    };
    let encryption = ("operation", "encryption");
    assert_eq!(stats.encryption.hits, 2 * 1_499);
    assert_eq!(total("envelope_cache_hits_total", &[encryption]), stats.encryption.hits);
    assert_eq!(total("envelope_cache_misses_total", &[encryption, ("reason", "absent")]), 4);
    assert_eq!(total("envelope_cache_loads_total", &[("outcome", "ok"), ("ahead", "false")]), 2);
    assert_eq!(total("envelope_cache_loads_total", &[("outcome", "other")]), 1);
    assert_eq!(total("envelope_cache_refused_total", &[encryption]), stats.encryption.refused);
    assert_eq!(total("envelope_cache_invalidations_total", &[encryption]), 2);
    assert!(snapshot.iter().any(|(key, ..)| key.key().name() == "envelope_cache_load_seconds"));
}
