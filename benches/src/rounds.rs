//! Timing in alternating rounds, so that disturbances of the machine affect all sides alike.

use std::{
    sync::{Barrier, OnceLock},
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// A function that several threads can call.
pub(crate) type Call<'a> = dyn Fn() + Sync + 'a;

/// How long each thread runs before its calls count, until it has its own processor.
const WARM_UP: Duration = Duration::from_millis(10);

/// Returns the times of one call of each side in nanoseconds, one for each round. In a round, each
/// side in succession is called `repeat` times.
pub(crate) fn times<const N: usize>(
    rounds: usize,
    repeat: u32,
    mut sides: [&mut dyn FnMut(); N],
) -> [Vec<f64>; N] {
    let mut times = [const { vec![] }; N];
    for _ in 0..rounds {
        for (times, side) in times.iter_mut().zip(&mut sides) {
            times.push(time(repeat, side));
        }
    }
    times
}

/// Returns the medians of [`times`].
pub(crate) fn medians<const N: usize>(
    rounds: usize,
    repeat: u32,
    sides: [&mut dyn FnMut(); N],
) -> [f64; N] {
    times(rounds, repeat, sides).map(median)
}

/// Returns how many calls of so many nanoseconds take half a millisecond. In most rounds of this
/// length, the thread is not interrupted.
pub(crate) fn repeat(nanos: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 2,000")]
    let repeat = (5e5 / nanos).clamp(1.0, 2_000.0) as u32;
    repeat
}

/// Returns the time of one call in nanoseconds.
pub(crate) fn time(repeat: u32, mut call: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..repeat).for_each(|_| call());
    nanos(started) / f64::from(repeat)
}

/// Returns the nanoseconds since then.
pub(crate) fn nanos(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e9
}

/// Returns how often each side is called in a second by all of its threads together, one value for
/// each round. Each side has a thread for each of its calls.
pub(crate) fn rates<const N: usize>(
    rounds: usize,
    span: Duration,
    sides: [&[&Call]; N],
) -> [Vec<f64>; N] {
    let mut rates = [const { vec![] }; N];
    for _ in 0..rounds {
        for (rates, calls) in rates.iter_mut().zip(sides) {
            rates.push(rate(span, calls));
        }
    }
    rates
}

fn rate(span: Duration, calls: &[&Call]) -> f64 {
    let ready = Barrier::new(calls.len());
    let start = OnceLock::new();
    let count = |call: &Call| {
        let batch = u32::max(1, repeat(time(1, call)) / 5);
        let begun = Instant::now();
        while begun.elapsed() < WARM_UP {
            call();
        }
        ready.wait();
        // All threads share one start: a thread that starts late must not seem fast.
        let started = *start.get_or_init(Instant::now);
        let mut count = 0.0;
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
        threads.into_iter().map(|thread| thread.join().expect("no call panics")).sum()
    })
}

/// Returns the median of the ratios of two sides, round by round.
pub(crate) fn ratio(numerators: &[f64], denominators: &[f64]) -> f64 {
    median(numerators.iter().zip(denominators).map(|(one, other)| one / other).collect())
}

/// Returns the median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
