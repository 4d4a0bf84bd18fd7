//! Many tasks that need the same data key, or different ones, at the same moment.

use std::time::Duration;

use envelope::{EncryptionContext, Envelope};
use futures_util::future::{join_all, try_join_all};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use crate::{
    MAX_LOADS, REGION, Scene,
    support::{context, eventually},
};

/// Encrypts for each context, in a task each.
async fn encrypt(envelope: &Envelope, contexts: &[EncryptionContext]) -> Vec<Vec<u8>> {
    let tasks = contexts.iter().cloned().map(|context| {
        let envelope = envelope.clone();
        tokio::spawn(async move { envelope.encrypt(b"x", &context).await.unwrap() })
    });
    try_join_all(tasks).await.unwrap()
}

/// Decrypts each message, in a task each.
async fn decrypt(envelope: &Envelope, messages: &[Vec<u8>], contexts: &[EncryptionContext]) {
    let tasks = messages.iter().cloned().zip(contexts.iter().cloned()).map(|(message, context)| {
        let envelope = envelope.clone();
        tokio::spawn(async move { envelope.decrypt(&message, &context).await.map(drop).unwrap() })
    });
    try_join_all(tasks).await.unwrap();
}

fn distinct(number: usize) -> Vec<EncryptionContext> {
    (0..number).map(|number| context(&number.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tasks_on_one_cold_entry_cost_one_request() {
    const TASKS: usize = 10_000;
    let scene = Scene::new().await;
    let envelope = scene.client(|builder| builder);
    scene.faults().latency(Duration::from_millis(50));
    let contexts = vec![context("42"); TASKS];
    let messages = encrypt(&envelope, &contexts).await;
    decrypt(&envelope, &messages, &contexts).await;
    assert_eq!((scene.requests("GenerateDataKey"), scene.requests("Decrypt")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_entries_cost_a_request_each_and_few_at_the_same_time() {
    const ENTRIES: usize = 500;
    let scene = Scene::new().await;
    let envelope = scene.client(|builder| builder);
    let contexts = distinct(ENTRIES);
    scene.faults().latency(Duration::from_millis(5));
    let messages = encrypt(&envelope, &contexts).await;
    decrypt(&envelope, &messages, &contexts).await;
    let counters = scene.server.counters(REGION);
    assert_eq!((counters.requests("GenerateDataKey"), counters.requests("Decrypt")), (500, 500));
    assert!(counters.max_in_flight <= MAX_LOADS as u64, "{}", counters.max_in_flight);

    // Encryption and decryption have a queue each.
    scene.cache.clear();
    tokio::join!(encrypt(&envelope, &contexts), decrypt(&envelope, &messages, &contexts));
    let max_in_flight = scene.server.counters(REGION).max_in_flight;
    assert!(max_in_flight <= 2 * MAX_LOADS as u64, "{max_in_flight}");
}

/// KMS takes requests and never answers them. The printed memory is only that of this test if the
/// test runs alone.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_give_up_leave_no_load_and_no_task_behind() {
    const CALLERS: usize = 1_000;
    const ROUNDS: u64 = 12;
    const DEADLINE: Duration = Duration::from_millis(50);
    let scene = Scene::new().await;
    let envelope = scene.client(|builder| builder);
    let contexts = distinct(CALLERS);
    let metrics = Handle::current().metrics();
    let mut last_back = Duration::ZERO;
    for round in 1..=ROUNDS {
        scene.faults().hang(true);
        let began = Instant::now();
        let callers = contexts.iter().cloned().map(|context| {
            let envelope = envelope.clone();
            tokio::spawn(async move { timeout(DEADLINE, envelope.encrypt(b"x", &context)).await })
        });
        let outcomes = join_all(callers).await;
        last_back = last_back.max(began.elapsed());
        assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap().is_err()), "all gave up");
        scene.faults().hang(false);
        envelope.encrypt(b"x", &context("after")).await.unwrap();
        // Only the loads that had begun went on.
        let loads = scene.cache.stats().encryption.loads;
        assert!(loads <= round * (MAX_LOADS as u64 + 1), "{loads}");
        scene.cache.clear();
        println!("after round {round}: {} kB", resident_kilobytes());
    }
    println!("deadline {DEADLINE:?}, the last caller was back after {last_back:?}");
    // The server's tasks: one for each connection.
    eventually(|| metrics.num_alive_tasks() <= 2 * MAX_LOADS + 8).await;
}

/// Zero where the system does not say.
fn resident_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().unwrap())
}
