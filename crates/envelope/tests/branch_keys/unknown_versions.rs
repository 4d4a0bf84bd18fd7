//! Messages that name versions which do not exist.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use envelope::{
    Clock, Error,
    branch_key::{BranchKey, BranchKeys, MissingBranchKey},
    keyring::KeyringErrorKind,
};
use futures_util::future::{join_all, poll_immediate};

use crate::{
    source::{Source, VERSION},
    support::{eventually, now},
};

fn version(number: u32) -> [u8; 16] {
    let mut version = [9; 16];
    version[..4].copy_from_slice(&number.to_be_bytes());
    version
}

fn is_final<T>(outcome: &Result<T, Error>) -> bool {
    let Err(error) = outcome else { return false };
    let missing = MissingBranchKey::in_error(&error.keyring_errors()[0]);
    !error.is_retryable() && matches!(missing, Some(MissingBranchKey::VersionNotFound { .. }))
}

fn is_refused<T>(outcome: &Result<T, Error>) -> bool {
    let Err(error) = outcome else { return false };
    error.is_retryable() && error.keyring_errors()[0].kind() == KeyringErrorKind::OverBudget
}

fn keys(source: &Source, clock: &Clock) -> BranchKeys {
    BranchKeys::builder(source.clone()).clock(clock).build().unwrap()
}

/// One point read, and one list for any number of misses that began before it.
#[tokio::test]
async fn random_versions_cost_one_list_a_second() {
    let clock = Clock::manual();
    let source = Source::open();
    let keys = keys(&source, &clock);
    assert!(is_final(&keys.version("tenant", version(0)).await));
    assert_eq!(source.counts(), (0, 1, 0));
    source.gate.forget_permits(usize::MAX);
    let misses = join_all((1..500).map(|number| keys.version("tenant", version(number))));
    let release = async {
        eventually(|| source.counts().2 == 1).await;
        source.gate.add_permits(1_000);
    };
    let (misses, ()) = futures_util::future::join(misses, release).await;
    assert!(misses.iter().all(is_final));
    // Misses that came after the first list had begun waited for a second one.
    let lists = source.counts().2;
    assert!(source.counts().1 == 1 && (1..=2).contains(&lists), "{lists}");
    // Another branch key is not suspect.
    assert!(is_final(&keys.version("other", version(1)).await));
    assert_eq!(source.counts(), (0, 2, lists));
    // After ten seconds without unknown versions, neither is this one.
    clock.advance(Duration::from_secs(10));
    assert!(is_final(&keys.version("tenant", version(1)).await));
    assert_eq!(source.counts(), (0, 3, lists));
}

/// A version that was created after the last list is found by the next one.
#[tokio::test]
async fn a_new_version_is_found_while_its_branch_key_is_suspect() {
    let clock = Clock::manual();
    let source = Source::open();
    let keys = keys(&source, &clock);
    for number in 0..2 {
        assert!(is_final(&keys.version("tenant", version(number)).await));
    }
    assert_eq!(source.counts(), (0, 1, 1));
    source.versions.lock().unwrap().push(version(7));
    clock.advance(Duration::from_secs(1));
    assert_eq!(keys.version("tenant", version(7)).await.unwrap().version(), version(7));
    assert_eq!(source.counts(), (0, 2, 2));
    now(keys.version("tenant", version(7))).unwrap();
    assert_eq!(keys.version("tenant", VERSION).await.unwrap().version(), VERSION);
}

/// Within the second, a miss waits for the next list instead of trusting the last one.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_miss_never_trusts_a_list_that_began_before_it() {
    let source = Source::open();
    let keys = BranchKeys::new(source.clone());
    for number in 0..2 {
        assert!(is_final(&keys.version("tenant", version(number)).await));
    }
    source.versions.lock().unwrap().push(version(7));
    assert_eq!(keys.version("tenant", version(7)).await.unwrap().version(), version(7));
    assert_eq!(source.counts(), (0, 2, 2));
}

/// The same for a list that is being read.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_miss_does_not_join_a_list_that_has_begun() {
    let source = Source::new(1);
    let keys = BranchKeys::new(source.clone());
    assert!(is_final(&keys.version("tenant", version(0)).await));
    let mut first = Box::pin(keys.version("tenant", version(1)));
    assert!(poll_immediate(&mut first).await.is_none());
    eventually(|| source.counts().2 == 1).await;
    source.versions.lock().unwrap().push(version(7));
    let mut second = Box::pin(keys.version("tenant", version(7)));
    assert!(poll_immediate(&mut second).await.is_none());
    source.gate.add_permits(10);
    assert!(is_final(&first.await));
    assert_eq!(second.await.unwrap().version(), version(7));
    assert_eq!(source.counts(), (0, 2, 2));
}

#[tokio::test]
async fn without_a_list_one_unknown_version_a_second_is_requested() {
    // It may also have an item that this program does not know.
    for fails in [None, Some(KeyringErrorKind::Denied), Some(KeyringErrorKind::InvalidCiphertext)] {
        let clock = Clock::manual();
        let source = Source::open();
        source.lists_versions.store(false, SeqCst);
        *source.list_fails.lock().unwrap() = fails;
        let keys = keys(&source, &clock);
        assert!(is_final(&keys.version("tenant", version(0)).await));
        assert!(is_final(&keys.version("tenant", version(1)).await));
        for number in 2..100 {
            assert!(is_refused(&keys.version("tenant", version(number)).await));
        }
        assert_eq!(source.counts(), (0, 2, 1));
        clock.advance(Duration::from_secs(1));
        assert!(is_final(&keys.version("tenant", version(100)).await));
        assert_eq!(source.counts(), (0, 3, 1));
        // The branch key itself still works, and so does a version that exists.
        keys.active("tenant").await.unwrap();
        clock.advance(Duration::from_secs(1));
        keys.version("tenant", VERSION).await.unwrap();
    }
}

/// An outage of the list is the outcome, and not a statement about the version.
#[tokio::test]
async fn a_list_that_fails_is_retryable() {
    let clock = Clock::manual();
    let source = Source::open();
    let keys = keys(&source, &clock);
    assert!(is_final(&keys.version("tenant", version(0)).await));
    source.fail("tenant", KeyringErrorKind::Unavailable);
    let error = keys.version("tenant", VERSION).await.map(|key: std::sync::Arc<BranchKey>| key);
    assert!(error.unwrap_err().is_retryable());
    source.work();
    clock.advance(Duration::from_secs(1));
    keys.version("tenant", VERSION).await.unwrap();
}
