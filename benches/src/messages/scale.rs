//! How the cost of encryption and decryption grows with the payload, the pairs of context, the
//! wrapped keys, the threads, the contexts of each thread, and the entries in the cache.
//!
//! From one point to the next, the cost may grow by half more than the work does. The work is the
//! cost of the primitives in the same rounds, with as many threads. For pairs and keys, it grows
//! like the length of the message, because the header holds them. Nothing else may grow with the
//! entries or the contexts.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{hint::black_box, thread, time::Duration};

use benches::{
    FRAME_LENGTH, LONG, Result, context, done,
    floor::{Backend, Floor},
    limits::Limits,
    raw_aes, tenant, warm, warm_with,
};
use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Envelope,
    keyring::{MultiKeyring, RawAesKeyring},
    materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
};

use crate::{
    Args,
    load::count,
    picture::{self, Panel},
    rounds::{Call, median, medians, rates, ratio, repeat, time},
};

/// How much faster than the work the cost may grow.
const MAX_GROWTH: f64 = 1.5;
/// The plaintext where the payload does not grow.
const PLAINTEXT: [u8; 1024] = [7; 1024];

pub(crate) async fn run(args: &Args) -> Result {
    let scale = Scale {
        rounds: args.pick(15, 101),
        span: Duration::from_millis(args.pick(10, 60)),
        seed: args.seed,
    };
    let axes = [
        scale.payload()?,
        scale.pairs()?,
        scale.wrapped_keys()?,
        scale.threads()?,
        scale.contexts().await?,
        // Last, because the heap is slow after millions of small pieces were freed.
        scale.entries().await?,
    ];
    let mut limits = Limits::default();
    for axis in &axes {
        axis.print();
        for (side, name) in ["encrypt", "decrypt"].into_iter().enumerate() {
            let growths = axis.points.windows(2).map(|pair| pair[1].growth(&pair[0])[side]);
            let name = format!("{}: {name}, growth over the work's", axis.name);
            limits.at_most(name, growths.fold(0.0, f64::max), MAX_GROWTH);
        }
    }
    let panels: Vec<_> = axes.iter().map(Axis::panel).collect();
    let path = picture::panels("scale", "what one operation costs", &panels)?;
    println!("\n{}", path.display());
    Ok(limits.verdict())
}

/// How the cost grows with one thing.
struct Axis {
    name: &'static str,
    points: Vec<Point>,
}

/// The cost in nanoseconds and the work, of encryption and of decryption.
struct Point {
    name: String,
    cost: [f64; 2],
    work: [f64; 2],
}

impl Axis {
    fn print(&self) {
        println!(
            "\n{:<28} {:>12} {:>9} {:>12} {:>9}",
            self.name, "encrypt, µs", "growth", "decrypt, µs", "growth"
        );
        let mut growth = [String::new(), String::new()];
        for (at, Point { name, cost, .. }) in self.points.iter().enumerate() {
            if at > 0 {
                growth = self.points[at].growth(&self.points[at - 1]).map(|it| format!("{it:.2}"));
            }
            let [encrypt, decrypt] = cost.map(|nanos| nanos / 1e3);
            println!(
                "{name:>28} {encrypt:>12.2} {:>9} {decrypt:>12.2} {:>9}",
                growth[0], growth[1]
            );
        }
    }

    fn panel(&self) -> Panel {
        let line = |side: usize| self.points.iter().map(|point| point.cost[side]).collect();
        Panel {
            title: self.name.to_owned(),
            points: self.points.iter().map(|point| point.name.clone()).collect(),
            lines: vec![("encrypt", line(0)), ("decrypt", line(1))],
        }
    }
}

impl Point {
    fn growth(&self, before: &Self) -> [f64; 2] {
        [0, 1].map(|side| {
            (self.cost[side] / before.cost[side]) / (self.work[side] / before.work[side])
        })
    }
}

/// How long to measure.
struct Scale {
    rounds: usize,
    span: Duration,
    seed: u64,
}

impl Scale {
    fn payload(&self) -> Result<Axis> {
        let (envelope, context) = (warm()?, context());
        let [one, other] = Backend::ALL.map(Floor::usual);
        let mut points = vec![];
        for power in (4..=26).step_by(2) {
            let plaintext = vec![7; 1 << power];
            let message = envelope.try_encrypt(&plaintext, &context)?;
            let (one_message, other_message) = (one.encrypt(&plaintext), other.encrypt(&plaintext));
            let sides: [&mut dyn FnMut(); 6] = [
                &mut || done(envelope.try_encrypt(black_box(&plaintext), &context)),
                &mut || done(envelope.try_decrypt(black_box(&message), &context)),
                &mut || done(one.encrypt(black_box(&plaintext))),
                &mut || done(one.decrypt(black_box(&one_message))),
                &mut || done(other.encrypt(black_box(&plaintext))),
                &mut || done(other.decrypt(black_box(&other_message))),
            ];
            let repeat = repeat(time(1, || done(one.encrypt(&plaintext))));
            let rounds = self.rounds.min(usize::max(5, (1 << 28) / plaintext.len()));
            let [encrypt, decrypt, floors @ ..] = medians(rounds, repeat, sides);
            let work = [floors[0].min(floors[2]), floors[1].min(floors[3])];
            points.push(Point { name: bytes(plaintext.len()), cost: [encrypt, decrypt], work });
        }
        Ok(Axis { name: "payload", points })
    }

    fn pairs(&self) -> Result<Axis> {
        let mut points = vec![];
        for pairs in [0, 1, 2, 5, 10, 20, 50, 100] {
            let context = (0..pairs).map(|number| (format!("key {number}"), "value".to_owned()));
            let context = EncryptionContext::new(context)?;
            points.push(self.by_length(pairs.to_string(), raw_aes()?, &context)?);
        }
        Ok(Axis { name: "pairs of context", points })
    }

    fn wrapped_keys(&self) -> Result<Axis> {
        let mut points = vec![];
        for keys in [1, 2, 4, 8, 15] {
            let mut keyring = MultiKeyring::new(raw_aes()?);
            for key in 1..keys {
                let name = format!("key {key}");
                let child = RawAesKeyring::new("benches", name, &DataKey::generate(32)?)?;
                keyring = keyring.with_child(child)?;
            }
            points.push(self.by_length(keys.to_string(), keyring, &context())?);
        }
        Ok(Axis { name: "wrapped keys", points })
    }

    /// A point whose work is the length of the message, at the present pace of the machine.
    fn by_length(
        &self,
        name: String,
        keyring: impl envelope::keyring::Keyring + 'static,
        context: &EncryptionContext,
    ) -> Result<Point> {
        let suite = AlgorithmSuite::default();
        let envelope = warm_with(keyring, context, suite, Some(FRAME_LENGTH))?;
        let message = envelope.try_encrypt(&PLAINTEXT, context)?;
        let floor = Floor::usual(Backend::AwsLc);
        let floor_message = floor.encrypt(&PLAINTEXT);
        let sides: [&mut dyn FnMut(); 4] = [
            &mut || done(envelope.try_encrypt(black_box(&PLAINTEXT), context)),
            &mut || done(envelope.try_decrypt(black_box(&message), context)),
            &mut || done(floor.encrypt(black_box(&PLAINTEXT))),
            &mut || done(floor.decrypt(black_box(&floor_message))),
        ];
        let [encrypt, decrypt, floors @ ..] = medians(self.rounds, 100, sides);
        let work = floors.map(|nanos| nanos * count(message.len() as u64));
        Ok(Point { name, cost: [encrypt, decrypt], work })
    }

    /// One client and one entry.
    fn threads(&self) -> Result<Axis> {
        let (envelope, context) = (warm()?, context());
        let message = envelope.try_encrypt(&PLAINTEXT, &context)?;
        let encrypt = || done(envelope.try_encrypt(black_box(&PLAINTEXT), &context));
        let decrypt = || done(envelope.try_decrypt(black_box(&message), &context));
        let points = [1, 2, 4, 8].map(|threads: usize| {
            let encrypts = vec![&encrypt as _; threads];
            self.together(threads.to_string(), &encrypts, &vec![&decrypt as _; threads])
        });
        Ok(Axis { name: "threads", points: points.into() })
    }

    /// One client, and a thread for each core.
    async fn contexts(&self) -> Result<Axis> {
        let (envelope, threads) = (warm()?, thread::available_parallelism()?.get().max(2));
        let mut points = vec![];
        for contexts in [1, 4, 16, 64] {
            let mut owned = vec![];
            for thread in 0..threads {
                let mut messages = vec![];
                for number in 0..contexts {
                    let context = tenant(&format!("{number} of {thread}"));
                    let message = envelope.encrypt(&PLAINTEXT, &context).await?;
                    envelope.decrypt(&message, &context).await?;
                    messages.push((context, message));
                }
                owned.push(messages);
            }
            let pick = |owned: &'_ Vec<_>| fastrand::usize(..owned.len());
            let encrypt = |owned: &Vec<(EncryptionContext, Vec<u8>)>| {
                let (context, _) = &owned[pick(owned)];
                done(envelope.try_encrypt(black_box(&PLAINTEXT), context).expect("it is cached"));
            };
            let decrypt = |owned: &Vec<(EncryptionContext, Vec<u8>)>| {
                let (context, message) = &owned[pick(owned)];
                done(envelope.try_decrypt(black_box(message), context).expect("it is cached"));
            };
            let encrypts: Vec<_> = owned.iter().map(|owned| || encrypt(owned)).collect();
            let decrypts: Vec<_> = owned.iter().map(|owned| || decrypt(owned)).collect();
            let encrypts: Vec<_> = encrypts.iter().map(|call| call as _).collect();
            let decrypts: Vec<_> = decrypts.iter().map(|call| call as _).collect();
            points.push(self.together(contexts.to_string(), &encrypts, &decrypts));
        }
        Ok(Axis { name: "contexts of each thread", points })
    }

    /// Random hits among more and more entries.
    async fn entries(&self) -> Result<Axis> {
        let cache = MaterialsCache::new(1_000_000);
        let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(raw_aes()?));
        let envelope = Envelope::builder(manager.cache(&cache).max_age(LONG).build()?).build()?;
        let (floor, plaintext) = (Floor::usual(Backend::RustCrypto), [7; 16]);
        let floor_message = floor.encrypt(&plaintext);
        let (mut points, mut contexts, mut messages) = (vec![], vec![], vec![]);
        for power in 0..=6 {
            for number in contexts.len()..10_usize.pow(power) {
                let context = tenant(&number.to_string());
                messages.push(envelope.encrypt(&plaintext, &context).await?);
                envelope.decrypt(&messages[number], &context).await?;
                contexts.push(context);
            }
            let mut random = fastrand::Rng::with_seed(self.seed);
            let mut other = random.clone();
            let sides: [&mut dyn FnMut(); 4] = [
                &mut || {
                    let context = &contexts[random.usize(..contexts.len())];
                    done(envelope.try_encrypt(&plaintext, context).expect("it is cached"));
                },
                &mut || {
                    let at = other.usize(..contexts.len());
                    let decrypted = envelope.try_decrypt(&messages[at], &contexts[at]);
                    done(decrypted.expect("it is cached"));
                },
                &mut || done(floor.encrypt(black_box(&plaintext))),
                &mut || done(floor.decrypt(black_box(&floor_message))),
            ];
            let [encrypt, decrypt, work @ ..] = medians(self.rounds, 100, sides);
            points.push(Point { name: short(contexts.len()), cost: [encrypt, decrypt], work });
        }
        Ok(Axis { name: "entries in the cache", points })
    }

    /// A point of several threads. The cost is the time of all threads for one operation of any.
    fn together(&self, name: String, encrypts: &[&Call], decrypts: &[&Call]) -> Point {
        let floor = Floor::usual(Backend::AwsLc);
        let message = floor.encrypt(&PLAINTEXT);
        let encrypt = || done(floor.encrypt(black_box(&PLAINTEXT)));
        let decrypt = || done(floor.decrypt(black_box(&message)));
        let floor_encrypts = vec![&encrypt as _; encrypts.len()];
        let floor_decrypts = vec![&decrypt as _; decrypts.len()];
        let [encrypts, floor_encrypts, decrypts, floor_decrypts] =
            rates(15, self.span, [encrypts, &floor_encrypts, decrypts, &floor_decrypts]);
        // Round by round, because disturbances of the machine affect threads more.
        let over_floor = [ratio(&floor_encrypts, &encrypts), ratio(&floor_decrypts, &decrypts)];
        let cost = [encrypts, decrypts].map(|rates| 1e9 / median(rates));
        Point { name, cost, work: [0, 1].map(|side| cost[side] / over_floor[side]) }
    }
}

fn bytes(count: usize) -> String {
    match count {
        0..1_024 => format!("{count} B"),
        1_024..1_048_576 => format!("{} KiB", count >> 10),
        _ => format!("{} MiB", count >> 20),
    }
}

fn short(count: usize) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{}k", count / 1_000),
        _ => format!("{}M", count / 1_000_000),
    }
}
