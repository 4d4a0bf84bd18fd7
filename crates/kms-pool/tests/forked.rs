//! Pools in a forked child. Without a test harness, because the child must not run one.

#![allow(clippy::print_stdout, reason = "it reports like a test")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(unix)]
mod support;

#[cfg(not(unix))]
fn main() {}

#[cfg(unix)]
fn main() {
    use std::process::ExitCode;

    let servers =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let kms = servers.block_on(support::server());
    println!("a forked child gets an error, or uses its own pool");
    assert_eq!(parent::run(&kms), ExitCode::SUCCESS, "see the child's output above");
    println!("children of a busy process get an error, too");
    parent::run_while_busy(&kms);
    println!("ok");
}

#[cfg(unix)]
mod parent {
    use std::pin::pin;
    use std::process::ExitCode;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::thread;
    use std::time::Duration;

    use aws_sdk_kms::Client;
    use fork::Fork;
    use futures_executor::block_on;
    use futures_util::future::poll_immediate;
    use kms_local::KmsLocal;
    use kms_pool::{KmsError, KmsErrorKind, KmsPool, Principal};

    use crate::support::{REGION, builder, random, wait_until};

    const CONNECTIONS: u64 = 16;

    /// Uses this many connections at the same time.
    fn open(client: &Client, kms: &KmsLocal) {
        kms.faults(REGION).hang(true);
        let requests: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let client = client.clone();
                thread::spawn(move || block_on(random(&client)))
            })
            .collect();
        wait_until(|| kms.counters(REGION).in_flight >= CONNECTIONS);
        kms.faults(REGION).clear();
        for request in requests {
            request.join().expect("a thread").expect("an answer");
        }
    }

    pub(crate) fn run(kms: &Arc<KmsLocal>) -> ExitCode {
        let principal = Principal::new(kms.issue_credentials());
        let (used, unused) = (builder(kms).build(), builder(kms).build());
        let (used, unused) = (used.expect("settings"), unused.expect("settings"));
        let ask = async |pool: &KmsPool| -> Result<(), KmsError> {
            random(&pool.client(REGION, &principal).await?).await
        };
        let client = block_on(used.client(REGION, &principal)).expect("credentials");
        open(&client, kms);
        let mut under_way = pin!(random(&client));
        assert!(block_on(poll_immediate(&mut under_way)).is_none());
        match fork::fork().expect("a child") {
            Fork::Parent(child) => {
                let end = fork::waitpid(child).expect("its end");
                let is_well = fork::WIFEXITED(end) && fork::WEXITSTATUS(end) == 0;
                // The child has not affected the parent.
                block_on(under_way).expect("a response");
                open(&client, kms);
                let stats = used.stats();
                assert_eq!((stats.connections_opened, stats.retries), (CONNECTIONS, 0));
                if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Fork::Child => {
                let kinds = [
                    block_on(ask(&used)).map_err(|error| error.kind()),
                    block_on(random(&client)).map_err(|error| error.kind()),
                    block_on(used.refresh(&principal)).map_err(|error| error.kind()),
                    block_on(used.warm(&principal, [REGION])).remove(0).map_err(|it| it.kind()),
                    // A pool that was not used before the fork works after it.
                    block_on(ask(&unused)).map_err(|error| error.kind()),
                ];
                // In the child, the parent's request never ends.
                thread::spawn(|| {
                    thread::sleep(Duration::from_secs(10));
                    println!("child: the pool did not shut down");
                    std::process::exit(2)
                });
                let is_drained = block_on(used.shutdown(Duration::from_secs(1)));
                let in_child = Err(KmsErrorKind::AfterFork);
                let expected = [in_child, in_child, in_child, in_child, Ok(())];
                let is_well = kinds == expected && is_drained;
                if !is_well {
                    println!("child: {kinds:?}, drained: {is_drained}");
                }
                drop((used, unused));
                std::process::exit(i32::from(!is_well))
            }
        }
    }

    /// Other threads use the pool and hold its locks while children are forked.
    pub(crate) fn run_while_busy(kms: &Arc<KmsLocal>) {
        let pool = builder(kms).build().expect("settings");
        let principal = Principal::new(kms.issue_credentials());
        let client = block_on(pool.client(REGION, &principal)).expect("credentials");
        block_on(random(&client)).expect("an answer");
        let is_over = AtomicBool::new(false);
        let ends = thread::scope(|scope| {
            for _ in 0..4 {
                let (pool, kms, is_over) = (&pool, kms, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Relaxed) {
                        let new = Principal::new(kms.issue_credentials());
                        let client = block_on(pool.client(REGION, &new)).expect("credentials");
                        block_on(random(&client)).expect("an answer");
                        pool.remove(&new);
                    }
                });
            }
            let ends: Vec<_> = (0..50)
                .map(|_| match fork::fork().expect("a child") {
                    Fork::Parent(child) => fork::waitpid(child).expect("its end"),
                    Fork::Child => {
                        thread::spawn(|| {
                            thread::sleep(Duration::from_secs(10));
                            std::process::exit(2)
                        });
                        let kinds = [
                            block_on(pool.client(REGION, &principal)).map(drop),
                            block_on(random(&client)),
                            block_on(pool.refresh(&principal)),
                        ];
                        let kinds = kinds.map(|it| it.map_err(|error| error.kind()));
                        let is_well = kinds == [Err(KmsErrorKind::AfterFork); 3];
                        // No client is left here, and none of these waits for the parent's threads.
                        let is_empty = pool.stats().clients == 0 && pool.client_stats().is_empty();
                        pool.remove(&principal);
                        pool.clear();
                        drop((pool.clone(), client.clone(), principal.clone()));
                        std::process::exit(i32::from(!(is_well && is_empty)))
                    }
                })
                .collect();
            is_over.store(true, Relaxed);
            ends
        });
        assert_eq!(ends, [0; 50], "exit statuses of the children");
    }
}
