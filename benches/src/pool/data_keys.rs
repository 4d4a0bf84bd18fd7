//! The cost of data key rotations for callers that encrypt at a steady pace.
//!
//! An open loop at half of the capacity of one thread. Two clients of one KMS alternate, one
//! segment each: the first one keeps its data key, the second one rotates it, so that disturbances
//! of the machine affect both. The same is then repeated with the load as a task on one of the
//! runtime's workers, which also run the background work.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{hint::black_box, time::Duration};

use benches::{Result, context, limits::Limits};
use envelope::{EncryptionContext, Envelope, materials::MaterialsCache};
use tokio::runtime::Handle;

use crate::{
    Args,
    kms::Kms,
    load::{self, HEAD, Outcomes, count},
    picture,
};

const PLAINTEXT: [u8; 1024] = [7; 1024];
const LATENCY: Duration = Duration::from_millis(200);
const MAX_AGE: Duration = Duration::from_secs(2);
/// How long a data key lasts at the pace of the load.
const ROTATE_EVERY: Duration = Duration::from_millis(600);
/// How much longer the 99.9th percentile may be with rotations.
const MAX_RATIO: f64 = 1.5;

pub(crate) async fn run(args: &Args) -> Result {
    let segments = args.pick(5, 12);
    let length = Duration::from_secs(args.pick(2, 5));
    let kms = Kms::start()?;
    let caches = [MaterialsCache::new(10), MaterialsCache::new(10)];
    let still = kms.envelope(&caches[0], |builder| builder)?;
    let measured = still.clone();
    still.encrypt(&PLAINTEXT, &context()).await?;
    let encrypts = move || {
        let envelope = measured.clone();
        async move { Ok(encrypt(&envelope, &context()).await?) }
    };
    let rate = load::capacity(1, Duration::from_secs(2), encrypts).await? / 2.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let max_messages = (rate * ROTATE_EVERY.as_secs_f64()) as u64;
    let rotating =
        kms.envelope(&caches[1], |builder| builder.max_age(MAX_AGE).max_messages(max_messages))?;
    kms.faults().latency(LATENCY);
    println!("{rate:.0} encryptions of 1 KiB a second; KMS takes {LATENCY:?}");
    println!(
        "a data key lasts {max_messages} messages or {MAX_AGE:?}; {segments} x {length:?} each"
    );

    let interval = Duration::from_secs(1).div_f64(rate);
    let side = |place, at: usize| {
        let envelope = [&still, &rotating][at].clone();
        Side { place, envelope, cache: &caches[at], outcomes: Outcomes::default(), counts: [0; 2] }
    };
    let mut pairs = [Place::Thread, Place::Worker].map(|place| [side(place, 0), side(place, 1)]);
    for _ in 0..segments {
        for side in pairs.iter_mut().flatten() {
            side.run(interval, length).await?;
        }
    }
    let mut limits = Limits::default();
    for [without, with] in &pairs {
        let place = without.place.name();
        println!("\n{place:>28}  {HEAD}");
        for (name, side) in [("without rotations", without), ("with rotations", with)] {
            println!("{name:>28}  {}", side.outcomes);
            println!("{:>28}  {:>13} {}", "encrypt alone", "", side.outcomes.service);
            println!("{:>28}  {:.1?}", "waited for a core", side.outcomes.without_core);
        }
        let [without_latency, with_latency] = [without, with].map(|side| &side.outcomes.latency);
        let ratio = |share| with_latency.at(share).div_duration_f64(without_latency.at(share));
        let [p50, p99, p9999] = [0.5, 0.99, 0.9999].map(ratio);
        println!("with to without: p50 {p50:.2}, p99 {p99:.2}, p99.99 {p9999:.2}");
        let series = [("without rotations", without_latency), ("with rotations", with_latency)];
        let title = format!("Latency of encrypt on a {place} at half of the capacity");
        let path = picture::histogram(&format!("rotation-{place}"), &title, &series)?;
        println!("picture: {}", path.display());
        let waits = count(without.counts[1] + with.counts[1]);
        limits.at_least(format!("{place}: rotations"), count(with.counts[0]), 1.0);
        limits.at_most(format!("{place}: encryptions that waited for KMS"), waits, 0.0);
        limits.at_most(format!("{place}: p99.9 with to without"), ratio(0.999), MAX_RATIO);
    }
    Ok(limits.verdict())
}

/// Where the load runs.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// On its own thread.
    Thread,
    /// As a task on a worker of the runtime.
    Worker,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Worker => "worker",
        }
    }
}

/// One of the alternating loads.
struct Side<'a> {
    place: Place,
    envelope: Envelope,
    cache: &'a MaterialsCache,
    outcomes: Outcomes,
    /// Rotations, and encryptions without a data key.
    counts: [u64; 2],
}

impl Side<'_> {
    /// Runs the load for a segment. The first encryption is not measured, because the data key may
    /// have expired during the segments of the other loads.
    async fn run(&mut self, interval: Duration, length: Duration) -> Result<()> {
        let (envelope, context) = (self.envelope.clone(), context());
        envelope.encrypt(&PLAINTEXT, &context).await?;
        let before = self.cache.stats().encryption;
        let load =
            async move { load::steady(interval, length, || encrypt(&envelope, &context)).await };
        let outcomes = match self.place {
            Place::Thread => {
                let runtime = Handle::current();
                tokio::task::spawn_blocking(move || runtime.block_on(load)).await??
            }
            Place::Worker => tokio::spawn(load).await??,
        };
        self.outcomes.merge(outcomes);
        let after = self.cache.stats().encryption;
        self.counts[0] += after.promotions - before.promotions;
        self.counts[1] += after.misses - before.misses;
        Ok(())
    }
}

async fn encrypt(
    envelope: &Envelope,
    context: &EncryptionContext,
) -> std::result::Result<(), envelope::Error> {
    black_box(envelope.encrypt(black_box(&PLAINTEXT), context).await?);
    Ok(())
}
