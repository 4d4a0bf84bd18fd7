//! What one identity obtained is not used for another that takes its place.

use envelope::{
    EncryptionContext, Envelope,
    keyring::{AwsKmsDiscoveryKeyring, AwsKmsKeyring, Keyring, MultiKeyring},
    materials::{
        CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache, MaterialsManager as _,
    },
};
use kms_local::KmsLocal;
use kms_pool::{KmsErrorKind, KmsPool, Principal, Replicas};

const REGION: &str = "us-east-1";

struct Scene {
    kms: KmsLocal,
    principal: Principal,
    cache: MaterialsCache,
    envelope: Envelope,
    context: EncryptionContext,
}

impl Scene {
    async fn set() -> Self {
        let kms = KmsLocal::builder().region(REGION).start().await.unwrap();
        let pool = KmsPool::builder()
            .endpoint_url(kms.endpoint(REGION))
            .trust_root_pem(kms.ca_pem())
            .build()
            .unwrap();
        let principal = Principal::new(kms.issue_credentials());
        let key = kms.create_key(REGION).parse().unwrap();
        let cache = MaterialsCache::new(100);
        let source =
            DefaultMaterialsManager::new(AwsKmsKeyring::new(pool.clients(&principal), key));
        let manager = CachingMaterialsManager::builder(source).cache(&cache).build().unwrap();
        let envelope = Envelope::builder(manager).build().unwrap();
        let context = EncryptionContext::new([("tenant", "42")]).unwrap();
        Self { kms, principal, cache, envelope, context }
    }

    /// From now on it is another identity, which KMS denies everything, so that only cached data
    /// keys could work.
    fn replace(&self) {
        self.principal.replace(self.kms.issue_credentials());
        self.kms.faults(REGION).deny_access(true);
    }
}

fn is_denied<T>(outcome: Result<T, envelope::Error>) -> bool {
    outcome.err().is_some_and(|error| {
        error.kms().is_some_and(|kms| kms.kind() == KmsErrorKind::AccessDenied)
    })
}

#[tokio::test]
async fn a_new_identity_uses_none_of_the_previous_ones_data_keys() {
    let scene = Scene::set().await;
    let (envelope, context) = (&scene.envelope, &scene.context);
    let message = envelope.encrypt(b"x", context).await.unwrap();
    envelope.decrypt(&message, context).await.unwrap();
    let handle = envelope.prepare(context).unwrap();
    handle.encrypt(b"x").await.unwrap();
    assert_eq!(scene.kms.counters(REGION).total(), 2);

    scene.replace();
    assert!(handle.try_encrypt(b"x").is_err());
    assert!(is_denied(handle.encrypt(b"x").await));
    assert!(is_denied(envelope.encrypt(b"x", context).await));
    assert!(is_denied(envelope.decrypt(&message, context).await));
    assert_eq!(scene.cache.oldest_data_key_age(), None, "they are wiped, not only out of reach");

    scene.kms.faults(REGION).clear();
    let own = scene.kms.issue_credentials();
    scene.principal.replace(own.clone());
    envelope.encrypt(b"x", context).await.unwrap();
    assert_eq!(scene.kms.counters(REGION).access_keys[own.access_key_id()], 1);
}

#[tokio::test]
async fn a_data_key_that_was_asked_for_before_is_not_kept() {
    let scene = Scene::set().await;
    scene.kms.faults(REGION).hang(true);
    let (envelope, context) = (scene.envelope.clone(), scene.context.clone());
    let before = tokio::spawn(async move { envelope.encrypt(b"x", &context).await });
    while scene.kms.counters(REGION).in_flight == 0 {
        tokio::task::yield_now().await;
    }
    scene.principal.replace(scene.kms.issue_credentials());
    // An operation of the new identity's notes that it is another's.
    assert!(scene.envelope.try_encrypt(b"x", &scene.context).is_err());
    scene.kms.faults(REGION).clear();
    before.await.unwrap().unwrap();
    scene.kms.faults(REGION).deny_access(true);
    assert!(is_denied(scene.envelope.encrypt(b"x", &scene.context).await));
}

#[tokio::test]
async fn new_credentials_of_the_same_identity_keep_what_is_cached() {
    let scene = Scene::set().await;
    scene.envelope.encrypt(b"x", &scene.context).await.unwrap();
    scene.principal.rotate(scene.kms.issue_credentials());
    scene.envelope.encrypt(b"x", &scene.context).await.unwrap();
    assert_eq!(scene.kms.counters(REGION).total(), 1);
}

#[tokio::test]
async fn credentials_of_an_unknown_account_use_no_earlier_data_keys() {
    let scene = Scene::set().await;
    let stranger =
        KmsLocal::builder().account("222222222222").region(REGION).start().await.unwrap();
    let message = scene.envelope.encrypt(b"x", &scene.context).await.unwrap();
    scene.envelope.decrypt(&message, &scene.context).await.unwrap();
    scene.principal.rotate(stranger.issue_credentials());
    // The KMS does not know these credentials, so only cached data keys could work.
    scene.envelope.encrypt(b"x", &scene.context).await.unwrap_err();
    scene.envelope.decrypt(&message, &scene.context).await.unwrap_err();
}

#[tokio::test]
async fn what_was_remembered_of_a_key_is_forgotten() {
    let scene = Scene::set().await;
    let key = scene.kms.create_key(REGION);
    let pool = KmsPool::builder()
        .endpoint_url(scene.kms.endpoint(REGION))
        .trust_root_pem(scene.kms.ca_pem());
    let clients = pool.build().unwrap().clients(&scene.principal);
    let source = AwsKmsKeyring::new(clients, key.parse().unwrap());
    let manager =
        CachingMaterialsManager::builder(DefaultMaterialsManager::new(source)).build().unwrap();
    let envelope = Envelope::builder(manager).build().unwrap();
    scene.kms.disable_key(REGION, &key).unwrap();
    for tenant in 0..10 {
        let context = EncryptionContext::new([("tenant", tenant.to_string())]).unwrap();
        envelope.encrypt(b"x", &context).await.unwrap_err();
    }
    scene.kms.enable_key(REGION, &key).unwrap();
    scene.principal.replace(scene.kms.issue_credentials());
    envelope.encrypt(b"x", &scene.context).await.unwrap();
}

#[tokio::test]
async fn every_keyring_and_manager_tells_who_asks() {
    let scene = Scene::set().await;
    let key = || scene.kms.create_key(REGION).parse().unwrap();
    let pool = KmsPool::builder()
        .endpoint_url(scene.kms.endpoint(REGION))
        .trust_root_pem(scene.kms.ca_pem());
    let pool = pool.build().unwrap();
    let clients = || pool.clients(&scene.principal);
    let nobodys = pool.clients(&Principal::new(scene.kms.issue_credentials()));
    let replicas = Replicas::new(clients(), [REGION]).unwrap();
    let multi = MultiKeyring::new(AwsKmsKeyring::new(nobodys.clone(), key()))
        .with_child(AwsKmsKeyring::new(clients(), key()))
        .unwrap();
    let source = DefaultMaterialsManager::new(AwsKmsKeyring::new(clients(), key()));
    let caching = CachingMaterialsManager::builder(source).build().unwrap();
    let keyrings: [Box<dyn Keyring>; 6] = [
        Box::new(AwsKmsKeyring::new(clients(), key())),
        Box::new(AwsKmsKeyring::mrk_aware(clients(), key())),
        Box::new(AwsKmsKeyring::mrk_aware(nobodys, key()).with_replicas(replicas)),
        Box::new(AwsKmsDiscoveryKeyring::new(clients())),
        Box::new(AwsKmsDiscoveryKeyring::mrk_aware(clients(), REGION.parse().unwrap())),
        Box::new(multi),
    ];
    scene.principal.replace(scene.kms.issue_credentials());
    for keyring in &keyrings {
        assert_eq!(keyring.tenure(), 1, "{keyring:?}");
    }
    assert_eq!(caching.keyring().unwrap().tenure(), 1);
}
