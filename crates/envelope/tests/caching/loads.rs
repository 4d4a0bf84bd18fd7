//! The loads of the caching materials manager: shared, limited, and apart from their callers.

use std::{sync::atomic::Ordering, time::Duration};

use envelope::{Clock, EncryptionContext, Error, materials::MaterialsCache};
use futures_util::future::{join_all, poll_immediate};

use super::reuse::context;
use crate::support::{GatedKeyring, caching, encrypted_data_keys, eventually};

#[tokio::test]
async fn those_who_miss_together_cost_one_request() {
    let keyring = GatedKeyring::new(0);
    let envelope = caching(keyring.clone(), |builder| builder);
    let context = context();
    let mut sealing: Vec<_> =
        (0..1_000).map(|_| Box::pin(envelope.encrypt(b"x", &context))).collect();
    for waiting in &mut sealing {
        assert!(poll_immediate(waiting).await.is_none());
    }
    keyring.gate.add_permits(1);
    let message = join_all(sealing).await.pop().unwrap().unwrap();

    let mut opening: Vec<_> =
        (0..1_000).map(|_| Box::pin(envelope.decrypt(&message, &context))).collect();
    for waiting in &mut opening {
        assert!(poll_immediate(waiting).await.is_none());
    }
    keyring.gate.add_permits(1);
    assert!(join_all(opening).await.iter().all(Result::is_ok));
    assert_eq!(keyring.counts(), (1, 1));
}

#[tokio::test]
async fn a_failure_is_shared_remembered_and_then_tried_again() {
    let keyring = GatedKeyring::new(0);
    let clock = Clock::manual();
    let envelope = caching(keyring.clone(), |builder| {
        builder.cache(&MaterialsCache::builder().clock(&clock).build())
    });
    let context = context();
    let mut waiting: Vec<_> =
        (0..100).map(|_| Box::pin(envelope.encrypt(b"x", &context))).collect();
    for waiting in &mut waiting {
        assert!(poll_immediate(waiting).await.is_none());
    }
    keyring.gate.close();
    for result in join_all(waiting).await {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::DataKeyUnavailable(_)) && error.is_retryable(), "{error:?}");
    }
    assert_eq!(keyring.counts().0, 1, "one request for all who waited");
    // Each failure in a row is remembered for 50 to 100 ms, 100 to 200 ms, …
    for failures in 1..5 {
        let error = envelope.encrypt(b"x", &context).await.unwrap_err();
        let Error::Remembered { cause, retry_after } = &error else { panic!("{error:?}") };
        assert!(matches!(&**cause, Error::DataKeyUnavailable(_)) && error.is_retryable());
        let longest = Duration::from_millis(100 * 2_u64.pow(failures - 1));
        assert!(*retry_after <= longest && *retry_after >= longest / 2, "{retry_after:?}");
        assert_eq!((keyring.counts().0, error.keyring_errors().len()), (failures.into(), 1));
        clock.advance(*retry_after);
        let error = envelope.encrypt(b"x", &context).await.unwrap_err();
        assert!(matches!(error, Error::DataKeyUnavailable(_)), "requested again: {error:?}");
    }
}

#[tokio::test]
async fn no_more_loads_at_once_than_allowed() {
    let keyring = GatedKeyring::new(0);
    let cache = MaterialsCache::builder().max_loads(4).build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let contexts: Vec<_> = (0..50)
        .map(|tenant| EncryptionContext::new([("tenant", tenant.to_string())]).unwrap())
        .collect();
    let mut waiting: Vec<_> =
        contexts.iter().map(|context| Box::pin(envelope.encrypt(b"x", context))).collect();
    for waiting in &mut waiting {
        assert!(poll_immediate(waiting).await.is_none());
    }
    eventually(|| keyring.counts().0 == 4).await;
    keyring.gate.add_permits(50);
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
}

/// Callers with deadlines learn of an outage all the same: what they began goes on without them.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_load_outlives_its_callers() {
    let keyring = GatedKeyring::open();
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).max_loads(1).build();
    let envelope = caching(keyring.clone(), |builder| {
        builder
            .cache(&cache)
            .max_age(Duration::from_mins(1))
            .serve_stale_for(Duration::from_mins(1))
    });
    envelope.encrypt(b"x", &context()).await.unwrap();
    clock.advance(Duration::from_mins(1));
    keyring.gate.forget_permits(usize::MAX);
    let (context, other) = (context(), EncryptionContext::new([("tenant", "43")]).unwrap());
    for _ in 0..3 {
        let mut impatient = Box::pin(envelope.encrypt(b"x", &context));
        assert!(poll_immediate(&mut impatient).await.is_none());
        eventually(|| keyring.counts().0 == 2).await;
        // This one waits at the gate, so nothing of it is left.
        let mut queued = Box::pin(envelope.encrypt(b"x", &other));
        assert!(poll_immediate(&mut queued).await.is_none());
        tokio::task::yield_now().await;
    }
    assert_eq!(keyring.counts().0, 2, "one load for all who came and went");
    keyring.gate.close();
    eventually(|| cache.stats().encryption.load_failures == 1).await;
    envelope.try_encrypt(b"x", &context).expect("past its age, in an outage");
    assert_eq!(keyring.counts().0, 2);
}

#[tokio::test]
async fn a_cancelled_caller_wedges_nobody() {
    let keyring = GatedKeyring::new(0);
    let envelope = caching(keyring.clone(), |builder| builder);
    let context = context();
    let mut leader = Box::pin(envelope.encrypt(b"x", &context));
    let mut follower = Box::pin(envelope.encrypt(b"x", &context));
    assert!(poll_immediate(&mut leader).await.is_none());
    assert!(poll_immediate(&mut follower).await.is_none());
    drop(leader);
    keyring.gate.add_permits(1);
    follower.await.unwrap();
    assert_eq!(keyring.counts().0, 1);
}

/// The leader's task stands still while the answer is there; who comes later must not live on it.
#[tokio::test]
async fn a_stale_answer_serves_only_the_caller_who_asked_for_it() {
    let keyring = GatedKeyring::new(0);
    let clock = Clock::manual();
    let envelope = caching(keyring.clone(), |builder| {
        builder
            .max_age(Duration::from_mins(1))
            .cache(&MaterialsCache::builder().clock(&clock).build())
    });
    let context = context();
    let mut leader = Box::pin(envelope.encrypt(b"x", &context));
    let mut follower = Box::pin(envelope.encrypt(b"x", &context));
    assert!(poll_immediate(&mut leader).await.is_none());
    assert!(poll_immediate(&mut follower).await.is_none());
    eventually(|| keyring.counts().0 == 1).await;
    clock.advance(Duration::from_hours(24));
    keyring.gate.add_permits(2);
    let (leader, follower) = futures_util::future::join(leader, follower).await;
    assert_ne!(encrypted_data_keys(&leader.unwrap()), encrypted_data_keys(&follower.unwrap()));
    assert_eq!(keyring.counts().0, 2);
}

#[tokio::test]
async fn a_keyring_that_panics_is_an_error_for_all_who_waited() {
    let keyring = GatedKeyring::new(0);
    keyring.panics.store(true, Ordering::SeqCst);
    let envelope = caching(keyring.clone(), |builder| builder);
    let context = context();
    let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(envelope.encrypt(b"x", &context))).collect();
    for waiting in &mut waiting {
        assert!(poll_immediate(waiting).await.is_none());
    }
    keyring.gate.add_permits(1);
    for result in join_all(waiting).await {
        assert!(matches!(result, Err(Error::Panicked)), "{result:?}");
    }
    keyring.panics.store(false, Ordering::SeqCst);
    keyring.gate.add_permits(1);
    envelope.encrypt(b"x", &context).await.unwrap();
}

#[tokio::test]
async fn what_cannot_work_is_refused_for_as_long_as_was_set() {
    for remembered in [Duration::from_secs(3), Duration::ZERO] {
        let keyring = GatedKeyring::open();
        let clock = Clock::manual();
        let cache = MaterialsCache::builder().clock(&clock).build();
        let envelope = caching(keyring.clone(), |builder| {
            builder.cache(&cache).remember_failures_for(remembered)
        });
        let mut message = envelope.encrypt(b"x", &context()).await.unwrap();
        let end_of_keys = crate::support::header_length(&message) - 53;
        message[end_of_keys - 1] ^= 1;
        for asked in [1, if remembered.is_zero() { 2 } else { 1 }] {
            assert!(envelope.decrypt(&message, &context()).await.is_err());
            assert_eq!(keyring.counts().1, asked);
        }
        assert_eq!(cache.stats().decryption.refused, u64::from(!remembered.is_zero()));
        clock.advance(remembered);
        let error = envelope.decrypt(&message, &context()).await.unwrap_err();
        assert!(matches!(error, Error::DataKeyNotUnwrapped { .. }), "{error:?}");
    }
}
