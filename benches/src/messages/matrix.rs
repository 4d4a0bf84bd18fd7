//! Every operation of the [matrix](benches::matrix), with its ratio to the faster floor.
//!
//! The fastest round of each side counts, because rounds are short. The time is that of one
//! operation in one thread, while the other threads do the same.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{process::ExitCode, time::Duration};

use benches::{
    Result,
    matrix::{Case, THREADS, cases},
};

use crate::{Args, load::count, rounds::rates};

pub(crate) fn run(args: &Args, only: &str) -> Result {
    let rounds = args.pick(15, 21);
    let span = Duration::from_millis(args.pick(1, 3));
    println!("fastest of {rounds} alternating rounds of {span:?}; in microseconds");
    println!(
        "{:<40} {:>9} {:>7} {:>11} {:>11} {:<10} {:>6}",
        "operation", "bytes", "threads", "library", "floor", "of", "ratio"
    );
    let is_short = |case: &Case| case.frame_length == Some(4096) && case.size <= 1_048_576;
    let is_wanted =
        |case: &Case| (!args.quick || is_short(case)) && case.to_string().contains(only);
    for case in cases().into_iter().filter(is_wanted) {
        let (library, floors) = case.sides()?;
        for threads in THREADS {
            // A single floor is measured twice.
            let (one, other) = (&floors[0], &floors[floors.len() - 1]);
            let [library, one_floor, other_floor] =
                [&library, &one.1, &other.1].map(|side| vec![&**side as _; threads]);
            let rates = rates(rounds, span, [&library, &one_floor, &other_floor]);
            let [library, one_time, other_time] = rates
                .map(|rates| count(threads as u64) * 1e6 / rates.into_iter().fold(0.0, f64::max));
            let (of, floor) =
                if other_time < one_time { (other.0, other_time) } else { (one.0, one_time) };
            println!(
                "{:<40} {:>9} {threads:>7} {library:>11.3} {floor:>11.3} {of:<10} {:>6.2}",
                case.to_string(),
                case.size,
                library / floor
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
