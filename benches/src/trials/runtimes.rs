//! Loads that are spread over many runtimes, compared with the same loads on one runtime.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{thread, time::Duration};

use benches::{Result, limits::Limits};
use envelope::Envelope;
use futures_util::future::join_all;
use tokio::runtime::Builder;

use super::{round_trip, runtime, start};
use crate::{
    Args,
    load::{HEAD, Outcomes, count, millis},
};

const LATENCY: Duration = Duration::from_millis(5);
const THREADS: usize = 8;
const RUNTIMES_OF_A_THREAD: usize = 40;

/// A load of so many operations.
type Load = fn(&Envelope, usize) -> Result<Outcomes>;

pub(crate) fn run(args: &Args) -> Result {
    let few = args.pick(10, 40);
    println!("KMS takes {LATENCY:?}; an operation encrypts and decrypts for a new tenant");
    println!("{:>36}  {HEAD}", "");
    let mut limits = Limits::default();
    let pairs: [(&str, usize, Load, Load); 4] = [
        ("successive runtimes", args.pick(100, 500), one_runtime, successive),
        ("8 threads x 40 runtimes", RUNTIMES_OF_A_THREAD, one_large_runtime, concurrent),
        ("first runtime kept, idle", few, one_runtime, with_idle_runtime),
        ("8 kept runtimes, by turns", few, one_runtime, by_turns),
    ];
    for (name, operations, one, many) in pairs {
        let measure = |name: &str, load: Load| {
            let (kms, envelope) = start()?;
            kms.faults().latency(LATENCY);
            let outcomes = load(&envelope, operations)?;
            println!("{name:>36}  {outcomes}");
            Result::Ok((outcomes, kms.pool.stats().retries))
        };
        let (alone, _) = measure(&format!("{name}: on one"), one)?;
        let (outcomes, retries) = measure(name, many)?;
        let latency = outcomes.latency;
        let ratio = latency.at(0.99).div_duration_f64(alone.latency.at(0.99));
        let failed = count(outcomes.failures.values().sum());
        limits.at_most(format!("{name}: failed"), failed, 0.0);
        limits.at_most(format!("{name}: retries"), count(retries), 0.0);
        limits.at_most(format!("{name}: p99, x that on one runtime"), ratio, 2.0);
        limits.at_most(format!("{name}: max, in ms"), millis(latency.max()), 1e3);
    }
    Ok(limits.verdict())
}

fn one_runtime(envelope: &Envelope, operations: usize) -> Result<Outcomes> {
    let (runtime, mut outcomes) = (runtime()?, Outcomes::default());
    for _ in 0..operations {
        runtime.block_on(outcomes.run(round_trip(envelope)));
    }
    Ok(outcomes)
}

fn successive(envelope: &Envelope, operations: usize) -> Result<Outcomes> {
    let mut outcomes = Outcomes::default();
    for _ in 0..operations {
        runtime()?.block_on(outcomes.run(round_trip(envelope)));
    }
    Ok(outcomes)
}

/// As many tasks as [`concurrent`] has threads, on one runtime with as many workers.
fn one_large_runtime(envelope: &Envelope, operations: usize) -> Result<Outcomes> {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let tasks = (0..THREADS).map(|_| {
        let envelope = envelope.clone();
        runtime.spawn(async move {
            let mut outcomes = Outcomes::default();
            for _ in 0..operations {
                outcomes.run(round_trip(&envelope)).await;
            }
            outcomes
        })
    });
    let mut all = Outcomes::default();
    for outcomes in runtime.block_on(join_all(tasks)) {
        all.merge(outcomes?);
    }
    Ok(all)
}

fn concurrent(envelope: &Envelope, operations: usize) -> Result<Outcomes> {
    let mut all = Outcomes::default();
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|_| scope.spawn(|| successive(envelope, operations))).collect();
        for thread in threads {
            all.merge(thread.join().map_err(|_| "a thread panicked")??);
        }
        Ok(all)
    })
}

/// The first runtime has opened a connection and is kept, but nothing drives it.
fn with_idle_runtime(envelope: &Envelope, operations: usize) -> Result<Outcomes> {
    let (first, mut outcomes) = (runtime()?, Outcomes::default());
    first.block_on(outcomes.run(round_trip(envelope)));
    outcomes.merge(one_runtime(envelope, operations)?);
    drop(first);
    Ok(outcomes)
}

/// Each runtime is driven for one operation at a time.
fn by_turns(envelope: &Envelope, operations: usize) -> Result<Outcomes> {
    let mut outcomes = Outcomes::default();
    let runtimes = (0..THREADS).map(|_| runtime()).collect::<std::io::Result<Vec<_>>>()?;
    for runtime in runtimes.iter().cycle().take(operations) {
        runtime.block_on(outcomes.run(round_trip(envelope)));
    }
    Ok(outcomes)
}
