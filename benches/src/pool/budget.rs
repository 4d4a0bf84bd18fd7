//! The capacity that remains of a throttled KMS when it gets five times as many requests, with the
//! budget of the pool and without.
//!
//! The server accepts a fixed number of requests a second and throttles the others. Goodput is the
//! number of successful responses while the load lasts. Each side has its own server.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{
    future::ready,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_kms::Client;
use benches::{Result, limits::Limits};
use kms_local::KmsLocal;
use kms_pool::{KmsError, KmsErrorKind, Principal};
use tokio::time::Instant;

use crate::{
    Args,
    kms::{Kind, REGION, Sdk, Server},
    load::{self, Durations, count},
};

/// How many times more requests the server gets than it accepts.
const EXCESS: u32 = 5;

pub(crate) async fn run(args: &Args) -> Result {
    let length = Duration::from_secs(args.seconds(15, 60));
    // Few enough in quick runs that an unoptimized build can send them.
    let capacity = args.pick(40, 200);
    let offered = EXCESS * capacity;
    println!("KMS accepts {capacity} requests a second and gets {offered}, for {length:?}\n");
    let (pooled, rates) = with_budget(capacity, length).await?;
    let server = Server::start(KmsLocal::builder().region(REGION))?;
    let client = Sdk::new(&server, false)?.client(&server, REGION);
    let plain = offer(&server, capacity, length, move || ready(Ok(client.clone()))).await?;
    let figures: [Figure; 9] = [
        ("answered while the load lasted", |side| side.answered.to_string()),
        ("% of the capacity", |side| format!("{:.1}", side.goodput())),
        ("refused as throttled", |side| side.refused.count().to_string()),
        ("requests sent", |side| side.sent.to_string()),
        ("throttled by the server", |side| side.throttled.to_string()),
        ("% of those sent", |side| format!("{:.1}", side.throttled())),
        ("p50 / p99 of those answered", |side| percentiles(&side.latency)),
        ("p50 / p99 until refused", |side| percentiles(&side.refused)),
        ("% refused within 100 ms", |side| {
            let within = side.refused.shares(&[Duration::ZERO, Duration::from_millis(100)]);
            format!("{:.1}", 100.0 * within[0])
        }),
    ];
    println!("{:>34}  {:>19}  {:>19}", "", "with budget", "without");
    for (what, figure) in figures {
        println!("{what:>34}  {:>19}  {:>19}", figure(&pooled), figure(&plain));
    }
    println!("other failures: {:?}, without the budget {:?}", pooled.failed, plain.failed);
    println!("retry_after: {:?}", pooled.retry_after);
    println!("learned requests a second, by second: {rates:?}");

    let mut limits = Limits::default();
    let missing = 100.0 - pooled.goodput();
    limits.at_most_if(!args.quick, "unused capacity, in %", missing, 10.0);
    limits.at_most("throttled requests, in % of those sent", pooled.throttled(), 10.0);
    Ok(limits.verdict())
}

fn percentiles(durations: &Durations) -> String {
    format!("{:.1?} / {:.1?}", durations.at(0.5), durations.at(0.99))
}

/// A name, and a figure of one side.
type Figure = (&'static str, fn(&Side) -> String);

/// The outcome of one side.
#[derive(Default)]
struct Side {
    capacity: u32,
    length: Duration,
    sent: u64,
    throttled: u64,
    /// Successful responses while the load lasted.
    answered: u64,
    latency: Durations,
    refused: Durations,
    /// The shortest and the longest one.
    retry_after: Option<(Duration, Duration)>,
    /// The kind of the last other failure.
    failed: Option<KmsErrorKind>,
}

impl Side {
    /// In percent of what the server accepts.
    fn goodput(&self) -> f64 {
        100.0 * count(self.answered) / self.length.as_secs_f64() / f64::from(self.capacity)
    }

    /// In percent of the requests sent.
    fn throttled(&self) -> f64 {
        100.0 * count(self.throttled) / count(self.sent.max(1))
    }

    fn note(&mut self, outcome: &std::result::Result<(), KmsError>, took: Duration, in_time: bool) {
        let error = match outcome {
            Ok(()) => {
                self.latency.record(took);
                self.answered += u64::from(in_time);
                return;
            }
            Err(error) => error,
        };
        if !matches!(error.kind(), KmsErrorKind::Throttled | KmsErrorKind::OverBudget) {
            self.failed = Some(error.kind());
            return;
        }
        self.refused.record(took);
        if let Some(after) = error.retry_after() {
            let (min, max) = self.retry_after.unwrap_or((after, after));
            self.retry_after = Some((min.min(after), max.max(after)));
        }
    }
}

/// Sends the requests through the pool. Also returns the rate that its budget has learned, every
/// five seconds.
async fn with_budget(capacity: u32, length: Duration) -> Result<(Side, Vec<(u64, Option<f64>)>)> {
    let server = Server::start(KmsLocal::builder().region(REGION))?;
    let pool = server.pool().build()?;
    let principal = Principal::new(server.issue_credentials());
    pool.client(REGION, &principal).await?;
    let watched = async {
        let (begun, mut rates) = (Instant::now(), vec![]);
        for second in (1..=length.as_secs()).filter(|second| *second <= 5 || second % 5 == 0) {
            tokio::time::sleep_until(begun + Duration::from_secs(second)).await;
            let stats = pool.client_stats();
            let rate = stats.first().and_then(|client| client.requests_per_second);
            rates.push((second, rate.map(f64::round)));
        }
        rates
    };
    let shared = pool.clone();
    let load = offer(&server, capacity, length, move || {
        let (pool, principal) = (shared.clone(), principal.clone());
        async move { pool.client(REGION, &principal).await }
    });
    let (side, rates) = tokio::join!(load, watched);
    Ok((side?, rates))
}

/// Generates data keys at a steady pace.
async fn offer<F>(
    server: &Server,
    capacity: u32,
    length: Duration,
    client: impl Fn() -> F + Send + Clone + 'static,
) -> Result<Side>
where
    F: Future<Output = std::result::Result<Client, KmsError>> + Send + 'static,
{
    let key = server.create_key(REGION);
    server.faults(REGION).throttle_above(capacity);
    server.reset_counters(REGION);
    let side = Arc::new(Mutex::new(Side { capacity, length, ..Side::default() }));
    let end = Instant::now() + length;
    let noted = Arc::clone(&side);
    let operation = move || {
        let (client, key, side, due) = (client(), key.clone(), Arc::clone(&noted), Instant::now());
        async move {
            let request = async {
                client.await?.generate_data_key().key_id(key).number_of_bytes(32).send().await?;
                Ok(())
            };
            let outcome: std::result::Result<(), KmsError> = request.await;
            let now = Instant::now();
            let mut side = side.lock().unwrap_or_else(PoisonError::into_inner);
            side.note(&outcome, now - due, now <= end);
            outcome.map_err(|error| Kind(error.kind()))
        }
    };
    load::crowd(Duration::from_secs(1) / (EXCESS * capacity), length, operation)
        .await
        .ended()
        .await;
    let mut side = std::mem::take(&mut *side.lock().unwrap_or_else(PoisonError::into_inner));
    let counters = server.counters(REGION);
    side.sent = counters.requests("GenerateDataKey");
    side.throttled = counters.outcomes("GenerateDataKey", "ThrottlingException");
    Ok(side)
}
