//! When the threads of a pool end. A single test, because it counts all threads of the process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "prints what it waits for, in case it hangs")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_kms::Client;
use futures_executor::block_on;
use kms_local::KmsLocal;
use kms_pool::{KmsPool, Principal};

use support::{REGION, Sessions, builder, random, server};

mod support;

/// The number of threads of pools.
fn threads() -> usize {
    let names = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = names.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "kms-pool").count()
}

fn wait_until_ended(how: &str) {
    // The test runner's time limit is the deadline.
    eprintln!("waiting for the threads to end: {how}");
    while threads() > 0 {
        thread::yield_now();
    }
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
    let panics = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&panics);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        count.fetch_add(1, SeqCst);
        before(panic);
    }));
    let servers = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let kms = servers.block_on(server());

    drop(builder(&kms).build().unwrap());
    assert_eq!(threads(), 0, "an unused pool has no threads");

    let (pool, client) = used(&kms);
    drop(pool);
    block_on(random(&client)).unwrap();
    drop(client);
    wait_until_ended("the last client");

    let last = used(&kms);
    servers.block_on(async { tokio::spawn(async move { drop(last) }).await.unwrap() });
    wait_until_ended("inside a task");

    let last = used(&kms);
    let local = tokio::runtime::Builder::new_current_thread().build().unwrap();
    local.block_on(async { drop(last) });
    wait_until_ended("inside a runtime of one thread");

    let (pool, client) = used(&kms);
    assert!(block_on(pool.shutdown(Duration::from_secs(10))));
    wait_until_ended("by a shutdown");
    block_on(random(&client)).unwrap_err();
    drop((pool, client));

    // A request whose caller drops it together with the pool and the client.
    let (pool, client) = used(&kms);
    kms.faults(REGION).hang(true);
    let in_flight = kms.counters(REGION).in_flight;
    let request = servers.spawn(async move { random(&client).await });
    while kms.counters(REGION).in_flight == in_flight {
        thread::yield_now();
    }
    drop(pool);
    request.abort();
    wait_until_ended("with a cancelled request");
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
    while asked.load(SeqCst) == 0 {
        thread::yield_now();
    }
    waiting.abort();
    release.send(()).unwrap();
    wait_until_ended("on a separate thread");

    assert_eq!(panics.load(SeqCst), 0);
}
