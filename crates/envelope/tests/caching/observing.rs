//! What can be seen of the cache: statistics, observers, metrics.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use crate::support::{GatedKeyring, caching, context};
use envelope::{
    Clock, DataKey, Envelope, PreparedContext, ResultFuture,
    keyring::{GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringRequest},
    materials::{EncryptedDataKey, MaterialsCache},
    observer::{Event, Observer},
};
use tokio::sync::Semaphore;

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
    let counts = stats();
    assert_eq!(counts.load_failures, 3);
    assert_eq!((counts.failures_throttled, counts.failures_credentials), (1, 1));
    assert_eq!((counts.failures_unusable, counts.failures_timed_out), (1, 0));
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

/// Uses the cache on every event, in each way that an observer may.
#[derive(Debug, Default)]
struct Meddler {
    envelope: OnceLock<(MaterialsCache, Envelope, PreparedContext, Vec<u8>)>,
    /// Whether it also invalidates entries.
    invalidates: bool,
    /// The kinds of events, with the number of each.
    seen: Mutex<BTreeMap<String, u32>>,
}

impl Observer for Meddler {
    fn observe(&self, event: &Event<'_>) {
        let kind = format!("{:?} {:?}", event.operation, event.kind);
        let kind = kind.split([' ', '(']).take(2).collect::<Vec<_>>().join(" ");
        *self.seen.lock().unwrap().entry(kind).or_default() += 1;
        let Some((cache, envelope, prepared, message)) = self.envelope.get() else { return };
        let before = cache.stats();
        // They succeed or fail, but return.
        let _ = envelope.try_encrypt(b"x", &context("meddler"));
        let _ = prepared.try_encrypt(b"x");
        let _ = envelope.try_decrypt(message, &context("meddler"));
        let _ = cache.oldest_data_key_age();
        if self.invalidates {
            cache.invalidate(&context("nobody"));
            cache.remove_older_than(MINUTE * 100);
        }
        let after = cache.stats();
        assert!(after.encryption.hits >= before.encryption.hits);
    }
}

/// A keyring that says when another identity has replaced its own.
#[derive(Debug, Clone)]
struct Replaceable(GatedKeyring, Arc<AtomicU64>);

impl Keyring for Replaceable {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        self.0.generate(request)
    }

    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        self.0.wrap(request, data_key)
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        self.0.unwrap(request, encrypted_data_keys)
    }

    fn wrapping_key(&self, request: KeyringRequest<'_>) -> Option<Arc<str>> {
        self.0.wrapping_key(request)
    }

    fn identity(&self) -> Option<String> {
        self.0.identity()
    }

    fn tenure(&self) -> u64 {
        self.1.load(Relaxed)
    }
}

/// Causes every kind of event, and in each way: by an operation, by a load that a caller waits for,
/// in the background, by an eviction, an invalidation, a refusal, and another identity.
async fn cause_each_event(meddler: &Arc<Meddler>) {
    let keyring = GatedKeyring::open();
    let tenure = Arc::<AtomicU64>::default();
    let clock = Clock::manual();
    let cache = MaterialsCache::builder()
        .capacity(10)
        .clock(&clock)
        .observer(Arc::clone(meddler) as Arc<dyn Observer>)
        .build();
    let envelope = caching(Replaceable(keyring.clone(), Arc::clone(&tenure)), |builder| {
        builder
            .cache(&cache)
            .max_age(MINUTE)
            .max_messages(8)
            .max_bytes(1_000)
            .serve_stale_for(MINUTE)
            .prime_decrypt(true)
    });
    let ours = context("meddler");
    let prepared = envelope.prepare(&ours).unwrap();
    let message = envelope.encrypt(b"x", &ours).await.unwrap();
    meddler.envelope.set((cache.clone(), envelope.clone(), prepared, message.clone())).unwrap();
    let seen = |kind: &str| meddler.seen.lock().unwrap().get(kind).copied().unwrap_or_default();

    // A bypass, hits, refreshes and promotions, and misses of either half.
    envelope.encrypt(&[0; 1_001], &ours).await.unwrap();
    for _ in 0..100 {
        envelope.encrypt(b"x", &ours).await.unwrap();
        envelope.decrypt(&message, &ours).await.unwrap();
    }
    cache.clear();
    envelope.decrypt(&message, &ours).await.unwrap();
    // Evictions, of primed entries, too.
    for tenant in 0..50 {
        envelope.encrypt(b"x", &context(&tenant.to_string())).await.unwrap();
    }
    // Many callers of one load.
    let shared = context("shared");
    keyring.gate.forget_permits(usize::MAX);
    let (first, second, ()) =
        tokio::join!(envelope.encrypt(b"x", &shared), envelope.encrypt(b"x", &shared), async {
            keyring.gate.add_permits(Semaphore::MAX_PERMITS);
        });
    first.and(second).unwrap();
    // An outage, in which a data key past its age is used, and then a failure is remembered.
    let stale = context("stale");
    envelope.encrypt(b"x", &stale).await.unwrap();
    keyring.fail(Some(KeyringErrorKind::TimedOut));
    clock.advance(MINUTE);
    let _ = envelope.encrypt(b"x", &stale).await;
    let _ = envelope.encrypt(b"x", &context("new")).await;
    let _ = envelope.encrypt(b"x", &context("new")).await;
    keyring.fail(None);
    cache.clear();
    encrypt_again(&envelope, &clock).await;
    // A refusal drops the entries.
    keyring.fail(Some(KeyringErrorKind::Unusable));
    let _ = envelope.encrypt(b"x", &context("refused")).await;
    keyring.fail(None);
    encrypt_again(&envelope, &clock).await;
    // Another identity.
    let before = seen("Encryption Invalidated");
    tenure.store(1, Relaxed);
    encrypt_again(&envelope, &clock).await;
    assert!(seen("Encryption Invalidated") > before);
}

/// Encrypts when the failures so far are forgotten.
async fn encrypt_again(envelope: &Envelope, clock: &Clock) {
    for _ in 0..100 {
        if envelope.encrypt(b"x", &context("meddler")).await.is_ok() {
            return;
        }
        clock.advance(Duration::from_secs(1));
    }
    panic!("the failures are never forgotten");
}

/// The observer must not wait for a lock that its caller holds.
#[test]
fn an_observer_may_use_the_cache_on_every_event() {
    for invalidates in [false, true] {
        let meddler = Arc::new(Meddler { invalidates, ..Meddler::default() });
        let (ended, wait) = mpsc::channel();
        let scene = Arc::clone(&meddler);
        thread::spawn(move || {
            futures_executor::block_on(cause_each_event(&scene));
            ended.send(()).unwrap();
        });
        wait.recv_timeout(MINUTE).expect("an observer waits for ever, or the scene failed");
        if invalidates {
            // That forgets failures and loads under way, too.
            continue;
        }
        let seen = meddler.seen.lock().unwrap();
        // The other kinds are reported together with a miss.
        let missing: Vec<_> = [
            "Hit",
            "Missed",
            "Coalesced",
            "Bypassed",
            "Refused",
            "Loaded",
            "LoadFailed",
            "Promoted",
            "StaleServed",
            "Evicted",
            "Invalidated",
        ]
        .into_iter()
        .map(|kind| format!("Encryption {kind}"))
        .chain(["Hit", "Missed", "Loaded", "Evicted"].map(|kind| format!("Decryption {kind}")))
        // A cache without threads refreshes nothing ahead.
        .filter(|kind| cfg!(feature = "tokio") || kind != "Encryption Promoted")
        .filter(|kind| !seen.contains_key(kind))
        .collect();
        assert!(missing.is_empty(), "never saw {missing:?}, only {seen:?}");
    }
}

/// The first use of a prepared context adds its entry, which may evict another one.
#[test]
fn an_observer_may_use_the_prepared_context_whose_entry_evicts_another_one() {
    let (ended, wait) = mpsc::channel();
    thread::spawn(move || {
        let meddler = Arc::new(Meddler::default());
        let observer = Arc::clone(&meddler) as Arc<dyn Observer>;
        let cache = MaterialsCache::builder().capacity(1).observer(observer).build();
        let envelope = caching(GatedKeyring::open(), |builder| builder.cache(&cache));
        let message = futures_executor::block_on(envelope.encrypt(b"x", &context("1"))).unwrap();
        let prepared = envelope.prepare(&context("2")).unwrap();
        meddler.envelope.set((cache, envelope, prepared.clone(), message)).unwrap();
        let _ = prepared.try_encrypt(b"x");
        assert!(meddler.seen.lock().unwrap().contains_key("Encryption Evicted"));
        ended.send(()).unwrap();
    });
    wait.recv_timeout(MINUTE).expect("an observer waits for ever, or nothing was evicted");
}

/// Writes down the partition of each event.
#[derive(Debug, Default)]
struct Partitions(Mutex<Vec<Option<String>>>);

impl Observer for Partitions {
    fn observe(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(event.partition.map(str::to_owned));
    }
}

#[tokio::test]
async fn events_name_the_partition_only_if_the_cache_is_set_to() {
    for labels in [false, true] {
        let observer = Arc::new(Partitions::default());
        let cache = MaterialsCache::builder()
            .label_partitions(labels)
            .observer(Arc::clone(&observer) as Arc<dyn Observer>)
            .build();
        let envelope =
            caching(GatedKeyring::open(), |builder| builder.cache(&cache).partition_id("tenant/1"));
        // A miss, a load and a hit.
        envelope.encrypt(b"x", &context("1")).await.unwrap();
        envelope.encrypt(b"x", &context("1")).await.unwrap();
        let expected = labels.then(|| "tenant/1".to_owned());
        assert_eq!(*observer.0.lock().unwrap(), vec![expected; 3]);
    }
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn statistics_survive_json() {
    let cache = MaterialsCache::new(10);
    let envelope = caching(GatedKeyring::open(), |builder| builder.cache(&cache));
    envelope.encrypt(b"x", &context("a")).await.unwrap();
    let json = serde_json::to_value(cache.stats()).unwrap();
    assert_eq!(json["encryption"]["misses_absent"], 1);
    assert_eq!(json["encryption"]["failures_throttled"], 0);
    assert_eq!(
        serde_json::from_value::<envelope::materials::CacheStats>(json).unwrap(),
        cache.stats()
    );
}
