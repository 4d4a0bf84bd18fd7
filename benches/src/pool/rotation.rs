//! The cost of credential rotations for callers that send KMS requests at a steady pace.
//!
//! Two principals of one pool alternate, with turns of five seconds, two for one, over the same
//! connections. The access key of one stays. The provider of the other one returns sessions of two
//! seconds, which the pool renews at half of their life, and which the server refuses after their
//! end. Between its turns, its client is removed from the pool, so that nothing is renewed.
//!
//! Each turn begins with more concurrent requests than the load has, so that the connections for a
//! pause of the machine are open. Connections that are opened later are counted.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::time::Duration;

use benches::{Result, limits::Limits};
use kms_pool::Principal;

use super::sessions::Sessions;
use crate::{
    Args,
    kms::{Caller, Kms, MAX_IN_FLIGHT, Pace, REGION},
    load::{Durations, HEAD, Outcomes, count},
    picture,
};

const TURN: Duration = Duration::from_secs(5);
/// How much longer the 99.9th percentile may be with rotations.
const MAX_RATIO: f64 = 1.5;

pub(crate) async fn run(args: &Args, lifetime: u64) -> Result {
    let rounds = args.seconds(20, 600).div_ceil(2 * TURN.as_secs()).max(1);
    let lifetime = Duration::from_secs(lifetime);
    let kms = Kms::with(|pool| pool.max_in_flight(MAX_IN_FLIGHT))?;
    let sessions = Principal::new(Sessions::new(&kms.server, lifetime));
    let mut with = Side::new("with rotations", kms.caller(sessions));
    let mut without = Side::new("without", kms.caller(kms.principal.clone()));
    kms.connect(&[&with.caller, &without.caller]).await?;
    let pace = kms.pace(&without.caller).await?;
    println!("{pace}; sessions of {lifetime:?}");
    println!("{} turns of {TURN:?} with rotations, and {rounds} without\n", 2 * rounds);
    kms.connect(&[&with.caller, &without.caller]).await?;
    kms.pool.remove(&with.caller.principal);

    kms.server.reset_counters(REGION);
    let before = kms.pool.stats();
    for _ in 0..rounds {
        with.turn(&kms, pace).await?;
        kms.pool.remove(&with.caller.principal);
        without.turn(&kms, pace).await?;
        with.turn(&kms, pace).await?;
    }
    let (counters, after) = (kms.counters(), kms.pool.stats());
    println!("{:>32}  {HEAD}", "");
    for side in [&without, &with] {
        println!("{:>32}  {}", format!("{}, from the due time", side.name), side.outcomes);
        println!("{:>32}  {:>13} {}", "the request alone", "", side.outcomes.service);
        let [min, median, max] = side.spread();
        println!("{:>32}  {min:.1?} to {max:.1?}, median {median:.1?}", "p99.9 of the turns");
    }
    let [with_latency, without_latency] = [&with, &without].map(|side| &side.outcomes.latency);
    let ratio = |share| with_latency.at(share).div_duration_f64(without_latency.at(share));
    let [p50, p99, p9999] = [0.5, 0.99, 0.9999].map(ratio);
    println!("with to without: p50 {p50:.2}, p99 {p99:.2}, p99.99 {p9999:.2}");
    println!("the server: {:?}, {} access keys", counters.operations, counters.access_keys.len());
    let series: [(&str, &Durations); 2] =
        [("without rotations", without_latency), ("with rotations", with_latency)];
    let title = "Latency of GenerateDataKey while credentials rotate every second";
    println!("picture: {}", picture::histogram("pool-rotation", title, &series)?.display());

    let failed = with.outcomes.failed() + without.outcomes.failed();
    let rotations = count(after.rotations - before.rotations);
    let opened = after.connections_opened - before.connections_opened;
    let mut limits = Limits::default();
    limits.at_most("failed requests", count(failed), 0.0);
    limits.at_most("TLS handshakes", count(counters.tls_handshakes), 0.0);
    limits.at_most("connections opened", count(opened), 0.0);
    // One a second, except at the beginning and the end of a turn.
    let expected = count(2 * rounds) * TURN.as_secs_f64() * 2.0 / lifetime.as_secs_f64();
    limits.at_least("rotations", rotations, args.pick(0.5, 0.8) * expected);
    limits.at_most_if(!args.quick, "p99.9 with rotations to without", ratio(0.999), MAX_RATIO);
    Ok(limits.verdict())
}

/// One of the two principals.
struct Side {
    name: &'static str,
    caller: Caller,
    outcomes: Outcomes,
    /// The 99.9th percentile of each turn.
    turns: Vec<Duration>,
}

impl Side {
    fn new(name: &'static str, caller: Caller) -> Self {
        Self { name, caller, outcomes: Outcomes::default(), turns: vec![] }
    }

    async fn turn(&mut self, kms: &Kms, pace: Pace) -> Result<()> {
        kms.connect(&[&self.caller]).await?;
        let outcomes = self.caller.crowd(pace.interval(), TURN).await.ended().await;
        self.turns.push(outcomes.latency.at(0.999));
        self.outcomes.merge(outcomes);
        Ok(())
    }

    /// The minimum, median and maximum of the percentiles of the turns. They show whether a few
    /// long pauses of the machine matter, or what happens each second.
    fn spread(&self) -> [Duration; 3] {
        let mut turns = self.turns.clone();
        turns.sort_unstable();
        [turns[0], turns[turns.len() / 2], turns[turns.len() - 1]]
    }
}
