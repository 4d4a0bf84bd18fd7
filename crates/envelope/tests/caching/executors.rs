//! Data keys are loaded under any executor, even if the caller's executor ends or stalls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use crate::support::{GatedKeyring, caching, context, eventually, keyring};
use envelope::{
    AlgorithmSuite, Clock, CommitmentPolicy, DataKey, Envelope, Error, ResultFuture,
    keyring::{GeneratedDataKey, Keyring, KeyringError, KeyringRequest, RawAesKeyring},
    materials::{
        CachingMaterialsManager, DefaultMaterialsManager, EncryptedDataKey, MaterialsCache,
    },
};
use futures_executor::block_on;
use futures_util::future::{join_all, poll_immediate};
use tokio::runtime::{Builder, Runtime};

/// A keyring that works only inside a tokio runtime.
#[derive(Debug)]
struct NeedsTokio(RawAesKeyring, Arc<AtomicU64>);

impl NeedsTokio {
    fn new() -> Self {
        Self(keyring(), Arc::default())
    }

    async fn ask(&self) {
        let answer = tokio::time::sleep(Duration::from_millis(5));
        self.1.fetch_add(1, SeqCst);
        answer.await;
    }
}

impl Keyring for NeedsTokio {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        Box::pin(async move {
            self.ask().await;
            self.0.generate(request).await
        })
    }

    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        self.0.wrap(request, data_key)
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(async move {
            self.ask().await;
            self.0.unwrap(request, encrypted_data_keys).await
        })
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn callers_need_no_tokio() {
    let envelope = caching(NeedsTokio::new(), |builder| builder);
    let other = caching(NeedsTokio::new(), |builder| builder);
    block_on(async {
        // The second is long enough that the call yields in between.
        for plaintext in [vec![7; 100], vec![7; 1_000_000]] {
            let message = envelope.encrypt(&plaintext, &context("a")).await.unwrap();
            let opened = other.decrypt(&message, &context("a")).await.unwrap();
            assert_eq!(opened.plaintext(), plaintext);
        }
        let contexts = [context("b"), context("c")];
        assert!(envelope.warm(&contexts).await.iter().all(Result::is_ok));
        envelope.ready().await.unwrap();
    });
}

/// Data keys without a cache are loaded the same way.
#[test]
fn callers_need_no_tokio_without_a_cache() {
    let envelope = caching(NeedsTokio::new(), |builder| builder);
    let mut message = vec![];
    // A message of unknown length is not cached.
    let encryptor = block_on(envelope.encryptor(&context("a"), None)).unwrap();
    std::io::copy(&mut encryptor.reader(&b"4111 1111"[..]), &mut message).unwrap();
    let mut source = &message[..];
    let header = envelope.read_header(&mut source).unwrap();
    let decryptor = block_on(envelope.decryptor(&header, &context("a"))).unwrap();
    let mut plaintext = vec![];
    std::io::copy(&mut decryptor.reader(source), &mut plaintext).unwrap();
    assert_eq!(plaintext, b"4111 1111");

    let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(NeedsTokio::new()));
    let legacy = Envelope::builder(manager.build().unwrap())
        .commitment_policy(CommitmentPolicy::ForbidEncryptAllowDecrypt)
        .suite(AlgorithmSuite::from_id(0x0078).unwrap())
        .legacy_suites(true)
        .build()
        .unwrap();
    let message = block_on(legacy.encrypt(b"x", &context("a"))).unwrap();
    assert_eq!(block_on(legacy.decrypt(&message, &context("a"))).unwrap().plaintext(), b"x");
}

#[test]
fn programs_without_async_wait_on_their_thread() {
    let context = context("a");
    let envelope = caching(NeedsTokio::new(), |builder| builder).blocking();
    let reading = || caching(NeedsTokio::new(), |builder| builder).blocking();
    let message = envelope.encrypt(b"one", &context).unwrap();
    assert_eq!(reading().decrypt(&message, &context).unwrap().plaintext(), b"one");
    let mut buffer = vec![0];
    envelope.encrypt_into(b"two", &context, &mut buffer).unwrap();
    let mut plaintext = vec![1];
    let opened = reading();
    let opened = opened.decrypt_into(&buffer[1..], &context, &mut plaintext).unwrap();
    assert_eq!(opened.plaintext(), b"two");
    let opened = reading();
    let opened = opened.decrypt_in_place(&mut buffer[1..], &context).unwrap();
    assert_eq!(opened.plaintext(), b"two");
    let messages = envelope.encrypt_batch(&["three", "four"], &context).unwrap();
    let opened = reading().decrypt_batch(&messages, &context);
    assert_eq!(opened.into_iter().map(Result::unwrap).last().unwrap().plaintext(), b"four");

    assert!(envelope.warm([&context]).iter().all(Result::is_ok));
    envelope.ready().unwrap();
    let prepared = envelope.envelope().prepare(&context).unwrap();
    let message = prepared.try_encrypt(b"five").unwrap();
    assert_eq!(reading().decrypt(&message, &context).unwrap().plaintext(), b"five");

    let mut message = vec![];
    let encryptor = envelope.encryptor(&context, None).unwrap();
    std::io::copy(&mut encryptor.reader(&b"six"[..]), &mut message).unwrap();
    assert_eq!(reading().decrypt(&message, &context).unwrap().plaintext(), b"six");
    let forged = reading().decrypt(b"no message", &context);
    assert!(
        matches!(forged, Err(Error::Unsupported { .. } | Error::Malformed { .. })),
        "{forged:?}"
    );
}

/// It blocks a thread of the runtime, so loads must not need that thread.
#[test]
fn the_blocking_client_works_inside_a_task() {
    let envelope = caching(NeedsTokio::new(), |builder| builder);
    runtime().block_on(async {
        let message = envelope.blocking().encrypt(b"x", &context("a")).unwrap();
        envelope.blocking().decrypt(&message, &context("a")).unwrap();
    });
}

/// The runtime that started a load has ended; another caller waits for that load.
#[test]
fn a_follower_gets_its_data_key_though_the_leaders_runtime_has_ended() {
    let keyring = NeedsTokio::new();
    let asked = Arc::clone(&keyring.1);
    let envelope = caching(keyring, |builder| builder);
    let first = runtime();
    let leading = envelope.clone();
    let leader = first.spawn(async move { leading.encrypt(b"x", &context("a")).await });
    first.block_on(eventually(|| asked.load(SeqCst) == 1));
    let second = runtime();
    let context = context("a");
    let mut follower = Box::pin(envelope.encrypt(b"x", &context));
    // On a busy machine, the data key may be there already.
    let early = second.block_on(poll_immediate(&mut follower));
    drop(first);
    drop(leader);
    early.unwrap_or_else(|| second.block_on(follower)).unwrap();
    assert_eq!(asked.load(SeqCst), 1);
}

/// The callers' runtime exists, but nothing drives it.
#[test]
fn loads_started_on_an_idle_runtime_delay_no_caller() {
    let envelope = caching(NeedsTokio::new(), |builder| builder);
    let idle = runtime();
    let contexts: Vec<_> = (0..100).map(|number| context(&number.to_string())).collect();
    let mut abandoned = vec![];
    idle.block_on(async {
        for context in &contexts {
            let mut waiting = Box::pin(envelope.encrypt(b"x", context));
            // Usually it waits, but the load may be complete already.
            drop(poll_immediate(&mut waiting).await);
            abandoned.push(waiting);
        }
    });
    runtime().block_on(async {
        envelope.encrypt(b"x", &context("new")).await.unwrap();
        let same = contexts.iter().map(|context| envelope.encrypt(b"x", context));
        assert!(join_all(same).await.iter().all(Result::is_ok));
    });
}

/// The callers' runtime is well, but they have begun to wait for something else.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn callers_that_do_not_go_on_delay_no_other_caller() {
    let keyring = GatedKeyring::new(0);
    let envelope = caching(keyring.clone(), |builder| builder);
    let sealer = caching(crate::support::keyring(), |builder| builder);
    let contexts: Vec<_> = (0..40).map(|number| context(&number.to_string())).collect();
    let mut messages = vec![];
    for context in contexts.iter().chain([&context("new")]) {
        messages.push(sealer.encrypt(b"x", context).await.unwrap());
    }
    let (mut sealing, mut opening) = (vec![], vec![]);
    for (message, context) in messages.iter().zip(&contexts) {
        sealing.push(Box::pin(envelope.encrypt(b"x", context)));
        opening.push(Box::pin(envelope.decrypt(message, context)));
    }
    for (sealing, opening) in sealing.iter_mut().zip(&mut opening) {
        assert!(poll_immediate(sealing).await.is_none());
        assert!(poll_immediate(opening).await.is_none());
    }
    keyring.gate.add_permits(1_000);
    envelope.encrypt(b"x", &context("new")).await.unwrap();
    envelope.decrypt(&messages[40], &context("new")).await.unwrap();
    assert!(join_all(sealing).await.iter().all(Result::is_ok));
    assert!(join_all(opening).await.iter().all(Result::is_ok));
}

/// A refresh that was started on an idle runtime still completes, and so does the next one.
#[test]
fn refreshes_do_not_need_the_callers_runtime() {
    let clock = Clock::manual();
    let cache = MaterialsCache::builder().clock(&clock).build();
    let envelope =
        caching(NeedsTokio::new(), |builder| builder.cache(&cache).max_age(Duration::from_mins(1)));
    block_on(envelope.encrypt(b"x", &context("a"))).unwrap();
    let idle = runtime();
    for refreshes in 1..4 {
        clock.advance(Duration::from_secs(if refreshes == 1 { 49 } else { 38 }));
        // A use that comes before the last refresh has ended begins no other one.
        while cache.stats().encryption.refreshes < refreshes {
            idle.block_on(async { envelope.try_encrypt(b"x", &context("a")) }).unwrap();
            thread::yield_now();
        }
        clock.advance(Duration::from_secs(11));
        envelope.try_encrypt(b"x", &context("a")).unwrap();
    }
}

/// Inside a task, and on a thread of the cache itself.
#[test]
fn the_last_clone_may_be_dropped_anywhere() {
    let runtime = runtime();
    let envelope = caching(NeedsTokio::new(), |builder| builder);
    runtime.block_on(async move {
        envelope.encrypt(b"x", &context("a")).await.unwrap();
        drop(envelope);
    });
    let keyring = GatedKeyring::new(0);
    let envelope = caching(keyring.clone(), |builder| builder);
    runtime.block_on(async {
        let context = context("a");
        let mut leaving = Box::pin(envelope.encrypt(b"x", &context));
        assert!(poll_immediate(&mut leaving).await.is_none());
        eventually(|| keyring.counts().0 == 1).await;
    });
    // Now only the load keeps the cache alive.
    drop(envelope);
    keyring.gate.add_permits(1);
    runtime.block_on(eventually(|| Arc::strong_count(&keyring.generated) == 1));
}

/// One client serves many runtimes, one after another and at the same time.
#[test]
fn one_client_serves_many_runtimes() {
    let envelope = caching(NeedsTokio::new(), |builder| builder.max_messages(3));
    thread::scope(|scope| {
        for thread in 0..4 {
            let envelope = &envelope;
            scope.spawn(move || {
                for round in 0..20 {
                    let context = context(&format!("{}", (thread + round) % 3));
                    runtime().block_on(envelope.encrypt(b"x", &context)).unwrap();
                }
            });
        }
    });
}

/// A caller's deadline applies even if a load hangs.
#[test]
fn deadlines_apply_while_a_load_hangs() {
    let keyring = GatedKeyring::new(0);
    let envelope = caching(keyring.clone(), |builder| builder);
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let outcome = runtime().block_on(async {
            let context = context("a");
            let encrypting = envelope.encrypt(b"x", &context);
            tokio::time::timeout(Duration::from_millis(1), encrypting).await.is_err()
        });
        tell.send(outcome).unwrap();
    });
    assert!(told.recv_timeout(Duration::from_mins(1)).unwrap());
}

/// A keyring that encrypts with a client over the same cache that calls the keyring.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Default)]
struct WaitsInItself {
    client: Arc<std::sync::OnceLock<Envelope>>,
    failures: Arc<std::sync::Mutex<Vec<Error>>>,
}

#[cfg(feature = "tokio")]
impl Keyring for WaitsInItself {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        let client = self.client.get().unwrap().blocking();
        let inner = client.encrypt(b"x", &context("inner"));
        self.failures.lock().unwrap().extend(inner.err());
        Box::pin(async move { keyring().generate(request).await })
    }

    fn wrap<'a>(
        &'a self,
        _: KeyringRequest<'a>,
        _: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(async { Ok(vec![]) })
    }

    fn unwrap<'a>(
        &'a self,
        _: KeyringRequest<'a>,
        _: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(async { Err(vec![]) })
    }
}

/// If a thread of the cache would wait for itself, the call fails.
#[cfg(feature = "tokio")]
#[test]
fn a_keyring_cannot_wait_for_the_cache_that_calls_it() {
    let waiting = WaitsInItself::default();
    let client = caching(waiting.clone(), |builder| builder);
    waiting.client.set(client.clone()).unwrap();
    client.blocking().encrypt(b"x", &context("outer")).unwrap();
    let failures = waiting.failures.lock().unwrap();
    assert!(matches!(failures[..], [Error::WaitsForItself]), "{failures:?}");
    drop(failures);
    // Another cache has other threads.
    let other = WaitsInItself::default();
    other.client.set(caching(keyring(), |builder| builder)).unwrap();
    let client = caching(other.clone(), |builder| builder);
    client.blocking().encrypt(b"x", &context("outer")).unwrap();
    assert!(other.failures.lock().unwrap().is_empty());
}
