//! What can be seen of the cache: statistics, observers, metrics.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use envelope::{
    Clock,
    keyring::KeyringErrorKind,
    materials::MaterialsCache,
    observer::{Event, Observer},
};
use support::{GatedKeyring, caching, context};

const MINUTE: Duration = Duration::from_mins(1);

/// Writes down all that it is told.
#[derive(Debug, Default)]
struct Diary(Mutex<Vec<String>>);

impl Observer for Diary {
    fn observe(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(format!(
            "{:?} {} {:?}",
            event.operation,
            event.context_keys(),
            event.kind
        ));
    }
}

impl Diary {
    /// What was written since this was last asked, without what changes from run to run.
    fn page(&self) -> Vec<String> {
        let page = std::mem::take(&mut *self.0.lock().unwrap());
        page.into_iter()
            .map(|line| line.split(" took: ").next().unwrap_or_default().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn an_observer_is_told_of_each_thing() {
    let keyring = GatedKeyring::open();
    let diary = Arc::new(Diary::default());
    let clock = Clock::manual();
    let cache = MaterialsCache::builder()
        .clock(&clock)
        .observer(Arc::clone(&diary) as Arc<dyn Observer>)
        .build();
    let envelope = caching(keyring.clone(), |builder| {
        builder
            .cache(&cache)
            .max_age(MINUTE)
            .max_bytes(100)
            .serve_stale_for(MINUTE)
            .refresh_ahead(false)
    });
    let (ours, secret) = (context("secret value"), "secret value");
    envelope.encrypt(b"x", &ours).await.unwrap();
    envelope.encrypt(b"x", &ours).await.unwrap();
    envelope.encrypt(&[0; 101], &ours).await.unwrap();
    envelope.encrypt(&[0; 99], &ours).await.unwrap();
    assert_eq!(
        diary.page(),
        [
            "Encryption tenant Missed(Absent)",
            "Encryption tenant Loaded { ahead: false,",
            "Encryption tenant Hit",
            "Encryption tenant Bypassed",
            "Encryption tenant Missed(Bytes)",
            "Encryption tenant Loaded { ahead: false,",
            // The first one has hardly been used, so the second one waits beside it.
        ]
    );
    clock.advance(MINUTE);
    keyring.fail(Some(KeyringErrorKind::TimedOut));
    envelope.encrypt(b"x", &ours).await.unwrap();
    envelope.encrypt(b"", &ours).await.unwrap();
    let page = diary.page();
    assert_eq!(page[0], "Encryption tenant Missed(Age)");
    assert_eq!(page[1], "Encryption tenant LoadFailed { ahead: false,");
    assert_eq!(page[2..], ["Encryption tenant Hit", "Encryption tenant StaleServed"].repeat(2));
    clock.advance(MINUTE);
    assert!(envelope.encrypt(b"x", &ours).await.is_err());
    assert!(envelope.encrypt(b"x", &ours).await.is_err());
    cache.clear();
    let page = diary.page();
    assert!(page[3].starts_with("Encryption tenant Refused { cause: "), "{page:?}");
    assert_eq!(page.last().unwrap(), "Encryption  Invalidated { entries: 1 }");
    assert!(!page.concat().contains(secret));
}

#[tokio::test]
async fn misses_have_their_reasons_and_failures_their_kinds() {
    let keyring = GatedKeyring::open();
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().capacity(10).clock(&clock).build();
    let envelope = caching(keyring.clone(), |builder| {
        builder
            .cache(&cache)
            .max_age(MINUTE)
            .max_messages(2)
            .refresh_ahead(false)
            .max_backoff(Duration::ZERO)
    });
    let stats = || cache.stats().encryption;
    for _ in 0..3 {
        envelope.encrypt(b"x", &context("a")).await.unwrap();
    }
    assert_eq!((stats().misses_absent, stats().misses_messages, stats().hits), (1, 1, 1));
    clock.advance(MINUTE);
    envelope.encrypt(b"x", &context("a")).await.unwrap();
    cache.invalidate(&context("a"));
    envelope.encrypt(b"x", &context("a")).await.unwrap();
    assert_eq!((stats().misses_age, stats().misses_invalidated, stats().invalidated), (1, 1, 1));
    for tenant in 0..30 {
        envelope.encrypt(b"x", &context(&tenant.to_string())).await.unwrap();
    }
    assert_eq!((stats().misses_evicted, stats().evictions), (0, 21));
    let gone: Vec<_> = (0..30)
        .map(|it| context(&it.to_string()))
        .filter(|it| envelope.try_encrypt(b"x", it).is_err())
        .collect();
    for context in gone.iter().rev() {
        envelope.encrypt(b"x", context).await.unwrap();
    }
    // Not more of them are remembered than the cache holds.
    assert!((5..=gone.len() as u64).contains(&stats().misses_evicted), "{:?}", stats());
    let counts = stats();
    assert_eq!(counts.misses, 34 + gone.len() as u64);
    assert_eq!(counts.misses, 31 + 3 + counts.misses_evicted + (counts.misses_absent - 31));
    assert_eq!(cache.stats().requests(), keyring.counts().0);
    assert_eq!(counts.requests_avoided(), counts.hits);
    let ten = cache.stats().saved(10_000.0 * 10.0) / f64::from(u32::try_from(counts.hits).unwrap());
    assert!((ten - 10.0).abs() < 1e-9, "{ten}");

    for kind in
        [KeyringErrorKind::Throttled, KeyringErrorKind::Credentials, KeyringErrorKind::Unusable]
    {
        keyring.fail(Some(kind));
        assert!(envelope.encrypt(b"x", &context(kind.name())).await.is_err());
    }
    let failures = stats().failures;
    assert_eq!(
        (failures.throttled, failures.credentials, failures.unusable, failures.timed_out),
        (1, 1, 1, 0)
    );
    assert_eq!(stats().load_failures, 3);
}

#[tokio::test]
async fn contexts_that_never_repeat_are_told_of_once() {
    let keyring = GatedKeyring::open();
    let diary = Arc::new(Diary::default());
    let cache = MaterialsCache::builder()
        .capacity(100)
        .observer(Arc::clone(&diary) as Arc<dyn Observer>)
        .build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    for message_id in 0..3_000 {
        envelope.encrypt(b"x", &context(&message_id.to_string())).await.unwrap();
    }
    let told = diary.page().iter().filter(|line| line.contains("ContextsNeverRepeat")).count();
    let stats = cache.stats().encryption;
    assert_eq!((told, stats.misses), (1, 3_000));
    assert!(stats.misses_never_repeats > 1_900 && stats.hits == 0, "{stats:?}");
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn statistics_survive_json() {
    let cache = MaterialsCache::new(10);
    let envelope = caching(GatedKeyring::open(), |builder| builder.cache(&cache));
    envelope.encrypt(b"x", &context("a")).await.unwrap();
    let json = serde_json::to_value(cache.stats()).unwrap();
    assert_eq!(json["encryption"]["misses_absent"], 1);
    assert_eq!(json["encryption"]["failures"]["throttled"], 0);
    assert_eq!(
        serde_json::from_value::<envelope::materials::CacheStats>(json).unwrap(),
        cache.stats()
    );
}
