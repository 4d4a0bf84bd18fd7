//! The AWS KMS keyring against a real server over a real socket, through the real `aws-sdk-kms`.
//!
//! The tests in `any_kms` hold for every KMS. They run against `kms-local` over HTTPS, or, where
//! `ENVELOPE_TEST_KMS` is set, against the server at that URL, with credentials from the default
//! chain. The tests in `own_kms` need its counters and faults.

use std::{collections::HashMap, time::Duration};

use envelope::{
    Clock, DataKey, EncryptionContext, Envelope, Error,
    keyring::{AwsKmsKeyring, Keyring, KeyringError, KeyringRequest},
    materials::{
        CachingBuilder, CachingMaterialsManager, DefaultMaterialsManager, EncryptedDataKey,
        MaterialsCache,
    },
};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use kms_local::KmsLocal;
use kms_pool::{KmsErrorKind, KmsPool, KmsPoolBuilder, Principal};

const REGION: &str = "us-east-1";

/// A running KMS with one key, and clients for it.
struct Kms {
    pool: KmsPool,
    principal: Principal,
    key: String,
    local: Option<KmsLocal>,
}

impl Kms {
    async fn start() -> Self {
        let Ok(url) = std::env::var("ENVELOPE_TEST_KMS") else { return Self::local().await };
        let pool = KmsPool::builder().endpoint_url(url).build().unwrap();
        let principal = Principal::from_default_chain();
        let mut kms = Self { pool, principal, key: String::new(), local: None };
        kms.key = kms.new_key().await;
        kms
    }

    async fn local() -> Self {
        let kms = KmsLocal::builder().region(REGION).start().await.unwrap();
        let pool = KmsPool::builder()
            .endpoint_url(kms.endpoint(REGION))
            .trust_root_pem(kms.ca_pem())
            .build()
            .unwrap();
        let (principal, key) = (Principal::new(kms.issue_credentials()), kms.create_key(REGION));
        Self { pool, principal, key, local: Some(kms) }
    }

    async fn client(&self) -> kms_pool::aws_sdk_kms::Client {
        self.pool.client(REGION, &self.principal).await.unwrap()
    }

    async fn new_key(&self) -> String {
        let created = self.client().await.create_key().send().await.unwrap();
        created.key_metadata.unwrap().arn.unwrap()
    }

    fn keyring(&self, key: &str) -> AwsKmsKeyring {
        AwsKmsKeyring::new(self.pool.clients(&self.principal), key.parse().unwrap())
    }

    /// A client without a cache.
    fn envelope(&self) -> Envelope {
        Envelope::builder(DefaultMaterialsManager::new(self.keyring(&self.key))).build().unwrap()
    }

    fn caching(&self, set: impl FnOnce(CachingBuilder) -> CachingBuilder) -> Envelope {
        let source = DefaultMaterialsManager::new(self.keyring(&self.key));
        Envelope::builder(set(CachingMaterialsManager::builder(source)).build().unwrap())
            .build()
            .unwrap()
    }

    /// How often the server did `operation` with success.
    fn succeeded(&self, operation: &str) -> u64 {
        self.local.as_ref().expect("only kms-local counts").counters(REGION).succeeded(operation)
    }
}

fn context() -> EncryptionContext {
    EncryptionContext::new([("tenant", "42"), ("zweck", "Prüfung"), ("astral", "𝔘")]).unwrap()
}

fn kind(error: &Error) -> KmsErrorKind {
    error.kms().unwrap_or_else(|| panic!("not from KMS: {error:?}")).kind()
}

/// The first wrapped data key of a message.
async fn generate(
    keyring: &AwsKmsKeyring,
    context: &EncryptionContext,
) -> (DataKey, Vec<EncryptedDataKey>) {
    let generated = keyring
        .generate(KeyringRequest::new(envelope::AlgorithmSuite::default(), context))
        .await
        .unwrap();
    (generated.data_key, generated.encrypted_data_keys)
}

fn not_unwrapped(failures: Vec<KeyringError>) -> Error {
    Error::DataKeyNotUnwrapped {
        failures,
        wrapping_keys: vec![],
        keyring: None,
        not_stored: vec![],
    }
}

async fn unwrap(
    keyring: &AwsKmsKeyring,
    context: &EncryptionContext,
    keys: &[EncryptedDataKey],
) -> Result<DataKey, Error> {
    let request = KeyringRequest::new(envelope::AlgorithmSuite::default(), context);
    keyring.unwrap(request, keys).await.map_err(not_unwrapped)
}

mod any_kms {
    use super::*;

    #[tokio::test]
    async fn a_message_opens() {
        let kms = Kms::start().await;
        let envelope = kms.envelope();
        for context in [context(), EncryptionContext::empty()] {
            let message = envelope.encrypt(b"4111 1111 1111 1111", &context).await.unwrap();
            let opened = envelope.decrypt(&message, &context).await.unwrap();
            assert_eq!(opened.plaintext(), b"4111 1111 1111 1111");
            assert_eq!(*opened.encryption_context(), context);
        }
    }

    #[tokio::test]
    async fn the_wrapped_key_names_kms_and_the_arn() {
        let kms = Kms::start().await;
        let (_, keys) = generate(&kms.keyring(&kms.key), &context()).await;
        assert_eq!(keys[0].key_provider_id, "aws-kms");
        assert_eq!(keys[0].key_provider_information, kms.key.as_bytes());
    }

    #[tokio::test]
    async fn a_data_key_of_another_keyring_is_wrapped_and_unwrapped() {
        let kms = Kms::start().await;
        let (keyring, context) = (kms.keyring(&kms.key), context());
        let data_key = DataKey::generate(32).unwrap();
        let request = KeyringRequest::new(envelope::AlgorithmSuite::default(), &context);
        let keys = keyring.wrap(request, &data_key).await.unwrap();
        assert_eq!(
            unwrap(&keyring, &context, &keys).await.unwrap().expose_secret(),
            data_key.expose_secret()
        );
    }

    #[tokio::test]
    async fn a_wrong_encryption_context_is_refused() {
        let kms = Kms::start().await;
        let keyring = kms.keyring(&kms.key);
        let (_, keys) = generate(&keyring, &context()).await;
        let error = unwrap(&keyring, &EncryptionContext::empty(), &keys).await.unwrap_err();
        assert_eq!(kind(&error), KmsErrorKind::InvalidCiphertext);
        assert!(!error.is_retryable());
    }

    #[tokio::test]
    async fn contexts_that_read_alike_when_joined_are_told_apart() {
        let kms = Kms::start().await;
        let keyring = kms.keyring(&kms.key);
        let (_, keys) = generate(&keyring, &EncryptionContext::new([("ab", "c")]).unwrap()).await;
        let error = unwrap(&keyring, &EncryptionContext::new([("a", "bc")]).unwrap(), &keys)
            .await
            .unwrap_err();
        assert_eq!(kind(&error), KmsErrorKind::InvalidCiphertext);
    }

    #[tokio::test]
    async fn a_changed_wrapped_key_is_refused() {
        let kms = Kms::start().await;
        let keyring = kms.keyring(&kms.key);
        let (_, mut keys) = generate(&keyring, &context()).await;
        *keys[0].ciphertext.last_mut().unwrap() ^= 1;
        assert_eq!(
            kind(&unwrap(&keyring, &context(), &keys).await.unwrap_err()),
            KmsErrorKind::InvalidCiphertext
        );
    }

    #[tokio::test]
    async fn another_keys_message_costs_no_request() {
        let kms = Kms::start().await;
        let other = kms.keyring(&kms.new_key().await);
        let (_, keys) = generate(&kms.keyring(&kms.key), &context()).await;
        let error = unwrap(&other, &context(), &keys).await.unwrap_err();
        assert!(
            matches!(&error, Error::DataKeyNotUnwrapped { failures, .. } if failures.is_empty()),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_wrapped_key_under_a_false_name_is_refused() {
        let kms = Kms::start().await;
        let other = kms.new_key().await;
        let (_, mut keys) = generate(&kms.keyring(&kms.key), &context()).await;
        keys[0].key_provider_information = other.as_bytes().to_vec();
        let error = unwrap(&kms.keyring(&other), &context(), &keys).await.unwrap_err();
        assert_eq!(kind(&error), KmsErrorKind::IncorrectKey);
    }

    #[tokio::test]
    async fn an_unknown_key_is_named_so() {
        let kms = Kms::start().await;
        let (prefix, _) = kms.key.split_once("key/").unwrap();
        let unknown = format!("{prefix}key/00000000-0000-0000-0000-000000000000");
        let envelope = Envelope::new(kms.keyring(&unknown)).unwrap();
        let error = envelope.encrypt(b"", &context()).await.unwrap_err();
        assert_eq!(kind(&error), KmsErrorKind::KeyNotFound);
    }

    #[tokio::test]
    async fn a_disabled_key_neither_seals_nor_opens() {
        let kms = Kms::start().await;
        let envelope = kms.envelope();
        let message = envelope.encrypt(b"", &context()).await.unwrap();
        kms.client().await.disable_key().key_id(&kms.key).send().await.unwrap();
        assert_eq!(
            kind(&envelope.encrypt(b"", &context()).await.unwrap_err()),
            KmsErrorKind::KeyDisabled
        );
        assert_eq!(
            kind(&envelope.decrypt(&message, &context()).await.unwrap_err()),
            KmsErrorKind::KeyDisabled
        );
    }

    #[tokio::test]
    async fn a_key_pending_deletion_neither_seals_nor_opens() {
        let kms = Kms::start().await;
        let envelope = kms.envelope();
        let message = envelope.encrypt(b"", &context()).await.unwrap();
        kms.client().await.schedule_key_deletion().key_id(&kms.key).send().await.unwrap();
        assert_eq!(
            kind(&envelope.encrypt(b"", &context()).await.unwrap_err()),
            KmsErrorKind::KeyInvalidState
        );
        assert_eq!(
            kind(&envelope.decrypt(&message, &context()).await.unwrap_err()),
            KmsErrorKind::KeyInvalidState
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_data_key_seals_more_than_max_messages() {
        let kms = Kms::start().await;
        let sealed =
            seal_with_64_tasks(kms.caching(|builder| builder.max_messages(1_000)), 10_000).await;
        assert_eq!((sealed.len(), sealed.values().max()), (10, Some(&1_000)));
    }
}

mod own_kms {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_hundred_thousand_messages_cost_exactly_as_many_data_keys_as_needed() {
        let kms = Kms::local().await;
        // Ahead of need, a last one might come that nobody needs.
        let envelope = kms.caching(|builder| builder.max_messages(1_000).refresh_ahead(false));
        let sealed = seal_with_64_tasks(envelope, 100_000).await;
        assert_eq!(sealed.values().sum::<u64>(), 100_000);
        assert_eq!(sealed.values().max(), Some(&1_000), "no data key sealed more than its limit");
        assert_eq!((sealed.len(), kms.succeeded("GenerateDataKey")), (100, 100));
    }

    #[tokio::test]
    async fn with_a_cache_one_request_seals_and_one_opens() {
        let kms = Kms::local().await;
        let envelope = kms.caching(|builder| builder);
        for _ in 0..100 {
            let message = envelope.encrypt(b"x", &context()).await.unwrap();
            envelope.decrypt(&message, &context()).await.unwrap();
        }
        assert_eq!((kms.succeeded("GenerateDataKey"), kms.succeeded("Decrypt")), (1, 1));
    }

    #[tokio::test]
    async fn without_a_cache_each_message_costs_its_own() {
        let kms = Kms::local().await;
        let envelope = kms.envelope();
        for _ in 0..10 {
            let message = envelope.encrypt(b"x", &context()).await.unwrap();
            envelope.decrypt(&message, &context()).await.unwrap();
        }
        assert_eq!((kms.succeeded("GenerateDataKey"), kms.succeeded("Decrypt")), (10, 10));
    }

    /// The refresh of one entry is told; the entries of every context under the key go.
    #[tokio::test]
    async fn a_key_that_was_disabled_is_dropped_by_the_next_refresh() {
        let kms = Kms::local().await;
        let clock = Clock::manual();
        let cache = MaterialsCache::builder().clock(&clock).build();
        let envelope = kms.caching(|builder| builder.max_age(Duration::from_mins(1)).cache(&cache));
        let other = EncryptionContext::new([("tenant", "43")]).unwrap();
        let message = envelope.encrypt(b"x", &context()).await.unwrap();
        envelope.encrypt(b"x", &other).await.unwrap();
        envelope.decrypt(&message, &context()).await.unwrap();
        kms.local.as_ref().unwrap().disable_key(REGION, &kms.key).unwrap();
        clock.advance(Duration::from_secs(50));
        envelope.try_encrypt(b"x", &context()).expect("cached, and the refresh begins only now");
        let dropped = async {
            while cache.stats().encryption.entries + cache.stats().decryption.entries > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), dropped)
            .await
            .expect("the refresh drops them");
        for outcome in
            [envelope.encrypt(b"x", &context()).await, envelope.encrypt(b"x", &other).await]
        {
            assert_eq!(kind(&outcome.unwrap_err()), KmsErrorKind::KeyDisabled);
        }
        assert_eq!(
            kind(&envelope.decrypt(&message, &context()).await.unwrap_err()),
            KmsErrorKind::KeyDisabled
        );
    }

    /// A client with a cache, over a pool with these settings, and the pool.
    fn bridging(
        kms: &Kms,
        clock: &Clock,
        settings: impl FnOnce(KmsPoolBuilder) -> KmsPoolBuilder,
    ) -> (Envelope, KmsPool) {
        let local = kms.local.as_ref().unwrap();
        let pool = KmsPool::builder()
            .endpoint_url(local.endpoint(REGION))
            .trust_root_pem(local.ca_pem())
            .max_attempts(1);
        let pool = settings(pool).build().unwrap();
        let keyring = AwsKmsKeyring::new(pool.clients(&kms.principal), kms.key.parse().unwrap());
        let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring))
            .cache(&MaterialsCache::builder().clock(clock).build())
            .max_age(Duration::from_mins(1))
            .serve_stale_for(Duration::from_hours(1))
            .refresh_ahead(false)
            .build();
        (Envelope::builder(manager.unwrap()).build().unwrap(), pool)
    }

    /// A request that the pool holds back because of its budget says nothing about KMS.
    #[tokio::test]
    async fn an_exhausted_budget_is_no_outage() {
        let kms = Kms::local().await;
        let clock = Clock::manual();
        let (envelope, pool) =
            bridging(&kms, &clock, |builder| builder.max_requests_per_second(1.0));
        envelope.encrypt(b"x", &context()).await.unwrap();
        let client = pool.client(REGION, &kms.principal).await.unwrap();
        // They wait for the budget until there is no more room.
        let mut others: FuturesUnordered<_> =
            (0..60).map(|_| client.generate_random().number_of_bytes(8).send()).collect();
        while others.next().await.unwrap().is_ok() {}
        clock.advance(Duration::from_mins(1));
        let error = envelope.encrypt(b"x", &context()).await.unwrap_err();
        assert_eq!(kind(&error), KmsErrorKind::OverBudget);
        assert!(error.is_retryable());
    }

    #[tokio::test]
    async fn an_open_circuit_is_an_outage() {
        let kms = Kms::local().await;
        let clock = Clock::manual();
        let (envelope, pool) = bridging(&kms, &clock, |builder| builder.circuit_opens_after(1));
        envelope.encrypt(b"x", &context()).await.unwrap();
        let client = pool.client(REGION, &kms.principal).await.unwrap();
        kms.local.as_ref().unwrap().faults(REGION).internal_errors(1.0);
        client.generate_random().number_of_bytes(8).send().await.unwrap_err();
        clock.advance(Duration::from_mins(1));
        envelope.encrypt(b"x", &context()).await.expect("usable past its age in an outage");
        assert_eq!(pool.stats().short_circuited, 1);
    }

    #[tokio::test]
    async fn throttling_is_typed_and_retryable() {
        let kms = Kms::local().await;
        kms.local.as_ref().unwrap().faults(REGION).throttle_above(0);
        let error = kms.envelope().encrypt(b"x", &context()).await.unwrap_err();
        assert_eq!(kind(&error), KmsErrorKind::Throttled);
        assert!(error.is_retryable());
    }
}

/// Seals from 64 tasks at once; gives how many messages each data key sealed.
async fn seal_with_64_tasks(envelope: Envelope, messages: usize) -> HashMap<Vec<u8>, u64> {
    let tasks = (0..64).map(|task| {
        let envelope = envelope.clone();
        tokio::spawn(async move {
            let mut sealed: HashMap<Vec<u8>, u64> = HashMap::new();
            for _ in (task..messages).step_by(64) {
                let message = envelope.encrypt(b"4111 1111 1111 1111", &context()).await.unwrap();
                *sealed
                    .entry(crate::support::encrypted_data_keys(&message).to_vec())
                    .or_default() += 1;
            }
            sealed
        })
    });
    let mut total: HashMap<Vec<u8>, u64> = HashMap::new();
    for sealed in join_all(tasks).await {
        sealed
            .unwrap()
            .into_iter()
            .for_each(|(key, count)| *total.entry(key).or_default() += count);
    }
    total
}
