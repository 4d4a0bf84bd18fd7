//! Loads that are spread over many runtimes, compared with the same loads on one runtime.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{error::Error, io, thread, time::Duration};

use tokio::runtime::{self, Runtime};

use crate::{
    Lines,
    kms::Kms,
    trials::{Fared, HEAD, Trial, count, millis, new_runtime, round_trip, start},
};

/// The latency of KMS.
const LATENCY: Duration = Duration::from_millis(5);
const THREADS: usize = 8;
const RUNTIMES_A_THREAD: usize = 40;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Runs the trial.
///
/// # Errors
///
/// If the server or a runtime cannot start.
pub fn run(quick: bool) -> Trial {
    let mut lines = Lines::default();
    let lines = &mut lines;
    let (successive, idle) = if quick { (100, 10) } else { (500, 40) };
    println!("KMS takes {LATENCY:?}; an operation is an encrypt and a decrypt of a new tenant.\n");
    println!("{:>32}  {HEAD}", "");
    compare(
        "successive runtimes",
        lines,
        |kms| on_one(kms, successive),
        |kms| one_after_the_other(kms, successive),
    )?;
    compare(
        "8 threads x 40 runtimes",
        lines,
        |kms| on_one_at_once(kms, RUNTIMES_A_THREAD),
        |kms| at_once(kms, RUNTIMES_A_THREAD),
    )?;
    compare(
        "first runtime kept, idle",
        lines,
        |kms| on_one(kms, idle),
        |kms| beside_an_idle_one(kms, idle),
    )?;
    compare(
        "a kept runtime for each of 8",
        lines,
        |kms| on_one(kms, idle),
        |kms| in_turn(kms, idle),
    )?;
    println!();
    Ok(std::mem::take(lines).verdict())
}

/// Runs the same workload on one runtime and on many, and compares the two.
fn compare(
    name: &str,
    lines: &mut Lines,
    one: impl FnOnce(&Kms) -> io::Result<Fared>,
    many: impl FnOnce(&Kms) -> io::Result<Fared>,
) -> Outcome<()> {
    let (alone, _) = measure(&format!("{name}: on one"), one)?;
    let (fared, retries) = measure(name, many)?;
    let ratio = fared.took.at(0.99).as_secs_f64() / alone.took.at(0.99).as_secs_f64();
    lines.at_most(format!("{name}: failed"), count(fared.failed), 0.0);
    lines.at_most(format!("{name}: retries"), count(retries), 0.0);
    lines.at_most(format!("{name}: p99, x that on one runtime"), ratio, 2.0);
    lines.at_most(format!("{name}: longest, ms"), millis(fared.took.longest()), 1e3);
    Ok(())
}

fn measure(name: &str, load: impl FnOnce(&Kms) -> io::Result<Fared>) -> Outcome<(Fared, u64)> {
    let kms = start(|pool| pool)?;
    kms.faults().latency(LATENCY);
    let fared = load(&kms)?;
    println!("{name:>32}  {fared}");
    Ok((fared, kms.pool().stats().retries))
}

fn on_one(kms: &Kms, operations: usize) -> io::Result<Fared> {
    let runtime = new_runtime()?;
    let mut fared = Fared::default();
    for _ in 0..operations {
        runtime.block_on(fared.note(round_trip(&kms.envelope)));
    }
    Ok(fared)
}

fn one_after_the_other(kms: &Kms, runtimes: usize) -> io::Result<Fared> {
    let mut fared = Fared::default();
    for _ in 0..runtimes {
        new_runtime()?.block_on(fared.note(round_trip(&kms.envelope)));
    }
    Ok(fared)
}

/// As many tasks as [`at_once`] has threads, on one runtime with as many worker threads.
fn on_one_at_once(kms: &Kms, operations: usize) -> io::Result<Fared> {
    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let tasks: Vec<_> = (0..THREADS)
        .map(|_| {
            let envelope = kms.envelope.clone();
            runtime.spawn(async move {
                let mut fared = Fared::default();
                for _ in 0..operations {
                    fared.note(round_trip(&envelope)).await;
                }
                fared
            })
        })
        .collect();
    let mut all = Fared::default();
    for task in tasks {
        all.merge(runtime.block_on(task).map_err(io::Error::other)?);
    }
    Ok(all)
}

fn at_once(kms: &Kms, runtimes: usize) -> io::Result<Fared> {
    let mut all = Fared::default();
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|_| scope.spawn(|| one_after_the_other(kms, runtimes))).collect();
        for thread in threads {
            all.merge(thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
        }
        Ok(all)
    })
}

/// The first runtime has opened a connection and is kept, but nothing drives it.
fn beside_an_idle_one(kms: &Kms, operations: usize) -> io::Result<Fared> {
    let first = new_runtime()?;
    let mut fared = Fared::default();
    first.block_on(fared.note(round_trip(&kms.envelope)));
    let rest = on_one(kms, operations)?;
    drop(first);
    fared.merge(rest);
    Ok(fared)
}

/// One runtime per thread; each is driven for one operation at a time.
fn in_turn(kms: &Kms, operations: usize) -> io::Result<Fared> {
    let runtimes: Vec<Runtime> = (0..THREADS).map(|_| new_runtime()).collect::<Result<_, _>>()?;
    let mut fared = Fared::default();
    for runtime in runtimes.iter().cycle().take(operations) {
        runtime.block_on(fared.note(round_trip(&kms.envelope)));
    }
    Ok(fared)
}
