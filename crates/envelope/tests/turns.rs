//! Whose data key is loaded next: one tenant's flood is no matter of the others'.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{pin::pin, time::Duration};

use envelope::{
    EncryptionContext, Envelope, Error,
    materials::{DefaultMaterialsManager, MaterialsCache},
};
use futures_util::future::{join_all, poll_immediate};
use support::{GatedKeyring, caching, context, eventually, keyring};

/// So many messages that each have a data key of their own.
async fn messages(tenant: &str, count: usize) -> Vec<Vec<u8>> {
    let sealer = Envelope::builder(DefaultMaterialsManager::new(keyring())).build().unwrap();
    let mut messages = vec![];
    for _ in 0..count {
        messages.push(sealer.encrypt(b"x", &context(tenant)).await.unwrap());
    }
    messages
}

/// While a flood of messages of one tenant waits for its data keys, those of others are asked for
/// at once.
#[tokio::test]
async fn a_flood_of_one_tenants_messages_delays_nobody_else() {
    let keyring = GatedKeyring::new(0);
    let envelope = caching(keyring.clone(), |builder| builder);
    let (flood, other) = (messages("flood", 100).await, messages("other", 1).await);
    let [flooding, quiet] = ["flood", "other"].map(context);
    let mut flood =
        pin!(join_all(flood.iter().map(|message| envelope.decrypt(message, &flooding))));
    assert!(poll_immediate(&mut flood).await.is_none());
    // A quarter of `max_loads` is left.
    eventually(|| keyring.counts().1 == 12).await;
    let mut decrypting = pin!(envelope.decrypt(&other[0], &quiet));
    assert!(poll_immediate(&mut decrypting).await.is_none());
    eventually(|| keyring.counts().1 == 13).await;
    let mut encrypting = pin!(envelope.encrypt(b"x", &quiet));
    assert!(poll_immediate(&mut encrypting).await.is_none());
    eventually(|| keyring.counts() == (1, 13)).await;
    keyring.gate.add_permits(1_000);
    encrypting.await.unwrap();
    decrypting.await.unwrap();
    assert!(flood.await.iter().all(Result::is_ok));
}

/// The same where the flood is spread over many contexts: whoever comes is the next one but for
/// those who are under way.
#[tokio::test]
async fn another_partition_is_the_next_one() {
    let keyring = GatedKeyring::new(0);
    let cache = MaterialsCache::builder().max_loads(4).build();
    let [noisy, quiet] =
        ["noisy", "quiet"].map(|_| caching(keyring.clone(), |builder| builder.cache(&cache)));
    let contexts: Vec<_> = (0..50).map(|tenant| context(&tenant.to_string())).collect();
    let mut flood = pin!(join_all(contexts.iter().map(|context| noisy.encrypt(b"x", context))));
    assert!(poll_immediate(&mut flood).await.is_none());
    eventually(|| keyring.counts().0 == 4).await;
    let mut late = pin!(quiet.encrypt(b"x", &contexts[0]));
    assert!(poll_immediate(&mut late).await.is_none());
    let mut answered = 0;
    while poll_immediate(&mut late).await.is_none() {
        let next = keyring.counts().0 + 1;
        keyring.gate.add_permits(1);
        answered += 1;
        eventually(|| keyring.counts().0 >= next.min(51)).await;
        tokio::task::yield_now().await;
    }
    assert!(answered <= 12, "{answered} of the flood went first");
    keyring.gate.add_permits(100);
    assert!(flood.await.iter().all(Result::is_ok));
}

/// A message is open to whoever gets hold of it. One who supplies another context, and waits in a
/// queue that he has filled himself, keeps nobody there.
#[tokio::test]
async fn nobody_waits_in_anothers_queue() {
    let keyring = GatedKeyring::new(0);
    let envelope = caching(keyring.clone(), |builder| builder);
    let (flood, own) = (messages("own", 100).await, messages("own", 1).await);
    let (nothing, context) = (EncryptionContext::empty(), context("own"));
    let replayed = flood.iter().chain(&own).map(|message| envelope.decrypt(message, &nothing));
    let mut replayed = pin!(join_all(replayed));
    assert!(poll_immediate(&mut replayed).await.is_none());
    eventually(|| keyring.counts().1 == 12).await;
    let mut decrypting = pin!(envelope.decrypt(&own[0], &context));
    assert!(poll_immediate(&mut decrypting).await.is_none());
    eventually(|| keyring.counts().1 == 13).await;
    keyring.gate.add_permits(1_000);
    decrypting.await.unwrap();
    assert!(replayed.await.iter().all(Result::is_ok));
}

/// What is loaded for one message alone takes its turn, too.
#[tokio::test]
async fn what_is_not_cached_takes_its_turn() {
    let keyring = GatedKeyring::new(0);
    let cache = MaterialsCache::builder().max_loads(2).build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let context = context("a");
    let mut waiting = pin!(join_all((0..10).map(|_| envelope.encryptor(&context, None))));
    for _ in 0..100 {
        assert!(poll_immediate(&mut waiting).await.is_none());
    }
    eventually(|| keyring.counts().0 == 2).await;
    keyring.gate.add_permits(10);
    assert!(waiting.await.iter().all(Result::is_ok));
    assert_eq!(keyring.counts().0, 10);
}

/// What waits too long, or behind too many, is refused, and is no failure to be remembered.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn nobody_waits_for_ever() {
    let keyring = GatedKeyring::new(0);
    let cache = MaterialsCache::builder()
        .max_loads(1)
        .max_wait(Duration::from_millis(10))
        .max_waiting(1)
        .build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let [hanging, waiting] = ["hanging", "waiting"].map(context);
    let mut hanging = pin!(envelope.encrypt(b"x", &hanging));
    assert!(poll_immediate(&mut hanging).await.is_none());
    eventually(|| keyring.counts().0 == 1).await;
    let error = envelope.encrypt(b"x", &waiting).await.unwrap_err();
    assert!(matches!(error, Error::Overloaded { setting: "max_wait", .. }), "{error:?}");
    assert!(error.is_retryable() && error.to_string().contains("10 ms by `max_wait`"), "{error}");
    assert_eq!(cache.stats().encryption.refused, 1);

    // Of one context, one load waits beside the one that is under way.
    let messages = messages("waiting", 3).await;
    let mut decrypting =
        pin!(join_all(messages.iter().map(|message| envelope.decrypt(message, &waiting))));
    assert!(poll_immediate(&mut decrypting).await.is_none());
    eventually(|| keyring.counts().1 == 1).await;
    keyring.gate.add_permits(10);
    let opened = decrypting.await;
    let settings: Vec<_> = opened
        .iter()
        .filter_map(|opened| match opened {
            Err(Error::Overloaded { setting, .. }) => Some(*setting),
            _ => None,
        })
        .collect();
    assert!(settings.contains(&"max_waiting"), "{settings:?}");
    hanging.await.unwrap();
    envelope.encrypt(b"x", &waiting).await.expect("nothing is remembered of it");
}

/// Who comes when all others have left joins the load that has begun: callers in a hurry cause one
/// request, and not one each.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_load_that_has_begun_is_joined_when_all_have_left() {
    let keyring = GatedKeyring::new(0);
    let envelope = caching(keyring.clone(), |builder| builder);
    let context = context("a");
    for _ in 0..5 {
        let mut encrypting = Box::pin(envelope.encrypt(b"x", &context));
        assert!(poll_immediate(&mut encrypting).await.is_none());
        eventually(|| keyring.counts().0 > 0).await;
        drop(encrypting);
    }
    let mut encrypting = Box::pin(envelope.encrypt(b"x", &context));
    assert!(poll_immediate(&mut encrypting).await.is_none());
    keyring.gate.add_permits(100);
    encrypting.await.unwrap();
    assert_eq!(keyring.counts().0, 1);
}
