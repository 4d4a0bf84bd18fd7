//! What a KMS is asked when many tasks meet cold entries together: how often, and how much at once.
//! The server counts.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, fmt, future::Future, process::ExitCode, time::Duration};

use benches::{
    kms::{Kms, cache},
    verdict,
};
use clap::Parser;
use envelope::EncryptionContext;
use futures_util::future::try_join_all;

/// The most requests that may be in flight, for encryption and for decryption each: they have
/// separate queues.
const FAN_OUT: usize = 16;
const LATENCY: Duration = Duration::from_millis(50);

#[derive(Parser)]
#[command(about = "Counts what many tasks on cold entries ask of KMS, and how much of it at once")]
struct Args {
    /// A tenth of the tasks and of the entries
    #[arg(long)]
    quick: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let (tasks, entries) = if Args::parse().quick { (1_000, 100) } else { (10_000, 1_000) };
    let kms = Kms::start(cache(100_000, FAN_OUT), |builder| builder).await?;
    kms.faults().latency(LATENCY);
    println!("KMS takes {LATENCY:?}; fan-out {FAN_OUT}; as the server counts:\n");
    println!(
        "{:>32}  {:>7}  {:>15}  {:>7}  {:>14}",
        "", "tasks", "GenerateDataKey", "Decrypt", "most in flight"
    );

    let one: Vec<_> = vec![benches::context()?; tasks];
    let distinct =
        (0..entries).map(|tenant| EncryptionContext::new([("tenant", format!("t{tenant}"))]));
    let distinct = distinct.collect::<Result<Vec<_>, _>>()?;
    let mut rows = vec![];
    let mut row = |row: Row| {
        println!("{row}");
        rows.push(row);
    };

    let (asked, messages) =
        watch(&kms, "encrypt, one cold entry", tasks, (1, 0), seal(&kms, &one)).await?;
    row(asked);
    row(watch(&kms, "decrypt, one cold entry", tasks, (0, 1), open(&kms, &messages, &one))
        .await?
        .0);

    let all = (entries as u64, 0);
    let (asked, messages) =
        watch(&kms, "encrypt, distinct cold entries", entries, all, seal(&kms, &distinct)).await?;
    row(asked);
    let all = (0, entries as u64);
    row(watch(
        &kms,
        "decrypt, distinct cold entries",
        entries,
        all,
        open(&kms, &messages, &distinct),
    )
    .await?
    .0);

    kms.cache.clear();
    let all = (entries as u64, entries as u64);
    let both = async { tokio::try_join!(seal(&kms, &distinct), open(&kms, &messages, &distinct)) };
    row(watch(&kms, "both of them at once", 2 * entries, all, both).await?.0);

    let single = rows.iter().take(2).all(Row::is_met);
    let most = rows.iter().map(|row| row.most_in_flight).max().unwrap_or(0);
    let figures = format!(
        "{tasks} tasks on a cold entry: {} GenerateDataKey, {} Decrypt; at most {most} requests in flight, {FAN_OUT} for each of encryption and decryption",
        rows[0].asked.0, rows[1].asked.1,
    );
    println!();
    Ok(verdict(single && rows.iter().all(Row::is_met), figures))
}

/// What was done, and what the server saw of it.
struct Row {
    what: &'static str,
    tasks: usize,
    /// `GenerateDataKey` and `Decrypt`.
    expected: (u64, u64),
    asked: (u64, u64),
    most_in_flight: u64,
}

impl Row {
    fn is_met(&self) -> bool {
        let queues = u64::from(self.expected.0 > 0) + u64::from(self.expected.1 > 0);
        self.asked == self.expected && self.most_in_flight <= queues * FAN_OUT as u64
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, tasks, asked: (generated, decrypted), most_in_flight, .. } = self;
        write!(f, "{what:>32}  {tasks:>7}  {generated:>15}  {decrypted:>7}  {most_in_flight:>14}")
    }
}

/// Does something, and tells what the server counted meanwhile.
async fn watch<T>(
    kms: &Kms,
    what: &'static str,
    tasks: usize,
    expected: (u64, u64),
    work: impl Future<Output = Result<T, Box<dyn Error>>>,
) -> Result<(Row, T), Box<dyn Error>> {
    kms.reset_counters();
    let done = work.await?;
    let counters = kms.counters();
    // However they ended.
    let asked = (counters.requests("GenerateDataKey"), counters.requests("Decrypt"));
    Ok((Row { what, tasks, expected, asked, most_in_flight: counters.max_in_flight }, done))
}

/// Seals one message for each context, each in a task of its own.
async fn seal(kms: &Kms, contexts: &[EncryptionContext]) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let tasks = contexts.iter().cloned().map(|context| {
        let envelope = kms.envelope.clone();
        tokio::spawn(async move { envelope.encrypt(b"x", &context).await })
    });
    Ok(try_join_all(tasks).await?.into_iter().collect::<Result<_, _>>()?)
}

/// Opens each message, in a task of its own.
async fn open(
    kms: &Kms,
    messages: &[Vec<u8>],
    contexts: &[EncryptionContext],
) -> Result<(), Box<dyn Error>> {
    let tasks = messages.iter().cloned().zip(contexts.iter().cloned()).map(|(message, context)| {
        let envelope = kms.envelope.clone();
        tokio::spawn(async move { envelope.decrypt(&message, &context).await.map(drop) })
    });
    Ok(try_join_all(tasks).await?.into_iter().collect::<Result<_, _>>()?)
}
