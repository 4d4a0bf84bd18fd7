//! What stays in the cache after messages with much more than one wrapped key.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{error::Error, time::Duration};

use envelope::{
    DataKey, EncryptionContext, Envelope, Error as EnvelopeError,
    keyring::{
        AwsKmsKeyring, GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringFuture,
        KeyringRequest, MultiKeyring,
    },
    materials::{DefaultMaterialsManager, EncryptedDataKey, MaterialsCache},
};
use fastrand::Rng;
use futures_util::future::join_all;
use tokio::{
    runtime::Runtime,
    time::{Instant, timeout},
};

use super::messages;
use crate::{
    Lines,
    kms::Kms,
    memory::resident,
    pool::until,
    trials::{count, forge::Forger, fresh, start},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

pub(super) fn run(runtime: &Runtime, quick: bool, lines: &mut Lines) -> Outcome<()> {
    hang_up(runtime, if quick { 5_000 } else { 100_000 }, lines)?;
    authentic(runtime, if quick { 60 } else { 1_000 }, lines)
}

/// The padding of each forged message, in bytes.
const PADDING: usize = 180_000;
/// The cache's limit in bytes.
const BOUND: u64 = 16 << 20;
const SERVED: usize = 200;

/// Forged messages that can be unwrapped, from senders who disconnect at once: their effect on the
/// cache.
fn hang_up(runtime: &Runtime, messages_sent: usize, lines: &mut Lines) -> Outcome<()> {
    const AT_ONCE: usize = 32;
    let kms = start(|pool| pool)?;
    let cache = bounded();
    let envelope = kms.client(&cache, |builder| builder)?;
    let lost = runtime.block_on(async {
        let served = serve(&kms, &envelope).await?;
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
            // At most one batch of requests is in flight.
            until(Duration::from_millis(100), || kms.counters().in_flight == 0).await;
            if sent % (AT_ONCE * 16) == 0 {
                lost += lost_of(&envelope, &served);
            }
        }
        lost += lost_of(&envelope, &served);
        let grown = resident()?.saturating_sub(before);
        println!(
            "\n{messages_sent} forged messages of {PADDING} bytes whose senders disconnected, in {:?}: {} \
             Decrypts; {} entries for decryption; the process grew by {} MB\n",
            began.elapsed(),
            kms.counters().requests("Decrypt"),
            cache.stats().decryption.entries,
            grown >> 20
        );
        lines.at_most("disconnect: growth of the process, x the bound", count(grown) / count(BOUND), 1.5);
        Outcome::Ok(lost)
    })?;
    let entries = cache.stats().decryption.entries as u64;
    lines.at_most(
        "disconnect: entries, 200 of them of real tenants",
        count(entries),
        count(SERVED as u64),
    );
    let held = count(cache.stats().decryption.bytes) / count(BOUND);
    lines.at_most("disconnect: bytes held, x the cache's bound", held, 1.0);
    lines.at_most("disconnect: served entries lost", count(lost), 0.0);
    Ok(())
}

/// Authentic messages, each under its own data key and with almost a megabyte of wrapped keys.
fn authentic(runtime: &Runtime, number: usize, lines: &mut Lines) -> Outcome<()> {
    let kms = start(|pool| pool)?;
    let cache = bounded();
    let envelope = kms.client(&cache, |builder| builder)?;
    let (lost, grown) = runtime.block_on(async {
        let served = serve(&kms, &envelope).await?;
        let (heavy, before) = (heavy_sender(&kms)?, resident()?);
        for _ in 0..number {
            let context = fresh();
            let message = heavy.encrypt(b"x", &context).await?;
            // Each twice, like entries that are used again.
            for _ in 0..2 {
                envelope.decrypt(&message, &context).await?;
            }
            // The tenants continue meanwhile.
            lost_of(&envelope, &served);
        }
        Outcome::Ok((lost_of(&envelope, &served), resident()?.saturating_sub(before)))
    })?;
    let held = cache.stats().decryption.bytes;
    println!(
        "{number} authentic messages of {} kB: the cache holds {} kB in {} entries; the process grew by {} MB\n",
        HEAVY * LONGEST / 1_000,
        held >> 10,
        cache.stats().decryption.entries,
        grown >> 20
    );
    lines.at_most("heavy: bytes held, x the cache's bound", count(held) / count(BOUND), 1.0);
    lines.at_most("heavy: served entries lost", count(lost), 0.0);
    Ok(())
}

/// The number of additional wrapped keys of a heavy message.
const HEAVY: usize = 15;
/// The length of each additional wrapped key.
const LONGEST: usize = 60_000;

/// A sender who may encrypt, and whose messages are as large as allowed.
fn heavy_sender(kms: &Kms) -> Outcome<Envelope> {
    let real = AwsKmsKeyring::new(kms.pool().clients(kms.principal()), kms.key().parse()?);
    let keyring = MultiKeyring::builder().generator(real).child(Padding).build()?;
    Ok(Envelope::builder(DefaultMaterialsManager::new(keyring)).build()?)
}

/// A keyring that adds wrapped keys as padding.
#[derive(Debug)]
struct Padding;

impl Keyring for Padding {
    fn generate<'a>(&'a self, _: KeyringRequest<'a>) -> KeyringFuture<'a, GeneratedDataKey> {
        let error = KeyringError::new("padding", KeyringErrorKind::Other, "it generates nothing");
        Box::pin(async { Err(EnvelopeError::DataKeyUnavailable(error)) })
    }

    fn wrap<'a>(
        &'a self,
        _: KeyringRequest<'a>,
        _: &'a DataKey,
    ) -> KeyringFuture<'a, Vec<EncryptedDataKey>> {
        let padding = EncryptedDataKey {
            key_provider_id: "nobody".to_owned(),
            key_provider_information: b"nothing".to_vec(),
            ciphertext: vec![0; LONGEST],
        };
        Box::pin(async { Ok(vec![padding; HEAVY]) })
    }

    fn unwrap<'a>(
        &'a self,
        _: KeyringRequest<'a>,
        _: &'a [EncryptedDataKey],
    ) -> KeyringFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(async { Err(vec![]) })
    }
}

/// Tenants whose data keys are cached.
async fn serve(kms: &Kms, envelope: &Envelope) -> Outcome<Vec<(EncryptionContext, Vec<u8>)>> {
    let served = messages(kms, SERVED).await?;
    for (context, message) in &served {
        envelope.decrypt(message, context).await?;
    }
    // A second time, like entries that are used again.
    lost_of(envelope, &served);
    Ok(served)
}

/// A cache with a limit of [`BOUND`] bytes.
fn bounded() -> MaterialsCache {
    MaterialsCache::builder().capacity(1_000).max_bytes_held(BOUND).build()
}

/// How many of the tenants need another KMS request.
fn lost_of(envelope: &Envelope, served: &[(EncryptionContext, Vec<u8>)]) -> u64 {
    let hits = |(context, message): &&(EncryptionContext, Vec<u8>)| {
        envelope.try_decrypt(message, context).is_ok()
    };
    (served.len() - served.iter().filter(hits).count()) as u64
}
