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
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

mod leftovers;

use std::{
    error::Error,
    fmt, io,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use benches::{
    memory::{self, Found, Masked, Memory},
    secrets::{self, Deriver},
    verdict,
};
use clap::Parser;
use envelope::{
    Clock, DataKey, EncryptionContext, Envelope,
    keyring::RawAesKeyring,
    materials::{
        CachingMaterialsManager, DecryptionMaterials, DecryptionMaterialsRequest,
        DefaultMaterialsManager, EncryptionMaterials, EncryptionMaterialsRequest, MaterialsCache,
        MaterialsFuture, MaterialsManager,
    },
};

const MAX_AGE: Duration = Duration::from_mins(1);
const KEY_NAME: &str = "resident";
/// How many operations a data key may take to leave.
const PATIENCE: u32 = 1_000;

#[derive(Parser)]
#[command(
    about = "Measures the memory of cached data keys, and searches for copies after they were dropped"
)]
struct Args {
    /// A tenth of the hundred thousand entries
    #[arg(long)]
    quick: bool,
    /// Computes secrets for the parent process
    #[arg(long, hide = true)]
    derive_secrets: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args = Args::parse();
    if args.derive_secrets {
        secrets::derive(io::stdin().lock(), io::stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
    }
    let entries = if args.quick { 10_000 } else { 100_000 };
    // First, while there is little memory to look through.
    let mut memory = Memory::open()?;
    let nothing_left = look_for_leftovers(&mut memory)?;
    println!(
        "{:>24}  {:>22}  {:>6}  {:>22}  {:>6}",
        "", "cached: at its address", "copies", "gone: at its address", "copies"
    );
    let mut traces = vec![];
    for half in [Half::Sealing, Half::Opening] {
        for way in Way::ALL {
            let trace = follow(&mut memory, half, way).await?;
            println!("{:>24}  {trace}", format!("{half}, {way}"));
            traces.push(trace);
        }
    }
    println!(
        "(opening, rotation: the copy is the successor's, which is the same data key, asked for again)"
    );

    println!(
        "\n{:>24}  {:>10}  {:>15}  {:>18}  {:>10}",
        "", "capacity", "held of as many", "after half as many more", "bytes each"
    );
    let filled = [fill(Half::Sealing, entries).await?, fill(Half::Opening, entries).await?];
    for Filled { half, of_as_many, resident, bytes_each, .. } in &filled {
        println!(
            "{:>24}  {entries:>10}  {of_as_many:>15}  {resident:>18}  {bytes_each:>10}",
            half.to_string()
        );
    }
    println!();

    let wiped = traces.iter().filter(|trace| trace.is_wiped()).count();
    let within =
        filled.iter().all(|filled| filled.of_as_many.max(filled.resident) <= entries + entries / 4);
    let [sealing, opening] = &filled;
    let figures = format!(
        "{wiped} of {} data keys wiped; capacity {}; {} and {} bytes an entry",
        traces.len(),
        if within { "holds" } else { "exceeded" },
        sealing.bytes_each,
        opening.bytes_each,
    );
    let wiped = verdict(wiped == traces.len() && within, figures);
    Ok(if nothing_left { wiped } else { ExitCode::FAILURE })
}

/// Searches for data that operations leave behind. Returns whether there is none.
fn look_for_leftovers(memory: &mut Memory) -> Result<bool, Box<dyn Error>> {
    let backend = if cfg!(feature = "aws-lc-rs") { "AWS-LC" } else { "RustCrypto" };
    println!("AES-GCM of {backend}; pieces of 16 bytes, in four orders");
    println!("{:>24}  {:>16}  {:>6}  {:>6}", "", "", "in use", "gone");
    let mut planted = 0;
    let secret = Masked::new(DataKey::generate(32)?.expose_secret());
    for order in secret.in_each_order() {
        let copy = DataKey::from_vec(order.reveal());
        planted += memory.count_all(&secret.in_each_order())?;
        drop(copy);
    }
    let unplanted = memory.count_all(&secret.in_each_order())?;
    println!("{:>24}  {:>16}  {planted:>6}  {unplanted:>6}", "planted in each order", "a key");
    let on_stack = leftovers::planted(memory).map_err(plain)?;
    println!("{:>24}  {:>16}  {:>6}  {on_stack:>6}", "left on a stack", "a key", "");
    let mut deriver = Deriver::start()?;
    let (mut seen, mut left) = (0, 0);
    for operation in leftovers::Operation::ALL {
        let found = leftovers::follow(memory, &mut deriver, operation).map_err(plain)?;
        for leftovers::Leftover { secret, in_use, gone } in found {
            println!("{:>24}  {secret:>16}  {in_use:>6}  {gone:>6}", operation.name());
            seen += in_use;
            left += gone;
        }
    }
    println!();
    let holds = (planted, unplanted, on_stack) == (4, 0, 1) && seen > 0 && left == 0;
    let figures = format!(
        "AES-GCM of {backend}: {} of 5 planted copies found; {seen} pieces found of secrets in use, {left} after they were dropped",
        planted + on_stack,
    );
    verdict(holds, figures);
    println!();
    Ok(holds)
}

fn plain(failure: Box<dyn Error + Send + Sync>) -> Box<dyn Error> {
    failure
}

/// Which entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Sealing,
    Opening,
}

/// How a data key leaves the cache.
#[derive(Debug, Clone, Copy)]
enum Way {
    Eviction,
    Rotation,
    Clear,
    Invalidate,
    InvalidateKey,
}

impl Way {
    const ALL: [Self; 5] =
        [Self::Eviction, Self::Rotation, Self::Clear, Self::Invalidate, Self::InvalidateKey];
}

/// What was found of one data key.
#[derive(Debug)]
struct Trace {
    cached: (Found, usize),
    gone: (Found, usize),
    /// How many copies there should be then: what comes after a data key to open with is the same
    /// one, asked for again.
    successors: usize,
}

impl Trace {
    fn is_wiped(&self) -> bool {
        self.cached == (Found::Key, 1) && self.gone == (Found::Zeros, self.successors)
    }
}

/// Caches a data key, has it leave, and looks for it before and after.
async fn follow(memory: &mut Memory, half: Half, way: Way) -> Result<Trace, Box<dyn Error>> {
    let subject = Subject::new(10)?;
    let context = tenant(0)?;
    let message = subject.sealer.encrypt(b"x", &context).await?;
    subject.serve(half, &message, &context).await?;
    let (address, key) = subject.spy.first();
    let cached = (memory.look(address, &key)?, memory.count(&key)?);
    match way {
        Way::Clear => _ = subject.cache.clear(),
        Way::Invalidate => _ = subject.cache.invalidate(&context),
        Way::InvalidateKey => _ = subject.cache.invalidate_key(KEY_NAME),
        Way::Eviction => {
            let mut number = 0;
            while number < PATIENCE && memory.look(address, &key)? == Found::Key {
                number += 1;
                let other = tenant(number)?;
                let message = subject.sealer.encrypt(b"x", &other).await?;
                // An entry that is used only once displaces no others.
                for _ in 0..3 {
                    subject.serve(half, &message, &other).await?;
                }
            }
        }
        Way::Rotation => {
            let mut turns = 0;
            while turns < PATIENCE && memory.look(address, &key)? == Found::Key {
                turns += 1;
                subject.clock.advance(MAX_AGE / 20);
                subject.serve(half, &message, &context).await?;
                // The refresh gets its turn.
                tokio::task::yield_now().await;
            }
        }
    }
    let successors = usize::from(matches!((half, way), (Half::Opening, Way::Rotation)));
    Ok(Trace { cached, successors, gone: (memory.look(address, &key)?, memory.count(&key)?) })
}

/// A cache that was filled.
struct Filled {
    half: Half,
    /// How many of as many entries as the capacity were held: its parts do not fill evenly.
    of_as_many: usize,
    /// How many were held after half as many more.
    resident: usize,
    bytes_each: u64,
    /// Kept alive, because its freed memory would be reused for the next subject.
    _kept: Subject,
}

/// Fills a cache to its capacity, and then some.
async fn fill(half: Half, capacity: usize) -> Result<Filled, Box<dyn Error>> {
    let subject = Subject::new(capacity)?;
    let numbers = 0..u32::try_from(capacity + capacity / 2)?;
    let mut messages = Vec::with_capacity(numbers.len());
    for number in numbers.clone() {
        messages.push(subject.sealer.encrypt(b"x", &tenant(number)?).await?);
    }
    subject.spy.forget();
    let held = |subject: &Subject| {
        let stats = subject.cache.stats();
        if half == Half::Sealing { stats.encryption.entries } else { stats.decryption.entries }
    };
    let before = memory::resident()?;
    let (mut of_as_many, mut bytes) = (0, 0);
    for (number, message) in numbers.zip(&messages) {
        if number as usize == capacity {
            (of_as_many, bytes) = (held(&subject), memory::resident()? - before);
        }
        subject.serve(half, message, &tenant(number)?).await?;
        subject.spy.forget();
    }
    let (resident, bytes_each) = (held(&subject), bytes / of_as_many.max(1) as u64);
    Ok(Filled { half, of_as_many, resident, bytes_each, _kept: subject })
}

fn tenant(number: u32) -> Result<EncryptionContext, envelope::Error> {
    EncryptionContext::new([("tenant", number.to_string())])
}

/// A client whose cache is watched, and one without a cache, under the same wrapping key.
struct Subject {
    envelope: Envelope,
    cache: MaterialsCache,
    sealer: Envelope,
    spy: Arc<Spy>,
    clock: Clock,
}

impl Subject {
    fn new(capacity: usize) -> Result<Self, envelope::Error> {
        let source = DefaultMaterialsManager::new(RawAesKeyring::new(
            "benches",
            KEY_NAME,
            &DataKey::generate(32)?,
        )?);
        let spy = Arc::new(Spy { source: source.clone(), seen: Mutex::default() });
        let clock = Clock::manual();
        let cache = MaterialsCache::builder().capacity(capacity).clock(&clock).build();
        let manager = CachingMaterialsManager::builder(Watched(Arc::clone(&spy)))
            .cache(&cache)
            .max_age(MAX_AGE)
            .build()?;
        let (envelope, sealer) =
            (Envelope::builder(manager).build()?, Envelope::builder(source).build()?);
        Ok(Self { envelope, cache, sealer, spy, clock })
    }

    /// Has the cache serve one message: to seal another, or to open this one.
    async fn serve(
        &self,
        half: Half,
        message: &[u8],
        context: &EncryptionContext,
    ) -> Result<(), envelope::Error> {
        match half {
            Half::Sealing => self.envelope.encrypt(b"x", context).await.map(drop),
            Half::Opening => self.envelope.decrypt(message, context).await.map(drop),
        }
    }
}

/// Notes where data keys lie, and keeps none.
#[derive(Debug)]
struct Spy {
    source: DefaultMaterialsManager,
    seen: Mutex<Vec<(usize, Masked)>>,
}

impl Spy {
    fn note(&self, key: &DataKey) {
        let key = key.expose_secret();
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((key.as_ptr().addr(), Masked::new(key)));
    }

    fn first(&self) -> (usize, Masked) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)[0].clone()
    }

    fn forget(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What a caching manager takes its materials from.
#[derive(Debug)]
struct Watched(Arc<Spy>);

impl MaterialsManager for Watched {
    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, EncryptionMaterials> {
        Box::pin(async move {
            let materials = self.0.source.encryption_materials(request).await?;
            self.0.note(materials.data_key());
            Ok(materials)
        })
    }

    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, DecryptionMaterials> {
        Box::pin(async move {
            let materials = self.0.source.decryption_materials(request).await?;
            self.0.note(materials.data_key());
            Ok(materials)
        })
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Sealing { "sealing" } else { "opening" })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eviction => "eviction",
            Self::Rotation => "rotation",
            Self::Clear => "clear",
            Self::Invalidate => "invalidate",
            Self::InvalidateKey => "invalidate_key",
        })
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = |found| match found {
            Found::Key => "the key",
            Found::Zeros => "zeros",
            Found::Other => "other bytes",
        };
        let Self { cached, gone, .. } = self;
        write!(f, "{:>22}  {:>6}  {:>22}  {:>6}", found(cached.0), cached.1, found(gone.0), gone.1)
    }
}
