//! The memory that cached data keys take, and the copies that are left after they were dropped.
//! Linux only: it reads `/proc/self`.
//!
//! First it searches for data derived from keys: derived keys, the state of HMAC and AES, and
//! wrapping keys. A build with `--no-default-features` uses RustCrypto's AES-GCM instead of
//! AWS-LC's.
//!
//! Then, for each way in which an entry is dropped, it drops one data key. It searches for the key
//! at its address, and in all writable memory of the process, before and after. Messages are
//! encrypted and decrypted under it, so that copies from their operations count.
//!
//! It has no test harness, because it needs its own process, and starts itself again to compute
//! secrets. Run it with `--release`, too: the compiler may leave other copies then.
#![allow(clippy::print_stdout, reason = "it reports like a test")]

mod leftovers;
mod memory;
mod secrets;
mod spy;

use std::{
    env,
    error::Error,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use envelope::{
    Clock, DataKey, EncryptionContext, Envelope,
    keyring::RawAesKeyring,
    materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
};

use memory::{Found, Masked, Memory};
use secrets::Deriver;
use spy::{Spy, Watched};

type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const MAX_AGE: Duration = Duration::from_mins(1);
const KEY_NAME: &str = "resident";
/// The maximum number of operations until a data key has been dropped.
const PATIENCE: usize = 1_000;

const CAPACITY: usize = 10_000;

fn main() -> Result {
    if env::args().nth(1).as_deref() == Some(secrets::DERIVE) {
        return Ok(secrets::derive()?);
    }
    if !Path::new("/proc/self/mem").exists() {
        println!("skipped: there is no /proc/self/mem");
        return Ok(());
    }
    secrets::check_round_keys()?;
    tokio::runtime::Builder::new_current_thread().build()?.block_on(check())
}

async fn check() -> Result {
    // First, while there is little memory to search.
    let mut memory = Memory::open()?;
    find_leftovers(&mut memory)?;
    println!(
        "\n{:>24}  {:>8} {:>6}  {:>8} {:>6}",
        "data key", "cached", "copies", "dropped", "copies"
    );
    for half in [Half::Encryption, Half::Decryption] {
        for way in WAYS {
            let [mut cached, mut dropped] = drop_one(&mut memory, half, way).await?;
            // Another thread may reuse the place at once. Only a wiped key leaves zeros.
            for _ in 0..4 {
                if dropped.0 != Found::Other {
                    break;
                }
                [cached, dropped] = drop_one(&mut memory, half, way).await?;
            }
            let name = format!("{half:?}, {way:?}");
            println!(
                "{name:>24}  {:>8} {:>6}  {:>8} {:>6}",
                cached.0, cached.1, dropped.0, dropped.1
            );
            // After a rotation, the next data key for decryption is the same one, loaded again.
            let copies = usize::from((half, way) == (Half::Decryption, Way::Rotation));
            assert_eq!(cached, (Found::Key, 1), "{name}");
            assert_eq!(dropped, (Found::Zeros, copies), "{name}");
        }
    }
    println!();
    for half in [Half::Encryption, Half::Decryption] {
        let [entries, more, bytes_each] = fill(half, CAPACITY).await?;
        println!("{half:?}: {entries} entries of {bytes_each} bytes, then {more} entries");
        assert!(entries.max(more) <= CAPACITY as u64 * 5 / 4, "the capacity is {CAPACITY}");
    }
    Ok(())
}

/// Searches for data that operations leave behind.
fn find_leftovers(memory: &mut Memory) -> Result {
    let backend = if cfg!(feature = "aws-lc-rs") { "AWS-LC" } else { "RustCrypto" };
    println!("AES-GCM of {backend}; pieces of 16 bytes, in four orders");
    println!("{:>24}  {:>16}  {:>6}  {:>7}", "", "", "in use", "dropped");
    let secret = Masked::new(DataKey::generate(32)?.expose_secret());
    let mut planted = 0;
    for order in secret.in_each_order() {
        let copy = DataKey::from_vec(order.reveal());
        planted += memory.count_all(&secret.in_each_order())?;
        drop(copy);
    }
    let dropped = memory.count_all(&secret.in_each_order())?;
    println!("{:>24}  {:>16}  {planted:>6}  {dropped:>7}", "planted in each order", "a key");
    let on_stack = leftovers::planted(memory)?;
    println!("{:>24}  {:>16}  {:>6}  {on_stack:>7}", "left on a stack", "a key", "");
    let mut deriver = Deriver::start()?;
    let (mut in_use, mut left) = (0, 0);
    for operation in leftovers::Operation::ALL {
        for leftover in leftovers::follow(memory, &mut deriver, operation)? {
            let leftovers::Leftover { secret, in_use: used, gone } = leftover;
            println!("{:>24}  {secret:>16}  {used:>6}  {gone:>7}", operation.name());
            in_use += used;
            left += gone;
        }
    }
    assert_eq!((planted, dropped, on_stack), (4, 0, 1), "copies that were planted");
    assert!(in_use > 0, "no secret was found while it was in use");
    assert_eq!(left, 0, "pieces of secrets after they were dropped");
    Ok(())
}

/// The entries for encryption, or those for decryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Encryption,
    Decryption,
}

/// How a data key leaves the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Eviction,
    Rotation,
    Clear,
    Invalidate,
    InvalidateKey,
}

const WAYS: [Way; 5] =
    [Way::Eviction, Way::Rotation, Way::Clear, Way::Invalidate, Way::InvalidateKey];

/// Caches a data key and drops it. Returns what was found at its address, and how many copies there
/// were in memory, before and after.
async fn drop_one(memory: &mut Memory, half: Half, way: Way) -> Result<[(Found, usize); 2]> {
    let subject = Subject::new(10)?;
    let context = tenant(0);
    let message = subject.sender.encrypt(b"x", &context).await?;
    subject.serve(half, &message, &context).await?;
    let (address, key) = subject.spy.first();
    let cached = (memory.look(address, &key)?, memory.count(&key)?);
    match way {
        Way::Clear => _ = subject.cache.clear(),
        Way::Invalidate => _ = subject.cache.invalidate(&context),
        Way::InvalidateKey => _ = subject.cache.invalidate_key(KEY_NAME),
        Way::Eviction => {
            for number in 1..PATIENCE {
                if memory.look(address, &key)? != Found::Key {
                    break;
                }
                let other = tenant(number);
                let message = subject.sender.encrypt(b"x", &other).await?;
                // An entry that is used only once displaces no other one.
                for _ in 0..3 {
                    subject.serve(half, &message, &other).await?;
                }
            }
        }
        Way::Rotation => {
            for _ in 0..PATIENCE {
                if memory.look(address, &key)? != Found::Key {
                    break;
                }
                subject.clock.advance(MAX_AGE / 20);
                subject.serve(half, &message, &context).await?;
                // Lets the refresh run.
                tokio::task::yield_now().await;
            }
        }
    }
    Ok([cached, (memory.look(address, &key)?, memory.count(&key)?)])
}

/// Fills a cache to its capacity, and then with half as many entries more. Returns how many entries
/// it then held each time, and how many bytes each of the first ones took.
async fn fill(half: Half, capacity: usize) -> Result<[u64; 3]> {
    let subject = Subject::new(capacity)?;
    let numbers = 0..capacity + capacity / 2;
    let mut messages = Vec::with_capacity(numbers.len());
    for number in numbers.clone() {
        let context = tenant(number);
        messages.push(subject.sender.encrypt(b"x", &context).await?);
    }
    subject.spy.forget();
    let entries = || {
        let stats = subject.cache.stats();
        let half = if half == Half::Encryption { stats.encryption } else { stats.decryption };
        half.entries as u64
    };
    let before = resident()?;
    let (mut filled, mut bytes) = (0, 0);
    for (number, message) in numbers.zip(&messages) {
        if number == capacity {
            (filled, bytes) = (entries(), resident()?.saturating_sub(before));
        }
        subject.serve(half, message, &tenant(number)).await?;
        subject.spy.forget();
    }
    let figures = [filled, entries(), bytes / filled.max(1)];
    // The next subject must not reuse the memory of this one.
    std::mem::forget(subject);
    Ok(figures)
}

fn tenant(number: usize) -> EncryptionContext {
    let number = number.to_string();
    EncryptionContext::new([("tenant", number)]).expect("one short pair is allowed")
}

/// The bytes of this process that are in memory.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// A client whose cache is watched, and one without a cache, under the same wrapping key.
struct Subject {
    envelope: Envelope,
    cache: MaterialsCache,
    sender: Envelope,
    spy: Arc<Spy>,
    clock: Clock,
}

impl Subject {
    fn new(capacity: usize) -> Result<Self> {
        let keyring = RawAesKeyring::new("benches", KEY_NAME, &DataKey::generate(32)?)?;
        let source = DefaultMaterialsManager::new(keyring);
        let spy = Arc::new(Spy { source: source.clone(), seen: Mutex::default() });
        let clock = Clock::manual();
        let cache = MaterialsCache::builder().capacity(capacity).clock(&clock).build();
        let manager = CachingMaterialsManager::builder(Watched(Arc::clone(&spy)))
            .cache(&cache)
            .max_age(MAX_AGE)
            .build()?;
        let envelope = Envelope::builder(manager).build()?;
        let sender = Envelope::builder(source).build()?;
        Ok(Self { envelope, cache, sender, spy, clock })
    }

    /// Uses the cache once: encrypts a message, or decrypts this one.
    async fn serve(
        &self,
        half: Half,
        message: &[u8],
        context: &EncryptionContext,
    ) -> std::result::Result<(), envelope::Error> {
        match half {
            Half::Encryption => self.envelope.encrypt(b"x", context).await.map(drop),
            Half::Decryption => self.envelope.decrypt(message, context).await.map(drop),
        }
    }
}
