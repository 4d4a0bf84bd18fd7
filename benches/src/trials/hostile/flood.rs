//! How long new tenants wait while attackers send invalid messages.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use envelope::{EncryptionContext, Envelope};
use fastrand::Rng;
use futures_util::future::{join, join_all};
use tokio::{runtime::Runtime, time::interval};

use super::messages;
use crate::{
    Lines, load,
    trials::{Fared, HEAD, count, forge::Forger, fresh, start},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The latency of KMS.
const LATENCY: Duration = Duration::from_millis(20);
/// Wrapped keys of an invalid message; each costs a request.
const KEYS: usize = 16;
/// The interval between two new well-behaved tenants.
const PACE: Duration = Duration::from_millis(50);
/// The number of contexts of the invalid messages.
const CONTEXTS: usize = 200;

pub(super) fn run(runtime: &Runtime, quick: bool, lines: &mut Lines) -> Outcome<()> {
    let length = Duration::from_secs(if quick { 5 } else { 20 });
    println!(
        "Invalid messages with {KEYS} wrapped keys each; KMS takes {LATENCY:?}. New tenants:\n"
    );
    println!("{:>52}  {HEAD}", "");
    let quiet = flood(runtime, Spread::OneContext, 0, length)?;
    for spread in [Spread::OneContext, Spread::ManyContexts] {
        for rate in [100, 1_000] {
            let flooded = flood(runtime, spread, rate, length)?;
            for ((name, quiet), (_, flooded)) in quiet.iter().zip(&flooded) {
                let name = format!("{name}, {rate}/s {}", spread.name());
                let ratio = |share| {
                    flooded.took.at(share).as_secs_f64() / quiet.took.at(share).as_secs_f64()
                };
                lines.at_most(format!("{name}: failed"), count(flooded.failed), 0.0);
                lines.at_most(format!("{name}: median, x quiet"), ratio(0.5), 3.0);
                lines.at_most(format!("{name}: p99, x quiet"), ratio(0.99), 5.0);
            }
        }
    }
    Ok(())
}

/// The contexts that the attackers supply.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spread {
    /// A single supplied context, in the same partition as the well-behaved tenants.
    OneContext,
    /// Many supplied contexts, in a separate partition.
    ManyContexts,
}

impl Spread {
    fn name(self) -> &'static str {
        match self {
            Self::OneContext => "under one context",
            Self::ManyContexts => "in another partition",
        }
    }
}

/// The latency of new tenants while invalid messages come at this rate: of their first encrypt, and
/// of their first decrypt.
fn flood(
    runtime: &Runtime,
    spread: Spread,
    rate: u32,
    length: Duration,
) -> Outcome<[(&'static str, Fared); 2]> {
    let kms = start(|pool| pool)?;
    // The same cache, and therefore the same gate, in a separate partition.
    let stranger = match spread {
        Spread::OneContext => kms.envelope.clone(),
        Spread::ManyContexts => kms.client(&kms.cache, |builder| builder)?,
    };
    let tenants = length.div_duration_f64(PACE).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hundreds")]
    let prepared = runtime.block_on(messages(&kms, tenants as usize))?;
    let contexts = if spread == Spread::OneContext { 1 } else { CONTEXTS };
    let seeds = runtime.block_on(messages(&kms, contexts))?;
    kms.faults().latency(LATENCY);
    let fared = runtime.block_on(async {
        let garbage = match rate {
            0 => None,
            rate => Some(send_garbage(stranger, seeds, rate, length)),
        };
        let garbage = async {
            if let Some(garbage) = garbage {
                // Messages that are still in flight at the end are not waited for.
                drop(garbage.await);
            }
        };
        let good = join(encrypts(&kms.envelope, tenants), decrypts(&kms.envelope, prepared));
        join(garbage, good).await.1
    });
    for (name, fared) in [("encrypt", &fared.0), ("decrypt", &fared.1)] {
        let what = format!("first {name}, {rate}/s {}", spread.name());
        println!("{what:>52}  {fared}");
    }
    Ok([("first encrypt", fared.0), ("first decrypt", fared.1)])
}

async fn send_garbage(
    stranger: Envelope,
    seeds: Vec<(EncryptionContext, Vec<u8>)>,
    rate: u32,
    length: Duration,
) -> load::Crowd<&'static str> {
    let forgers: Vec<_> =
        seeds.into_iter().map(|(context, message)| (context, Forger::new(&message))).collect();
    let (next, random) = (AtomicUsize::new(0), Mutex::new(Rng::with_seed(14)));
    let forgers = Arc::new(forgers);
    let operation = move || {
        let (context, forger) = &forgers[next.fetch_add(1, Relaxed) % forgers.len()];
        let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
        let (message, context) = (forger.garbage(KEYS, &mut random), context.clone());
        let stranger = stranger.clone();
        async move { stranger.decrypt(&message, &context).await.map(drop).map_err(|_| "not authentic") }
    };
    load::crowd(Duration::from_secs(1) / rate, length, operation).await
}

/// A first encrypt of a new tenant each [`PACE`], however many are still running.
async fn encrypts(envelope: &Envelope, tenants: f64) -> Fared {
    let (mut ticks, mut tasks, mut done) = (interval(PACE), vec![], 0.0);
    while done < tenants {
        ticks.tick().await;
        let envelope = envelope.clone();
        tasks.push(tokio::spawn(async move {
            let mut fared = Fared::default();
            fared.note(envelope.encrypt(b"x", &fresh())).await;
            fared
        }));
        done += 1.0;
    }
    together(tasks).await
}

/// A first decrypt of a new tenant each [`PACE`].
async fn decrypts(envelope: &Envelope, messages: Vec<(EncryptionContext, Vec<u8>)>) -> Fared {
    let (mut ticks, mut tasks) = (interval(PACE), vec![]);
    for (context, message) in messages {
        ticks.tick().await;
        let envelope = envelope.clone();
        tasks.push(tokio::spawn(async move {
            let mut fared = Fared::default();
            fared.note(envelope.decrypt(&message, &context)).await;
            fared
        }));
    }
    together(tasks).await
}

async fn together(tasks: Vec<tokio::task::JoinHandle<Fared>>) -> Fared {
    let mut all = Fared::default();
    for fared in join_all(tasks).await {
        match fared {
            Ok(fared) => all.merge(fared),
            Err(error) => all.add(Duration::ZERO, Some(error.to_string())),
        }
    }
    all
}
