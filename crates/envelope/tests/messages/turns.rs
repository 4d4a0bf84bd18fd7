//! Fair scheduling of loads: one tenant's flood does not delay other tenants.

use std::pin::pin;
#[cfg(feature = "tokio")]
use std::time::Duration;

use crate::support::{GatedKeyring, caching, context, eventually, keyring};
#[cfg(feature = "tokio")]
use envelope::Error;
use envelope::{
    EncryptionContext, Envelope,
    materials::{DefaultMaterialsManager, MaterialsCache},
};
use futures_util::future::{join_all, poll_immediate};
#[cfg(feature = "tokio")]
use futures_util::{StreamExt as _, stream::FuturesUnordered};

/// This many messages, each with its own data key.
async fn messages(tenant: &str, count: usize) -> Vec<Vec<u8>> {
    let sealer = Envelope::builder(DefaultMaterialsManager::new(keyring())).build().unwrap();
    let mut messages = vec![];
    for _ in 0..count {
        messages.push(sealer.encrypt(b"x", &context(tenant)).await.unwrap());
    }
    messages
}

/// While a flood of one tenant's messages waits for data keys, the data keys of other tenants are
/// requested at once.
#[tokio::test]
async fn a_flood_of_one_tenant_delays_no_other_tenant() {
    let keyring = GatedKeyring::new(0);
    let envelope = caching(keyring.clone(), |builder| builder);
    let (flood, other) = (messages("flood", 100).await, messages("other", 1).await);
    let [flooding, quiet] = ["flood", "other"].map(context);
    let mut flood =
        pin!(join_all(flood.iter().map(|message| envelope.decrypt(message, &flooding))));
    assert!(poll_immediate(&mut flood).await.is_none());
    // The flood leaves a quarter of `max_loads` free.
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

/// The same if the flood is spread over many contexts: a load of another partition is next, after
/// the running loads. (Without the feature `tokio`, a load runs only while its caller is polled.)
#[cfg(feature = "tokio")]
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

/// Anyone who obtains a message can try to decrypt it. A caller that supplies another context waits
/// in a separate queue, and cannot delay the owner by filling it.
#[tokio::test]
async fn callers_with_different_contexts_wait_in_separate_queues() {
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

/// Data keys for only one message are also scheduled by the gate.
#[tokio::test]
async fn uncached_loads_pass_the_gate() {
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

/// A load that waits too long is refused; the failure is not remembered.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn waiting_for_a_load_is_limited() {
    let keyring = GatedKeyring::new(0);
    let max_wait = Duration::from_millis(10);
    let cache = MaterialsCache::builder().max_loads(1).max_wait(max_wait).build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let [hanging, waiting] = ["hanging", "waiting"].map(context);
    let mut hanging = pin!(envelope.encrypt(b"x", &hanging));
    assert!(poll_immediate(&mut hanging).await.is_none());
    eventually(|| keyring.counts().0 == 1).await;
    let error = envelope.encrypt(b"x", &waiting).await.unwrap_err();
    assert!(matches!(error, Error::Overloaded { setting: "max_wait", .. }), "{error:?}");
    assert!(error.is_retryable() && error.to_string().contains("10 ms by `max_wait`"), "{error}");
    assert_eq!(cache.stats().encryption.refused, 1);
    keyring.gate.add_permits(10);
    hanging.await.unwrap();
    envelope.encrypt(b"x", &waiting).await.expect("the failure is not remembered");
}

/// One load of a context waits in addition to the running one, and any further one is refused.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn the_number_of_waiting_loads_is_limited() {
    let keyring = GatedKeyring::new(0);
    let max_wait = Duration::from_mins(10);
    let cache = MaterialsCache::builder().max_loads(1).max_wait(max_wait).max_waiting(1).build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let (messages, context) = (messages("a", 3).await, context("a"));
    let mut decrypting: FuturesUnordered<_> =
        messages.iter().map(|message| envelope.decrypt(message, &context)).collect();
    // While the keyring does not respond, only the refused one ends.
    let first = tokio::time::timeout(Duration::from_mins(1), decrypting.next());
    let error = first.await.expect("one is refused").unwrap().unwrap_err();
    assert!(matches!(error, Error::Overloaded { setting: "max_waiting", .. }), "{error:?}");
    keyring.gate.add_permits(10);
    while let Some(decrypted) = decrypting.next().await {
        decrypted.unwrap();
    }
}

/// A load that has started is joined by later callers even if all earlier ones were cancelled:
/// impatient callers share one request.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_started_load_is_joined_after_all_its_waiters_were_cancelled() {
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

/// Callers that give up while their loads still wait for a turn, and come back, get all data keys
/// in the end, each with one request.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn callers_in_a_hurry_are_served_in_the_end() {
    let keyring = GatedKeyring::new(0);
    let cache = MaterialsCache::builder().max_loads(1).build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let contexts: Vec<_> = (0..10).map(|number| context(&number.to_string())).collect();
    for round in 1..=10 {
        let hurried = join_all(contexts.iter().map(|it| envelope.encrypt(b"x", it)));
        let mut hurried = Box::pin(hurried);
        assert!(poll_immediate(&mut hurried).await.is_none());
        eventually(|| keyring.counts().0 == round).await;
        // They give up here; the load that runs goes on.
        drop(hurried);
        keyring.gate.add_permits(1);
        eventually(|| cache.stats().encryption.entries as u64 == round).await;
    }
    for context in &contexts {
        envelope.try_encrypt(b"x", context).unwrap();
    }
    assert_eq!(keyring.counts().0, 10);
}
