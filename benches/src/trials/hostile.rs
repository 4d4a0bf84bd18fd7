//! Attackers who send invalid messages or disconnect, and senders of very long headers, next to
//! well-behaved tenants.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use benches::{Result, limits::Limits};
use envelope::{
    DataKey, EncryptionContext, Envelope, Error, ResultFuture,
    keyring::{
        GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringRequest, MultiKeyring,
    },
    materials::{DefaultMaterialsManager, EncryptedDataKey, MaterialsCache},
};
use fastrand::Rng;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{forger::Forger, new_context};
use crate::{
    Args,
    kms::{Kms, keyring},
    load::{self, HEAD, Outcomes, count, resident, until},
};

/// A context, and a message for it.
type Message = (EncryptionContext, Vec<u8>);

pub(crate) async fn run(args: &Args) -> Result {
    let mut limits = Limits::default();
    flood(args, &mut limits).await?;
    disconnect(args, args.pick(5_000, 100_000), &mut limits).await?;
    long_headers(args.pick(60, 1_000), &mut limits).await?;
    Ok(limits.verdict())
}

/// Messages of new tenants that were not decrypted yet.
async fn messages(kms: &Kms, number: usize) -> Result<Vec<Message>> {
    let sender = kms.envelope(&MaterialsCache::new(0), |builder| builder)?;
    let mut messages = vec![];
    for _ in 0..number {
        let context = new_context();
        messages.push((context.clone(), sender.encrypt(b"x", &context).await?));
    }
    Ok(messages)
}

/// The latency of KMS during a flood.
const LATENCY: Duration = Duration::from_millis(20);
/// The wrapped data keys of an invalid message. Each costs a request.
const KEYS: usize = 16;
/// The interval between two new tenants.
const PACE: Duration = Duration::from_millis(50);

/// Where the invalid messages of a flood come from.
#[derive(Debug, Clone, Copy)]
enum Flood {
    Quiet,
    /// One context, in the partition of the well-behaved tenants, and so many messages a second.
    OneContext(u32),
    /// Many contexts, in another partition.
    OtherPartition(u32),
}

/// How long new tenants wait while attackers send invalid messages.
async fn flood(args: &Args, limits: &mut Limits) -> Result<()> {
    println!("first operations of new tenants; invalid messages with {KEYS} wrapped keys each");
    println!("{:>36}  {HEAD}", "");
    let quiet = latencies(args, Flood::Quiet).await?;
    for rate in [100, 1_000] {
        for flood in [Flood::OneContext(rate), Flood::OtherPartition(rate)] {
            let flooded = latencies(args, flood).await?;
            for ((what, quiet), flooded) in ["encrypt", "decrypt"].iter().zip(&quiet).zip(&flooded)
            {
                let name = format!("{what}, {flood:?}");
                let ratio =
                    |share| flooded.latency.at(share).div_duration_f64(quiet.latency.at(share));
                limits.at_most(format!("{name}: failed"), count(flooded.failed()), 0.0);
                limits.at_most(format!("{name}: median, x quiet"), ratio(0.5), 3.0);
                limits.at_most(format!("{name}: p99, x quiet"), ratio(0.99), 5.0);
            }
        }
    }
    Ok(())
}

/// The outcomes of first encryptions, and of first decryptions.
async fn latencies(args: &Args, flood: Flood) -> Result<[Outcomes; 2]> {
    let length = Duration::from_secs(args.seconds(5, 20));
    let kms = Kms::start()?;
    let cache = MaterialsCache::new(100_000);
    let envelope = kms.envelope(&cache, |builder| builder)?;
    let (rate, contexts, attacked) = match flood {
        Flood::Quiet => (0, 0, envelope.clone()),
        Flood::OneContext(rate) => (rate, 1, envelope.clone()),
        // The same cache, and therefore the same limit of concurrent loads.
        Flood::OtherPartition(rate) => (rate, 200, kms.envelope(&cache, |builder| builder)?),
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hundreds")]
    let tenants = length.div_duration_f64(PACE) as usize;
    let prepared = messages(&kms, tenants + 1).await?;
    let seeds = messages(&kms, contexts).await?;
    kms.faults().latency(LATENCY);
    let seeds = seeds.into_iter().map(|(context, message)| (context, Forger::new(&message)));
    let garbage =
        (rate > 0).then(|| send_garbage(attacked, seeds.collect(), rate, length, args.seed));

    let encrypts = envelope.clone();
    let encrypt = move || {
        let envelope = encrypts.clone();
        async move { envelope.encrypt(b"x", &new_context()).await.map(drop) }
    };
    let next = AtomicUsize::new(0);
    let decrypt = move || {
        let (context, message) = prepared[next.fetch_add(1, Relaxed)].clone();
        let envelope = envelope.clone();
        async move { envelope.decrypt(&message, &context).await.map(drop) }
    };
    let garbage = async {
        if let Some(garbage) = garbage {
            garbage.await;
        }
    };
    let crowds = async {
        let (encrypts, decrypts) =
            tokio::join!(load::crowd(PACE, length, encrypt), load::crowd(PACE, length, decrypt));
        [encrypts.ended().await, decrypts.ended().await]
    };
    let ((), outcomes) = tokio::join!(garbage, crowds);
    for (what, outcomes) in ["encrypt", "decrypt"].iter().zip(&outcomes) {
        println!("{:>36}  {outcomes}", format!("{what}, {flood:?}"));
    }
    Ok(outcomes)
}

/// Sends invalid messages. Those that are in flight at the end are not waited for.
async fn send_garbage(
    envelope: Envelope,
    forgers: Vec<(EncryptionContext, Forger)>,
    rate: u32,
    length: Duration,
    seed: u64,
) {
    let (next, random) = (AtomicUsize::new(0), Mutex::new(Rng::with_seed(seed)));
    let operation = move || {
        let (context, forger) = &forgers[next.fetch_add(1, Relaxed) % forgers.len()];
        let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
        let (message, context) = (forger.garbage(KEYS, &mut random), context.clone());
        let envelope = envelope.clone();
        async move { envelope.decrypt(&message, &context).await.map(drop) }
    };
    drop(load::crowd(Duration::from_secs(1) / rate, length, operation).await);
}

/// The padding of a forged message, in bytes.
const PADDING: usize = 180_000;
/// The limit of the cache in bytes.
const MAX_BYTES: u64 = 16 << 20;
/// The tenants whose data keys are cached.
const SERVED: usize = 200;

/// A cache with a limit in bytes, that serves some tenants.
async fn serving(kms: &Kms) -> Result<(MaterialsCache, Envelope, Vec<Message>)> {
    let cache = MaterialsCache::builder().capacity(1_000).max_bytes_held(MAX_BYTES).build();
    let envelope = kms.envelope(&cache, |builder| builder)?;
    let served = messages(kms, SERVED).await?;
    for (context, message) in &served {
        envelope.decrypt(message, context).await?;
    }
    // A second time, like entries that are used again.
    lost(&envelope, &served);
    Ok((cache, envelope, served))
}

/// How many of the tenants would need another KMS request.
fn lost(envelope: &Envelope, served: &[Message]) -> u64 {
    let is_lost = |(context, message): &&Message| envelope.try_decrypt(message, context).is_err();
    served.iter().filter(is_lost).count() as u64
}

/// What forged messages whose senders disconnect at once leave in the cache. They can be unwrapped.
async fn disconnect(args: &Args, number: usize, limits: &mut Limits) -> Result<()> {
    const AT_A_TIME: usize = 32;
    let kms = Kms::start()?;
    let (cache, envelope, served) = serving(&kms).await?;
    let (context, message) = messages(&kms, 1).await?.remove(0);
    let (forger, mut random) = (Forger::new(&message), Rng::with_seed(args.seed));
    let (before, mut all_lost) = (resident()?, 0);
    kms.faults().latency(Duration::from_millis(5));
    for sent in (0..number).step_by(AT_A_TIME) {
        let senders = (0..AT_A_TIME).map(|_| {
            let message = forger.padded(PADDING, &mut random);
            let (envelope, context) = (&envelope, &context);
            async move {
                let _ =
                    timeout(Duration::from_millis(2), envelope.decrypt(&message, context)).await;
            }
        });
        join_all(senders.collect::<Vec<_>>()).await;
        until(Duration::from_millis(100), || kms.counters().in_flight == 0).await;
        if sent % (AT_A_TIME * 16) == 0 {
            all_lost += lost(&envelope, &served);
        }
    }
    all_lost += lost(&envelope, &served);
    let grown = resident()?.saturating_sub(before);
    let (decrypts, stats) = (kms.counters().requests("Decrypt"), cache.stats().decryption);
    println!("\n{number} forged messages of {PADDING} bytes whose senders disconnected:");
    println!("{decrypts} Decrypts, {} entries, {} MB more memory", stats.entries, grown >> 20);
    let max = count(MAX_BYTES);
    limits.at_most("disconnected: growth of memory, x the limit", count(grown) / max, 1.5);
    let entries = count(stats.entries as u64);
    limits.at_most("disconnected: entries, 200 of real tenants", entries, count(SERVED as u64));
    limits.at_most("disconnected: bytes held, x the limit", count(stats.bytes) / max, 1.0);
    limits.at_most("disconnected: served entries lost", count(all_lost), 0.0);
    Ok(())
}

/// The additional wrapped data keys of a long header, and the length of each.
const MORE_KEYS: usize = 15;
const LENGTH: usize = 60_000;

/// What authentic messages leave in the cache, each with its own data key and almost a megabyte of
/// wrapped keys.
async fn long_headers(number: usize, limits: &mut Limits) -> Result<()> {
    let kms = Kms::start()?;
    let (cache, envelope, served) = serving(&kms).await?;
    let generator = keyring(&kms.pool, &kms.principal, &kms.key)?;
    let keyring = MultiKeyring::new(generator).with_child(Padding)?;
    let sender = Envelope::builder(DefaultMaterialsManager::new(keyring)).build()?;
    let before = resident()?;
    for _ in 0..number {
        let context = new_context();
        let message = sender.encrypt(b"x", &context).await?;
        // Twice, like entries that are used again.
        for _ in 0..2 {
            envelope.decrypt(&message, &context).await?;
        }
        // The tenants go on meanwhile.
        lost(&envelope, &served);
    }
    let grown = resident()?.saturating_sub(before);
    let stats = cache.stats().decryption;
    println!("\n{number} authentic messages with headers of {} kB:", MORE_KEYS * LENGTH / 1_000);
    println!(
        "the cache holds {} kB in {} entries; {} MB more memory",
        stats.bytes >> 10,
        stats.entries,
        grown >> 20
    );
    let held = count(stats.bytes) / count(MAX_BYTES);
    limits.at_most("long headers: bytes held, x the limit", held, 1.0);
    limits.at_most("long headers: served entries lost", count(lost(&envelope, &served)), 0.0);
    Ok(())
}

/// A keyring that adds wrapped keys as padding.
#[derive(Debug)]
struct Padding;

impl Keyring for Padding {
    fn generate<'a>(&'a self, _: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        let error = KeyringError::new("padding", KeyringErrorKind::Other, "it only adds padding");
        Box::pin(async { Err(Error::DataKeyUnavailable(error)) })
    }

    fn wrap<'a>(
        &'a self,
        _: KeyringRequest<'a>,
        _: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        let padding = EncryptedDataKey {
            key_provider_id: "nobody".to_owned(),
            key_provider_information: b"nothing".to_vec(),
            ciphertext: vec![0; LENGTH],
        };
        Box::pin(async { Ok(vec![padding; MORE_KEYS]) })
    }

    fn unwrap<'a>(
        &'a self,
        _: KeyringRequest<'a>,
        _: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(async { Err(vec![]) })
    }
}
