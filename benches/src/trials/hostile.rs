//! Strangers who send garbage, and senders who hang up, beside tenants who behave.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use envelope::{EncryptionContext, Envelope, materials::MaterialsCache};
use fastrand::Rng;
use futures_util::future::{join, join_all};
use tokio::{
    runtime::{self, Runtime},
    time::{Instant, interval, timeout},
};

use super::forge::Forger;
use crate::{
    Lines,
    kms::{Kms, cache},
    load,
    memory::resident,
    pool::until,
    trials::{Fared, HEAD, Trial, count, fresh, start},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How long KMS takes.
const LATENCY: Duration = Duration::from_millis(20);
/// Wrapped keys of a garbage message; each costs a request.
const KEYS: usize = 16;
/// From one new tenant who behaves to the next.
const PACE: Duration = Duration::from_millis(50);
/// How many contexts the garbage is spread over.
const CONTEXTS: usize = 200;

/// Runs the trial.
///
/// # Errors
///
/// When the server can't start, or a message that is to be forged can't be made.
pub fn run(quick: bool) -> Trial {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let length = Duration::from_secs(if quick { 5 } else { 20 });
    let mut lines = Lines::default();
    println!("Garbage with {KEYS} wrapped keys each; KMS takes {LATENCY:?}. New tenants:\n");
    println!("{:>52}  {HEAD}", "");
    let quiet = flood(&runtime, Spread::OneContext, 0, length)?;
    for spread in [Spread::OneContext, Spread::ManyContexts] {
        for rate in [100, 1_000] {
            let flooded = flood(&runtime, spread, rate, length)?;
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
    hang_up(&runtime, if quick { 5_000 } else { 100_000 }, &mut lines)?;
    Ok(lines.verdict())
}

/// Where the garbage claims to belong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spread {
    /// All of it under one supplied context, of the same partition as the tenants who behave.
    OneContext,
    /// Spread over many supplied contexts, of a partition of its own.
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

/// What new tenants meet while garbage comes at this rate: at their first encrypt, and at the first
/// decrypt of others.
fn flood(
    runtime: &Runtime,
    spread: Spread,
    rate: u32,
    length: Duration,
) -> Outcome<[(&'static str, Fared); 2]> {
    let kms = start(|pool| pool)?;
    // The same cache, hence the same gate, in a partition of its own.
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
                // Those still under way at the end are not waited for.
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

/// Messages of new tenants that this client has not seen, with their contexts.
async fn messages(kms: &Kms, number: usize) -> Outcome<Vec<(EncryptionContext, Vec<u8>)>> {
    let elsewhere = kms.client(&cache(0, 16), |builder| builder)?;
    let mut messages = vec![];
    for _ in 0..number {
        let context = fresh();
        messages.push((context.clone(), elsewhere.encrypt(b"x", &context).await?));
    }
    Ok(messages)
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

/// A first encrypt of a new tenant each [`PACE`], however many are under way.
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

/// How much garbage each forged message brings, in bytes.
const PADDING: usize = 180_000;
/// What the cache may hold in all, in bytes.
const BOUND: u64 = 16 << 20;
const SERVED: usize = 200;

/// Forged messages that unwrap, from senders who hang up at once: what they leave in the cache.
fn hang_up(runtime: &Runtime, messages_sent: usize, lines: &mut Lines) -> Outcome<()> {
    const AT_ONCE: usize = 32;
    let kms = start(|pool| pool)?;
    let cache = bounded();
    let envelope = kms.client(&cache, |builder| builder)?;
    let lost = runtime.block_on(async {
        let served = messages(&kms, SERVED).await?;
        for (context, message) in &served {
            envelope.decrypt(message, context).await?;
        }
        let seed = messages(&kms, 1).await?.remove(0);
        let (forger, mut random) = (Forger::new(&seed.1), Rng::with_seed(15));
        let (before, began, mut lost) = (resident()?, Instant::now(), 0);
        kms.faults().latency(Duration::from_millis(5));
        for sent in (0..messages_sent).step_by(AT_ONCE) {
            let senders = (0..AT_ONCE).map(|_| {
                let message = forger.padded(PADDING, &mut random);
                let (envelope, context) = (envelope.clone(), seed.0.clone());
                async move {
                    let _ = timeout(Duration::from_millis(2), envelope.decrypt(&message, &context))
                        .await;
                }
            });
            join_all(senders.collect::<Vec<_>>()).await;
            // At most one batch of requests is under way.
            until(Duration::from_millis(100), || kms.counters().in_flight == 0).await;
            if sent % (AT_ONCE * 16) == 0 {
                lost += lost_of(&envelope, &served);
            }
        }
        lost += lost_of(&envelope, &served);
        let grown = resident()?.saturating_sub(before);
        println!(
            "\n{messages_sent} forged messages of {PADDING} bytes whose senders hung up, in {:?}: {} \
             Decrypts; {} entries for decryption; the process grew by {} MB\n",
            began.elapsed(),
            kms.counters().requests("Decrypt"),
            cache.stats().decryption.entries,
            grown >> 20
        );
        lines.at_most("hang up: growth of the process, x the bound", count(grown) / count(BOUND), 1.5);
        Outcome::Ok(lost)
    })?;
    let entries = cache.stats().decryption.entries as u64;
    lines.at_most(
        "hang up: entries, 200 of them of real tenants",
        count(entries),
        count(SERVED as u64),
    );
    let held = count(cache.stats().decryption.bytes) / count(BOUND);
    lines.at_most("hang up: bytes held, x the cache's bound", held, 1.0);
    lines.at_most("hang up: served entries lost", count(lost), 0.0);
    Ok(())
}

/// A cache with a bound of [`BOUND`] bytes.
fn bounded() -> MaterialsCache {
    MaterialsCache::builder().capacity(1_000).max_bytes_held(BOUND).build()
}

/// How many of the tenants have to ask KMS again.
fn lost_of(envelope: &Envelope, served: &[(EncryptionContext, Vec<u8>)]) -> u64 {
    let hits = |(context, message): &&(EncryptionContext, Vec<u8>)| {
        envelope.try_decrypt(message, context).is_ok()
    };
    (served.len() - served.iter().filter(hits).count()) as u64
}
