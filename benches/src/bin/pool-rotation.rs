//! The cost of credential rotations for callers that send requests at a steady pace.
//!
//! An open loop of requests to a KMS over TLS, each through the client that the pool gives at that
//! moment, with no cache between. Two principals of one pool take turns of five seconds, two for
//! one, over the same connections, so that what the machine itself does falls on both: the access
//! key of one stays; the provider of the other hands out sessions of two seconds, which the pool
//! renews in the background at half of their life. So its credentials are replaced every second,
//! and the server refuses the old ones two seconds after they were made, one after they were
//! replaced. When the other principal has its turn the pool holds no slot of the rotating one, so
//! that nothing is renewed.
//!
//! The server has a thread of its own, in this process. Each turn begins with more requests at once
//! than the load ever has under way, so that connections that a pause of the machine needs are
//! there: connections that are opened later are counted.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, process::ExitCode, time::Duration};

use benches::{
    load::{Durations, Fared},
    picture,
    pool::{Caller, Pace, PooledKms, Sessions},
    verdict,
};
use clap::Parser;
use kms_local::Counters;
use kms_pool::{KmsErrorKind, Principal};

/// As long for either, so that pauses of the machine are as likely in each.
const TURN: Duration = Duration::from_secs(5);
/// How much longer the 99.9th percentile may be with rotations.
const LINE: f64 = 1.5;

#[derive(Parser)]
#[command(
    about = "Prints what requests wait for while credentials rotate every second, beside the same without"
)]
struct Args {
    /// Twenty seconds with rotations; times are printed and not judged
    #[arg(long)]
    quick: bool,
    /// How long the load lasts with rotations; half of it more without
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    seconds: u64,
    /// How long a session lives, which is renewed at half of it; an hour shows by what two loads
    /// without rotations differ
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    lifetime: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args = Args::parse();
    let seconds = if args.quick { 20 } else { args.seconds };
    let (lifetime, rounds) =
        (Duration::from_secs(args.lifetime), seconds.div_ceil(2 * TURN.as_secs()).max(1));
    let kms = PooledKms::start(|pool| pool).await?;
    let sessions = Sessions::new(&kms.server, lifetime);
    let mut rotating = Side::new("with rotations", kms.caller(Principal::new(sessions.clone())));
    let mut still = Side::new("without", kms.steady_caller());
    kms.connect(&[&rotating.caller, &still.caller]).await?;
    let pace = kms.pace(&still.caller).await?;
    println!("{pace}");
    println!(
        "sessions of {lifetime:?}, {} turns of {TURN:?} with them; {rounds} without in between",
        2 * rounds
    );
    kms.connect(&[&rotating.caller, &still.caller]).await?;
    rotating.caller.pool.remove(&rotating.caller.principal);

    kms.server.reset_counters(benches::kms::REGION);
    let before = kms.pool.stats();
    for _ in 0..rounds {
        rotating.turn(&kms, pace).await?;
        rotating.caller.pool.remove(&rotating.caller.principal);
        still.turn(&kms, pace).await?;
        rotating.turn(&kms, pace).await?;
    }
    let (counters, after) = (kms.counters(), kms.pool.stats());
    let opened = after.connections_opened - before.connections_opened;
    let rotations = after.rotations - before.rotations;
    show(&rotating, &still, &counters)?;
    println!(
        "{rotations} rotations, {} access keys; connections opened: {opened}",
        counters.access_keys.len()
    );

    let failed = rotating.fared.failed() + still.fared.failed();
    let handshakes = counters.tls_handshakes;
    let ratio = ratio(&rotating, &still, 0.999);
    // One a second, but for what begins and ends with a turn and what the machine is late with.
    let rotates = rotations >= 2 * rounds * TURN.as_secs() * if args.quick { 5 } else { 8 } / 10;
    let passed =
        failed == 0 && handshakes == 0 && opened == 0 && rotates && (args.quick || ratio < LINE);
    let figures = format!(
        "{} requests during {rotations} rotations at {:.0} a second: failed {failed}, TLS handshakes {handshakes}; p99.9 \
         with to without {ratio:.2}{}",
        rotating.fared.measured.latency.count(),
        pace.per_second,
        if args.quick { ", not judged" } else { "" }
    );
    println!();
    Ok(verdict(passed, figures))
}

/// One of those that take turns.
struct Side {
    name: &'static str,
    caller: Caller,
    fared: Fared<KmsErrorKind>,
    /// The 99.9th percentile of each turn.
    turns: Vec<Duration>,
}

impl Side {
    fn new(name: &'static str, caller: Caller) -> Self {
        Self { name, caller, fared: Fared::default(), turns: vec![] }
    }

    /// Runs the load for a while, after as many requests at once as there can be.
    async fn turn(&mut self, kms: &PooledKms, pace: Pace) -> Result<(), Box<dyn Error>> {
        kms.connect(&[&self.caller]).await?;
        let fared = self.caller.crowd(pace.interval(), TURN).await.ended().await;
        self.turns.push(fared.measured.latency.at(0.999));
        self.fared.merge(fared);
        Ok(())
    }

    /// The least, the median and the longest of the turns' 99.9th percentiles: by which a few long
    /// pauses of the machine can be told from what happens each second.
    fn spread(&self) -> [Duration; 3] {
        let mut turns = self.turns.clone();
        turns.sort_unstable();
        [turns[0], turns[turns.len() / 2], turns[turns.len() - 1]]
    }
}

/// Prints how both loads fared and what the server counted, and draws both.
fn show(with: &Side, without: &Side, counters: &Counters) -> Result<(), Box<dyn Error>> {
    println!();
    println!(
        "{:>32}  {:>9}  {:>7}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
        "", "requests", "failed", "p50", "p99", "p99.9", "p99.99", "longest"
    );
    for side in [without, with] {
        let measured = &side.fared.measured;
        print("from the due time", side, &measured.latency);
        print("the request alone", side, &measured.service);
        if side.fared.failed() > 0 {
            println!("{:>32}  {:?}", "failures", side.fared.failures);
        }
    }
    let [p50, p99, p9999] = [0.5, 0.99, 0.9999].map(|share| ratio(with, without, share));
    println!("with to without: p50 {p50:.2}, p99 {p99:.2}, p99.99 {p9999:.2}");
    for side in [without, with] {
        let [least, median, longest] = side.spread();
        println!(
            "p99.9 of the turns {}: {least:.1?} to {longest:.1?}, median {median:.1?}",
            side.name
        );
    }
    println!("the server: {:?}, TLS handshakes {}", counters.operations, counters.tls_handshakes);
    let file = picture::histogram(
        "pool-rotation",
        "Latency of GenerateDataKey while credentials rotate every second",
        &[
            ("without rotations", &without.fared.measured.latency),
            ("with rotations", &with.fared.measured.latency),
        ],
    )?;
    println!("picture: {}", file.display());
    Ok(())
}

fn print(what: &str, side: &Side, durations: &Durations) {
    let [p50, p99, p999, p9999] =
        [0.5, 0.99, 0.999, 0.9999].map(|share| format!("{:.1?}", durations.at(share)));
    println!(
        "{:>32}  {:>9}  {:>7}  {p50:>9}  {p99:>9}  {p999:>9}  {p9999:>9}  {:>9}",
        format!("{what}, {}", side.name),
        durations.count(),
        side.fared.failed(),
        format!("{:.1?}", durations.longest())
    );
}

/// How much longer it takes with rotations.
fn ratio(with: &Side, without: &Side, share: f64) -> f64 {
    let at = |side: &Side| side.fared.measured.latency.at(share);
    at(with).div_duration_f64(at(without))
}
