//! Sealing, opening, streams, header and cache at every size, suite, frame length and number of
//! threads, each with its ratio to the faster floor.
//!
//! Library and floors take turns in rounds, all threads of one side at once, and the fastest round
//! of each counts: rounds are short, since there are many rows. Time is what one thread takes for
//! one operation while the others do the same. `--quick` leaves out the other frame lengths and 64
//! MiB.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, time::Duration};

use benches::{
    matrix::{self, THREADS},
    rounds::throughputs,
};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Prints every operation's cost as a ratio to the bare primitives")]
struct Args {
    /// Finish within a minute: 4096-byte frames and up to 1 MiB alone, with rougher figures
    #[arg(long)]
    quick: bool,

    /// Only rows whose name contains this, as `seal` or `0x0578`
    #[arg(long, default_value = "")]
    only: String,
}

#[expect(clippy::cast_precision_loss, reason = "a few threads")]
fn main() -> Result<(), Box<dyn Error>> {
    let Args { quick, only } = Args::parse();
    let (rounds, span) =
        if quick { (15, Duration::from_millis(1)) } else { (21, Duration::from_millis(3)) };
    println!(
        "fastest of {rounds} alternating rounds of {span:?}, or one operation if that takes longer; in microseconds"
    );
    println!(
        "{:<36} {:>9} {:>7} {:>11} {:>11} {:<10} {:>6}",
        "operation", "bytes", "threads", "library", "floor", "of", "ratio"
    );
    let small = |case: &matrix::Case| case.frame_length == Some(4096) && case.size <= 1_048_576;
    let wanted = |case: &matrix::Case| (!quick || small(case)) && case.to_string().contains(&only);
    for case in matrix::cases().into_iter().filter(wanted) {
        let (library, floors) = case.sides()?;
        for threads in THREADS {
            let micros =
                |rates: Vec<f64>| threads as f64 * 1e6 / rates.into_iter().fold(0.0, f64::max);
            // A look-up and a copy have one floor, which then takes two turns.
            let (one, other) = (&floors[0], &floors[floors.len() - 1]);
            let [library, one_floor, other_floor] =
                [&library, &one.1, &other.1].map(|side| vec![&**side as _; threads]);
            let rates = throughputs(rounds, span, [&library, &one_floor, &other_floor]);
            let [library, one_time, other_time] = rates.map(micros);
            let (of, floor) =
                if other_time < one_time { (other.0, other_time) } else { (one.0, one_time) };
            println!(
                "{:<36} {:>9} {threads:>7} {library:>11.3} {floor:>11.3} {of:<10} {:>6.2}",
                case.to_string(),
                case.size,
                library / floor
            );
        }
    }
    Ok(())
}
