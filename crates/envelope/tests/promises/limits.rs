//! No data key serves more messages or bytes than its limits allow, and almost all are used.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    thread,
};

use envelope::{
    AlgorithmSuite,
    materials::{
        CachingMaterialsManager, DefaultMaterialsManager, EncryptionMaterials,
        EncryptionMaterialsRequest, MaterialsManager as _,
    },
};
use fastrand::Rng;

use crate::support::{context, keyring, now};

const THREADS: u64 = 16;
const SEED: u64 = 9;
const RESERVATIONS: u64 = 400_000;
const KEYS_PER_ROUND: u64 = 200;
/// A longer message than this part of `max_bytes` may leave more than a twentieth of it unused.
const USUAL_PART: u64 = 20;

/// The limits of one round.
#[derive(Debug, Clone, Copy)]
struct Limits {
    max_messages: u64,
    max_bytes: u64,
    /// The longest message, in bytes. No message is longer than `max_bytes`, because such a message
    /// is not cached.
    longest: u64,
    refresh_ahead: bool,
    reservations: u64,
}

impl Limits {
    /// From one message to a million, and from a few bytes to a terabyte. Each magnitude is equally
    /// likely, and either limit may be the one that is reached.
    fn random(random: &mut Rng) -> Self {
        let max_messages = magnitude(random, 20);
        let longest = magnitude(random, 20);
        let part = if random.u8(..4) == 0 { 1 } else { USUAL_PART };
        let expected = max_messages * longest.div_ceil(2);
        let max_bytes =
            (expected * magnitude(random, 3) / magnitude(random, 3)).max(longest * part);
        let per_key = max_messages.min(max_bytes / longest.div_ceil(2));
        let reservations = (per_key * KEYS_PER_ROUND).min(RESERVATIONS / 20);
        Self { max_messages, max_bytes, longest, refresh_ahead: random.bool(), reservations }
    }
}

/// A number up to two to the power of `bits`.
fn magnitude(random: &mut Rng, bits: u32) -> u64 {
    let bit = 1 << random.u32(..=bits);
    random.u64(bit / 2 + 1..=bit)
}

/// What one data key was used for. The weak reference keeps its address from being used again.
#[derive(Debug)]
struct Account {
    key: Weak<EncryptionMaterials>,
    messages: u64,
    bytes: u64,
}

#[test]
fn limits_are_never_exceeded_and_used_to_95_percent() {
    let mut random = Rng::with_seed(SEED);
    let (mut reservations, mut rounds, mut shares) = (0, 0, vec![]);
    while reservations < RESERVATIONS {
        let limits = Limits::random(&mut random);
        let source = DefaultMaterialsManager::new(keyring());
        let manager = CachingMaterialsManager::builder(source)
            .max_messages(limits.max_messages)
            .max_bytes(limits.max_bytes)
            .refresh_ahead(limits.refresh_ahead)
            .build()
            .unwrap();
        for account in round(&manager, limits, random.u64(..)).into_values() {
            reservations += account.messages;
            assert!(account.messages <= limits.max_messages, "{limits:?}, {account:?}");
            assert!(account.bytes <= limits.max_bytes, "{limits:?}, {account:?}");
            let share = share(account.messages, limits.max_messages)
                .max(share(account.bytes, limits.max_bytes));
            let is_spent = account.key.strong_count() == 0;
            if is_spent && limits.longest * USUAL_PART <= limits.max_bytes {
                shares.push(share);
            }
        }
        rounds += 1;
    }
    let used = shares.iter().sum::<f64>() / f64::from(u32::try_from(shares.len()).unwrap());
    let spent = shares.len();
    println!(
        "{reservations} reservations, {rounds} rounds: {spent} data keys spent, {used:.4} used"
    );
    assert!(spent > 1_000 && used >= 0.95, "{spent} data keys spent, {used:.4} used");
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn share(used: u64, limit: u64) -> f64 {
    used as f64 / limit as f64
}

/// Has all threads reserve under these limits, and adds up what each data key was used for.
fn round(manager: &CachingMaterialsManager, limits: Limits, seed: u64) -> HashMap<usize, Account> {
    let threads = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                scope.spawn(move || reserve(manager, limits, Rng::with_seed(seed ^ number)))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let mut total: HashMap<usize, Account> = HashMap::new();
    for (address, account) in threads.into_iter().flatten() {
        let sum = total.entry(address).or_insert(Account { messages: 0, bytes: 0, ..account });
        sum.messages += account.messages;
        sum.bytes += account.bytes;
    }
    total
}

/// One thread's part of the reservations.
fn reserve(
    manager: &CachingMaterialsManager,
    limits: Limits,
    mut random: Rng,
) -> HashMap<usize, Account> {
    let mut accounts = HashMap::new();
    for _ in 0..limits.reservations.div_ceil(THREADS) {
        let bytes = random.u64(0..=limits.longest);
        let context = context("42");
        let request =
            EncryptionMaterialsRequest::new(AlgorithmSuite::default(), &context, Some(bytes));
        let mut cached = None;
        manager
            .cached_encryption_materials(request, &mut |it| cached = Some(Arc::clone(it)))
            .unwrap();
        let materials =
            cached.unwrap_or_else(|| now(manager.encryption_materials(request)).unwrap());
        let account = accounts.entry(Arc::as_ptr(&materials).addr()).or_insert_with(|| Account {
            key: Arc::downgrade(&materials),
            messages: 0,
            bytes: 0,
        });
        account.messages += 1;
        account.bytes += bytes;
    }
    accounts
}
