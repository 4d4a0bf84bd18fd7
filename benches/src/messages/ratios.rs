//! What `encrypt` and `decrypt` cost with a warm cache, as ratios to the floor of the primitives;
//! and what a hit in the cache costs.
//!
//! Library and floors alternate in rounds. The floor of a row is that of the faster backend.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{hint::black_box, sync::Arc, time::Duration};

use benches::{
    Result, context, done, finished,
    floor::{self, Backend, Floor},
    limits::Limits,
    raw_aes, tenant, warm, warm_with,
};
use envelope::{
    AlgorithmSuite, EncryptionContext, Envelope, Error, PreparedContext, ResultFuture,
    materials::{
        CachingMaterialsManager, DecryptionMaterials, DecryptionMaterialsRequest,
        DefaultMaterialsManager, EncryptionMaterials, EncryptionMaterialsRequest, MaterialsManager,
    },
};
use tokio::time::Instant;

use crate::{
    Args,
    rounds::{Call, median, medians, nanos, rates, ratio, repeat, time, times},
};

const MEGABYTE: usize = 1_048_576;
/// As long as a card number.
const CARD: [u8; 16] = [7; 16];

pub(crate) async fn run(args: &Args) -> Result {
    let rounds = args.pick(201, 1_501);
    let client = Client::new(warm()?)?;
    let mut limits = Limits::default();
    println!(
        "0x0478, frames of 4096 bytes, warm cache, one thread; median of {rounds} alternating \
         rounds, in microseconds and over the floor"
    );
    println!(
        "{:>9}  {:>9} {:>9} {:>9} {:<10} {:>8} {:>6}   {:>9} {:>9} {:<10} {:>6}",
        "bytes",
        "prepared",
        "encrypt",
        "floor",
        "by",
        "prepared",
        "ratio",
        "decrypt",
        "floor",
        "by",
        "ratio"
    );
    for size in [16, 256, 1024, 4096, 65_536, MEGABYTE] {
        client.compare_with_floor(size, rounds, &mut limits)?;
    }
    let long_frames = warm_with(raw_aes()?, &context(), AlgorithmSuite::default(), Some(65_536))?;
    Client::new(long_frames)?.compare_with_one_call(rounds, &mut limits)?;
    client.two_threads(args, &mut limits)?;
    client.await_and_try(rounds, &mut limits).await;
    hit(args, &mut limits).await?;
    Ok(limits.verdict())
}

/// A client with a warm cache.
struct Client {
    envelope: Envelope,
    context: EncryptionContext,
    prepared: PreparedContext,
}

impl Client {
    fn new(envelope: Envelope) -> Result<Self> {
        let context = context();
        let prepared = envelope.prepare(&context)?;
        Ok(Self { envelope, context, prepared })
    }

    fn encrypt(&self, plaintext: &[u8]) {
        done(finished(self.envelope.encrypt(black_box(plaintext), &self.context)));
    }

    fn encrypt_prepared(&self, plaintext: &[u8]) {
        done(finished(self.prepared.encrypt(black_box(plaintext))));
    }

    fn decrypt(&self, message: &[u8]) {
        done(finished(self.envelope.decrypt(black_box(message), &self.context)));
    }

    /// Prints a row of the table, and adds the limits for its size.
    fn compare_with_floor(&self, size: usize, rounds: usize, limits: &mut Limits) -> Result<()> {
        let plaintext = vec![0; size];
        let message = self.prepared.try_encrypt(&plaintext)?;
        let floors = Backend::ALL.map(Floor::usual);
        let encrypted = floors.each_ref().map(|floor| floor.encrypt(&plaintext));
        let repeat = repeat(time(1, || self.encrypt(&plaintext)));
        let sides: [&mut dyn FnMut(); 4] = [
            &mut || self.encrypt_prepared(&plaintext),
            &mut || self.encrypt(&plaintext),
            &mut || done(floors[0].encrypt(black_box(&plaintext))),
            &mut || done(floors[1].encrypt(black_box(&plaintext))),
        ];
        let [prepared, plain, aws_lc, rust_crypto] = medians(rounds, repeat, sides);
        let (floor, by) = faster([aws_lc, rust_crypto]);
        let sides: [&mut dyn FnMut(); 3] = [
            &mut || done(floors[0].decrypt(black_box(&encrypted[0]))),
            &mut || done(floors[1].decrypt(black_box(&encrypted[1]))),
            &mut || self.decrypt(&message),
        ];
        let [aws_lc, rust_crypto, decrypt] = medians(rounds, repeat, sides);
        let (decrypt_floor, decrypt_by) = faster([aws_lc, rust_crypto]);
        let ratios = [prepared / floor, plain / floor, decrypt / decrypt_floor];
        let micros = [prepared, plain, floor, decrypt, decrypt_floor].map(|nanos| nanos / 1e3);
        println!(
            "{size:>9}  {:>9.2} {:>9.2} {:>9.2} {by:<10} {:>8.2} {:>6.2}   {:>9.2} {:>9.2} \
             {decrypt_by:<10} {:>6.2}",
            micros[0], micros[1], micros[2], ratios[0], ratios[1], micros[3], micros[4], ratios[2]
        );
        match size {
            1024 => {
                limits.at_most("1 KiB, prepared: encrypt over floor", ratios[0], 1.15);
                limits.at_most("1 KiB, plain: encrypt over floor", ratios[1], 1.30);
                limits.at_most("1 KiB: decrypt over floor", ratios[2], 1.20);
            }
            MEGABYTE => {
                limits.at_most("1 MiB: encrypt over floor", ratios[1], 1.10);
                limits.at_most("1 MiB: decrypt over floor", ratios[2], 1.10);
            }
            _ => {}
        }
        Ok(())
    }

    /// Compares a megabyte in long frames with one AES-GCM call over all of it.
    fn compare_with_one_call(&self, rounds: usize, limits: &mut Limits) -> Result<()> {
        let plaintext = vec![0; MEGABYTE];
        let message = self.prepared.try_encrypt(&plaintext)?;
        let ciphertext = floor::encrypt_at_once(&plaintext);
        let sides: [&mut dyn FnMut(); 4] = [
            &mut || self.encrypt(&plaintext),
            &mut || done(floor::encrypt_at_once(black_box(&plaintext))),
            &mut || self.decrypt(&message),
            &mut || done(floor::decrypt_at_once(black_box(&ciphertext))),
        ];
        let repeat = repeat(time(1, || self.encrypt(&plaintext)));
        let [encrypt, encrypt_at_once, decrypt, decrypt_at_once] = medians(rounds, repeat, sides);
        println!(
            "\n1 MiB in frames of 65536 bytes, and one AES-GCM call over a copy of it, in \
             microseconds\nencrypt {:.2}, one call {:.2};  decrypt {:.2}, one call {:.2}",
            encrypt / 1e3,
            encrypt_at_once / 1e3,
            decrypt / 1e3,
            decrypt_at_once / 1e3
        );
        let ratio = encrypt / encrypt_at_once;
        limits.at_most("1 MiB, frames of 64 KiB: encrypt over one call", ratio, 1.10);
        let ratio = decrypt / decrypt_at_once;
        limits.at_most("1 MiB, frames of 64 KiB: decrypt over one call", ratio, 1.10);
        Ok(())
    }

    /// What a second thread brings on one client and one entry, compared with what it brings to the
    /// floor.
    fn two_threads(&self, args: &Args, limits: &mut Limits) -> Result<()> {
        let rounds = args.pick(15, 61);
        let span = Duration::from_millis(args.pick(80, 100));
        println!(
            "\ntwo threads over one, on one client and one entry; median of {rounds} alternating \
             rounds\n{:>9}  {:<7}{:>12} {:>12} {:>6} {:>10}",
            "bytes", "", "a second", "with two", "times", "the floor"
        );
        let floor = Floor::usual(Backend::AwsLc);
        for (size, name) in [(256, "256 B"), (MEGABYTE, "1 MiB")] {
            let plaintext = vec![0; size];
            let message = self.prepared.try_encrypt(&plaintext)?;
            let ciphertext = floor.encrypt(&plaintext);
            let encrypt = || self.encrypt(&plaintext);
            let floor_encrypt = || done(floor.encrypt(black_box(&plaintext)));
            let decrypt = || self.decrypt(&message);
            let floor_decrypt = || done(floor.decrypt(black_box(&ciphertext)));
            let pairs: [(&str, &Call, &Call); 2] =
                [("encrypt", &encrypt, &floor_encrypt), ("decrypt", &decrypt, &floor_decrypt)];
            for (what, library, floor) in pairs {
                let [one, two, floor_one, floor_two] =
                    rates(rounds, span, [&[library], &[library; 2], &[floor], &[floor; 2]]);
                let times = ratio(&two, &one);
                let floor_times = ratio(&floor_two, &floor_one);
                let (one, two) = (median(one), median(two));
                println!(
                    "{size:>9}  {what:<7}{one:>12.0} {two:>12.0} {times:>6.2} {floor_times:>10.2}"
                );
                limits.at_least(format!("{name}: {what}, two threads over one"), times, 1.9);
            }
        }
        Ok(())
    }

    /// What `encrypt(…).await` costs more than `try_encrypt`, inside one runtime.
    async fn await_and_try(&self, rounds: usize, limits: &mut Limits) {
        const CALLS: u32 = 100;
        let (mut awaited, mut tried, mut differences) = (vec![], vec![], vec![]);
        for _ in 0..rounds {
            let started = Instant::now();
            for _ in 0..CALLS {
                done(self.envelope.encrypt(black_box(&CARD), &self.context).await);
            }
            let await_time = nanos(started) / f64::from(CALLS);
            let try_time =
                time(CALLS, || done(self.envelope.try_encrypt(black_box(&CARD), &self.context)));
            awaited.push(await_time);
            tried.push(try_time);
            differences.push(await_time - try_time);
        }
        let difference = median(differences);
        println!(
            "\n16 bytes: encrypt().await {:.0} ns, try_encrypt() {:.0} ns, median of the \
             differences {difference:.1} ns",
            median(awaited),
            median(tried)
        );
        limits.at_most("encrypt().await over try_encrypt(), in nanoseconds", difference, 50.0);
    }
}

/// Returns the time of the faster backend, and its name.
fn faster([aws_lc, rust_crypto]: [f64; 2]) -> (f64, &'static str) {
    if aws_lc <= rust_crypto {
        (aws_lc, Backend::AwsLc.name())
    } else {
        (rust_crypto, Backend::RustCrypto.name())
    }
}

/// What a hit in the cache costs: encryption with a prepared context, compared with encryption
/// with a data key at hand. The difference is the clock, the limits, the lookup and the statistics.
async fn hit(args: &Args, limits: &mut Limits) -> Result<()> {
    let rounds = args.pick(501, 3_001);
    let manager =
        CachingMaterialsManager::builder(DefaultMaterialsManager::new(raw_aes()?)).build()?;
    let context = context();
    let request = EncryptionMaterialsRequest::new(AlgorithmSuite::default(), &context, Some(0));
    let materials = AtHand(manager.encryption_materials(request).await?);
    let at_hand = Envelope::builder(materials).build()?.prepare(&context)?;
    let envelope = Envelope::builder(manager.clone()).build()?;
    let warm = envelope.prepare(&context)?;
    let other = envelope.prepare(&tenant("43"))?;
    other.encrypt(b"").await?;

    let sides: [&mut dyn FnMut(); 4] = [
        &mut || done(warm.try_encrypt(black_box(&CARD))),
        &mut || done(at_hand.try_encrypt(black_box(&CARD))),
        &mut || done(envelope.try_encrypt(black_box(&CARD), &context)),
        &mut || done(manager.cached_encryption_materials(request, &mut |it| _ = black_box(it))),
    ];
    let [hits, bare, plain, lookups] = times(rounds, 2_000, sides);
    let cost = median(hits.iter().zip(&bare).map(|(hit, bare)| hit - bare).collect());
    let [hit, bare, plain, lookup] = [hits, bare, plain, lookups].map(median);
    println!("\n16 bytes, {rounds} alternating rounds, in nanoseconds");
    println!("prepared {hit:.1}, not prepared {plain:.1}, with a data key at hand {bare:.1}");
    println!("a hit costs {cost:.1}, the lookup alone {lookup:.1}");
    limits.at_most("a hit in the cache, in nanoseconds", cost, 60.0);

    let span = Duration::from_millis(args.pick(150, 300));
    let calls = [&warm, &other, &at_hand].map(|it| || done(it.try_encrypt(black_box(&CARD))));
    for (name, one, two) in [("one entry", 0, 0), ("an entry each", 0, 1), ("no cache", 2, 2)] {
        let [alone, both] =
            rates(21, span, [&[&calls[one]], &[&calls[one] as &Call, &calls[two] as &Call]]);
        let times = ratio(&both, &alone);
        println!(
            "{name:<14} one thread {:>9.0} a second, two {:>9.0}: {times:.2} times",
            median(alone),
            median(both)
        );
        if name == "one entry" {
            limits.at_least("16 bytes, prepared: two threads over one", times, 1.9);
        }
    }
    Ok(())
}

/// A materials manager that returns the same data key each time.
#[derive(Debug)]
struct AtHand(Arc<EncryptionMaterials>);

impl MaterialsManager for AtHand {
    fn encryption_materials<'a>(
        &'a self,
        _: EncryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<EncryptionMaterials>> {
        Box::pin(async { Ok(Arc::clone(&self.0)) })
    }

    fn cached_encryption_materials(
        &self,
        _: EncryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<EncryptionMaterials>),
    ) -> std::result::Result<bool, Error> {
        borrow(&self.0);
        Ok(true)
    }

    fn decryption_materials<'a>(
        &'a self,
        _: DecryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<DecryptionMaterials>> {
        Box::pin(async { Err(Error::NotCached) })
    }
}
