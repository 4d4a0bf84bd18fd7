//! Timing by alternating rounds: what else the machine does falls on all alike.

use std::{
    sync::{Barrier, OnceLock},
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// What several threads can call.
pub type Call<'a> = dyn Fn() + Sync + 'a;

/// Nanoseconds for one call of each, as medians over `rounds` in which they take turns, `repeat`
/// calls at a time.
pub fn alternate<const N: usize>(
    rounds: usize,
    repeat: u32,
    mut calls: [&mut dyn FnMut(); N],
) -> [f64; N] {
    let mut times = [const { vec![] }; N];
    for _ in 0..rounds {
        for (times, call) in times.iter_mut().zip(&mut calls) {
            times.push(time(repeat, call));
        }
    }
    times.map(median)
}

/// How often to call what takes about so many nanoseconds, for a turn of about half a millisecond:
/// few enough are interrupted that the median is of one that was not.
#[must_use]
pub fn repeat(nanos: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 2,000"
    )]
    let repeat = (5e5 / nanos).clamp(1.0, 2_000.0) as u32;
    repeat
}

/// Nanoseconds for one call.
pub fn time(repeat: u32, mut call: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..repeat).for_each(|_| call());
    started.elapsed().as_secs_f64() * 1e9 / f64::from(repeat)
}

/// Calls a second of each, over all of its threads, in rounds in which they take turns for `span`.
/// Each thread of one has a call of its own.
pub fn throughputs<const N: usize>(
    rounds: usize,
    span: Duration,
    sides: [&[&Call]; N],
) -> [Vec<f64>; N] {
    let mut rates = [const { vec![] }; N];
    for _ in 0..rounds {
        for (rates, calls) in rates.iter_mut().zip(sides) {
            rates.push(throughput(span, calls));
        }
    }
    rates
}

/// How long each thread runs before it counts: until the system has found it a processor of its
/// own.
const WARM_UP: Duration = Duration::from_millis(10);

fn throughput(span: Duration, calls: &[&Call]) -> f64 {
    let (ready, start) = (Barrier::new(calls.len()), OnceLock::new());
    let count = |call: &Call| {
        let batch = u32::max(1, repeat(time(1, call)) / 5);
        let begun = Instant::now();
        while begun.elapsed() < WARM_UP {
            call();
        }
        ready.wait();
        // One start for all: a thread that is not let run at once must not seem as fast as the
        // others.
        let (started, mut count) = (*start.get_or_init(Instant::now), 0.0);
        while started.elapsed() < span {
            (0..batch).for_each(|_| call());
            count += f64::from(batch);
        }
        count / started.elapsed().as_secs_f64()
    };
    if let [call] = calls {
        return count(call);
    }
    thread::scope(|scope| {
        let threads: Vec<_> = calls.iter().map(|call| scope.spawn(|| count(call))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("the measured code does not panic"))
            .sum()
    })
}

/// The value in the middle.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
