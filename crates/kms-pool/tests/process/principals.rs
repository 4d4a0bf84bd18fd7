//! Principals never sign for each other, and removed principals leave nothing behind.

#![allow(clippy::print_stdout, reason = "figures, for `--nocapture`")]

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::try_join_all;
use kms_local::KmsLocal;
use kms_pool::{Credentials, KmsError, KmsErrorKind, KmsPool, Principal};

use crate::ONE_AT_A_TIME;
use crate::support::{REGION, builder, random, server, until};

const PRINCIPALS: usize = 100;
const WAVES_BEFORE: usize = 5;
const WAVES: usize = 10;
/// In kilobytes. A client that is not dropped takes 20 kB, so 1,000 of them take twice as much. The
/// allocator alone grows and shrinks by half of it.
const MEMORY_TOLERANCE: u64 = 10 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_principals_leave_nothing_behind() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    for _ in 0..WAVES_BEFORE {
        wave(&kms, &pool).await;
    }
    let sockets = sockets();
    let memory = resident_kilobytes();
    for _ in 0..WAVES {
        wave(&kms, &pool).await;
        until(|| self::sockets() <= sockets).await;
    }
    let grown = resident_kilobytes().saturating_sub(memory);
    println!("{} principals left {grown} kB; {:?}", PRINCIPALS * WAVES, pool.stats());
    assert!(grown <= MEMORY_TOLERANCE, "{grown} kB more than the {memory} kB before");
}

/// Each principal sends a request, and then all of them are removed.
async fn wave(kms: &KmsLocal, pool: &KmsPool) {
    // Credentials that expire are watched by a task of the pool. The server remembers one session.
    let session = kms.issue_session(Duration::from_hours(1));
    let principals: Vec<_> = (0..PRINCIPALS).map(|_| Principal::new(session.clone())).collect();
    let requests = principals
        .iter()
        .map(|principal| async move { random(&pool.client(REGION, principal).await?).await });
    try_join_all(requests).await.unwrap();
    assert_eq!(pool.stats().clients, PRINCIPALS);
    for principal in &principals {
        pool.remove(principal);
    }
    assert_eq!(pool.stats().clients, 0);
    // Without a principal in the region, the pool closes its connections.
    until(|| pool.stats().connections == 0 && kms.counters(REGION).open_connections == 0).await;
    kms.reset_counters(REGION);
}

/// The number of sockets of this process. Zero on systems that do not report it.
fn sockets() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Zero on systems that do not report it.
fn resident_kilobytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().unwrap())
}

/// Two principals use one pool. Each calls an operation that the other never calls, so that the
/// server sees each request that is signed with the wrong keys. Old credentials are revoked the
/// moment they are replaced, so some requests are refused and signed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_signed_with_another_principals_keys_while_both_are_revoked() {
    const TASKS: u64 = 16;
    const REQUESTS: u64 = 48;
    let _alone = ONE_AT_A_TIME.lock().await;
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let key = kms.create_key(REGION);
    let session = || kms.issue_session(Duration::from_hours(1));
    let owners = [Arc::new(Owner::new(session())), Arc::new(Owner::new(session()))];
    let tasks = (0..TASKS).map(|task| {
        let (kms, pool, key, owners) =
            (Arc::clone(&kms), pool.clone(), key.clone(), owners.clone());
        tokio::spawn(async move {
            let [data_keys, random_numbers] = &owners;
            let mut succeeded = [0_u64; 2];
            for request in 0..REQUESTS {
                succeeded[0] +=
                    data_keys.outcome(data_key(&pool, &data_keys.principal, &key).await);
                succeeded[1] +=
                    random_numbers.outcome(number(&pool, &random_numbers.principal).await);
                if request == task * REQUESTS / TASKS {
                    for owner in &owners {
                        owner.rotate(&kms);
                    }
                }
            }
            succeeded
        })
    });
    let succeeded = try_join_all(tasks).await.unwrap();
    let counters = kms.counters(REGION);
    for (at, operation) in ["GenerateDataKey", "GenerateRandom"].into_iter().enumerate() {
        let ids = owners[at].ids.lock().unwrap();
        let callers = &counters.callers[operation];
        assert!(callers.keys().all(|id| ids.contains(id)), "{operation}: {callers:?}");
        assert!(callers.len() > 10, "{operation}: {callers:?} rotated while they were used");
        let all: u64 = succeeded.iter().map(|succeeded| succeeded[at]).sum();
        assert_eq!(counters.succeeded(operation), all, "{operation}");
        assert!(all > TASKS * REQUESTS / 2, "{operation}: {all}");
    }
    assert_eq!(counters.operations.len(), 2);
}

/// A principal, and the access key ids that it has had.
struct Owner {
    principal: Principal,
    ids: Mutex<Vec<String>>,
}

impl Owner {
    fn new(first: Credentials) -> Self {
        let ids = Mutex::new(vec![first.access_key_id().to_owned()]);
        Self { principal: Principal::new(first), ids }
    }

    /// One if a request succeeded. It may fail only if its keys were revoked twice.
    fn outcome(&self, outcome: Result<(), KmsError>) -> u64 {
        match outcome {
            Ok(()) => 1,
            Err(error) if error.kind() == KmsErrorKind::CredentialsExpired => 0,
            Err(error) => panic!("{:?}: {error:?}", self.principal),
        }
    }

    fn rotate(&self, kms: &KmsLocal) {
        let mut ids = self.ids.lock().unwrap();
        let next = kms.issue_session(Duration::from_hours(1));
        ids.push(next.access_key_id().to_owned());
        self.principal.rotate(next);
        kms.revoke(&ids[ids.len() - 2]);
    }
}

async fn data_key(pool: &KmsPool, principal: &Principal, key: &str) -> Result<(), KmsError> {
    let client = pool.client(REGION, principal).await?;
    client.generate_data_key().key_id(key).number_of_bytes(32).send().await?;
    Ok(())
}

async fn number(pool: &KmsPool, principal: &Principal) -> Result<(), KmsError> {
    random(&pool.client(REGION, principal).await?).await
}
