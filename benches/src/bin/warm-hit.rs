//! What a hit in the cache costs: sealing through a prepared context, against sealing with the same
//! data key at hand.
//!
//! The difference is what the cache adds: the clock, the reservation, the loan, the count. Both
//! alternate in short rounds, so that what else the machine does falls on both. Two threads share
//! one entry, or have one each.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, hint::black_box, process::ExitCode, sync::Arc, thread, time::Duration};

use benches::{context, verdict};
use clap::Parser;
use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Envelope, PreparedContext,
    keyring::RawAesKeyring,
    materials::{
        CachingMaterialsManager, DecryptionMaterials, DecryptionMaterialsRequest,
        DefaultMaterialsManager, EncryptionMaterials, EncryptionMaterialsRequest, MaterialsFuture,
        MaterialsManager,
    },
};
use tokio::time::Instant;

/// As long as a card number.
const PLAINTEXT: [u8; 16] = [7; 16];
const CALLS: u32 = 2_000;
/// The most that a hit may cost, and the least that a second thread must bring.
const MOST: f64 = 60.0;
const LEAST: f64 = 1.9;

#[derive(Parser)]
#[command(about = "Prints what a hit in the cache costs, alone and between threads")]
struct Args {
    /// Fewer rounds
    #[arg(long)]
    quick: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let rounds = if Args::parse().quick { 501 } else { 3_001 };
    let source = DefaultMaterialsManager::new(RawAesKeyring::new(
        "benches",
        "key",
        &DataKey::generate(32)?,
    )?);
    let manager = CachingMaterialsManager::builder(source).build()?;
    let context = context()?;
    let request = EncryptionMaterialsRequest::new(AlgorithmSuite::default(), &context, Some(0));
    let materials = AtHand(manager.encryption_materials(request).await?);
    let at_hand = Envelope::builder(materials).build()?.prepare(&context)?;
    let envelope = Envelope::builder(manager.clone()).build()?;
    let warm = envelope.prepare(&context)?;
    let other = envelope.prepare(&EncryptionContext::new([("tenant", "43")])?)?;
    other.encrypt(b"").await?;

    println!(
        "sealing {} bytes, 0x0478; {rounds} alternating rounds of {CALLS} calls",
        PLAINTEXT.len()
    );
    let (mut hits, mut bares, mut lends, mut plains) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        hits.push(time(|| drop(black_box(warm.try_encrypt(black_box(&PLAINTEXT))))));
        bares.push(time(|| drop(black_box(at_hand.try_encrypt(black_box(&PLAINTEXT))))));
        plains
            .push(time(|| drop(black_box(envelope.try_encrypt(black_box(&PLAINTEXT), &context)))));
        lends.push(time(|| {
            let lent = manager.cached_encryption_materials(request, &mut |materials| {
                black_box(materials);
            });
            assert!(matches!(lent, Ok(true)));
        }));
    }
    let differences: Vec<f64> = hits.iter().zip(&bares).map(|(hit, bare)| hit - bare).collect();
    let (hit, bare) = (median(hits), median(bares));
    let cost = median(differences);
    println!("prepared, warm         {hit:8.1} ns");
    println!("data key at hand       {bare:8.1} ns");
    println!("a hit costs            {cost:8.1} ns, the loan alone {:.1} ns", median(lends));
    println!("not prepared           {:8.1} ns", median(plains));

    println!(
        "\n{:<22} {:>14} {:>14} {:>7}",
        "calls a second", "one thread", "two threads", "times"
    );
    let span = Duration::from_millis(if rounds < 1_000 { 150 } else { 300 });
    let one_entry = scaling("one entry", span, [&warm, &warm]);
    let two_entries = scaling("an entry each", span, [&warm, &other]);
    let no_cache = scaling("data key at hand", span, [&at_hand, &at_hand]);
    let passed = cost < MOST && one_entry >= LEAST;
    println!(
        "two threads without a cache bring {no_cache:.2}, with an entry each {two_entries:.2}"
    );
    Ok(verdict(
        passed,
        format_args!("a hit costs {cost:.1} ns, two threads on one entry bring {one_entry:.2}"),
    ))
}

/// Nanoseconds for one call.
fn time(mut call: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..CALLS).for_each(|_| call());
    started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How many times one thread's throughput two threads have: the median of alternating rounds.
fn scaling(name: &str, span: Duration, contexts: [&PreparedContext; 2]) -> f64 {
    let (mut ones, mut twos, mut ratios) = (vec![], vec![], vec![]);
    for round in 0..21 {
        let one = throughput(span, &contexts[round % 2..=round % 2]);
        let two = throughput(span, &contexts);
        ratios.push(two / one);
        ones.push(one);
        twos.push(two);
    }
    let ratio = median(ratios);
    println!("{name:<22} {:>14.0} {:>14.0} {ratio:>7.2}", median(ones), median(twos));
    ratio
}

/// Calls a second, with a thread for each of the contexts.
fn throughput(span: Duration, contexts: &[&PreparedContext]) -> f64 {
    let counts = thread::scope(|scope| {
        let count = |context: &PreparedContext| {
            let (started, mut count) = (Instant::now(), 0.0);
            while started.elapsed() < span {
                for _ in 0..64 {
                    drop(black_box(context.try_encrypt(black_box(&PLAINTEXT))));
                }
                count += 64.0;
            }
            count / started.elapsed().as_secs_f64()
        };
        let threads: Vec<_> =
            contexts.iter().map(|context| scope.spawn(move || count(context))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("sealing does not panic"))
            .collect::<Vec<f64>>()
    });
    counts.iter().sum()
}

/// A materials manager with one data key at hand, for nothing: the floor of what a cache can cost.
#[derive(Debug)]
struct AtHand(Arc<EncryptionMaterials>);

impl MaterialsManager for AtHand {
    fn encryption_materials<'a>(
        &'a self,
        _: EncryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, EncryptionMaterials> {
        Box::pin(async { Ok(Arc::clone(&self.0)) })
    }

    fn decryption_materials<'a>(
        &'a self,
        _: DecryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, DecryptionMaterials> {
        Box::pin(async { Err(envelope::Error::NotCached) })
    }

    fn cached_encryption_materials(
        &self,
        _: EncryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<EncryptionMaterials>),
    ) -> Result<bool, envelope::Error> {
        borrow(&self.0);
        Ok(true)
    }
}
