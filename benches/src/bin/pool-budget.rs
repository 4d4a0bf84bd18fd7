//! The capacity that remains of a throttled KMS when it gets five times as many requests, with the
//! pool's budget and without.
//!
//! An open loop: each operation is a task that starts at its time, independent of earlier ones. The
//! server accepts a fixed number of requests a second and throttles the others. Goodput is the
//! number of successful responses while the load lasts. Each side has its own server, one after the
//! other.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{
    error::Error,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_kms::Client;
use benches::{
    kms::{REGION, Server},
    load::Durations,
    plain::Plain,
    verdict,
};
use clap::Parser;
use kms_local::KmsLocal;
use kms_pool::{KmsError, KmsErrorKind, KmsPool, Principal};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

/// What the server lets through, in a second.
const CAPACITY: u32 = 200;
/// Operations per second.
const OFFERED: u32 = 1_000;
/// The least goodput, as a share of the capacity, and the most throttled answers, as a share of the
/// requests sent.
const LINES: [f64; 2] = [0.9, 0.1];

#[derive(Parser)]
#[command(about = "Prints what a throttled KMS still answers, with the pool's budget and without")]
struct Args {
    /// 15 seconds in place of 60, for each side, judged only by the number of throttled requests
    #[arg(long)]
    quick: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Args { quick } = Args::parse();
    let length = Duration::from_secs(if quick { 15 } else { 60 });
    println!(
        "KMS lets {CAPACITY} requests a second through; {OFFERED} are asked of it, for {length:?}\n"
    );
    let (pooled, rates) = with_budget(length).await?;
    let plain = without_budget(length).await?;
    println!("{:>38}  {:>12}  {:>12}", "", "with budget", "without");
    for (what, figure) in FIGURES {
        println!("{what:>38}  {:>12}  {:>12}", figure(&pooled), figure(&plain));
    }
    let rates = rates.iter().map(|(at, rate)| {
        format!("{} at {at} s", rate.map_or("any".into(), |it| format!("{it:.0}")))
    });
    println!("\nlearnt requests a second: {}", rates.collect::<Vec<_>>().join(", "));

    for side in [&pooled, &plain] {
        if let Some(error) = &side.callers.failed.1 {
            println!("one that failed otherwise: {error}");
        }
    }
    let [goodput, throttled] = [pooled.goodput(), pooled.throttled_share()];
    let figures = format!(
        "goodput {:.1} % of {CAPACITY}/s, throttled {:.1} % of the requests sent; without the budget {:.1} %, {:.1} %",
        100.0 * goodput,
        100.0 * throttled,
        100.0 * plain.goodput(),
        100.0 * plain.throttled_share(),
    );
    println!();
    Ok(verdict((quick || goodput >= LINES[0]) && throttled < LINES[1], figures))
}

/// What a figure is called, and how it is read.
type Figure = (&'static str, fn(&Side) -> String);

const FIGURES: [Figure; 12] = [
    ("asked", |side| side.callers.asked.to_string()),
    ("answered while the load lasted", |side| side.callers.answered.to_string()),
    ("a second", |side| format!("{:.1}", side.goodput() * f64::from(CAPACITY))),
    ("refused as throttled", |side| side.callers.refused.count().to_string()),
    ("failed otherwise", |side| side.callers.failed.0.to_string()),
    ("requests sent", |side| side.sent.to_string()),
    ("throttled by the server", |side| side.throttled.to_string()),
    ("their share of those sent", |side| format!("{:.1} %", 100.0 * side.throttled_share())),
    ("p50 / p99 of those answered", |side| {
        pair(side.callers.latency.at(0.5), side.callers.latency.at(0.99))
    }),
    ("p50 / p99 until refused", |side| {
        pair(side.callers.refused.at(0.5), side.callers.refused.at(0.99))
    }),
    ("of them within 100 ms", |side| {
        let within = side.callers.refused.shares(&[Duration::ZERO, Duration::from_millis(100)]);
        format!("{:.1} %", 100.0 * within[0])
    }),
    ("least / most of retry_after", |side| match side.callers.retry_after {
        Some((least, most)) => pair(least, most),
        None => "none".into(),
    }),
];

fn pair(first: Duration, second: Duration) -> String {
    format!("{first:.1?} / {second:.1?}")
}

/// What one side came to.
struct Side {
    callers: Callers,
    length: Duration,
    sent: u64,
    throttled: u64,
}

/// What the callers saw.
#[derive(Default)]
struct Callers {
    asked: u64,
    /// With success, while the load lasted.
    answered: u64,
    latency: Durations,
    refused: Durations,
    retry_after: Option<(Duration, Duration)>,
    /// What else went wrong, the last of it.
    failed: (u64, Option<KmsError>),
}

#[expect(clippy::cast_precision_loss, reason = "shares")]
impl Side {
    /// As a share of what the server lets through.
    fn goodput(&self) -> f64 {
        self.callers.answered as f64 / self.length.as_secs_f64() / f64::from(CAPACITY)
    }

    fn throttled_share(&self) -> f64 {
        self.throttled as f64 / self.sent.max(1) as f64
    }
}

/// Through the pool; and the rate that its budget had learned, each few seconds.
async fn with_budget(length: Duration) -> Result<(Side, Vec<(u64, Option<f64>)>), Box<dyn Error>> {
    let server = Server::start(KmsLocal::builder().region(REGION)).await?;
    let pool = KmsPool::builder()
        .endpoint_url(server.endpoint(REGION))
        .trust_root_pem(server.ca_pem())
        .build()?;
    let principal = Principal::new(server.issue_credentials());
    pool.client(REGION, &principal).await?;
    let watched = async {
        let (begun, mut rates) = (Instant::now(), vec![]);
        for second in (1..=length.as_secs()).filter(|second| *second <= 5 || second % 5 == 0) {
            tokio::time::sleep_until(begun + Duration::from_secs(second)).await;
            rates.push((
                second,
                pool.client_stats().first().and_then(|client| client.requests_per_second),
            ));
        }
        rates
    };
    let load = offer(&server, length, || {
        let (pool, principal) = (pool.clone(), principal.clone());
        async move { pool.client(REGION, &principal).await }
    });
    let (side, rates) = tokio::join!(load, watched);
    Ok((side?, rates))
}

/// Through one client of the SDK, as it comes.
async fn without_budget(length: Duration) -> Result<Side, Box<dyn Error>> {
    let server = Server::start(KmsLocal::builder().region(REGION)).await?;
    let client = Plain::new(&server)?.client(&server, REGION);
    offer(&server, length, || std::future::ready(Ok(client.clone()))).await
}

/// Asks for data keys at a steady pace.
async fn offer<F: Future<Output = Result<Client, KmsError>> + Send + 'static>(
    server: &Server,
    length: Duration,
    client: impl Fn() -> F,
) -> Result<Side, Box<dyn Error>> {
    let key = server.create_key(REGION);
    server.faults(REGION).throttle_above(CAPACITY);
    server.reset_counters(REGION);
    let callers = Arc::new(Mutex::new(Callers::default()));
    let end = Instant::now() + length;
    let mut pace = tokio::time::interval(Duration::from_secs(1) / OFFERED);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut tasks = JoinSet::new();
    loop {
        let due = pace.tick().await;
        if due >= end {
            break;
        }
        let (client, key, callers) = (client(), key.clone(), Arc::clone(&callers));
        tasks.spawn(async move {
            let asked = async {
                Ok(client.await?.generate_data_key().key_id(key).number_of_bytes(32).send().await?)
            };
            let answer: Result<_, KmsError> = asked.await;
            let now = Instant::now();
            callers.lock().unwrap_or_else(PoisonError::into_inner).note(
                answer.map(drop),
                now - due,
                now <= end,
            );
        });
        while tasks.try_join_next().is_some() {}
    }
    // Requests that are still in flight count as sent.
    while tasks.join_next().await.is_some() {}
    let counters = server.counters(REGION);
    let callers = std::mem::take(&mut *callers.lock().unwrap_or_else(PoisonError::into_inner));
    let throttled = counters.outcomes("GenerateDataKey", "ThrottlingException");
    Ok(Side { callers, length, sent: counters.requests("GenerateDataKey"), throttled })
}

impl Callers {
    fn note(&mut self, answer: Result<(), KmsError>, took: Duration, in_time: bool) {
        self.asked += 1;
        match answer {
            Ok(()) => {
                self.latency.record(took);
                self.answered += u64::from(in_time);
            }
            Err(error)
                if matches!(error.kind(), KmsErrorKind::Throttled | KmsErrorKind::OverBudget) =>
            {
                self.refused.record(took);
                if let Some(after) = error.retry_after() {
                    let (least, most) = self.retry_after.unwrap_or((after, after));
                    self.retry_after = Some((least.min(after), most.max(after)));
                }
            }
            Err(error) => self.failed = (self.failed.0 + 1, Some(error)),
        }
    }
}
