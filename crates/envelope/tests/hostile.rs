//! What hostile messages, failing neighbors and careless observers can't do to a cache.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use envelope::{
    Clock, DataKey, EncryptionContext, Error, ResultFuture,
    keyring::{
        GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringRequest, MultiKeyring,
    },
    materials::{EncryptedDataKey, MaterialsCache},
    observer::{Event, Observer},
};
use futures_util::future::poll_immediate;
use support::{GatedKeyring, caching, context, encrypted_data_keys};

const MINUTE: Duration = Duration::from_mins(1);

/// What a ciphertext begins with that fails by itself.
const FAILING: u8 = 9;

/// A key provider with one wrapping key. It tries each data key that names it, as AWS KMS's keyring
/// does.
#[derive(Debug, Clone)]
struct Provider {
    name: &'static str,
    keys: Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>,
    requests: Arc<AtomicU64>,
    /// What every request fails with.
    failure: Arc<Mutex<Option<KeyringErrorKind>>>,
    /// What those fail with whose ciphertext begins with [`FAILING`].
    failure_of_some: KeyringErrorKind,
}

impl Provider {
    fn new(name: &'static str, failure_of_some: KeyringErrorKind) -> Self {
        let (keys, requests, failure) = (Arc::default(), Arc::default(), Arc::default());
        Self { name, keys, requests, failure, failure_of_some }
    }

    fn fail(&self, kind: impl Into<Option<KeyringErrorKind>>) {
        *self.failure.lock().unwrap() = kind.into();
    }

    fn requests(&self) -> u64 {
        self.requests.load(SeqCst)
    }

    fn ask(&self, ciphertext: &[u8]) -> Result<(), KeyringError> {
        self.requests.fetch_add(1, SeqCst);
        let of_some = (ciphertext.first() == Some(&FAILING)).then_some(self.failure_of_some);
        match self.failure.lock().unwrap().or(of_some) {
            Some(kind) => Err(KeyringError::new(self.name, kind, "told to fail")),
            None => Ok(()),
        }
    }

    fn keep(&self, data_key: &DataKey) -> EncryptedDataKey {
        let mut keys = self.keys.lock().unwrap();
        let ciphertext = (keys.len() as u64).to_be_bytes().to_vec();
        keys.insert(ciphertext.clone(), data_key.expose_secret().to_vec());
        let (id, information) = ("provider".to_owned(), self.name.into());
        EncryptedDataKey { key_provider_id: id, key_provider_information: information, ciphertext }
    }
}

impl Keyring for Provider {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        Box::pin(async move {
            self.ask(&[]).map_err(Error::DataKeyUnavailable)?;
            let data_key = DataKey::generate(request.suite.data_key_length())?;
            Ok(GeneratedDataKey { encrypted_data_keys: vec![self.keep(&data_key)], data_key })
        })
    }

    fn wrap<'a>(
        &'a self,
        _: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(async move { Ok(vec![self.keep(data_key)]) })
    }

    fn unwrap<'a>(
        &'a self,
        _: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(async move {
            let mut failures = vec![];
            for wrapped in encrypted_data_keys
                .iter()
                .filter(|it| it.key_provider_information == self.name.as_bytes())
            {
                match self.ask(&wrapped.ciphertext) {
                    Err(failure) => failures.push(failure),
                    Ok(()) => match self.keys.lock().unwrap().get(&wrapped.ciphertext) {
                        Some(plain) => {
                            return Ok(DataKey::from_vec(plain.clone()).unwrapped_by(self.name));
                        }
                        None => failures.push(KeyringError::new(
                            self.name,
                            KeyringErrorKind::InvalidCiphertext,
                            "no",
                        )),
                    },
                }
            }
            Err(failures)
        })
    }

    fn wrapping_key(&self, _: KeyringRequest<'_>) -> Option<Arc<str>> {
        Some(self.name.into())
    }
}

/// The message with other wrapped data keys: names and ciphertexts.
fn forged(message: &[u8], keys: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let own = encrypted_data_keys(message);
    let start = own.as_ptr() as usize - message.as_ptr() as usize;
    let mut forged = message[..start].to_vec();
    forged.extend(u16::try_from(keys.len()).unwrap().to_be_bytes());
    for (name, ciphertext) in keys {
        for field in [b"provider", name.as_bytes(), ciphertext] {
            forged.extend(u16::try_from(field.len()).unwrap().to_be_bytes());
            forged.extend(field);
        }
    }
    forged.extend(&message[start + own.len()..]);
    forged
}

/// A wrapped data key of nobody's, another one for each number.
fn garbage(first: u8, numbers: [u32; 2]) -> Vec<u8> {
    [&[first][..], &numbers[0].to_be_bytes(), &numbers[1].to_be_bytes()].concat()
}

/// Messages may name any other keys beside the wrapping key, and name them any number of times.
#[tokio::test]
async fn throttled_messages_keep_nobody_elses_requests_away() {
    for (decoy, one_in, times) in
        [(true, 1, 3), (false, 1, 3), (true, 1, 15), (false, 4, 15), (true, 16, 15)]
    {
        let provider = Provider::new("key", KeyringErrorKind::Throttled);
        let clock = Clock::manual();
        let cache = MaterialsCache::builder().clock(&clock).build();
        let envelope = caching(provider.clone(), |builder| builder.cache(&cache));
        let message = envelope.encrypt(b"x", &context("a")).await.unwrap();
        let mut served = 0;
        for round in 0..40 {
            let first = if round % one_in == 0 { FAILING } else { 8 };
            let named = (0..times).map(|number| ("key", garbage(first, [round, number])));
            let keys: Vec<_> = decoy.then(|| ("decoy", vec![1])).into_iter().chain(named).collect();
            assert!(envelope.decrypt(&forged(&message, &keys), &context("a")).await.is_err());
            for number in 0..5 {
                clock.advance(Duration::from_millis(50));
                let other = context(&format!("{round} {number}"));
                served += u32::from(envelope.encrypt(b"x", &other).await.is_ok());
            }
        }
        assert_eq!(served, 200, "decoy {decoy}, one in {one_in}, named {times} times");
    }
}

/// A message is asked for in spite of a refusal, since it may open by another key that it names.
/// That prolongs nothing.
#[tokio::test]
async fn whoever_is_refused_waits_no_longer_than_was_said() {
    for kind in [KeyringErrorKind::Throttled, KeyringErrorKind::Unusable] {
        let provider = Provider::new("key", kind);
        let clock = Clock::manual();
        let cache = MaterialsCache::builder().clock(&clock).build();
        let envelope = caching(provider.clone(), |builder| builder.cache(&cache));
        let message = envelope.encrypt(b"x", &context("a")).await.unwrap();
        let hostile = |number| {
            forged(&message, &[("decoy", vec![1]), ("key", garbage(FAILING, [number, 0]))])
        };
        for number in 0..3 {
            assert!(envelope.decrypt(&hostile(number), &context("a")).await.is_err());
        }
        let error = envelope.encrypt(b"x", &context("b")).await.unwrap_err();
        let Error::Remembered { retry_after, .. } = error else { panic!("{error}") };
        let before = provider.requests();
        for number in 3..23 {
            assert!(envelope.decrypt(&hostile(number), &context("a")).await.is_err());
            clock.advance(retry_after / 20 + Duration::from_nanos(1));
        }
        assert_eq!(provider.requests(), before + 20);
        envelope
            .encrypt(b"x", &context("b"))
            .await
            .unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    }
}

/// A response of one wrapping key ends only the back-off of that key.
#[tokio::test]
async fn decrypting_with_one_key_does_not_end_the_back_off_of_others() {
    let [failing, other] =
        ["failing", "other"].map(|name| Provider::new(name, KeyringErrorKind::Other));
    let both = MultiKeyring::new(failing.clone()).with_child(other.clone()).unwrap();
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let envelope = caching(both, |builder| builder.cache(&cache));
    let message = envelope.encrypt(b"x", &context("a")).await.unwrap();
    failing.fail(KeyringErrorKind::TimedOut);
    for number in 0..3 {
        assert!(envelope.encrypt(b"x", &context(&number.to_string())).await.is_err());
    }
    let refused = async |number: &str| {
        let error = envelope.encrypt(b"x", &context(number)).await.unwrap_err();
        assert!(matches!(error, Error::Remembered { .. }), "{error}");
    };
    refused("4").await;
    // An authentic message, a forged one, and one that names the key needlessly.
    envelope.decrypt(&message, &context("a")).await.unwrap();
    refused("5").await;
    let keys: Vec<_> = [("failing", garbage(8, [1, 1])), ("other", 1_u64.to_be_bytes().to_vec())]
        .into_iter()
        .collect();
    let hostile = forged(&message, &keys);
    assert!(envelope.decrypt(&hostile, &context("a")).await.is_err());
    refused("6").await;
    // The key responds again, with a refusal: this changes nothing for other keys.
    failing.fail(None);
    let keys = [("failing", garbage(8, [2, 2])), ("other", garbage(8, [3, 3]))];
    assert!(envelope.decrypt(&forged(&message, &keys), &context("a")).await.is_err());
    refused("7").await;
    clock.advance(Duration::from_secs(1));
    envelope.encrypt(b"x", &context("8")).await.unwrap();
}

/// It may open by another key.
#[tokio::test]
async fn messages_that_name_a_disabled_key_drop_nothing() {
    let [one, disabled] =
        ["one", "disabled"].map(|name| Provider::new(name, KeyringErrorKind::Other));
    let both = MultiKeyring::new(one.clone()).with_child(disabled.clone()).unwrap();
    let envelope = caching(both, |builder| builder);
    let message = envelope.encrypt(b"x", &context("a")).await.unwrap();
    envelope.decrypt(&message, &context("a")).await.unwrap();
    disabled.fail(KeyringErrorKind::Unusable);
    let before = one.requests();
    for round in 0..20 {
        let hostile = forged(&message, &[("disabled", garbage(7, [round, 0]))]);
        assert!(envelope.decrypt(&hostile, &context("a")).await.is_err());
        envelope.try_decrypt(&message, &context("a")).unwrap();
        envelope.try_encrypt(b"x", &context("a")).unwrap();
    }
    assert_eq!(one.requests(), before);
}

#[tokio::test]
async fn long_headers_leave_no_memory_behind() {
    let envelope = caching(Provider::new("key", KeyringErrorKind::Other), |builder| builder);
    let message = envelope.encrypt(b"x", &context("a")).await.unwrap();
    let long = "x".repeat(60_000);
    let before = resident_megabytes();
    for round in 0..100 {
        let mut keys = vec![("key", garbage(7, [round, 0]))];
        keys.extend((0..15).map(|_| (&*long, vec![1; 60_000])));
        assert!(envelope.decrypt(&forged(&message, &keys), &context("a")).await.is_err());
    }
    // All hundred together have 180 MB.
    assert!(resident_megabytes() < before + 60, "{} MB, and {before} before", resident_megabytes());
}

/// Zero where the system does not say.
fn resident_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024)
}

/// Two principals under the same KMS key, in one cache.
#[tokio::test]
async fn failures_of_one_principal_do_not_concern_another() {
    let cache = MaterialsCache::new(100);
    let failing = Provider::new("key", KeyringErrorKind::TimedOut);
    let noisy = caching(failing.clone(), |builder| builder.cache(&cache));
    let quiet =
        caching(Provider::new("key", KeyringErrorKind::TimedOut), |builder| builder.cache(&cache));
    let message = noisy.encrypt(b"x", &context("a")).await.unwrap();
    let supplied = EncryptionContext::new([("tenant", "a"), ("not for everybody", "1")]).unwrap();
    for round in 0..5 {
        assert!(
            noisy
                .decrypt(&forged(&message, &[("key", garbage(FAILING, [round, 0]))]), &supplied)
                .await
                .is_err()
        );
    }
    quiet.encrypt(b"x", &context("b")).await.unwrap();
    let error = noisy.encrypt(b"x", &context("b")).await.unwrap_err();
    assert!(
        matches!(&error, Error::Remembered { .. })
            && !error.to_string().contains("not for everybody"),
        "{error}"
    );
}

/// A slot that a handle puts back knows nothing of an outage before it went.
#[tokio::test]
async fn nothing_serves_past_its_age_once_an_outage_is_over() {
    let provider = Provider::new("key", KeyringErrorKind::Other);
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let envelope = caching(provider.clone(), |builder| {
        builder.cache(&cache).max_age(MINUTE).serve_stale_for(60 * MINUTE).refresh_ahead(false)
    });
    let handle = envelope.prepare(&context("a")).unwrap();
    handle.encrypt(b"x").await.unwrap();
    provider.fail(KeyringErrorKind::TimedOut);
    clock.advance(MINUTE);
    handle.encrypt(b"x").await.expect("past its age in an outage");
    cache.clear();
    provider.fail(None);
    clock.advance(MINUTE);
    envelope.encrypt(b"x", &context("a")).await.unwrap();
    handle.try_encrypt(b"x").unwrap();
    provider.fail(KeyringErrorKind::Denied);
    clock.advance(MINUTE);
    assert!(handle.try_encrypt(b"x").is_err());
    assert!(handle.encrypt(b"x").await.is_err());
}

/// Expired credentials are no outage.
#[tokio::test]
async fn only_outages_are_bridged() {
    let [one, other] = ["one", "other"].map(|name| Provider::new(name, KeyringErrorKind::Other));
    let both = MultiKeyring::new(one.clone()).with_child(other.clone()).unwrap();
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let envelope = caching(both, |builder| {
        builder.cache(&cache).max_age(MINUTE).serve_stale_for(MINUTE).refresh_ahead(false)
    });
    let message = envelope.encrypt(b"x", &context("a")).await.unwrap();
    envelope.decrypt(&message, &context("a")).await.unwrap();
    one.fail(KeyringErrorKind::Credentials);
    other.fail(KeyringErrorKind::TimedOut);
    clock.advance(MINUTE);
    assert!(envelope.decrypt(&message, &context("a")).await.is_err());
    one.fail(KeyringErrorKind::TimedOut);
    clock.advance(Duration::from_secs(10));
    envelope.decrypt(&message, &context("a")).await.expect("now both are out of reach");
}

/// A request that the pool holds back because of its own budget says nothing about KMS.
#[tokio::test]
async fn an_exhausted_budget_starts_no_outage() {
    let provider = Provider::new("key", KeyringErrorKind::Other);
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let envelope = caching(provider.clone(), |builder| {
        builder.cache(&cache).max_age(MINUTE).serve_stale_for(60 * MINUTE).refresh_ahead(false)
    });
    envelope.encrypt(b"x", &context("a")).await.unwrap();
    clock.advance(MINUTE);
    provider.fail(KeyringErrorKind::OverBudget);
    assert!(envelope.encrypt(b"x", &context("a")).await.unwrap_err().is_retryable());
    clock.advance(MINUTE);
    provider.fail(KeyringErrorKind::TimedOut);
    envelope.encrypt(b"x", &context("a")).await.expect("usable past its age in an outage");
}

/// An invalidation may follow a repair: failures of earlier requests say nothing about the time
/// after it.
#[tokio::test]
async fn failures_asked_for_before_an_invalidation_are_not_remembered_after() {
    let keyring = GatedKeyring::new(0);
    let cache = MaterialsCache::new(10);
    let envelope =
        caching(keyring.clone(), |builder| builder.cache(&cache).remember_failures_for(MINUTE));
    let context = context("a");
    let mut before = Box::pin(envelope.encrypt(b"x", &context));
    assert!(poll_immediate(&mut before).await.is_none());
    support::eventually(|| keyring.counts().0 == 1).await;
    cache.clear();
    keyring.fail(Some(KeyringErrorKind::Denied));
    keyring.gate.add_permits(1);
    assert!(before.await.is_err());
    keyring.fail(None);
    keyring.gate.add_permits(1);
    envelope.encrypt(b"x", &context).await.unwrap();
}

#[derive(Debug)]
struct Careless;

impl Observer for Careless {
    fn observe(&self, _: &Event<'_>) {
        panic!("a careless observer");
    }
}

#[tokio::test]
async fn an_observer_that_panics_harms_nobody() {
    std::panic::set_hook(Box::new(|_| {}));
    let cache = MaterialsCache::builder().capacity(20).observer(Arc::new(Careless)).build();
    let envelope = caching(GatedKeyring::open(), |builder| builder.cache(&cache));
    for number in 0..1_000 {
        envelope
            .encrypt(b"x", &context(&((number * 7 + number / 5) % 47).to_string()))
            .await
            .unwrap();
    }
    let _ = std::panic::take_hook();
    assert_eq!(cache.stats().encryption.entries, 20);
}

#[tokio::test]
async fn debug_shows_no_values_of_contexts() {
    let cache = MaterialsCache::new(100);
    let envelope = caching(GatedKeyring::open(), |builder| builder.cache(&cache));
    envelope.warm([&context("who it is")]).await;
    let message = envelope.encrypt(b"", &context("who it is")).await.unwrap();
    envelope.decrypt(&message, &context("who it is")).await.unwrap();
    let shown =
        format!("{envelope:?} {cache:?} {:?}", envelope.prepare(&context("who it is")).unwrap());
    assert!(!shown.contains("who it is") && shown.contains("tenant"), "{shown}");
}

/// A handle's uses count as uses.
#[tokio::test]
async fn a_scan_flushes_no_handle_that_is_hot() {
    let mut missed = [0, 0];
    for (by_handle, missed) in [false, true].into_iter().zip(&mut missed) {
        let cache = MaterialsCache::new(100);
        let envelope = caching(GatedKeyring::open(), |builder| builder.cache(&cache));
        let hot: Vec<_> = (0..10).map(|number| context(&format!("hot {number}"))).collect();
        let handles: Vec<_> =
            hot.iter().map(|context| envelope.prepare(context).unwrap()).collect();
        for number in 0..500 {
            for (context, handle) in hot.iter().zip(&handles) {
                let plain = || envelope.try_encrypt(b"", context);
                if (if by_handle { handle.try_encrypt(b"") } else { plain() }).is_err() {
                    *missed += 1;
                    handle.encrypt(b"").await.unwrap();
                }
            }
            // Used twice, so that it competes with the hot entries.
            for _ in 0..2 {
                envelope.encrypt(b"", &context(&format!("scan {number}"))).await.unwrap();
            }
        }
    }
    assert_eq!(missed, [10, 10], "by look-up and by handle: once each, at first");
}
