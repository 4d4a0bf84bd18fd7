//! The cost of data key rotations for callers that encrypt at a steady pace.
//!
//! An open loop at half of the capacity of one thread. Two clients of one KMS alternate, one
//! segment each: the first one keeps its data key, the second one rotates it, so that disturbances
//! of the machine affect both. The server has its own thread, because a real KMS is elsewhere. The
//! same is then repeated with the load as a task on one of the runtime's workers, which then also
//! runs the background work.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, hint::black_box, process::ExitCode, time::Duration};

use benches::{
    context,
    kms::{Kms, cache},
    load::{self, Durations, Measured},
    picture, verdict,
};
use clap::Parser;
use envelope::{EncryptionContext, Envelope, materials::MaterialsCache};
use tokio::{runtime::Handle, task::JoinError};

const PLAINTEXT: [u8; 1024] = [7; 1024];
const LATENCY: Duration = Duration::from_millis(200);
const MAX_AGE: Duration = Duration::from_secs(2);
/// How long a data key lasts at the pace of the load.
const ROTATE_EVERY: Duration = Duration::from_millis(600);
/// How much longer the 99.9th percentile may be with rotations.
const LINE: f64 = 1.5;

#[derive(Parser)]
#[command(about = "Prints what encryptions wait for with rotations of the data key, and without")]
struct Args {
    /// Ten seconds in place of sixty, for each of the four
    #[arg(long)]
    quick: bool,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let (segments, length) = if Args::parse().quick { (5, 2) } else { (12, 5) };
    let length = Duration::from_secs(length);
    let still = Kms::start(cache(10, 16), |builder| builder).await?;
    let pace = capacity(&still.envelope).await? / 2.0;
    let max_messages = messages(pace);
    let rotating_cache = cache(10, 16);
    let rotating = still
        .client(&rotating_cache, |builder| builder.max_age(MAX_AGE).max_messages(max_messages))?;
    still.faults().latency(LATENCY);
    println!(
        "{pace:.0} encryptions of 1 KiB a second, half of what a thread can do; KMS takes {LATENCY:?}"
    );
    println!(
        "a data key lasts {max_messages} messages or {MAX_AGE:?}; {segments} segments of {length:?} each"
    );

    let interval = Duration::from_secs(1).div_f64(pace);
    let side = |place, rotates| {
        let (envelope, cache) =
            if rotates { (&rotating, &rotating_cache) } else { (&still.envelope, &still.cache) };
        Side::new(place, envelope, cache)
    };
    let mut pairs =
        [Place::Thread, Place::Worker].map(|place| [side(place, false), side(place, true)]);
    for _ in 0..segments {
        for side in pairs.iter_mut().flatten() {
            side.segment(interval, length).await?;
        }
    }
    for pair in &pairs {
        show(pair)?;
    }

    let waited: u64 = pairs.iter().flatten().map(|side| side.waited).sum();
    let [thread, worker] = &pairs;
    let rotations = thread[1].rotations.min(worker[1].rotations);
    let (on_thread, on_worker) = (ratio(thread, 0.999), ratio(worker, 0.999));
    let passed = waited == 0 && rotations > 0 && on_thread < LINE && on_worker < LINE;
    let figures = format!(
        "{rotations} rotations, {waited} encryptions waited for KMS; p99.9 with to without: {on_thread:.2} on a thread, \
         {on_worker:.2} on a worker"
    );
    println!();
    Ok(verdict(passed, figures))
}

/// Where the load runs.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// On a thread that does nothing else.
    Thread,
    /// As a task on a worker of the runtime.
    Worker,
}

impl Place {
    async fn run<T: Send + 'static>(
        self,
        load: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Self::Thread => {
                let runtime = Handle::current();
                tokio::task::spawn_blocking(move || runtime.block_on(load)).await
            }
            Self::Worker => tokio::spawn(load).await,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Worker => "worker",
        }
    }
}

/// One of those that take turns.
struct Side {
    place: Place,
    envelope: Envelope,
    cache: MaterialsCache,
    measured: Measured,
    /// The 99.9th percentile of each segment.
    segments: Vec<Duration>,
    rotations: u64,
    /// Encryptions that found no data key, after the first of a segment.
    waited: u64,
}

impl Side {
    fn new(place: Place, envelope: &Envelope, cache: &MaterialsCache) -> Self {
        let (envelope, cache) = (envelope.clone(), cache.clone());
        Self {
            place,
            envelope,
            cache,
            measured: Measured::default(),
            segments: vec![],
            rotations: 0,
            waited: 0,
        }
    }

    /// Runs the load for a while. The first encryption stands outside: the data key may have grown
    /// too old while the others had their turn.
    async fn segment(
        &mut self,
        interval: Duration,
        length: Duration,
    ) -> Result<(), Box<dyn Error>> {
        let (envelope, context, mut measured) =
            (self.envelope.clone(), context()?, Measured::default());
        envelope.encrypt(&PLAINTEXT, &context).await?;
        let before = self.cache.stats().encryption;
        let load = async move {
            load::steady(interval, length, &mut measured, || encrypt(&envelope, &context)).await?;
            Ok::<_, envelope::Error>(measured)
        };
        let measured = self.place.run(load).await??;
        self.segments.push(measured.latency.at(0.999));
        self.measured.merge(&measured);
        let after = self.cache.stats().encryption;
        self.rotations += after.promotions - before.promotions;
        self.waited += after.misses - before.misses;
        Ok(())
    }
}

impl Side {
    /// The median of the segments' 99.9th percentiles: a few long pauses of the machine do not move
    /// it.
    fn usual(&self) -> Duration {
        let mut segments = self.segments.clone();
        segments.sort_unstable();
        segments[segments.len() / 2]
    }
}

/// Prints a load without rotations, and the same with them, and draws both.
fn show(pair: &[Side; 2]) -> Result<(), Box<dyn Error>> {
    let [without, with] = pair.each_ref().map(|side| &side.measured);
    let place = pair[0].place.name();
    println!();
    println!(
        "{:>34}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
        place, "p50", "p99", "p99.9", "p99.99", "longest"
    );
    print("from the due time, without", &without.latency);
    print("from the due time, with rotations", &with.latency);
    print("encrypt alone, without", &without.service);
    print("encrypt alone, with rotations", &with.service);
    let [p50, p99, p9999] = [0.5, 0.99, 0.9999].map(|share| ratio(pair, share));
    println!("with to without: p50 {p50:.2}, p99 {p99:.2}, p99.99 {p9999:.2}");
    let [usual, usual_with] = pair.each_ref().map(Side::usual);
    println!("median of the segments' p99.9: {usual:.1?} without, {usual_with:.1?} with");
    println!("{} rotations", pair[1].rotations);
    if let Place::Thread = pair[0].place {
        let (without, with) = (without.without_core, with.without_core);
        println!(
            "no core was free for it, so that it waited: {without:.1?} without, {with:.1?} with"
        );
    }
    let file = picture::histogram(
        &format!("rotation-{place}"),
        &format!("Latency of encrypt on a {place} at half of the capacity"),
        &[("without rotations", &without.latency), ("with rotations", &with.latency)],
    )?;
    println!("picture: {}", file.display());
    Ok(())
}

/// How much longer it takes with rotations.
fn ratio([without, with]: &[Side; 2], share: f64) -> f64 {
    with.measured.latency.at(share).div_duration_f64(without.measured.latency.at(share))
}

async fn encrypt(envelope: &Envelope, context: &EncryptionContext) -> Result<(), envelope::Error> {
    black_box(envelope.encrypt(black_box(&PLAINTEXT), context).await?);
    Ok(())
}

/// How many encryptions a worker does in a second.
async fn capacity(envelope: &Envelope) -> Result<f64, Box<dyn Error>> {
    let (envelope, context) = (envelope.clone(), context()?);
    envelope.encrypt(&PLAINTEXT, &context).await?;
    let load = tokio::spawn(async move { load::capacity(|| encrypt(&envelope, &context)).await });
    Ok(load.await??)
}

/// How many messages a data key must last at this pace.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn messages(pace: f64) -> u64 {
    (pace * ROTATE_EVERY.as_secs_f64()) as u64
}

fn print(what: &str, durations: &Durations) {
    let at = |share| durations.at(share);
    println!(
        "{what:>34}  {:>9.1?}  {:>9.1?}  {:>9.1?}  {:>9.1?}  {:>9.1?}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999),
        durations.longest()
    );
}
