//! Which failure drops which entries, and how soon.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use envelope::{
    Clock, Error,
    branch_key::{BranchKeys, MissingBranchKey},
    keyring::{KeyringError, KeyringErrorKind},
};

use crate::{
    source::{Source, VERSION, kms_key},
    support::{eventually, now},
};

const SECOND: Duration = Duration::from_secs(1);

/// A cache whose keys are checked every ten seconds, with the branch keys `a1`, `a2` and `b1`.
async fn warm(source: &Source, clock: &Clock) -> BranchKeys {
    let keys = BranchKeys::builder(source.clone())
        .clock(clock)
        .check_every(SECOND * 10)
        .serve_stale_for(SECOND * 3600)
        .build()
        .unwrap();
    for id in ["a1", "a2", "b1"] {
        keys.active(id).await.unwrap();
    }
    assert_eq!(keys.stats().active.entries, 3);
    keys
}

/// Uses `a1` once its check is due, and waits for the check's end.
async fn check(keys: &BranchKeys, clock: &Clock) {
    clock.advance(SECOND * 10);
    let loads = || keys.stats().active.loads + keys.stats().active.load_failures;
    let before = loads();
    now(keys.active("a1")).unwrap();
    eventually(|| loads() > before).await;
}

fn entries(keys: &BranchKeys) -> (usize, usize) {
    (keys.stats().active.entries, keys.stats().versions.entries)
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_denial_drops_that_branch_key_alone() {
    let clock = Clock::manual();
    let source = Source::open();
    let keys = warm(&source, &clock).await;
    source.fail("a1", KeyringErrorKind::Denied);
    check(&keys, &clock).await;
    eventually(|| entries(&keys) == (2, 2)).await;
    let error = keys.active("a1").await.unwrap_err();
    assert_eq!(error.keyring_errors()[0].kind(), KeyringErrorKind::Denied);
    assert!(keys.version("a1", VERSION).await.is_err());
    now(keys.active("a2")).unwrap();
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn an_unusable_kms_key_drops_every_branch_key_under_it() {
    let clock = Clock::manual();
    let source = Source::open();
    let keys = warm(&source, &clock).await;
    let kind = KeyringErrorKind::Unusable;
    source.fail_with("a1", KeyringError::new(kms_key("a1"), kind, "disabled"));
    check(&keys, &clock).await;
    eventually(|| entries(&keys) == (1, 1)).await;
    now(keys.active("b1")).unwrap();
    assert_eq!(keys.stats().active.misses, 3);
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_shredded_branch_key_is_dropped_and_told_apart_from_a_missing_one() {
    for missing in [MissingBranchKey::Shredded, MissingBranchKey::NotFound] {
        let clock = Clock::manual();
        let source = Source::open();
        let keys = warm(&source, &clock).await;
        source.fail_with("a1", missing.of("a1"));
        check(&keys, &clock).await;
        eventually(|| entries(&keys) == (2, 2)).await;
        let error = keys.active("a1").await.unwrap_err();
        assert!(matches!(error, Error::Remembered { .. }), "{error}");
        assert_eq!(MissingBranchKey::in_error(&error.keyring_errors()[0]), Some(missing));
    }
}

/// The sender of a message chooses its version: one that is denied says nothing about the others.
#[tokio::test]
async fn a_version_that_was_never_used_drops_nothing() {
    let source = Source::open();
    let keys = warm(&source, &Clock::manual()).await;
    for kind in [KeyringErrorKind::Denied, KeyringErrorKind::InvalidCiphertext] {
        source.fail("a1", kind);
        assert!(keys.version("a1", [kind as u8; 16]).await.is_err());
        assert_eq!(entries(&keys), (3, 3));
    }
}

/// In an outage a key is used past its age, and requested again. A denial ends that.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn stale_keys_serve_outages_but_never_denials() {
    let clock = Clock::manual();
    let source = Source::open();
    let keys = warm(&source, &clock).await;
    source.fail("a1", KeyringErrorKind::Unavailable);
    clock.advance(SECOND * 400);
    now(keys.active("a1")).unwrap();
    assert_eq!(keys.stats().active.stale, 1);
    source.fail("a1", KeyringErrorKind::Denied);
    clock.advance(SECOND * 10);
    now(keys.active("a1")).unwrap();
    eventually(|| entries(&keys).0 == 2).await;
    assert!(keys.active("a1").await.is_err());
}

/// After a failure the check is repeated soon, not only when the next one is due.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_failed_check_is_repeated_after_a_pause() {
    let clock = Clock::manual();
    let source = Source::open();
    let keys = warm(&source, &clock).await;
    source.fail("a1", KeyringErrorKind::TimedOut);
    check(&keys, &clock).await;
    assert_eq!(source.counts().0, 4);
    source.work();
    clock.advance(SECOND / 10);
    // A use that comes before the failed check has ended begins no other one.
    eventually(|| {
        now(keys.active("a1")).unwrap();
        source.counts().0 == 5
    })
    .await;
}

#[tokio::test]
async fn an_invalidated_branch_key_is_requested_again() {
    let source = Source::open();
    let keys = warm(&source, &Clock::manual()).await;
    source.versions.lock().unwrap().push([2; 16]);
    assert_eq!(keys.active("a1").await.unwrap().version(), VERSION);
    assert_eq!(keys.invalidate("a1"), 2);
    assert_eq!(keys.active("a1").await.unwrap().version(), [2; 16]);
    assert_eq!(keys.active("a2").await.unwrap().version(), VERSION);
}

#[tokio::test]
async fn another_identity_gets_nothing_that_the_previous_one_obtained() {
    let source = Source::open();
    let keys = warm(&source, &Clock::manual()).await;
    source.tenure.store(1, SeqCst);
    source.fail("a1", KeyringErrorKind::Denied);
    assert!(keys.version("a1", VERSION).await.is_err());
    assert_eq!(entries(&keys), (0, 0));
}

/// A tenant may have chosen its id.
#[test]
fn a_missing_branch_key_whose_id_is_that_of_a_kms_key_drops_no_other() {
    let source = Source::open();
    let keys = BranchKeys::new(source.clone());
    now(keys.active("a1")).unwrap();
    for missing in [MissingBranchKey::Shredded, MissingBranchKey::NotFound] {
        let id = kms_key("a1");
        source.fail_with(&id, missing.of(&id));
        assert!(now(keys.active(&id)).is_err());
        keys.invalidate(&id);
        assert_eq!(entries(&keys), (1, 1));
    }
}
