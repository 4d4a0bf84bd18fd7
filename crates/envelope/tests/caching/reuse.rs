//! The caching materials manager: its limits, its clock, and who may use its entries.

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use crate::support::{GatedKeyring, caching, encrypted_data_keys, eventually};
use envelope::{
    Clock, DataKey, EncryptionContext, Envelope, Error,
    keyring::{KeyringErrorKind, MultiKeyring, RawAesKeyring},
    materials::{CachingBuilder, CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
    observer::{Event, EventKind, Observer},
};
use futures_util::future::{join_all, poll_immediate};

pub(crate) fn context() -> EncryptionContext {
    EncryptionContext::new([("tenant", "42")]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_data_key_seals_more_than_max_messages() {
    const TASKS: usize = 64;
    const MESSAGES: usize = 100_000;
    let keyring = GatedKeyring::open();
    // Ahead of need, a last data key might come that nobody needs.
    let envelope =
        caching(keyring.clone(), |builder| builder.max_messages(1_000).refresh_ahead(false));
    let tasks = (0..TASKS).map(|task| {
        let envelope = envelope.clone();
        tokio::spawn(async move {
            let mut sealed: HashMap<Vec<u8>, u64> = HashMap::new();
            for _ in (task..MESSAGES).step_by(TASKS) {
                let message = envelope.encrypt(b"4111 1111 1111 1111", &context()).await.unwrap();
                *sealed.entry(encrypted_data_keys(&message).to_vec()).or_default() += 1;
            }
            sealed
        })
    });
    let mut per_key: HashMap<Vec<u8>, u64> = HashMap::new();
    for sealed in join_all(tasks).await {
        for (key, count) in sealed.unwrap() {
            *per_key.entry(key).or_default() += count;
        }
    }
    assert_eq!(per_key.values().sum::<u64>(), MESSAGES as u64);
    assert_eq!(per_key.values().max(), Some(&1_000));
    assert_eq!(
        (per_key.len(), keyring.counts().0),
        (100, 100),
        "exactly as many data keys as needed"
    );
}

#[tokio::test]
async fn no_data_key_seals_more_than_max_bytes() {
    let keyring = GatedKeyring::open();
    let envelope = caching(keyring.clone(), |builder| builder.max_bytes(10).refresh_ahead(false));
    for length in [4, 6, 0, 1, 9, 11] {
        envelope.encrypt(&vec![0; length], &context()).await.unwrap();
    }
    // 4 + 6 + 0 fill the first key, 1 + 9 the second, and 11 exceed any: a key of its own,
    // uncached.
    assert_eq!(keyring.counts().0, 3);
    assert!(matches!(envelope.try_encrypt(&[0; 11], &context()), Err(Error::NotCached)));
}

#[tokio::test]
async fn a_data_key_is_used_up_to_its_age_and_no_longer() {
    let keyring = GatedKeyring::open();
    let clock = Clock::manual();
    let envelope = caching(keyring.clone(), |builder| {
        builder
            .max_age(Duration::from_mins(1))
            .cache(&MaterialsCache::builder().clock(&clock).build())
            .refresh_ahead(false)
    });
    let message = envelope.encrypt(b"x", &context()).await.unwrap();
    envelope.decrypt(&message, &context()).await.unwrap();
    clock.advance(Duration::from_nanos(59_999_999_999));
    assert!(envelope.try_encrypt(b"x", &context()).is_ok());
    assert!(envelope.try_decrypt(&message, &context()).is_ok());
    clock.advance(Duration::from_nanos(1));
    assert!(matches!(envelope.try_encrypt(b"x", &context()), Err(Error::NotCached)));
    assert!(matches!(envelope.try_decrypt(&message, &context()), Err(Error::NotCached)));
    envelope.encrypt(b"x", &context()).await.unwrap();
    envelope.decrypt(&message, &context()).await.unwrap();
    assert_eq!(keyring.counts(), (2, 2));
}

#[tokio::test]
async fn age_counts_from_the_request_not_from_its_answer() {
    let keyring = GatedKeyring::new(0);
    let clock = Clock::manual();
    let envelope = caching(keyring.clone(), |builder| {
        builder
            .max_age(Duration::from_mins(1))
            .cache(&MaterialsCache::builder().clock(&clock).build())
    });
    let context = context();
    let mut waiting = Box::pin(envelope.encrypt(b"x", &context));
    assert!(poll_immediate(&mut waiting).await.is_none());
    eventually(|| keyring.counts().0 == 1).await;
    clock.advance(Duration::from_mins(1));
    keyring.gate.add_permits(1);
    waiting.await.expect("who waited for the key may use it");
    assert!(matches!(envelope.try_encrypt(b"x", &context), Err(Error::NotCached)));
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn nobody_waits_for_a_successor_by_age() {
    let keyring = GatedKeyring::open();
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let envelope =
        caching(keyring.clone(), |builder| builder.max_age(Duration::from_mins(1)).cache(&cache));
    let message = envelope.encrypt(b"x", &context()).await.unwrap();
    envelope.decrypt(&message, &context()).await.unwrap();
    for round in 1..=10 {
        // The one in use is now 49 seconds old, and those after it were 11 when they took over.
        clock.advance(Duration::from_secs(if round == 1 { 49 } else { 38 }));
        let stats = || cache.stats();
        // A use that comes before the last refresh has ended begins no other one.
        eventually(|| {
            envelope.try_encrypt(b"x", &context()).unwrap();
            envelope.try_decrypt(&message, &context()).unwrap();
            (stats().encryption.loads, stats().decryption.loads) == (1 + round, 1 + round)
        })
        .await;
        clock.advance(Duration::from_secs(11));
        envelope.try_encrypt(b"x", &context()).unwrap();
        envelope.try_decrypt(&message, &context()).unwrap();
    }
    let stats = cache.stats();
    assert_eq!((stats.encryption.misses, stats.decryption.misses), (1, 1));
    assert_eq!(stats.encryption.refreshes, stats.encryption.loads - 1);
    assert!(stats.encryption.promotions >= 9);
}

#[tokio::test]
async fn an_outage_is_bridged_up_to_the_ceiling_and_never_past_the_limits() {
    let keyring = GatedKeyring::open();
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let envelope = caching(keyring.clone(), |builder| {
        let builder =
            builder.max_age(Duration::from_mins(1)).serve_stale_for(Duration::from_mins(2));
        builder.max_messages(5).cache(&cache)
    });
    let message = envelope.encrypt(b"1", &context()).await.unwrap();
    envelope.decrypt(&message, &context()).await.unwrap();
    keyring.gate.close();
    clock.advance(Duration::from_mins(1));
    // The first one asks, and is told that there is an outage; those after it need not ask.
    assert!(envelope.try_encrypt(b"x", &context()).is_err());
    for _ in 0..2 {
        envelope.encrypt(b"x", &context()).await.unwrap();
        envelope.decrypt(&message, &context()).await.unwrap();
    }
    envelope.try_encrypt(b"x", &context()).unwrap();
    envelope.try_decrypt(&message, &context()).unwrap();
    clock.advance(Duration::from_mins(2) - Duration::from_nanos(1));
    envelope.try_encrypt(b"x", &context()).unwrap();
    assert!(envelope.encrypt(b"6", &context()).await.is_err(), "past max_messages");
    envelope.try_decrypt(&message, &context()).unwrap();
    clock.advance(Duration::from_nanos(1));
    assert!(envelope.decrypt(&message, &context()).await.is_err(), "past the ceiling");
    assert!(cache.stats().decryption.stale >= 4);
}

#[tokio::test]
async fn without_a_ceiling_nothing_serves_past_its_age() {
    let keyring = GatedKeyring::open();
    let clock = Clock::manual();
    let envelope = caching(keyring.clone(), |builder| {
        builder
            .max_age(Duration::from_mins(1))
            .cache(&MaterialsCache::builder().clock(&clock).build())
    });
    envelope.encrypt(b"1", &context()).await.unwrap();
    keyring.gate.close();
    clock.advance(Duration::from_mins(1));
    assert!(envelope.encrypt(b"x", &context()).await.is_err());
    assert!(envelope.encrypt(b"x", &context()).await.is_err());
}

/// The value of a load from before an invalidation serves its own callers only.
#[tokio::test]
async fn nothing_from_before_an_invalidation_is_used_after() {
    let keyring = GatedKeyring::new(0);
    let cache = MaterialsCache::new(10);
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let (context, other) = (context(), EncryptionContext::new([("tenant", "43")]).unwrap());
    let mut before = Box::pin(envelope.encrypt(b"x", &context));
    assert!(poll_immediate(&mut before).await.is_none());
    eventually(|| keyring.counts().0 == 1).await;
    cache.invalidate(&context);
    let mut after = Box::pin(envelope.encrypt(b"x", &context));
    assert!(poll_immediate(&mut after).await.is_none());
    keyring.gate.add_permits(2);
    let (before, after) = futures_util::future::join(before, after).await;
    let (before, after) = (before.unwrap(), after.unwrap());
    assert_ne!(encrypted_data_keys(&before), encrypted_data_keys(&after));
    let now = envelope.try_encrypt(b"x", &context).unwrap();
    assert_eq!(encrypted_data_keys(&now), encrypted_data_keys(&after));

    keyring.gate.add_permits(10);
    envelope.encrypt(b"x", &other).await.unwrap();
    envelope.decrypt(&after, &context).await.unwrap();
    for invalidate in [
        &(|| cache.invalidate(&context)) as &dyn Fn() -> u64,
        &|| cache.invalidate_key("key"),
        &|| cache.clear(),
    ] {
        envelope.encrypt(b"x", &context).await.unwrap();
        envelope.encrypt(b"x", &other).await.unwrap();
        envelope.decrypt(&after, &context).await.unwrap();
        assert!((2..=3).contains(&invalidate()), "one or two to seal, one to open");
        assert!(matches!(envelope.try_encrypt(b"x", &context), Err(Error::NotCached)));
        assert!(matches!(envelope.try_decrypt(&after, &context), Err(Error::NotCached)));
    }
    envelope.encrypt(b"x", &other).await.unwrap();
    assert_eq!(cache.invalidate(&context) + cache.invalidate_key("another key"), 0);
    envelope.try_encrypt(b"x", &other).expect("nobody else's entry goes");
}

#[tokio::test]
async fn a_message_that_does_not_unwrap_takes_no_place_in_the_cache() {
    let keyring = GatedKeyring::open();
    let cache = MaterialsCache::new(10);
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let mut message = envelope.encrypt(b"x", &context()).await.unwrap();
    let end_of_keys = crate::support::header_length(&message) - 53;
    message[end_of_keys - 1] ^= 1;
    assert!(envelope.decrypt(&message, &context()).await.is_err());
    let stats = cache.stats().decryption;
    assert_eq!((stats.entries, stats.loads, stats.load_failures), (0, 1, 1));
}

/// A forged message carries a real wrapped key, so it gets real materials; they must not stay for
/// its sake.
#[tokio::test]
async fn a_forged_message_takes_no_place_in_the_cache_and_drops_nobody_elses() {
    let keyring = GatedKeyring::open();
    let cache = MaterialsCache::new(10);
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let message = envelope.encrypt(b"x", &context()).await.unwrap();
    let mut forged = message.clone();
    let tag = crate::support::header_length(&message) - 16;
    forged[tag] ^= 1;
    assert!(matches!(envelope.decrypt(&forged, &context()).await, Err(Error::Authentication)));
    assert_eq!(cache.stats().decryption.entries, 0);
    envelope.decrypt(&message, &context()).await.unwrap();
    assert!(matches!(envelope.decrypt(&forged, &context()).await, Err(Error::Authentication)));
    assert_eq!(cache.stats().decryption.entries, 1);
    assert!(envelope.try_decrypt(&message, &context()).is_ok());
    cache.clear();
    assert!(matches!(envelope.try_decrypt(&message, &context()), Err(Error::NotCached)));
}

#[tokio::test]
async fn messages_under_two_data_keys_of_one_context_both_open() {
    let keyring = GatedKeyring::open();
    let envelope = caching(keyring.clone(), |builder| builder.max_messages(1));
    let one = envelope.encrypt(b"one", &context()).await.unwrap();
    let other = envelope.encrypt(b"other", &context()).await.unwrap();
    assert_ne!(encrypted_data_keys(&one), encrypted_data_keys(&other));
    for _ in 0..2 {
        assert_eq!(envelope.decrypt(&one, &context()).await.unwrap().plaintext(), b"one");
        assert_eq!(envelope.decrypt(&other, &context()).await.unwrap().plaintext(), b"other");
    }
    assert_eq!(keyring.counts().1, 2);
}

#[tokio::test]
async fn partitions_share_entries_if_and_only_if_their_ids_are_equal() {
    let keyring = GatedKeyring::open();
    let cache = MaterialsCache::new(10);
    let in_partition =
        |id: &str| caching(keyring.clone(), |builder| builder.cache(&cache).partition_id(id));
    let (a, also_a, b) = (in_partition("a"), in_partition("a"), in_partition("b"));
    let own = || caching(keyring.clone(), |builder| builder.cache(&cache));
    let (own_1, own_2) = (own(), own());
    a.encrypt(b"x", &context()).await.unwrap();
    own_1.encrypt(b"x", &context()).await.unwrap();
    assert!(also_a.try_encrypt(b"x", &context()).is_ok());
    assert!(b.try_encrypt(b"x", &context()).is_err());
    assert!(own_2.try_encrypt(b"x", &context()).is_err());
}

/// Of two managers that share their entries, each keeps to its own limits, also for entries that
/// the other one loaded.
#[tokio::test]
async fn managers_with_different_limits_share_entries_and_keep_to_their_own() {
    const SECOND: Duration = Duration::from_secs(1);
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let keyring = GatedKeyring::open();
    let shared =
        |builder: CachingBuilder| builder.cache(&cache).partition_id("both").refresh_ahead(false);
    let strict =
        caching(keyring.clone(), |builder| shared(builder).max_age(SECOND).max_messages(10));
    let lax = caching(keyring.clone(), |builder| shared(builder).max_age(3600 * SECOND));
    let mut used: HashMap<Vec<u8>, u64> = HashMap::new();
    for turn in 0..100 {
        let is_strict = turn % 3 == 0;
        let by = if is_strict { &strict } else { &lax };
        let message = by.encrypt(b"x", &context()).await.unwrap();
        let used = used.entry(encrypted_data_keys(&message).to_vec()).or_default();
        *used += 1;
        assert!(!is_strict || *used <= 10, "message {used} of a data key");
    }
    let message = lax.encrypt(b"x", &context()).await.unwrap();
    clock.advance(2 * SECOND);
    assert!(matches!(strict.try_encrypt(b"x", &context()), Err(Error::NotCached)));
    let fresh = strict.encrypt(b"x", &context()).await.unwrap();
    assert_ne!(encrypted_data_keys(&fresh), encrypted_data_keys(&message));
}

#[tokio::test]
async fn contexts_never_share_a_data_key() {
    let keyring = GatedKeyring::open();
    let envelope = caching(keyring.clone(), |builder| builder);
    let other = EncryptionContext::new([("tenant", "43")]).unwrap();
    let (a, b) = (
        envelope.encrypt(b"x", &context()).await.unwrap(),
        envelope.encrypt(b"x", &other).await.unwrap(),
    );
    assert_ne!(encrypted_data_keys(&a), encrypted_data_keys(&b));
    assert_eq!(keyring.counts().0, 2);
}

#[tokio::test]
async fn stats_tell_what_happened() {
    let keyring = GatedKeyring::open();
    let cache = MaterialsCache::new(10);
    let envelope =
        caching(keyring.clone(), |builder| builder.cache(&cache).max_bytes(5).refresh_ahead(false));
    for _ in 0..3 {
        envelope.encrypt(b"x", &context()).await.unwrap();
    }
    envelope.encrypt(b"longer", &context()).await.unwrap();
    let stats = cache.stats().encryption;
    assert_eq!((stats.entries, stats.hits, stats.misses), (1, 2, 1));
    assert_eq!((stats.loads, stats.load_failures, stats.coalesced, stats.bypasses), (1, 0, 0, 1));
    cache.clear();
    assert_eq!(cache.stats().encryption.entries, 0);
    assert!(envelope.try_encrypt(b"x", &context()).is_err());
    assert_eq!(keyring.generated.load(Ordering::SeqCst), 2);
}

/// Caches without capacity request a data key for each operation; caches without limits allocate
/// nothing in advance for it.
#[tokio::test]
async fn any_capacity_is_allowed() {
    for capacity in [0, 1, usize::MAX / 1_000, usize::MAX - 1, usize::MAX] {
        let (keyring, cache) = (GatedKeyring::open(), MaterialsCache::new(capacity));
        let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
        let handle = envelope.prepare(&context()).unwrap();
        for _ in 0..3 {
            let message = handle.encrypt(b"x").await.unwrap();
            envelope.decrypt(&message, &context()).await.unwrap();
        }
        let holds = capacity > 0;
        assert_eq!(keyring.counts(), if holds { (1, 1) } else { (3, 3) }, "capacity {capacity}");
        assert_eq!(handle.try_encrypt(b"x").is_ok(), holds);
        assert_eq!(envelope.try_encrypt(b"x", &context()).is_ok(), holds);
        assert_eq!(cache.stats().encryption.entries, usize::from(holds));
        keyring.fail(Some(KeyringErrorKind::Other));
        let other = EncryptionContext::new([("tenant", "43")]).unwrap();
        assert!(matches!(envelope.encrypt(b"x", &other).await, Err(Error::DataKeyUnavailable(_))));
        let error = envelope.encrypt(b"x", &other).await.unwrap_err();
        assert_eq!(matches!(error, Error::Remembered { .. }), holds, "{error}");
    }
}

/// A manager with the new wrapping key shares the partition and the cache of the previous manager.
#[tokio::test]
async fn after_a_rotation_nothing_is_encrypted_under_the_old_wrapping_key() {
    let cache = MaterialsCache::new(10);
    let aes = |name: &str, byte| {
        RawAesKeyring::new("ns", name, &DataKey::from_vec(vec![byte; 32])).unwrap()
    };
    let shared = |keyring: MultiKeyring| {
        caching(keyring, |builder| builder.cache(&cache).partition_id("payments"))
    };
    let multi = |generator, child| MultiKeyring::new(generator).with_child(child).unwrap();
    let names = |message: &[u8], name: &str| {
        encrypted_data_keys(message).windows(name.len()).any(|part| part == name.as_bytes())
    };
    let before = shared(multi(aes("old", 1), aes("escrow", 3)));
    before.encrypt(b"x", &context()).await.unwrap();
    let after = shared(multi(aes("new", 2), aes("escrow", 3)));
    assert!(matches!(after.try_encrypt(b"x", &context()), Err(Error::NotCached)));
    let message = after.encrypt(b"x", &context()).await.unwrap();
    assert!(names(&message, "new") && !names(&message, "old"));
    // A new key may have the name of the old one.
    let renewed = shared(multi(aes("new", 4), aes("escrow", 3)));
    assert!(matches!(renewed.try_encrypt(b"x", &context()), Err(Error::NotCached)));
    // The order determines which keyring generates.
    let swapped = shared(multi(aes("escrow", 3), aes("new", 2)));
    assert!(matches!(swapped.try_encrypt(b"x", &context()), Err(Error::NotCached)));
    // Another manager with the same keys shares the entries.
    shared(multi(aes("new", 2), aes("escrow", 3))).try_encrypt(b"x", &context()).unwrap();
}

/// 3,000 encryption contexts alternate in 1,000 entries.
#[tokio::test]
async fn a_cache_that_is_too_small_warns_once_with_numbers() {
    #[derive(Debug, Default)]
    struct Warnings(std::sync::Mutex<Vec<(u64, u64, usize, u64)>>);

    impl Observer for Warnings {
        fn observe(&self, event: &Event<'_>) {
            if let EventKind::CacheTooSmall { evicted, operations, capacity, max_bytes_held } =
                event.kind
            {
                let figures = (evicted, operations, capacity, max_bytes_held);
                self.0.lock().unwrap().push(figures);
            }
        }
    }

    let warnings = std::sync::Arc::new(Warnings::default());
    let cache = MaterialsCache::builder().observer(warnings.clone()).build();
    let envelope = caching(crate::support::keyring(), |builder| builder.cache(&cache));
    let contexts: Vec<_> = (0..3_000)
        .map(|number| EncryptionContext::new([("n", number.to_string())]).unwrap())
        .collect();
    for round in 0..6 {
        for context in contexts.iter().take(if round < 2 { 900 } else { 3_000 }) {
            envelope.encrypt(b"x", context).await.unwrap();
        }
        let warned = warnings.0.lock().unwrap().len();
        assert!(round >= 2 || warned == 0, "no warning while there is room");
    }
    let warnings = warnings.0.lock().unwrap();
    let [(1_000, operations, 1_000, max_bytes_held)] = warnings[..] else { panic!("{warnings:?}") };
    assert!(operations < 10_000 && max_bytes_held == 16 << 20, "{warnings:?}");
}

#[tokio::test]
async fn a_client_returns_its_cache() {
    let envelope = Envelope::new(crate::support::keyring()).unwrap();
    envelope.encrypt(b"x", &context()).await.unwrap();
    let counts = envelope.cache().unwrap().stats().encryption;
    assert_eq!((counts.entries, counts.loads), (1, 1));
    assert!((500..4_096).contains(&counts.bytes), "{counts:?}");
    envelope.cache().unwrap().clear();
    assert!(envelope.try_encrypt(b"x", &context()).is_err());
    assert_eq!(envelope.cache().unwrap().stats().encryption.bytes, 0);

    let caching =
        CachingMaterialsManager::builder(DefaultMaterialsManager::new(crate::support::keyring()));
    let envelope = Envelope::builder(caching.build().unwrap()).required_keys(["tenant"]);
    assert!(envelope.build().unwrap().cache().is_some());
    let plain = DefaultMaterialsManager::new(crate::support::keyring());
    assert!(Envelope::builder(plain).build().unwrap().cache().is_none());
}

/// A keyring without an identity cannot be distinguished from another one.
#[test]
fn a_partition_needs_a_source_with_an_identity() {
    let build = |set: fn(CachingBuilder) -> CachingBuilder| {
        let source = DefaultMaterialsManager::new(crate::support::PaddedKeyring::default());
        set(CachingMaterialsManager::builder(source)).build()
    };
    let error = build(|builder| builder.partition_id("p")).unwrap_err();
    assert!(matches!(error, Error::InvalidSetting { setting: "partition_id", .. }), "{error}");
    build(|builder| builder).unwrap();
}

#[test]
fn misuse_shows_when_it_is_built() {
    let build = |set: fn(CachingBuilder) -> CachingBuilder| {
        set(CachingMaterialsManager::builder(DefaultMaterialsManager::new(GatedKeyring::open())))
            .build()
    };
    assert!(build(|builder| builder.max_age(Duration::ZERO)).is_err());
    assert!(build(|builder| builder.max_messages(0)).is_err());
    assert!(build(|builder| builder.max_messages((1 << 32) + 1)).is_err());
    assert!(build(|builder| builder.max_bytes(1 << 63)).is_err());
    assert!(build(|builder| builder).is_ok());
}
