//! Whether a data key ever serves more messages or bytes than its limits say, and how much of them
//! it serves.
//!
//! Sixteen threads ask a caching manager for materials, round after round, each round under other
//! limits. They keep their own accounts of what each data key was granted, which are added up when
//! the round is over.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{
    collections::HashMap,
    error::Error,
    process::ExitCode,
    sync::{Arc, Weak},
    thread,
};

use benches::verdict;
use clap::Parser;
use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext,
    keyring::RawAesKeyring,
    materials::{
        CachingMaterialsManager, DefaultMaterialsManager, EncryptionMaterials,
        EncryptionMaterialsRequest, MaterialsManager,
    },
};
use tokio::runtime::{Builder, Runtime};

const THREADS: u64 = 16;
const SEED: u64 = 9;
/// The least part of a limit that must be usable.
const USABLE: f64 = 0.95;
/// A message longer than this part of `max_bytes` may leave more than a twentieth of it unused,
/// with any cache.
const USUAL_PART: u64 = 20;
const KEYS_PER_ROUND: u64 = 2_000;
const MOST_PER_ROUND: u64 = 2_000_000;

#[derive(Parser)]
#[command(about = "Counts what data keys serve against their limits, on sixteen threads")]
struct Args {
    /// Five million reservations in place of a hundred million
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let wanted: u64 = if Args::parse().quick { 5_000_000 } else { 100_000_000 };
    let runtime = Builder::new_multi_thread().worker_threads(1).build()?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let (mut by_messages, mut by_bytes, mut by_long) =
        (Shares::default(), Shares::default(), Shares::default());
    let (mut granted, mut rounds, mut keys, mut exceeded) = (0, 0, 0, 0);
    while granted < wanted {
        let terms =
            Terms::draw(&mut random, (wanted - granted).min(MOST_PER_ROUND).min(wanted / 20));
        // What the cache still holds may have room left: it must outlive the accounts.
        let (_cache, accounts) = round(&runtime, &terms, random.u64(..))?;
        for account in accounts.into_values() {
            granted += account.messages;
            keys += 1;
            let Terms { max_messages, max_bytes, .. } = terms;
            exceeded += u64::from(account.messages > max_messages || account.bytes > max_bytes);
            if account.is_in_cache() {
                continue;
            }
            let (messages, bytes) =
                (share(account.messages, max_messages), share(account.bytes, max_bytes));
            let spent = match messages >= bytes {
                _ if !terms.are_usual() => &mut by_long,
                true => &mut by_messages,
                false => &mut by_bytes,
            };
            spent.add(messages.max(bytes));
        }
        rounds += 1;
    }

    println!(
        "{granted} reservations by {THREADS} threads, in {rounds} rounds under random limits (seed {SEED})"
    );
    println!("{keys} data keys; beyond a limit: {exceeded}\n");
    println!("{:>40}  {:>9}  {:>8}  {:>8}", "spent", "data keys", "used", "least");
    by_messages.print("messages");
    by_bytes.print("bytes, by messages up to 1/20 of them");
    by_long.print("either, by messages up to all bytes");
    println!("\nThe same code under every schedule a model checker finds: tests/shuttle\n");
    let usable = by_messages.mean().min(by_bytes.mean());
    let figures = format!(
        "{exceeded} exceeded in {granted} reservations; usable share {:.2} %",
        usable * 100.0
    );
    Ok(verdict(exceeded == 0 && usable >= USABLE, figures))
}

/// What one round is run under.
#[derive(Debug, Clone, Copy)]
struct Terms {
    max_messages: u64,
    max_bytes: u64,
    /// The longest message, in bytes. None is longer than `max_bytes`: such a one takes nothing
    /// from the cache.
    longest: u64,
    refresh_ahead: bool,
    reservations: u64,
}

impl Terms {
    /// Limits from one message to a million, and from a few bytes to a terabyte, as likely to be
    /// small as large; either of them the one that binds.
    fn draw(random: &mut fastrand::Rng, most: u64) -> Self {
        let max_messages = magnitude(random, 20);
        let longest = magnitude(random, 20);
        let part = if random.u8(..4) == 0 { 1 } else { USUAL_PART };
        let expected = max_messages * longest.div_ceil(2);
        let max_bytes =
            (expected * magnitude(random, 3) / magnitude(random, 3)).max(longest * part);
        let per_key = max_messages.min(max_bytes / longest.div_ceil(2));
        let reservations = (per_key * KEYS_PER_ROUND).min(most);
        Self { max_messages, max_bytes, longest, refresh_ahead: random.bool(), reservations }
    }

    fn are_usual(&self) -> bool {
        self.longest * USUAL_PART <= self.max_bytes
    }
}

/// A number up to two to the power of `bits`, each magnitude as likely as the next.
fn magnitude(random: &mut fastrand::Rng, bits: u32) -> u64 {
    let bit = 1 << random.u32(..=bits);
    random.u64(bit / 2 + 1..=bit)
}

/// What one data key was granted.
#[derive(Debug)]
struct Account {
    /// Keeps the address, by which accounts are told apart, from being used again; and not the key.
    key: Weak<EncryptionMaterials>,
    messages: u64,
    bytes: u64,
}

impl Account {
    fn is_in_cache(&self) -> bool {
        self.key.strong_count() > 0
    }
}

type Accounts = HashMap<usize, Account>;

/// Has the threads reserve what the terms say, and adds up their accounts.
fn round(
    runtime: &Runtime,
    terms: &Terms,
    seed: u64,
) -> Result<(CachingMaterialsManager, Accounts), Box<dyn Error>> {
    let _entered = runtime.enter();
    let source = DefaultMaterialsManager::new(RawAesKeyring::new(
        "benches",
        "key",
        &DataKey::generate(32)?,
    )?);
    let manager = CachingMaterialsManager::builder(source)
        .max_messages(terms.max_messages)
        .max_bytes(terms.max_bytes)
        .refresh_ahead(terms.refresh_ahead)
        .build()?;
    let context = benches::context()?;
    let all = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let (manager, context) = (&manager, &context);
                let random = fastrand::Rng::with_seed(seed ^ number);
                scope.spawn(move || reserve(runtime, manager, context, terms, random))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let mut total = Accounts::new();
    for (address, account) in all.into_iter().flatten() {
        let sum = total.entry(address).or_insert(Account { messages: 0, bytes: 0, ..account });
        sum.messages += account.messages;
        sum.bytes += account.bytes;
    }
    Ok((manager, total))
}

/// One thread's share of the reservations.
fn reserve(
    runtime: &Runtime,
    manager: &CachingMaterialsManager,
    context: &EncryptionContext,
    terms: &Terms,
    mut random: fastrand::Rng,
) -> Result<Accounts, envelope::Error> {
    let mut accounts = Accounts::new();
    for _ in 0..terms.reservations.div_ceil(THREADS) {
        let bytes = random.u64(0..=terms.longest);
        let request =
            EncryptionMaterialsRequest::new(AlgorithmSuite::default(), context, Some(bytes));
        let mut cached = None;
        manager.cached_encryption_materials(request, &mut |it| cached = Some(Arc::clone(it)))?;
        let materials = match cached {
            Some(materials) => materials,
            None => runtime.block_on(manager.encryption_materials(request))?,
        };
        let account = accounts.entry(Arc::as_ptr(&materials).addr()).or_insert_with(|| Account {
            key: Arc::downgrade(&materials),
            messages: 0,
            bytes: 0,
        });
        account.messages += 1;
        account.bytes += bytes;
    }
    Ok(accounts)
}

/// How much of its limit each spent data key served.
#[derive(Debug)]
struct Shares {
    count: u32,
    sum: f64,
    least: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Self { count: 0, sum: 0.0, least: 1.0 }
    }
}

impl Shares {
    fn add(&mut self, share: f64) {
        self.count += 1;
        self.sum += share;
        self.least = self.least.min(share);
    }

    fn mean(&self) -> f64 {
        self.sum / f64::from(self.count)
    }

    fn print(&self, spent: &str) {
        println!(
            "{spent:>40}  {:>9}  {:>6.2} %  {:>6.2} %",
            self.count,
            self.mean() * 100.0,
            self.least * 100.0
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn share(used: u64, limit: u64) -> f64 {
    used as f64 / limit as f64
}
