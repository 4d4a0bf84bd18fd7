//! A key policy that denies one encryption context, or all of them, on a real server.

use std::time::Duration;

use crate::support::context;
use envelope::{
    Clock, EncryptionContext, Envelope, Error,
    keyring::{AwsKmsKeyring, KeyringErrorKind},
    materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
};
use futures_util::future::join_all;
use kms_local::KmsLocal;
use kms_pool::{KmsPool, Principal};
use tokio::time::timeout;

const REGION: &str = "us-east-1";
const SECOND: Duration = Duration::from_secs(1);
/// The time limit for expected events on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Scene {
    kms: KmsLocal,
    pool: KmsPool,
    key: String,
    cache: MaterialsCache,
    clock: Clock,
}

impl Scene {
    async fn new() -> Self {
        let kms = KmsLocal::builder().region(REGION).start().await.unwrap();
        let pool = KmsPool::builder()
            .endpoint_url(kms.endpoint(REGION))
            .trust_root_pem(kms.ca_pem())
            .build()
            .unwrap();
        let key = kms.create_key(REGION);
        let clock = Clock::manual();
        let cache = MaterialsCache::builder().capacity(10_000).clock(&clock).build();
        Self { kms, pool, key, cache, clock }
    }

    /// A client with its own principal, on the same cache.
    fn client(&self) -> Envelope {
        let principal = Principal::new(self.kms.issue_credentials());
        let keyring = AwsKmsKeyring::new(self.pool.clients(&principal), self.key.parse().unwrap());
        let builder = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring));
        let manager = builder.cache(&self.cache).max_age(60 * SECOND).build().unwrap();
        Envelope::builder(manager).build().unwrap()
    }

    fn requests(&self) -> u64 {
        let counters = self.kms.counters(REGION);
        counters.requests("GenerateDataKey") + counters.requests("Decrypt")
    }

    fn held(&self) -> (usize, usize) {
        let stats = self.cache.stats();
        (stats.encryption.entries, stats.decryption.entries)
    }

    /// Waits until the background work has reached this state.
    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let wait = async {
            while !is_so() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("{what}: {:?}", self.cache.stats()));
    }
}

fn kind(error: &Error) -> KeyringErrorKind {
    error.keyring_errors()[0].kind()
}

async fn encrypt_all(envelope: &Envelope, contexts: &[EncryptionContext]) -> Vec<Vec<u8>> {
    let mut messages = vec![];
    for some in contexts.chunks(50) {
        let encrypted = join_all(some.iter().map(|context| envelope.encrypt(b"x", context))).await;
        messages.extend(encrypted.into_iter().map(Result::unwrap));
    }
    messages
}

/// Ten denials, one back-off apart, next to a thousand other contexts.
#[tokio::test]
async fn denials_of_one_context_cost_a_probe_each_and_drop_no_other_context() {
    let scene = Scene::new().await;
    let envelope = scene.client();
    let others: Vec<_> = (0..1_000).map(|number| context(&number.to_string())).collect();
    let messages = encrypt_all(&envelope, &others).await;
    for (message, context) in messages.iter().zip(&others).take(20) {
        envelope.decrypt(message, context).await.unwrap();
    }
    scene.kms.faults(REGION).deny_contexts([("tenant", "denied")]);
    let before = scene.requests();
    // A successful probe counts for a tenth of `max_age`: 6 seconds.
    for round in 1..=10 {
        let error = envelope.encrypt(b"x", &context("denied")).await.unwrap_err();
        assert_eq!(kind(&error), KeyringErrorKind::Denied);
        let probed = || scene.cache.stats().encryption.refreshes == 1 + (round - 1) / 6;
        scene.until("a probe", probed).await;
        // A call right after the denial is refused from memory.
        let error = envelope.encrypt(b"x", &context("denied")).await.unwrap_err();
        assert!(matches!(error, Error::Remembered { .. }), "{error}");
        scene.clock.advance(SECOND);
    }
    assert_eq!(scene.requests() - before, 12);
    for context in &others {
        envelope.try_encrypt(b"x", context).unwrap();
    }
    for (message, context) in messages.iter().zip(&others).take(20) {
        envelope.try_decrypt(message, context).unwrap();
    }
    assert_eq!(scene.requests() - before, 12);
    // The wrapping key is not backed off for other contexts.
    envelope.encrypt(b"x", &context("new")).await.unwrap();
}

/// A tenant with a cached data key is denied when that key is refreshed.
#[tokio::test]
async fn only_the_denied_data_key_is_dropped() {
    let scene = Scene::new().await;
    let envelope = scene.client();
    let contexts = ["denied", "a", "b"].map(context);
    let messages = encrypt_all(&envelope, &contexts).await;
    for (message, context) in messages.iter().zip(&contexts) {
        envelope.decrypt(message, context).await.unwrap();
    }
    scene.kms.faults(REGION).deny_contexts([("tenant", "denied")]);
    scene.clock.advance(49 * SECOND);
    envelope.try_encrypt(b"x", &contexts[0]).unwrap();
    scene
        .until("the refresh and its probe", || scene.cache.stats().encryption.refreshes == 2)
        .await;
    envelope.try_decrypt(&messages[0], &contexts[0]).unwrap();
    scene.until("the same for decryption", || scene.cache.stats().decryption.refreshes == 2).await;
    assert_eq!(scene.held(), (2, 2));
    for (message, context) in messages.iter().zip(&contexts).skip(1) {
        envelope.try_encrypt(b"x", context).unwrap();
        envelope.try_decrypt(message, context).unwrap();
    }
    assert!(matches!(envelope.try_encrypt(b"x", &contexts[0]), Err(Error::NotCached)));
    assert!(matches!(envelope.try_decrypt(&messages[0], &contexts[0]), Err(Error::NotCached)));
}

/// A tenant with many contexts is denied for all of them. Contexts of other tenants are probed.
#[tokio::test]
async fn a_denied_tenant_with_many_contexts_drops_no_other_tenant() {
    let scene = Scene::new().await;
    let envelope = scene.client();
    let of = |tenant: &str, object: u32| {
        let object = object.to_string();
        EncryptionContext::new([("app", "a"), ("tenant", tenant), ("object", &*object)]).unwrap()
    };
    let denied: Vec<_> = (0..500).map(|object| of("denied", object)).collect();
    let others: Vec<_> = (0..5).map(|object| of("other", object)).collect();
    encrypt_all(&envelope, &denied).await;
    encrypt_all(&envelope, &others).await;
    scene.kms.faults(REGION).deny_contexts([("tenant", "denied")]);
    for round in 0..5 {
        assert!(envelope.encrypt(b"x", &of("denied", 1_000 + round)).await.is_err());
        scene.until("a probe", || scene.cache.stats().encryption.refreshes > round.into()).await;
        scene.clock.advance(7 * SECOND);
    }
    for context in others.iter().chain(&denied) {
        envelope.try_encrypt(b"x", context).unwrap();
    }
}

/// The policy changed for all contexts: the first denial and its probes drop all entries under the
/// key.
#[tokio::test]
async fn a_revocation_for_all_drops_all() {
    let scene = Scene::new().await;
    let envelope = scene.client();
    let contexts: Vec<_> = (0..100).map(|number| context(&number.to_string())).collect();
    let messages = encrypt_all(&envelope, &contexts).await;
    for (message, context) in messages.iter().zip(&contexts) {
        envelope.decrypt(message, context).await.unwrap();
    }
    assert_eq!(scene.held(), (100, 100));
    scene.kms.faults(REGION).deny_access(true);
    let before = scene.requests();
    let error = envelope.encrypt(b"x", &context("new")).await.unwrap_err();
    assert_eq!(kind(&error), KeyringErrorKind::Denied);
    scene.until("all dropped", || scene.held() == (0, 0)).await;
    assert_eq!(scene.requests() - before, 3);
}

/// A principal without permission to decrypt is denied for every context, but may still encrypt.
#[tokio::test]
async fn a_denial_is_probed_by_the_same_operation() {
    let scene = Scene::new().await;
    let envelope = scene.client();
    let contexts = ["a", "b"].map(context);
    let messages = encrypt_all(&envelope, &contexts).await;
    envelope.decrypt(&messages[0], &contexts[0]).await.unwrap();
    scene.kms.faults(REGION).deny_contexts([("tenant", "a")]);
    scene.clock.advance(49 * SECOND);
    envelope.try_decrypt(&messages[0], &contexts[0]).unwrap();
    // There is no other entry for decryption, so one for encryption is probed.
    scene.until("a probe", || scene.cache.stats().encryption.refreshes == 1).await;
    envelope.try_encrypt(b"x", &contexts[1]).unwrap();
    scene.kms.faults(REGION).clear();

    let others = ["c", "d"].map(context);
    let messages = encrypt_all(&envelope, &others).await;
    for (message, context) in messages.iter().zip(&others) {
        envelope.decrypt(message, context).await.unwrap();
    }
    let before = scene.kms.counters(REGION).requests("Decrypt");
    scene.kms.faults(REGION).deny_access(true);
    scene.clock.advance(49 * SECOND);
    envelope.try_decrypt(&messages[0], &others[0]).unwrap();
    scene.until("all dropped", || scene.held() == (0, 0)).await;
    assert_eq!(scene.kms.counters(REGION).requests("Decrypt") - before, 2);
}

/// Two principals share a cache: a denial of one principal says nothing about the other, and its
/// failures are not remembered for the other.
#[tokio::test]
async fn denials_and_failures_stay_in_their_partition() {
    let scene = Scene::new().await;
    let (denied, other) = (scene.client(), scene.client());
    let contexts = ["a", "b", "c"].map(context);
    encrypt_all(&denied, &contexts).await;
    encrypt_all(&other, &contexts).await;
    scene.kms.faults(REGION).deny_access(true);
    assert!(denied.encrypt(b"x", &context("new")).await.is_err());
    scene.until("one partition dropped", || scene.held().0 == 3).await;
    for context in &contexts {
        other.try_encrypt(b"x", context).unwrap();
        assert!(matches!(denied.try_encrypt(b"x", context), Err(Error::NotCached)));
    }
    scene.kms.faults(REGION).clear();
    // The failure is remembered only for the entry of that partition.
    let error = denied.encrypt(b"x", &context("new")).await.unwrap_err();
    assert!(matches!(error, Error::Remembered { .. }), "{error}");
    denied.encrypt(b"x", &context("newer")).await.unwrap();
    other.encrypt(b"x", &context("new")).await.unwrap();
}

/// KMS takes 0.9 s, and callers are cancelled after half a second: later callers find the data keys
/// of their requests in the cache.
#[tokio::test]
async fn cancelled_callers_leave_proven_data_keys() {
    let scene = Scene::new().await;
    let envelope = scene.client();
    let contexts: Vec<_> = (0..4).map(|number| context(&number.to_string())).collect();
    let messages = encrypt_all(&envelope, &contexts).await;
    scene.kms.faults(REGION).latency(Duration::from_millis(900));
    let first = messages
        .iter()
        .zip(&contexts)
        .map(|(message, context)| timeout(SECOND / 2, envelope.decrypt(message, context)));
    assert!(join_all(first).await.iter().all(Result::is_err));
    scene.until("the requested data keys", || scene.held().1 == 4).await;
    for (message, context) in messages.iter().zip(&contexts) {
        envelope.try_decrypt(message, context).unwrap();
    }
}
