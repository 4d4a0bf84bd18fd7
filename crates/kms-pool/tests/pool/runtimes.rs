//! Callers whose runtime ends, stalls, or is not a Tokio runtime.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use aws_credential_types::provider::{ProvideCredentials, future};
use futures_executor::block_on;
use futures_util::FutureExt as _;
use kms_local::KmsLocal;
use kms_pool::{KmsErrorKind, KmsPool, Principal, Replicas};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use crate::support::{OTHER, REGION, Sessions, builder, random, server, until, wait_until};

/// For requests one after another. A request may open a connection if the last one's has not become
/// idle yet.
const MAX_HANDSHAKES: u64 = 3;

/// A server on its own threads, which the test cannot stall.
fn server_apart() -> (Runtime, Arc<KmsLocal>) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let kms = runtime.block_on(server());
    (runtime, kms)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn ask(pool: &KmsPool, principal: &Principal) {
    random(&pool.client(REGION, principal).await.unwrap()).await.unwrap();
}

/// Returns keys after the gate is passed, and counts the calls.
#[derive(Clone, Debug)]
struct Gated(Arc<(KmsLocal, Semaphore, AtomicU64)>);

impl ProvideCredentials for Gated {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let (kms, gate, asked) = &*self.0;
            asked.fetch_add(1, SeqCst);
            gate.acquire().await.unwrap().forget();
            Ok(kms.issue_session(Duration::from_hours(1)))
        })
    }
}

#[test]
fn consecutive_runtimes_share_a_connection_without_retries() {
    let (_server, kms) = server_apart();
    let pool = builder(&kms).max_attempts(3).build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(&kms)));
    for _ in 0..40 {
        runtime().block_on(ask(&pool, &principal));
    }
    assert_eq!(pool.stats().retries, 0);
    assert!(kms.counters(REGION).tls_handshakes <= MAX_HANDSHAKES);
    assert_eq!(kms.counters(REGION).total(), 40);
}

#[test]
fn concurrent_runtimes_do_not_disturb_each_other() {
    let (_server, kms) = server_apart();
    let pool = builder(&kms).max_attempts(3).build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(&kms)));
    thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| (0..10).for_each(|_| runtime().block_on(ask(&pool, &principal))));
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.retries, stats.circuits_opened, stats.connections_failed), (0, 0, 0));
    assert_eq!(kms.counters(REGION).total(), 80);
}

#[test]
fn an_idle_runtime_delays_no_other_caller() {
    let (_server, kms) = server_apart();
    let pool = builder(&kms).max_in_flight(1).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    let kept = runtime();
    kept.block_on(ask(&pool, &principal));
    // The request is polled once, and not again until the others have ended.
    let client = kept.block_on(pool.client(REGION, &principal)).unwrap();
    let mut request = Box::pin(random(&client));
    kept.block_on(async { assert!(request.as_mut().now_or_never().is_none()) });
    for _ in 0..10 {
        runtime().block_on(ask(&pool, &principal));
    }
    kept.block_on(request).unwrap();
    assert_eq!(kms.counters(REGION).total(), 12);
    assert!(kms.counters(REGION).tls_handshakes <= MAX_HANDSHAKES);
}

#[test]
fn the_watcher_continues_after_its_first_callers_runtime_has_ended() {
    let (_server, kms) = server_apart();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    let write = |keys: &kms_pool::Credentials| {
        let (id, secret) = (keys.access_key_id(), keys.secret_access_key());
        let text =
            format!("[payments]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        fs::write(folder.path().join("next"), text).unwrap();
        fs::rename(folder.path().join("next"), &file).unwrap();
    };
    write(&kms.issue_credentials());
    let pool = builder(&kms)
        .watch_files_every(Duration::from_millis(10))
        .idle_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let principal = Principal::from_profile(&file, "payments");
    let client = runtime().block_on(pool.client(REGION, &principal)).unwrap();
    write(&kms.issue_credentials());
    wait_until(|| pool.stats().rotations > 0);
    wait_until(|| pool.stats().idle_evictions > 0);
    runtime().block_on(random(&client)).unwrap();
}

#[test]
fn a_refresh_outlives_the_runtime_of_its_waiters() {
    let (server, kms) = server_apart();
    let pool = builder(&kms).build().unwrap();
    drop(kms);
    let kms = server.block_on(KmsLocal::builder().region(REGION).start()).unwrap();
    let provider = Gated(Arc::new((kms, Semaphore::new(0), AtomicU64::new(0))));
    let principal = Principal::new(provider.clone());
    let first = runtime();
    let (pool_there, principal_there) = (pool.clone(), principal.clone());
    first.block_on(async {
        tokio::spawn(async move { pool_there.client(REGION, &principal_there).await });
        until(|| provider.0.2.load(SeqCst) > 0).await;
    });
    drop(first);
    runtime().block_on(async {
        let mut client = Box::pin(pool.client(REGION, &principal));
        assert!(client.as_mut().now_or_never().is_none());
        provider.0.1.add_permits(1);
        client.await.unwrap();
    });
    assert_eq!((pool.stats().refreshes, provider.0.2.load(SeqCst)), (1, 1));
}

#[test]
fn no_caller_needs_tokio() {
    let (_server, kms) = server_apart();
    let pool = builder(&kms).max_attempts(3).build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(&kms)));
    block_on(async {
        for warmed in pool.warm(&principal, [REGION, OTHER]).await {
            warmed.unwrap();
        }
        let client = pool.client(REGION, &principal).await.unwrap();
        // The client pauses between two attempts.
        kms.faults(REGION).internal_errors(1.0);
        assert_eq!(random(&client).await.unwrap_err().kind(), KmsErrorKind::Unavailable);
        kms.faults(REGION).clear();
        kms.expire_sessions();
        random(&client).await.unwrap();
        pool.refresh(&principal).await.unwrap();
        let replicas = Replicas::new(pool.clients(&principal), [REGION, OTHER])
            .unwrap()
            .hedge_after(Duration::from_millis(20));
        kms.faults(REGION).hang(true);
        let region =
            replicas.call(|client, region| async move { random(&client).await.map(|()| region) });
        assert_eq!(region.await.unwrap().as_str(), OTHER);
        kms.faults(REGION).clear();
        assert!(pool.shutdown(Duration::from_secs(10)).await);
        assert_eq!(random(&client).await.unwrap_err().kind(), KmsErrorKind::InvalidRequest);
    });
}

#[test]
fn timeouts_work_under_any_executor() {
    let (_server, kms) = server_apart();
    let principal = Principal::new(kms.issue_credentials());
    kms.faults(REGION).hang(true);
    for pool in [
        builder(&kms).attempt_timeout(Duration::from_millis(100)),
        builder(&kms).operation_timeout(Duration::from_millis(100)),
    ] {
        let pool = pool.build().unwrap();
        let error = block_on(async {
            random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap_err()
        });
        assert_eq!(error.kind(), KmsErrorKind::TimedOut);
    }
}

#[test]
fn a_provider_that_blocks_its_thread_delays_neither_others_nor_the_shutdown() {
    #[derive(Debug)]
    struct Blocking(std::sync::Mutex<std::sync::mpsc::Receiver<()>>, Arc<AtomicU64>);

    impl ProvideCredentials for Blocking {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            self.1.fetch_add(1, SeqCst);
            let _ = self.0.lock().unwrap().recv();
            future::ProvideCredentials::ready(Err(
                kms_pool::provider::error::CredentialsError::not_loaded("late"),
            ))
        }
    }

    let (_server, kms) = server_apart();
    let pool = builder(&kms).provider_timeout(Duration::from_millis(100)).build().unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let stuck: Vec<_> = (0..8)
        .map(|_| {
            let (release, released) = std::sync::mpsc::channel();
            (release, Principal::new(Blocking(released.into(), Arc::clone(&asked))))
        })
        .collect();
    block_on(async {
        for (_, principal) in stuck.iter().chain(&stuck) {
            let error = pool.client(REGION, principal).await.unwrap_err();
            assert_eq!(error.kind(), KmsErrorKind::CredentialsUnavailable);
        }
        assert_eq!(asked.load(SeqCst), 8, "no provider is called again before it has returned");
        ask(&pool, &Principal::new(Sessions(Arc::clone(&kms)))).await;
        assert!(pool.shutdown(Duration::from_secs(10)).await);
    });
    drop(pool);
}

#[test]
fn the_default_chain_is_set_up_on_first_use() {
    // This loads nothing: there is no runtime here.
    let principal = Principal::from_default_chain();
    assert_eq!(principal.label(), None);
}
