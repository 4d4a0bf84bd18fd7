//! Single flight, refresh ahead, limits on requests, executors.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use envelope::{
    Clock, ResultFuture,
    branch_key::{BranchKey, BranchKeySource, BranchKeys},
    keyring::{KeyringError, KeyringErrorKind},
};

use crate::{
    source::{Source, VERSION},
    support::{eventually, now},
};

/// One request serves all who wait for a branch key that is not cached.
#[tokio::test]
async fn a_cold_stampede_is_one_request() {
    let source = Source::new(0);
    let keys = BranchKeys::new(source.clone());
    let callers = (0..10_000).map(|_| {
        let keys = keys.clone();
        tokio::spawn(async move { keys.active("tenant").await.map(|key| key.version()) })
    });
    let callers: Vec<_> = callers.collect();
    eventually(|| keys.stats().active.coalesced == 9_999).await;
    source.gate.add_permits(1);
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), VERSION);
    }
    assert_eq!(source.counts(), (1, 0, 0));
    // The version came with it.
    assert_eq!(keys.version("tenant", VERSION).await.unwrap().version(), VERSION);
    assert_eq!(source.counts(), (1, 0, 0));
}

/// A key in use is replaced before it expires: nobody waits, although the source hangs.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn nobody_waits_at_expiry() {
    let clock = Clock::manual();
    let source = Source::new(1);
    let keys = BranchKeys::builder(source.clone()).clock(&clock).build().unwrap();
    keys.active("tenant").await.unwrap();
    clock.advance(Duration::from_secs(245));
    now(keys.active("tenant")).unwrap();
    eventually(|| source.counts().0 == 2).await;
    // The request runs, and the key is still used.
    now(keys.active("tenant")).unwrap();
    source.gate.add_permits(1);
    eventually(|| keys.stats().active.loads == 2).await;
    clock.advance(Duration::from_secs(200));
    now(keys.active("tenant")).unwrap();
    assert_eq!((keys.stats().active.misses, keys.stats().active.stale), (1, 0));
}

#[tokio::test]
async fn requests_at_once_are_limited() {
    let source = Source::new(0);
    let keys = BranchKeys::builder(source.clone()).max_loads(16).build().unwrap();
    let callers: Vec<_> = (0..1_000)
        .map(|number| {
            let keys = keys.clone();
            tokio::spawn(async move { keys.active(&format!("tenant {number}")).await.map(drop) })
        })
        .collect();
    eventually(|| source.counts().0 == 16).await;
    source.gate.add_permits(1_000);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!((source.most.load(SeqCst), source.counts().0), (16, 1_000));
}

/// A key that an operation holds is not wiped when its entry is dropped.
#[tokio::test]
async fn a_key_in_use_outlives_its_entry() {
    let keys = BranchKeys::new(Source::open());
    let held = keys.active("tenant").await.unwrap();
    assert_eq!(keys.clear(), 2);
    assert_eq!((held.id(), Arc::strong_count(&held)), ("tenant", 1));
}

#[test]
fn works_under_any_executor_or_none() {
    let source = Source::open();
    let keys = BranchKeys::new(source.clone());
    now(keys.active("a")).unwrap();
    let other = keys.clone();
    std::thread::spawn(move || now(other.active("b")).map(drop)).join().unwrap().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(keys.active("c")).unwrap();
    drop(runtime);
    now(keys.active("d")).unwrap();
    assert_eq!(source.counts().0, 4);
}

/// A cancelled caller leaves nothing behind that others would wait for.
#[tokio::test]
async fn cancelled_callers_wedge_nobody() {
    let source = Source::new(0);
    let keys = BranchKeys::new(source.clone());
    let other = keys.clone();
    let cancelled = tokio::spawn(async move { other.active("tenant").await.map(drop) });
    eventually(|| source.counts().0 == 1).await;
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());
    source.gate.add_permits(2);
    assert_eq!(keys.active("tenant").await.unwrap().version(), VERSION);
}

/// Two caches over different stores share nothing, even for one id.
#[tokio::test]
async fn caches_of_different_stores_share_nothing() {
    let stores = [Source::open(), Source::open()];
    *stores[1].versions.lock().unwrap() = vec![[2; 16]];
    for (store, version) in stores.iter().zip([VERSION, [2; 16]]) {
        let keys = BranchKeys::new(store.clone());
        assert_eq!(keys.active("tenant").await.unwrap().version(), version);
    }
}

#[derive(Debug)]
struct Confused(Source);

impl BranchKeySource for Confused {
    fn active<'a>(
        &'a self,
        _: &'a str,
        background: bool,
    ) -> ResultFuture<'a, BranchKey, KeyringError> {
        self.0.active("other", background)
    }

    fn version<'a>(
        &'a self,
        id: &'a str,
        _: [u8; 16],
        background: bool,
    ) -> ResultFuture<'a, BranchKey, KeyringError> {
        self.0.version(id, VERSION, background)
    }

    fn identity(&self) -> String {
        "confused".to_owned()
    }
}

#[tokio::test]
async fn another_branch_key_than_the_requested_one_is_refused() {
    let keys = BranchKeys::new(Confused(Source::open()));
    let other = [keys.active("tenant").await, keys.version("tenant", [2; 16]).await];
    for outcome in other {
        let error = outcome.unwrap_err();
        assert_eq!(error.keyring_errors()[0].kind(), KeyringErrorKind::InvalidResponse);
    }
}

#[test]
fn misuse_shows_when_it_is_built() {
    let builder = || BranchKeys::builder(Source::open());
    assert!(builder().max_age(Duration::ZERO).build().is_err());
    assert!(builder().check_every(Duration::ZERO).build().is_err());
    assert!(builder().capacity(0).max_loads(0).build().is_ok());
}
