//! How many times the primitives' floor a warm `encrypt` and `decrypt` cost.
//!
//! Each row alternates floor and library in rounds and takes the median round, so that what else the
//! machine does falls on both. `--quick` takes fewer rounds.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::hint::black_box;
use std::time::Duration;

use benches::{context, floor_open, floor_seal, warm};
use clap::Parser;
use tokio::time::Instant;

#[derive(Parser)]
#[command(about = "Prints what sealing and opening cost, as ratios to the bare primitives")]
struct Args {
    /// Finish in seconds, with rougher figures
    #[arg(long)]
    quick: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), envelope::Error> {
    let rounds = if Args::parse().quick { 21 } else { 201 };
    let (envelope, context, data_key) = (warm().await?, context()?, [7; 32]);
    println!("0x0478, 4096-byte frames, warm cache, one thread; median of {rounds} alternating rounds");
    println!(
        "{:>9}  {:>12}  {:>12}  {:>5}   {:>12}  {:>12}  {:>5}",
        "bytes", "seal", "floor", "ratio", "open", "floor", "ratio"
    );
    for size in [16, 256, 1024, 4096, 65_536, 1_048_576] {
        let plaintext = vec![0; size];
        let message = envelope.try_encrypt(&plaintext, &context)?;
        let floor_message = floor_seal(&data_key, &plaintext);
        let repeat = u32::try_from(4_000_000 / (size + 2_000)).map_or(1, |repeat| repeat.max(1));
        let (seal, seal_floor) = medians(
            rounds,
            repeat,
            || drop(black_box(envelope.try_encrypt(black_box(&plaintext), &context))),
            || drop(black_box(floor_seal(&data_key, black_box(&plaintext)))),
        );
        let (open, open_floor) = medians(
            rounds,
            repeat,
            || drop(black_box(envelope.try_decrypt(black_box(&message), &context))),
            || drop(black_box(floor_open(&data_key, black_box(&floor_message)))),
        );
        println!(
            "{size:>9}  {seal:>12.2?}  {seal_floor:>12.2?}  {:>5.2}   {open:>12.2?}  {open_floor:>12.2?}  {:>5.2}",
            seal.div_duration_f64(seal_floor),
            open.div_duration_f64(open_floor),
        );
    }
    Ok(())
}

/// The median time of one call of each, over rounds in which they alternate.
fn medians(rounds: usize, repeat: u32, mut one: impl FnMut(), mut other: impl FnMut()) -> (Duration, Duration) {
    let (mut ones, mut others) = (vec![], vec![]);
    for _ in 0..rounds {
        ones.push(time(repeat, &mut one));
        others.push(time(repeat, &mut other));
    }
    ones.sort();
    others.sort();
    (ones[rounds / 2], others[rounds / 2])
}

fn time(repeat: u32, call: &mut impl FnMut()) -> Duration {
    let started = Instant::now();
    (0..repeat).for_each(|_| call());
    started.elapsed() / repeat
}
