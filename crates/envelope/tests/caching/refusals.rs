//! The effects of a refusal on cached entries.

use std::time::Duration;

#[cfg(feature = "tokio")]
use crate::support::eventually;
use crate::support::{GatedKeyring, caching, context, encrypted_data_keys};
use envelope::{Clock, Error, keyring::KeyringErrorKind, materials::MaterialsCache};
use futures_util::future::poll_immediate;

const MINUTE: Duration = Duration::from_mins(1);

/// Expired credentials say nothing about the wrapping key: fresh entries remain in use, but none
/// past its age.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_failed_refresh_drops_what_is_fresh_only_if_the_key_was_refused() {
    for (kind, goes_on) in [
        (KeyringErrorKind::Credentials, true),
        (KeyringErrorKind::Other, true),
        (KeyringErrorKind::Throttled, true),
        (KeyringErrorKind::OverBudget, true),
        (KeyringErrorKind::InvalidResponse, true),
        (KeyringErrorKind::Denied, false),
        (KeyringErrorKind::Unusable, false),
    ] {
        let keyring = GatedKeyring::open();
        let clock = Clock::manual();
        let cache = MaterialsCache::builder().clock(&clock).build();
        let envelope = caching(keyring.clone(), |builder| {
            builder.cache(&cache).max_age(MINUTE).serve_stale_for(MINUTE)
        });
        let message = envelope.encrypt(b"x", &context("a")).await.unwrap();
        envelope.encrypt(b"x", &context("b")).await.unwrap();
        envelope.decrypt(&message, &context("a")).await.unwrap();
        keyring.fail(Some(kind));
        clock.advance(Duration::from_secs(49));
        envelope.try_encrypt(b"x", &context("a")).unwrap();
        // A denial may concern one context: the other one is requested, too.
        let asked = if kind == KeyringErrorKind::Denied { 2 } else { 1 };
        eventually(|| cache.stats().encryption.load_failures == asked).await;
        let held = || cache.stats().encryption.entries + cache.stats().decryption.entries;
        eventually(|| goes_on || held() == 0).await;
        assert_eq!(envelope.try_encrypt(b"x", &context("a")).is_ok(), goes_on, "{kind:?}");
        assert_eq!(
            envelope.try_encrypt(b"x", &context("b")).is_ok(),
            goes_on,
            "{kind:?}: all under the key"
        );
        assert_eq!(envelope.try_decrypt(&message, &context("a")).is_ok(), goes_on, "{kind:?}");
        // Past its age only an outage is bridged.
        clock.advance(Duration::from_secs(11));
        let sealed = envelope.encrypt(b"x", &context("a")).await;
        assert_eq!(sealed.is_ok(), kind == KeyringErrorKind::Throttled, "{kind:?}");
    }
}

/// Who learns of it need not be in the background.
#[tokio::test]
async fn a_refusal_at_expiry_drops_all_under_the_key_and_is_remembered() {
    for kind in [KeyringErrorKind::Denied, KeyringErrorKind::Unusable] {
        let keyring = GatedKeyring::open();
        let clock = Clock::manual();
        let cache = MaterialsCache::builder().clock(&clock).build();
        let envelope = caching(keyring.clone(), |builder| {
            builder.cache(&cache).max_age(MINUTE).refresh_ahead(false)
        });
        envelope.encrypt(b"x", &context("a")).await.unwrap();
        clock.advance(MINUTE / 2);
        let message = envelope.encrypt(b"x", &context("b")).await.unwrap();
        envelope.decrypt(&message, &context("b")).await.unwrap();
        keyring.fail(Some(kind));
        clock.advance(MINUTE / 2);
        assert!(matches!(
            envelope.encrypt(b"x", &context("a")).await,
            Err(Error::DataKeyUnavailable(_))
        ));
        assert!(
            matches!(envelope.encrypt(b"x", &context("a")).await, Err(Error::Remembered { .. })),
            "{kind:?}"
        );
        // A denial is followed by probes in the background before the rest is dropped.
        let wait = async {
            while cache.stats().encryption.entries + cache.stats().decryption.entries > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
        assert!(
            matches!(envelope.try_encrypt(b"x", &context("b")), Err(Error::NotCached)),
            "{kind:?}"
        );
        assert!(
            matches!(envelope.try_decrypt(&message, &context("b")), Err(Error::NotCached)),
            "{kind:?}"
        );
    }
}

/// A message that is not theirs to open says nothing of what others may.
#[tokio::test]
async fn a_message_that_is_denied_drops_nobody_elses_data_keys() {
    let keyring = GatedKeyring::open();
    let envelope = caching(keyring.clone(), |builder| builder);
    let message = envelope.encrypt(b"x", &context("a")).await.unwrap();
    let mut other = envelope.encrypt(b"x", &context("b")).await.unwrap();
    envelope.decrypt(&message, &context("a")).await.unwrap();
    let end_of_keys = encrypted_data_keys(&other).as_ptr() as usize - other.as_ptr() as usize
        + encrypted_data_keys(&other).len();
    other[end_of_keys - 1] ^= 1;
    keyring.fail(Some(KeyringErrorKind::Denied));
    assert!(envelope.decrypt(&other, &context("b")).await.is_err());
    envelope.try_decrypt(&message, &context("a")).unwrap();
    envelope.try_encrypt(b"x", &context("a")).unwrap();
}

/// After a denial the other entries are probed. A probe that gets no answer proves nothing.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn an_outage_during_the_probe_after_a_denial_drops_nothing() {
    for outage in [KeyringErrorKind::Unavailable, KeyringErrorKind::Throttled] {
        let keyring = GatedKeyring::new(4);
        let cache = MaterialsCache::new(10);
        let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
        let contexts = ["a", "b", "c"].map(context);
        for context in &contexts {
            envelope.encrypt(b"x", context).await.unwrap();
        }
        keyring.fail(Some(KeyringErrorKind::Denied));
        assert!(envelope.encrypt(b"x", &context("denied")).await.is_err());
        // The probe waits for its answer.
        eventually(|| keyring.counts().0 == 5).await;
        keyring.fail(Some(outage));
        keyring.gate.add_permits(1);
        eventually(|| cache.stats().encryption.load_failures == 2).await;
        for context in &contexts {
            envelope.try_encrypt(b"x", context).unwrap();
        }
    }
}

/// Values that are being loaded meanwhile are kept: they have another wrapping key, or the same
/// one, which is allowed again.
#[tokio::test]
async fn a_refusal_keeps_no_load_of_others_out_of_the_cache() {
    let (refused, slow) = (GatedKeyring::open(), GatedKeyring::new(0));
    let cache = MaterialsCache::new(10);
    let noisy = caching(refused.clone(), |builder| {
        builder.cache(&cache).remember_failures_for(Duration::ZERO)
    });
    let victim = caching(slow.clone(), |builder| builder.cache(&cache));
    let context = context("a");
    let mut sealing = Box::pin(victim.encrypt(b"x", &context));
    assert!(poll_immediate(&mut sealing).await.is_none());
    refused.fail(Some(KeyringErrorKind::Unusable));
    for _ in 0..10 {
        assert!(noisy.encrypt(b"x", &context).await.is_err());
    }
    let mut joining = Box::pin(victim.encrypt(b"x", &context));
    assert!(poll_immediate(&mut joining).await.is_none());
    slow.gate.add_permits(1);
    sealing.await.unwrap();
    joining.await.unwrap();
    victim.try_encrypt(b"x", &context).unwrap();
    assert_eq!(slow.counts().0, 1);
}
