//! When the threads of a pool end.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;

use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_kms::Client;
use futures_executor::block_on;
use kms_local::KmsLocal;
use kms_pool::{KmsPool, Principal};

use crate::ONE_AT_A_TIME;
use crate::support::{REGION, Sessions, builder, random, server, wait_until};

/// The number of threads of pools.
fn threads() -> usize {
    let names = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = names.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "kms-pool").count()
}

#[track_caller]
fn wait_until_ended() {
    wait_until(|| threads() == 0);
}

fn used(kms: &Arc<KmsLocal>) -> (KmsPool, Client) {
    let pool = builder(kms).build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(kms)));
    let client = block_on(async {
        let client = pool.client(REGION, &principal).await.unwrap();
        random(&client).await.unwrap();
        client
    });
    assert!(threads() > 0);
    (pool, client)
}

/// Holds a pool, and blocks its thread until it is released.
#[derive(Debug)]
struct Holder {
    _pool: KmsPool,
    asked: Arc<AtomicU64>,
    go_on: std::sync::Mutex<mpsc::Receiver<()>>,
}

impl ProvideCredentials for Holder {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.asked.fetch_add(1, SeqCst);
        let _ = self.go_on.lock().unwrap().recv();
        future::ProvideCredentials::new(std::future::pending::<provider::Result>())
    }
}

#[test]
fn threads_end_with_the_last_user_on_any_thread() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    let panics = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&panics);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        count.fetch_add(1, SeqCst);
        before(panic);
    }));
    let servers = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let kms = servers.block_on(server());

    // The threads of earlier tests.
    wait_until_ended();
    drop(builder(&kms).build().unwrap());
    assert_eq!(threads(), 0, "an unused pool has no threads");

    let (pool, client) = used(&kms);
    drop(pool);
    block_on(random(&client)).unwrap();
    drop(client);
    wait_until_ended();

    let last = used(&kms);
    servers.block_on(async { tokio::spawn(async move { drop(last) }).await.unwrap() });
    wait_until_ended();

    let last = used(&kms);
    let local = tokio::runtime::Builder::new_current_thread().build().unwrap();
    local.block_on(async { drop(last) });
    wait_until_ended();

    let (pool, client) = used(&kms);
    assert!(block_on(pool.shutdown(Duration::from_secs(10))));
    wait_until_ended();
    block_on(random(&client)).unwrap_err();
    drop((pool, client));

    // A request that its caller drops together with the pool and the client.
    let (pool, client) = used(&kms);
    kms.faults(REGION).hang(true);
    let in_flight = kms.counters(REGION).in_flight;
    let request = servers.spawn(async move { random(&client).await });
    wait_until(|| kms.counters(REGION).in_flight != in_flight);
    drop(pool);
    request.abort();
    wait_until_ended();
    kms.faults(REGION).clear();

    // The provider holds the pool, and the provider's future is dropped last.
    let asked = Arc::new(AtomicU64::new(0));
    let (release, go_on) = mpsc::channel();
    let pool = builder(&kms).provider_timeout(Duration::from_millis(500)).build().unwrap();
    let holder = Holder { _pool: pool.clone(), asked: Arc::clone(&asked), go_on: go_on.into() };
    let waiting = servers.spawn(async move {
        let holder = Principal::new(holder);
        pool.client(REGION, &holder).await.map(drop)
    });
    wait_until(|| asked.load(SeqCst) > 0);
    waiting.abort();
    release.send(()).unwrap();
    wait_until_ended();

    assert_eq!(panics.load(SeqCst), 0);
}
