//! Branch keys under a root branch key: requests, revocation, and what the root refuses.

use std::sync::Arc;
use std::time::Duration;

use branch_keys::{BuildError, CreateBranchKey, Error, KeyStore, MemoryStorage};
use envelope::Clock;
use envelope::branch_key::{BranchKeys, MissingBranchKey};
use envelope::keyring::KeyringErrorKind;
use kms_pool::KmsKeyArn;

use super::support::{Kms, VIRGINIA};
use super::{ID, new_key};

pub(crate) const ROOT: &str = "root";

/// A table with a root.
pub(crate) struct Scene {
    pub(crate) kms: Kms,
    pub(crate) key: KmsKeyArn,
    pub(crate) storage: Arc<MemoryStorage>,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let kms = Kms::start().await;
        let key = kms.key();
        let scene = Self { kms, key, storage: Arc::new(MemoryStorage::new()) };
        scene.kms_tier().create(new_key(ROOT)).await.unwrap();
        scene
    }

    /// A key store that has seen nothing yet, as that of a new process.
    pub(crate) fn kms_tier(&self) -> KeyStore {
        self.kms.store(self.storage.clone(), &self.key)
    }

    /// A key store under the root with an empty cache.
    pub(crate) fn root_tier(&self) -> KeyStore {
        self.kms_tier().under_root(ROOT, |cache| cache).unwrap()
    }

    /// How many keys AWS KMS has decrypted.
    pub(crate) fn decrypts(&self) -> u64 {
        self.kms.local.counters(VIRGINIA).succeeded("Decrypt")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_a_thousand_tenants_costs_one_request() {
    let scene = Scene::new().await;
    let store = scene.root_tier();
    let ids: Vec<_> = (0..1_000).map(|tenant| format!("tenant-{tenant}")).collect();
    for id in &ids {
        store.create(new_key(id)).await.unwrap();
    }
    let before = scene.kms.requests();
    let keys = BranchKeys::builder(scene.root_tier()).capacity(1_000).build().unwrap();
    let barrier = Arc::new(tokio::sync::Barrier::new(ids.len()));
    let callers: Vec<_> = ids
        .into_iter()
        .map(|id| {
            let (keys, barrier) = (keys.clone(), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                assert_eq!(keys.active(&id).await.unwrap().id(), id);
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(scene.kms.requests(), before + 1);
    assert_eq!(keys.stats().requests(), 1_000);
}

#[tokio::test]
async fn each_version_of_the_root_in_use_costs_one_request() {
    let scene = Scene::new().await;
    let store = scene.root_tier();
    let first = store.create(new_key(ID)).await.unwrap();
    scene.kms_tier().rotate(ROOT).await.unwrap();
    // The cache still has the previous version: a rotation takes effect within its limits.
    store.create(new_key("tenant-b")).await.unwrap();
    store.root_keys().unwrap().invalidate(ROOT);
    store.create(new_key("tenant-c")).await.unwrap();
    let rotated = store.rotate(ID).await.unwrap();
    assert_ne!(first.version, rotated.version);

    let before = scene.kms.requests();
    let store = scene.root_tier();
    for id in ["tenant-b", "tenant-c", ID] {
        store.active(id).await.unwrap();
        store.beacon(id).await.unwrap();
        assert!(store.verify(id).await.unwrap().is_ok());
    }
    store.version(ID, first.version).await.unwrap();
    assert_eq!(scene.kms.requests(), before + 2);
}

#[tokio::test]
async fn a_disabled_root_ends_all_keys_under_it_within_both_ages() {
    let scene = Scene::new().await;
    let minute = Duration::from_mins(1);
    let clock = Clock::manual();
    let settings = |age| {
        let clock = clock.clone();
        move |cache: envelope::branch_key::BranchKeysBuilder| {
            cache.clock(&clock).max_age(age).remember_failures_for(Duration::ZERO)
        }
    };
    let store = scene.kms_tier().under_root(ROOT, settings(2 * minute)).unwrap();
    for id in ["a", "b", "c"] {
        store.create(new_key(id)).await.unwrap();
    }
    store.root_keys().unwrap().clear();
    let keys = settings(5 * minute)(BranchKeys::builder(store)).build().unwrap();
    keys.active("a").await.unwrap();
    keys.active("b").await.unwrap();

    scene.kms.local.disable_key(VIRGINIA, scene.key.as_str()).unwrap();
    // Until the root is too old, a branch key under it can still be unwrapped, and then used for
    // its own age.
    clock.advance(Duration::from_secs(119));
    keys.active("c").await.unwrap();
    clock.advance(Duration::from_secs(299));
    keys.active("c").await.unwrap();
    clock.advance(Duration::from_secs(2));
    for id in ["a", "b", "c"] {
        let error = keys.active(id).await.unwrap_err();
        assert_eq!(error.keyring_errors()[0].kind(), KeyringErrorKind::Unusable, "{error:?}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_root_drops_what_is_under_its_kms_key_at_once() {
    let scene = Scene::new().await;
    let clock = Clock::manual();
    let settle = |cache: envelope::branch_key::BranchKeysBuilder| {
        cache.clock(&clock).remember_failures_for(Duration::ZERO)
    };
    let minute = Duration::from_mins(1);
    let store = scene.kms_tier().under_root(ROOT, |it| settle(it).max_age(minute)).unwrap();
    for id in ["a", "b", "c"] {
        store.create(new_key(id)).await.unwrap();
    }
    let keys = settle(BranchKeys::builder(store)).build().unwrap();
    for id in ["a", "b"] {
        assert_eq!(keys.active(id).await.unwrap().kms_key(), Some(scene.key.as_str()));
    }
    scene.kms.local.disable_key(VIRGINIA, scene.key.as_str()).unwrap();
    clock.advance(minute);
    keys.active("a").await.unwrap();
    keys.active("c").await.unwrap_err();
    for id in ["a", "b"] {
        keys.active(id).await.unwrap_err();
    }
}

#[tokio::test]
async fn errors_of_the_root_keep_their_kind() {
    let scene = Scene::new().await;
    scene.root_tier().create(new_key(ID)).await.unwrap();
    let faults = scene.kms.local.faults(VIRGINIA);
    faults.deny_access(true);
    let error = scene.root_tier().active(ID).await.unwrap_err();
    let Error::Root { cause, .. } = &error else { panic!("{error:?}") };
    assert_eq!(cause.kind(), KeyringErrorKind::Denied);
    assert!(!error.is_retryable());
    let keys = BranchKeys::new(scene.root_tier());
    let error = keys.active(ID).await.unwrap_err();
    assert_eq!(error.keyring_errors()[0].kind(), KeyringErrorKind::Denied);
    faults.clear();
    faults.internal_errors(1.0);
    let error = scene.root_tier().active(ID).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn a_missing_root_is_not_a_missing_branch_key() {
    let scene = Scene::new().await;
    scene.root_tier().create(new_key(ID)).await.unwrap();
    let elsewhere = scene.kms_tier().under_root("another root", |cache| cache).unwrap();
    let error = elsewhere.create(new_key("tenant-b")).await.unwrap_err();
    assert!(matches!(error, Error::Root { .. }), "{error:?}");

    scene.kms_tier().shred(ROOT).await.unwrap();
    for error in [
        scene.root_tier().active(ID).await.unwrap_err(),
        scene.root_tier().create(new_key("tenant-b")).await.unwrap_err(),
    ] {
        let Error::Root { cause, .. } = &error else { panic!("{error:?}") };
        assert_eq!(cause.kind(), KeyringErrorKind::InvalidCiphertext);
        assert!(cause.cause().to_string().contains("shredded"), "{cause:?}");
    }
    let error = BranchKeys::new(scene.root_tier()).active(ID).await.unwrap_err();
    assert_eq!(MissingBranchKey::in_error(&error.keyring_errors()[0]), None);
}

#[tokio::test]
async fn the_root_cannot_be_used_or_changed_through_its_own_tier() {
    let scene = Scene::new().await;
    let info = scene.kms_tier().info(ROOT).await.unwrap();
    let store = scene.root_tier();
    let migrating = store.migration_to(branch_keys::Tier::Root).unwrap();
    let before = scene.kms.requests();
    for store in [&store, migrating.key_store()] {
        for result in [
            store.active(ROOT).await.map(drop),
            store.version(ROOT, info.version).await.map(drop),
            store.beacon(ROOT).await.map(drop),
            store.info(ROOT).await.map(drop),
            store.verify(ROOT).await.map(drop),
            store.create(new_key(ROOT)).await.map(drop),
            store.ensure(new_key(ROOT)).await.map(drop),
            store.rotate(ROOT).await.map(drop),
            store.rotate_if_older_than(ROOT, Duration::ZERO).await.map(drop),
            store.shred(ROOT).await.map(drop),
        ] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::RootBranchKey { .. }), "{error:?}");
        }
    }
    let error = migrating.migrate(ROOT).await.unwrap_err();
    assert!(matches!(error, Error::RootBranchKey { .. }), "{error:?}");
    assert_eq!(scene.kms.requests(), before);
    assert_eq!(scene.kms_tier().info(ROOT).await.unwrap(), info);
    // The root cannot be created under itself either.
    let store = scene.kms_tier().under_root("not yet", |cache| cache).unwrap();
    let error = store.create(CreateBranchKey::new("not yet", [("a", "b")])).await.unwrap_err();
    assert!(matches!(error, Error::RootBranchKey { .. }), "{error:?}");
}

#[tokio::test]
async fn the_root_is_not_listed() {
    let scene = Scene::new().await;
    let store = scene.root_tier();
    for id in ["a", "p", "s", "z"] {
        store.create(new_key(id)).await.unwrap();
    }
    for limit in 1..7 {
        let mut ids = vec![];
        loop {
            let page = store.list(ids.last().map(String::as_str), limit).await.unwrap();
            if page.is_empty() {
                break;
            }
            ids.extend(page);
        }
        assert_eq!(ids, ["a", "p", "s", "z"], "{limit}");
    }
}

#[test]
fn a_root_has_no_root_and_invalid_settings_are_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let scene = Scene::new().await;
        let store = scene.root_tier();
        let refused = |result: Result<KeyStore, BuildError>| {
            let BuildError::InvalidSetting { setting, .. } = result.unwrap_err() else {
                panic!("another error")
            };
            assert_eq!(setting, "under_root");
        };
        refused(store.under_root("other", |cache| cache));
        let kms_tier = scene.kms_tier();
        refused(kms_tier.under_root("", |cache| cache));
        refused(kms_tier.under_root("a".repeat(1_025), |cache| cache));
        refused(kms_tier.under_root(ROOT, |cache| cache.max_age(Duration::ZERO)));
        assert!(kms_tier.migration_to(branch_keys::Tier::Root).is_err());
    });
}

#[tokio::test]
async fn a_denied_root_is_found_by_its_checks_before_it_is_too_old() {
    let scene = Scene::new().await;
    let clock = Clock::manual();
    let settle = |cache: envelope::branch_key::BranchKeysBuilder| {
        let every = Duration::from_secs(10);
        cache.clock(&clock).check_every(every).remember_failures_for(Duration::ZERO)
    };
    let store = scene.kms_tier().under_root(ROOT, settle).unwrap();
    store.create(new_key(ID)).await.unwrap();
    let store = scene.kms_tier().under_root(ROOT, settle).unwrap();
    store.active(ID).await.unwrap();
    let root_keys = store.root_keys().unwrap();
    assert_eq!(root_keys.stats().versions.requests(), 1);
    scene.kms.local.faults(VIRGINIA).deny_access(true);
    clock.advance(Duration::from_secs(10));
    // This use starts the check in the background.
    store.active(ID).await.unwrap();
    let is_dropped = async {
        while root_keys.oldest_age().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), is_dropped).await.expect("a denied check");
    store.active(ID).await.unwrap_err();
}
