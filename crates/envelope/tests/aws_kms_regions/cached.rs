//! What the cache makes of keyrings that open for keys of many names.

use envelope::{
    Envelope, Error,
    keyring::Keyring,
    materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
};

use crate::{IRELAND, Kms, context, filter};

/// A client over a cache that others use, too.
fn caching(keyring: impl Keyring + 'static, cache: &MaterialsCache) -> Envelope {
    let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring)).cache(cache);
    Envelope::builder(manager.build().unwrap()).build().unwrap()
}

#[tokio::test]
async fn what_one_keyring_opened_is_not_given_to_another() {
    let kms = Kms::start().await;
    let key = kms.local.create_key(IRELAND);
    let cache = MaterialsCache::new(100);
    let message = caching(kms.strict(&key), &cache).encrypt(b"x", &context()).await.unwrap();
    let (any, others) =
        (caching(kms.discovery(), &cache), caching(kms.discovery().with_filter(filter("aws", "444455556666")), &cache));
    for _ in 0..10 {
        any.decrypt(&message, &context()).await.unwrap();
    }
    assert_eq!(kms.local.counters(IRELAND).succeeded("Decrypt"), 1);
    let refused = others.decrypt(&message, &context()).await.unwrap_err();
    assert!(matches!(refused, Error::DataKeyNotUnwrapped { failures, .. } if failures.is_empty()));
    assert_eq!(kms.local.counters(IRELAND).requests("Decrypt"), 1);
}
