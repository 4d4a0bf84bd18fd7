//! How long another task of the same thread waits for its turn while a long message is sealed or
//! opened, as ratios to what the bare primitives take for one slice of 256 KiB, and the lines that
//! this is held to.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{
    error::Error,
    hint::black_box,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use benches::{
    FRAME_LENGTH, Lines, context,
    floor::{Backend, Floor},
    rounds::{median, time},
    warm,
};
use clap::Parser;
use envelope::AlgorithmSuite;
use tokio::{task, time::Instant};

const LENGTH: usize = 50_000_000;
const SLICE: usize = 262_144;
/// How many messages a batch has, so that it is as long.
const MESSAGES: usize = 50_000;

#[derive(Parser)]
#[command(about = "Prints how long other tasks wait for their turn beside a long message")]
struct Args {
    /// Finish within some seconds, with rougher figures
    #[arg(long)]
    quick: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let rounds = if Args::parse().quick { 5 } else { 50 };
    let (envelope, context) = (warm().await?, context()?);
    let plaintext = vec![7; LENGTH];
    let batch: Vec<&[u8]> = plaintext.chunks(LENGTH / MESSAGES).collect();
    let message = envelope.encrypt(&plaintext, &context).await?;
    let messages = envelope.encrypt_batch(&batch, &context).await?;

    let floor = Floor::new(Backend::AwsLc, AlgorithmSuite::default(), Some(FRAME_LENGTH as usize));
    let slice = vec![7; SLICE];
    let floor = median(
        (0..1_000).map(|_| time(1, || drop(black_box(floor.seal(black_box(&slice)))))).collect(),
    ) / 1e3;
    println!(
        "the primitives take {floor:.1} µs for 256 KiB; what a task waits for its turn, in microseconds,"
    );
    println!("while another one does this, {rounds} times:");
    println!("{:<34} {:>8} {:>9} {:>9} {:>9}", "", "turns", "median", "99%", "longest");

    let mut lines = Lines::default();
    let mut line = |what: &str, waits: Waits| {
        let [median, most, longest] = [0.5, 0.99, 1.0].map(|share| waits.quantile(share));
        println!("{what:<34} {:>8} {median:>9.1} {most:>9.1} {longest:>9.1}", waits.0.len());
        lines.at_most(format!("{what}: 99% over the primitives"), most / floor, 2.0);
    };
    // Into buffers that were used before: for fresh memory the system takes as long again.
    let (mut sealed, mut opened) =
        (Vec::with_capacity(message.len()), Vec::with_capacity(message.len()));
    let seal = async || {
        sealed.clear();
        drop(black_box(envelope.encrypt_into(&plaintext, &context, &mut sealed).await));
    };
    line("encrypt_into, 50 MB", beside(rounds, seal).await?);
    let open = async || {
        opened.clear();
        drop(black_box(envelope.decrypt_into(&message, &context, &mut opened).await));
    };
    line("decrypt_into, 50 MB", beside(rounds, open).await?);
    let seal_batch = async || drop(black_box(envelope.encrypt_batch(&batch, &context).await));
    line("encrypt_batch, 50,000 of 1 kB", beside(rounds, seal_batch).await?);
    let open_batch = async || drop(black_box(envelope.decrypt_batch(&messages, &context).await));
    line("decrypt_batch, 50,000 of 1 kB", beside(rounds, open_batch).await?);
    let whole =
        beside(rounds, async || drop(black_box(envelope.try_encrypt(&plaintext, &context))))
            .await?;
    println!(
        "{:<34} {:>8} {:>9} {:>9} {:>9.1}",
        "try_encrypt, 50 MB, takes none",
        "",
        "",
        "",
        whole.quantile(1.0)
    );
    println!();
    Ok(lines.verdict())
}

/// How long a task waited for each of its turns, in microseconds, sorted.
struct Waits(Vec<f64>);

impl Waits {
    fn quantile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let at = (self.0.len() as f64 * share) as usize;
        self.0[at.min(self.0.len() - 1)]
    }
}

/// Runs a task that wants its turn all the time beside the work.
async fn beside(rounds: usize, mut work: impl AsyncFnMut()) -> Result<Waits, Box<dyn Error>> {
    let done = Arc::new(AtomicBool::new(false));
    let is_done = Arc::clone(&done);
    let other = task::spawn(async move {
        let (mut waits, mut last) = (vec![], Instant::now());
        while !is_done.load(Relaxed) {
            task::yield_now().await;
            let now = Instant::now();
            waits.push((now - last).as_secs_f64() * 1e6);
            last = now;
        }
        waits
    });
    task::yield_now().await;
    for _ in 0..rounds {
        work().await;
        // What takes no turns would let it wait for all rounds together.
        task::yield_now().await;
    }
    done.store(true, Relaxed);
    let mut waits = other.await?;
    waits.sort_by(f64::total_cmp);
    Ok(Waits(waits))
}
