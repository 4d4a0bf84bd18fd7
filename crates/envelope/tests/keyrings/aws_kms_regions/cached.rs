//! What the cache makes of keyrings that open for keys of many names.

use std::time::Duration;

use envelope::{
    Clock, EncryptionContext, Envelope, Error,
    keyring::{AwsKmsKeyring, Keyring},
    materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
};

use super::{IRELAND, Kms, REGIONS, VIRGINIA, context, in_each, multi_region::related};

const MAX_AGE: Duration = Duration::from_mins(1);

/// A client over a cache that others use, too.
fn caching(keyring: impl Keyring + 'static, cache: &MaterialsCache) -> Envelope {
    let manager =
        CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring)).cache(cache);
    let manager = manager.max_age(MAX_AGE).serve_stale_for(MAX_AGE).build().unwrap();
    Envelope::builder(manager).build().unwrap()
}

/// Lets other tasks run until it is so.
async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it becomes so");
}

#[tokio::test]
async fn what_one_keyring_opened_is_not_given_to_another() {
    let kms = Kms::start().await;
    let key = kms.local.create_key(IRELAND);
    let cache = MaterialsCache::new(100);
    let message = caching(kms.strict(&key), &cache).encrypt(b"x", &context()).await.unwrap();
    let (any, others) = (
        caching(kms.discovery(), &cache),
        caching(kms.discovery().with_filter("aws", ["444455556666"]).unwrap(), &cache),
    );
    for _ in 0..10 {
        any.decrypt(&message, &context()).await.unwrap();
    }
    assert_eq!(kms.local.counters(IRELAND).succeeded("Decrypt"), 1);
    let refused = others.decrypt(&message, &context()).await.unwrap_err();
    assert!(matches!(refused, Error::DataKeyNotUnwrapped { failures, .. } if failures.is_empty()));
    assert_eq!(kms.local.counters(IRELAND).requests("Decrypt"), 1);
}

/// The refresh of one entry is told; what was opened for a related key goes, and what the key
/// itself sealed.
#[tokio::test]
async fn a_replica_that_was_disabled_drops_what_it_opened_for_others() {
    let kms = Kms::start().await;
    let primary = kms.local.create_multi_region_key(VIRGINIA, &[IRELAND]);
    let here = related(&primary, IRELAND);
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let envelope = caching(AwsKmsKeyring::mrk_aware(kms.clients(), here.parse().unwrap()), &cache);
    let there = Envelope::new(kms.strict(&primary)).unwrap();
    let mut messages = vec![envelope.encrypt(b"x", &context()).await.unwrap()];
    for tenant in ["42", "43"] {
        let context = EncryptionContext::new([("tenant", tenant)]).unwrap();
        messages.push(there.encrypt(b"x", &context).await.unwrap());
    }
    for message in &messages {
        envelope.decrypt(message, &EncryptionContext::empty()).await.unwrap();
    }
    assert_eq!((cache.stats().encryption.entries, cache.stats().decryption.entries), (1, 3));

    kms.local.disable_key(IRELAND, &here).unwrap();
    clock.advance(Duration::from_secs(50));
    envelope
        .try_decrypt(&messages[1], &EncryptionContext::empty())
        .expect("cached, and the refresh begins only now");
    until(|| cache.stats().encryption.entries + cache.stats().decryption.entries == 0).await;
}

/// Where the first region has no replica and the second does not answer, the key may be as good as
/// it was.
#[tokio::test]
async fn a_region_without_the_key_drops_nothing_while_another_does_not_answer() {
    let kms = Kms::start().await;
    let primary = kms.local.create_multi_region_key(VIRGINIA, &[IRELAND]);
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let multi = in_each(&kms.mrk_discovery(IRELAND), &[REGIONS[3], IRELAND]);
    let envelope = caching(multi, &cache);
    let message =
        Envelope::new(kms.strict(&primary)).unwrap().encrypt(b"x", &context()).await.unwrap();
    envelope.decrypt(&message, &context()).await.unwrap();

    kms.local.faults(IRELAND).throttle_above(0);
    clock.advance(Duration::from_secs(50));
    envelope.decrypt(&message, &context()).await.unwrap();
    until(|| cache.stats().decryption.load_failures == 1).await;
    assert_eq!(cache.stats().decryption.entries, 1);
    // Past its age, it bridges the outage as it would for a single key.
    clock.advance(Duration::from_secs(20));
    envelope.decrypt(&message, &context()).await.unwrap();

    // When both refuse, it goes.
    kms.local.faults(IRELAND).clear();
    kms.local.disable_key(IRELAND, &related(&primary, IRELAND)).unwrap();
    clock.advance(Duration::from_secs(30));
    until(|| {
        let _ = envelope.try_decrypt(&message, &context());
        cache.stats().decryption.entries == 0
    })
    .await;
}

/// Messages name another key than the one that refuses: the refusal must be found by the key name
/// in the messages.
#[tokio::test]
async fn what_a_replica_refuses_for_one_message_it_is_not_asked_for_the_next() {
    let kms = Kms::start().await;
    let primary = kms.local.create_multi_region_key(VIRGINIA, &[IRELAND]);
    let here = related(&primary, IRELAND);
    let there = Envelope::new(kms.strict(&primary)).unwrap();
    let mut messages = vec![];
    for tenant in ["42", "43"] {
        let context = EncryptionContext::new([("tenant", tenant)]).unwrap();
        messages.push(there.encrypt(b"x", &context).await.unwrap());
    }
    kms.local.disable_key(IRELAND, &here).unwrap();
    // Time stands still.
    let cache = MaterialsCache::builder().clock(&Clock::manual()).build();
    let mrk = AwsKmsKeyring::mrk_aware(kms.clients(), here.parse().unwrap());
    for envelope in [caching(mrk, &cache), caching(kms.mrk_discovery(IRELAND), &cache)] {
        kms.forget();
        let asked = envelope.decrypt(&messages[0], &EncryptionContext::empty()).await.unwrap_err();
        assert!(matches!(asked, Error::DataKeyNotUnwrapped { .. }), "{asked:?}");
        let remembered =
            envelope.decrypt(&messages[1], &EncryptionContext::empty()).await.unwrap_err();
        assert!(matches!(remembered, Error::Remembered { .. }), "{remembered:?}");
        assert_eq!(kms.asked(), [0, 1, 0, 0]);
    }
}
