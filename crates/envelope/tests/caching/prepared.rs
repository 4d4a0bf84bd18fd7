//! Contexts that are prepared once, warmed ahead, and looked at by a health check.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::support::{GatedKeyring, caching, context, encrypted_data_keys, eventually};
use envelope::{
    Clock, EncryptionContext, Envelope, Error, ResultFuture,
    keyring::KeyringErrorKind,
    materials::{
        CachingMaterialsManager, DecryptionMaterials, DecryptionMaterialsRequest,
        DefaultMaterialsManager, EncryptionMaterials, EncryptionMaterialsRequest, MaterialsCache,
        MaterialsManager,
    },
};
use futures_util::future::{join_all, poll_immediate};

#[tokio::test]
async fn a_handle_and_its_client_share_one_entry() {
    let keyring = GatedKeyring::open();
    let cache = MaterialsCache::new(10);
    let envelope = caching(keyring.clone(), |builder| {
        builder.cache(&cache).max_messages(3).refresh_ahead(false)
    });
    let prepared = envelope.prepare(&context("42")).unwrap();
    assert!(matches!(prepared.try_encrypt(b"x"), Err(Error::NotCached)));
    let first = prepared.encrypt(b"x").await.unwrap();
    let second = envelope.try_encrypt(b"x", &context("42")).unwrap();
    let third = prepared.try_encrypt(b"x").unwrap();
    assert_eq!(encrypted_data_keys(&first), encrypted_data_keys(&second));
    assert_eq!(encrypted_data_keys(&first), encrypted_data_keys(&third));
    assert!(
        matches!(prepared.try_encrypt(b"x"), Err(Error::NotCached)),
        "the limit is theirs together"
    );
    assert_eq!(
        prepared.envelope().decrypt(&first, prepared.context()).await.unwrap().plaintext(),
        b"x"
    );
    assert_eq!(
        prepared.envelope().try_decrypt(&second, prepared.context()).unwrap().encryption_context(),
        prepared.context()
    );
    assert_eq!((keyring.counts(), cache.stats().encryption.hits), ((1, 1), 2));
    let other = envelope.encrypt(b"x", &context("43")).await.unwrap();
    assert!(matches!(
        prepared.envelope().decrypt(&other, prepared.context()).await,
        Err(Error::EncryptionContextMismatch { .. })
    ));
}

/// A handle outlives its entry, and finds the next one, as all do.
#[tokio::test]
async fn a_handle_outlives_evictions_and_invalidations() {
    let keyring = GatedKeyring::open();
    let cache = MaterialsCache::new(4);
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let prepared =
        [envelope.prepare(&context("42")).unwrap(), envelope.prepare(&context("42")).unwrap()];
    let others: Vec<_> = (0..100).map(|tenant| context(&format!("other {tenant}"))).collect();
    // Twice each, or else they would not count as worth more than the first.
    let evict = || async {
        for context in others.iter().flat_map(|context| [context, context]) {
            envelope.encrypt(b"x", context).await.unwrap();
        }
    };
    let mut seen = vec![];
    for round in 0..3 {
        let message = prepared[round % 2].encrypt(b"x").await.unwrap();
        assert!(!seen.contains(&encrypted_data_keys(&message).to_vec()), "nothing comes back");
        seen.push(encrypted_data_keys(&message).to_vec());
        for handle in &prepared {
            assert_eq!(encrypted_data_keys(&handle.try_encrypt(b"x").unwrap()), seen[round]);
        }
        assert_eq!(
            encrypted_data_keys(&envelope.try_encrypt(b"x", &context("42")).unwrap()),
            seen[round]
        );
        match round {
            0 => assert_eq!(cache.clear(), 1),
            1 => assert_eq!(cache.invalidate_key(crate::support::WRAPPING_KEY), 1),
            _ => evict().await,
        }
        assert!(
            prepared.iter().all(|handle| matches!(handle.try_encrypt(b"x"), Err(Error::NotCached)))
        );
    }
    // What a plain call fetched meanwhile, a handle takes over.
    evict().await;
    let plain = envelope.encrypt(b"x", &context("42")).await.unwrap();
    assert_eq!(
        encrypted_data_keys(&prepared[0].try_encrypt(b"x").unwrap()),
        encrypted_data_keys(&plain)
    );
    assert_eq!(
        encrypted_data_keys(&prepared[1].try_encrypt(b"x").unwrap()),
        encrypted_data_keys(&plain)
    );
    assert_eq!(
        encrypted_data_keys(&envelope.try_encrypt(b"x", &context("42")).unwrap()),
        encrypted_data_keys(&plain)
    );
}

#[tokio::test]
async fn handles_check_as_clients_do() {
    let keyring = GatedKeyring::open();
    let envelope = caching(keyring.clone(), |builder| builder.max_bytes(5));
    let reserved = EncryptionContext::new([("aws-crypto-public-key", "x")]).unwrap();
    assert!(matches!(envelope.prepare(&reserved), Err(Error::InvalidEncryptionContext { .. })));
    let prepared = envelope.prepare(&context("42")).unwrap();
    let long = prepared.encrypt(b"longer").await.unwrap();
    assert!(
        matches!(prepared.try_encrypt(b"longer"), Err(Error::NotCached)),
        "a data key of its own each time"
    );
    assert_eq!(
        prepared.envelope().decrypt(&long, prepared.context()).await.unwrap().plaintext(),
        b"longer"
    );

    // Through a manager above the cache, and without any cache.
    let caching = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring.clone()))
        .build()
        .unwrap();
    let envelope = Envelope::builder(caching).required_keys(["tenant"]).build().unwrap();
    assert!(matches!(
        envelope.prepare(&EncryptionContext::empty()),
        Err(Error::RequiredContextMissing { .. })
    ));
    let prepared = envelope.prepare(&context("42")).unwrap();
    let message = prepared.encrypt(b"x").await.unwrap();
    prepared.try_encrypt(b"x").unwrap();
    assert!(envelope.decrypt(&message, &EncryptionContext::empty()).await.is_err());
    assert_eq!(
        prepared.envelope().decrypt(&message, prepared.context()).await.unwrap().plaintext(),
        b"x"
    );
    let uncached = Envelope::builder(DefaultMaterialsManager::new(keyring)).build().unwrap();
    let prepared = uncached.prepare(&context("42")).unwrap();
    let message = prepared.encrypt(b"x").await.unwrap();
    assert!(matches!(prepared.try_encrypt(b"x"), Err(Error::NotCached)));
    assert_eq!(
        prepared.envelope().decrypt(&message, prepared.context()).await.unwrap().plaintext(),
        b"x"
    );
}

#[tokio::test]
async fn warming_gives_one_result_for_each_and_reserves_nothing() {
    let keyring = GatedKeyring::new(2);
    let cache = MaterialsCache::builder().max_loads(4).build();
    let envelope = caching(keyring.clone(), |builder| {
        builder.cache(&cache).max_messages(1).refresh_ahead(false)
    });
    let contexts: Vec<_> = (0..50).map(|tenant| context(&tenant.to_string())).collect();
    envelope.ready().await.expect("nothing was warmed yet");
    let mut warming = Box::pin(envelope.warm(&contexts));
    assert!(poll_immediate(&mut warming).await.is_none());
    eventually(|| keyring.counts().0 == 4 + 2).await;
    keyring.gate.add_permits(48);
    assert!(warming.await.iter().all(Result::is_ok));
    envelope.ready().await.unwrap();
    assert_eq!(keyring.counts().0, 50);
    for context in &contexts {
        envelope.try_encrypt(b"x", context).unwrap();
    }
    // Their only message is spent.
    keyring.fail(Some(KeyringErrorKind::Other));
    keyring.gate.add_permits(50);
    let error = envelope.ready().await.unwrap_err();
    let Error::NotReady { missing: 50, warmed: 50, cause } = &error else { panic!("{error:?}") };
    assert!(matches!(**cause, Error::DataKeyUnavailable(_)) && !error.is_retryable());
    // Asked again in a moment, not at each health check.
    let asked = keyring.counts().0;
    assert!(envelope.ready().await.is_err());
    assert_eq!(keyring.counts().0, asked);
    let reserved = EncryptionContext::new([("aws-crypto-x", "x")]).unwrap();
    let results = envelope.warm([&reserved, &context("0")]).await;
    assert!(matches!(
        results[..],
        [Err(Error::InvalidEncryptionContext { .. }), Err(Error::Remembered { .. })]
    ));
}

#[tokio::test]
async fn a_health_check_keeps_idle_contexts_warm() {
    let keyring = GatedKeyring::open();
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let envelope =
        caching(keyring.clone(), |builder| builder.cache(&cache).max_age(Duration::from_mins(1)));
    envelope.warm([&context("42")]).await;
    clock.advance(Duration::from_mins(1));
    assert!(envelope.try_encrypt(b"x", &context("42")).is_err());
    envelope.ready().await.unwrap();
    envelope.try_encrypt(b"x", &context("42")).unwrap();
    assert_eq!(cache.remove_older_than(Duration::from_secs(1)), 0);
    clock.advance(Duration::from_secs(1));
    assert_eq!(cache.oldest_data_key_age(), Some(Duration::from_secs(1)));
    assert_eq!(cache.remove_older_than(Duration::from_secs(1)), 1);
    assert_eq!((cache.stats().encryption.entries, cache.oldest_data_key_age()), (0, None));
}

/// As in a handler of a server, whose futures move between threads.
#[tokio::test]
async fn a_task_may_warm_and_look_at_the_health() {
    let envelope = caching(GatedKeyring::open(), |builder| builder);
    let task = tokio::spawn(async move {
        envelope
            .warm([&context("42"), &context("43")])
            .await
            .into_iter()
            .collect::<Result<(), _>>()?;
        envelope.ready().await
    });
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_sealed_opens_without_asking_if_it_is_primed() {
    for prime in [true, false] {
        let keyring = GatedKeyring::open();
        let cache = MaterialsCache::new(10);
        let envelope =
            caching(keyring.clone(), |builder| builder.cache(&cache).prime_decrypt(prime));
        let message = envelope.encrypt(b"x", &context("42")).await.unwrap();
        assert_eq!(envelope.decrypt(&message, &context("42")).await.unwrap().plaintext(), b"x");
        assert_eq!(keyring.counts(), (1, u64::from(!prime)));
        let mut forged = message.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(matches!(
            envelope.decrypt(&forged, &context("42")).await,
            Err(Error::Authentication)
        ));
        cache.invalidate_key(crate::support::WRAPPING_KEY);
        assert!(matches!(envelope.try_decrypt(&message, &context("42")), Err(Error::NotCached)));
    }
    // What was asked for before an invalidation primes nothing after it.
    let keyring = GatedKeyring::new(0);
    let cache = MaterialsCache::new(10);
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache).prime_decrypt(true));
    let context = context("42");
    let mut sealing = Box::pin(envelope.encrypt(b"x", &context));
    assert!(poll_immediate(&mut sealing).await.is_none());
    eventually(|| keyring.counts().0 == 1).await;
    cache.clear();
    keyring.gate.add_permits(1);
    let message = sealing.await.unwrap();
    assert!(matches!(envelope.try_decrypt(&message, &context), Err(Error::NotCached)));
}

#[cfg(feature = "aws-lc-rs")]
#[tokio::test]
async fn signed_messages_are_primed_too() {
    use envelope::AlgorithmSuite;

    let keyring = GatedKeyring::open();
    let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring.clone()))
        .prime_decrypt(true);
    let suite = AlgorithmSuite::from_id(0x0578).unwrap();
    let envelope = Envelope::builder(manager.build().unwrap()).suite(suite).build().unwrap();
    let message = envelope.encrypt(b"x", &context("42")).await.unwrap();
    assert_eq!(envelope.try_decrypt(&message, &context("42")).unwrap().plaintext(), b"x");
    let mut forged = message.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(envelope.try_decrypt(&forged, &context("42")), Err(Error::Authentication)));
}

/// After several failures under one wrapping key, nobody else under it waits for the next one.
#[tokio::test]
async fn failures_of_a_wrapping_key_are_everybodys() {
    let keyring = GatedKeyring::open();
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let contexts: Vec<_> = (0..20).map(|tenant| context(&tenant.to_string())).collect();
    let message = envelope.encrypt(b"x", &contexts[0]).await.unwrap();
    keyring.fail(Some(KeyringErrorKind::Throttled));
    for (before, context) in contexts[1..].iter().enumerate() {
        let error = envelope.encrypt(b"x", context).await.unwrap_err();
        assert_eq!(matches!(error, Error::Remembered { .. }), before >= 3, "{before}: {error:?}");
        assert!(error.is_retryable());
    }
    assert_eq!(keyring.counts().0, 1 + 3);
    envelope.try_encrypt(b"x", &contexts[0]).expect("cached data keys still work");
    // It works again: the first success ends it for all.
    keyring.fail(None);
    clock.advance(Duration::from_secs(1));
    assert!(
        join_all(contexts[1..].iter().map(|context| envelope.encrypt(b"x", context)))
            .await
            .iter()
            .all(Result::is_ok)
    );
    keyring.fail(Some(KeyringErrorKind::Throttled));
    cache.invalidate(&context("none"));
    let error = envelope.decrypt(&message, &contexts[0]).await.unwrap_err();
    assert!(matches!(error, Error::DataKeyNotUnwrapped { .. }), "{error:?}");
}

/// Callers that wait at the gate get the error, too.
#[tokio::test]
async fn an_outage_costs_one_round_of_requests() {
    let keyring = GatedKeyring::new(0);
    let cache = MaterialsCache::builder().max_loads(4).build();
    let envelope = caching(keyring.clone(), |builder| builder.cache(&cache));
    let contexts: Vec<_> = (0..100).map(|tenant| context(&tenant.to_string())).collect();
    let mut waiting: Vec<_> =
        contexts.iter().map(|context| Box::pin(envelope.encrypt(b"x", context))).collect();
    for waiting in &mut waiting {
        assert!(poll_immediate(waiting).await.is_none());
    }
    eventually(|| keyring.counts().0 == 4).await;
    keyring.gate.close();
    let results = join_all(waiting).await;
    let remembered =
        results.iter().filter(|result| matches!(result, Err(Error::Remembered { .. }))).count();
    assert!(results.iter().all(Result::is_err));
    assert!(remembered >= 90 && keyring.counts().0 <= 10, "{remembered} {:?}", keyring.counts());
}

/// Encrypts under the context and with the caching manager that its test has selected last.
#[derive(Debug)]
struct Selecting {
    contexts: [EncryptionContext; 2],
    managers: [CachingMaterialsManager; 2],
    context: Arc<AtomicUsize>,
    manager: Arc<AtomicUsize>,
}

impl Selecting {
    fn select<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> (&'a CachingMaterialsManager, EncryptionMaterialsRequest<'a>) {
        let mut request = request;
        request.encryption_context = &self.contexts[self.context.load(Relaxed)];
        (&self.managers[self.manager.load(Relaxed)], request)
    }
}

impl MaterialsManager for Selecting {
    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<EncryptionMaterials>> {
        let (manager, request) = self.select(request);
        manager.encryption_materials(request)
    }

    fn cached_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<EncryptionMaterials>),
    ) -> Result<bool, Error> {
        let (manager, request) = self.select(request);
        manager.cached_encryption_materials(request, borrow)
    }

    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<DecryptionMaterials>> {
        self.managers[0].decryption_materials(request)
    }
}

/// A handle remembers its entry, but a manager above the cache may decide otherwise each time.
#[tokio::test]
async fn a_handle_does_not_use_the_entry_of_another_request() {
    let manager = |keyring: GatedKeyring| {
        let builder = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring));
        builder.partition_id("one").build().unwrap()
    };
    let keyring = GatedKeyring::open();
    let (one, other) = (manager(keyring.clone()), manager(keyring.clone()));
    let caches = [one.cache().clone(), other.cache().clone()];
    let selected = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let [selected_context, selected_manager] = &selected;
    let envelope = Envelope::builder(Selecting {
        contexts: [context("42"), context("43")],
        managers: [one, other],
        context: selected_context.clone(),
        manager: selected_manager.clone(),
    });
    let envelope = envelope.build().unwrap();
    let handle = envelope.prepare(&context("42")).unwrap();
    handle.encrypt(b"x").await.unwrap();
    let first = handle.try_encrypt(b"x").unwrap();
    assert_eq!(envelope.decrypt(&first, &context("42")).await.unwrap().plaintext(), b"x");

    selected_context.store(1, Relaxed);
    assert!(matches!(handle.try_encrypt(b"x"), Err(Error::NotCached)), "another context");
    let second = handle.encrypt(b"x").await.unwrap();
    assert_eq!(envelope.decrypt(&second, &context("43")).await.unwrap().plaintext(), b"x");

    selected_context.store(0, Relaxed);
    selected_manager.store(1, Relaxed);
    assert!(matches!(handle.try_encrypt(b"x"), Err(Error::NotCached)), "another cache");
    let third = handle.encrypt(b"x").await.unwrap();
    assert_ne!(encrypted_data_keys(&first), encrypted_data_keys(&third));
    assert_eq!(caches[1].stats().encryption.entries, 1);
}
