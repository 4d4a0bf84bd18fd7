//! How the cost of sealing and opening grows: with the payload, the pairs of context, the wrapped
//! keys, the threads, the contexts of each thread, and the entries in the cache.
//!
//! **No cliff** means: from one point of an axis to the next, the cost of an operation grows at
//! most by half more than the work does. The work is what the primitives cost for the same, in the
//! same alternating rounds and on as many threads; for pairs and keys it grows as the message's
//! length does, since the header holds them. Nothing else may grow with the entries or the
//! contexts, so that a look-up that did not scale would show. Writes `report/scale.svg`.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, hint::black_box, process::ExitCode, thread, time::Duration};

use benches::{
    FOR_LONG, FRAME_LENGTH, Lines, context,
    floor::{Backend, Floor},
    picture::{self, Panel},
    raw_aes,
    rounds::{Call, alternate, median, repeat, throughputs, time},
    warm, warm_under,
};
use clap::Parser;
use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Envelope,
    keyring::{MultiKeyring, RawAesKeyring},
    materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
};

/// How much faster than the work the cost may grow from one point to the next.
const CLIFF: f64 = 1.5;
/// The plaintext of the series in which the payload does not grow.
const PLAINTEXT: [u8; 1024] = [7; 1024];

#[derive(Parser)]
#[command(about = "Prints how the cost of sealing and opening grows with what there is to do")]
struct Args {
    /// Finish within a minute, with fewer rounds
    #[arg(long)]
    quick: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let quick = Args::parse().quick;
    let scale = Scale {
        rounds: if quick { 15 } else { 101 },
        span: Duration::from_millis(if quick { 10 } else { 60 }),
    };
    let axes = [
        scale.payload().await?,
        scale.pairs().await?,
        scale.wrapped_keys().await?,
        scale.threads().await?,
        scale.contexts().await?,
        // Last: a heap from which millions of small pieces were freed is slow for all that comes
        // after.
        scale.entries().await?,
    ];
    let mut lines = Lines::default();
    for axis in &axes {
        axis.print();
        let [seal, open] = axis.steepest();
        lines.at_most(format!("{}: seal, growth over the work's", axis.name), seal, CLIFF);
        lines.at_most(format!("{}: open, growth over the work's", axis.name), open, CLIFF);
    }
    let panels: Vec<_> = axes.iter().map(Axis::panel).collect();
    let path = picture::panels(
        "scale",
        "what one operation costs, as there is more of something",
        &panels,
    )?;
    println!("\n{}\n", path.file_name().unwrap_or_default().display());
    Ok(lines.verdict())
}

/// How cost grows with one thing.
struct Axis {
    name: &'static str,
    points: Vec<Point>,
}

/// Cost in nanoseconds and work, of sealing and of opening.
struct Point {
    name: String,
    cost: [f64; 2],
    work: [f64; 2],
}

impl Axis {
    fn print(&self) {
        println!(
            "\n{:<28} {:>12} {:>9} {:>12} {:>9}",
            self.name, "seal, µs", "growth", "open, µs", "growth"
        );
        let mut before = None;
        for point in &self.points {
            let [seal, open] = point.cost.map(|nanos| nanos / 1e3);
            let growth = before.map_or(["", ""].map(String::from), |before| {
                point.growth(before).map(|growth| format!("{growth:.2}"))
            });
            println!(
                "{:>28} {seal:>12.2} {:>9} {open:>12.2} {:>9}",
                point.name, growth[0], growth[1]
            );
            before = Some(point);
        }
    }

    /// The most that cost grew over the work from one point to the next, for sealing and for
    /// opening.
    fn steepest(&self) -> [f64; 2] {
        let growths = self.points.windows(2).map(|pair| pair[1].growth(&pair[0]));
        growths.fold([0.0; 2], |most, growth| [most[0].max(growth[0]), most[1].max(growth[1])])
    }

    fn panel(&self) -> Panel {
        let line = |side: usize| self.points.iter().map(|point| point.cost[side]).collect();
        let points = self.points.iter().map(|point| point.name.clone()).collect();
        Panel {
            title: self.name.to_owned(),
            points,
            lines: vec![("seal", line(0)), ("open", line(1))],
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
}

impl Scale {
    async fn payload(&self) -> Result<Axis, Box<dyn Error>> {
        let (envelope, context) = (warm().await?, context()?);
        let [one, other] = Backend::ALL.map(floor);
        let mut points = vec![];
        for power in (4..=26).step_by(2) {
            let plaintext = vec![7; 1 << power];
            let message = envelope.try_encrypt(&plaintext, &context)?;
            let (one_sealed, other_sealed) = (one.seal(&plaintext), other.seal(&plaintext));
            let sides: [&mut dyn FnMut(); 6] = [
                &mut || done(envelope.try_encrypt(black_box(&plaintext), &context)),
                &mut || done(envelope.try_decrypt(black_box(&message), &context)),
                &mut || done(one.seal(black_box(&plaintext))),
                &mut || done(one.open(black_box(&one_sealed))),
                &mut || done(other.seal(black_box(&plaintext))),
                &mut || done(other.open(black_box(&other_sealed))),
            ];
            let nanos = time(1, || done(one.seal(&plaintext)));
            let (rounds, repeat) =
                (self.rounds.min(usize::max(5, (1 << 28) / plaintext.len())), repeat(nanos));
            let [seal, open, one_seal, one_open, other_seal, other_open] =
                alternate(rounds, repeat, sides);
            let work = [one_seal.min(other_seal), one_open.min(other_open)];
            points.push(Point { name: bytes(plaintext.len()), cost: [seal, open], work });
        }
        Ok(Axis { name: "payload", points })
    }

    async fn pairs(&self) -> Result<Axis, Box<dyn Error>> {
        let mut points = vec![];
        for pairs in [0, 1, 2, 5, 10, 20, 50, 100] {
            let context = EncryptionContext::new(
                (0..pairs).map(|n| (format!("key {n}"), format!("value {n}"))),
            )?;
            let envelope =
                warm_under(raw_aes()?, &context, AlgorithmSuite::default(), Some(FRAME_LENGTH))
                    .await?;
            points.push(self.by_length(pairs.to_string(), &envelope, &context)?);
        }
        Ok(Axis { name: "pairs of context", points })
    }

    async fn wrapped_keys(&self) -> Result<Axis, Box<dyn Error>> {
        let (mut points, context) = (vec![], context()?);
        for keys in [1, 2, 4, 8, 15] {
            let mut keyring = MultiKeyring::builder().generator(raw_aes()?);
            for key in 1..keys {
                let wrapping_key = DataKey::generate(32)?;
                keyring = keyring.child(RawAesKeyring::new(
                    "benches",
                    format!("key {key}"),
                    &wrapping_key,
                )?);
            }
            let suite = AlgorithmSuite::default();
            let envelope =
                warm_under(keyring.build()?, &context, suite, Some(FRAME_LENGTH)).await?;
            points.push(self.by_length(keys.to_string(), &envelope, &context)?);
        }
        Ok(Axis { name: "wrapped keys", points })
    }

    /// A point whose work is the message's length, at the machine's pace of the moment.
    #[expect(clippy::cast_precision_loss, reason = "messages are short")]
    fn by_length(
        &self,
        name: String,
        envelope: &Envelope,
        context: &EncryptionContext,
    ) -> Result<Point, envelope::Error> {
        let message = envelope.try_encrypt(&PLAINTEXT, context)?;
        let (floor, sealed) = (floor(Backend::AwsLc), floor(Backend::AwsLc).seal(&PLAINTEXT));
        let sides: [&mut dyn FnMut(); 4] = [
            &mut || done(envelope.try_encrypt(black_box(&PLAINTEXT), context)),
            &mut || done(envelope.try_decrypt(black_box(&message), context)),
            &mut || done(floor.seal(black_box(&PLAINTEXT))),
            &mut || done(floor.open(black_box(&sealed))),
        ];
        let [seal, open, floor_seal, floor_open] = alternate(self.rounds, 100, sides);
        let work = [floor_seal, floor_open].map(|nanos| nanos * message.len() as f64);
        Ok(Point { name, cost: [seal, open], work })
    }

    /// One client, one entry, ever more threads.
    async fn threads(&self) -> Result<Axis, Box<dyn Error>> {
        let (envelope, context) = (warm().await?, context()?);
        let message = envelope.try_encrypt(&PLAINTEXT, &context)?;
        let seal = || done(envelope.try_encrypt(black_box(&PLAINTEXT), &context));
        let open = || done(envelope.try_decrypt(black_box(&message), &context));
        let mut points = vec![];
        for threads in [1, 2, 4, 8] {
            points.push(self.together(
                threads.to_string(),
                &vec![&seal as _; threads],
                &vec![&open as _; threads],
            ));
        }
        Ok(Axis { name: "threads", points })
    }

    /// One client, as many threads as there are cores, ever more contexts for each of them.
    async fn contexts(&self) -> Result<Axis, Box<dyn Error>> {
        let (envelope, threads) = (warm().await?, thread::available_parallelism()?.get().max(2));
        let mut points = vec![];
        for count in [1, 4, 16, 64] {
            let mut owned = vec![];
            for thread in 0..threads {
                let mut messages = vec![];
                for number in 0..count {
                    let context =
                        EncryptionContext::new([("tenant", format!("{number} of {thread}"))])?;
                    let message = envelope.encrypt(&PLAINTEXT, &context).await?;
                    envelope.decrypt(&message, &context).await?;
                    messages.push((context, message));
                }
                owned.push(messages);
            }
            let pick = |messages: &'_ Vec<_>| fastrand::usize(..messages.len());
            let seals: Vec<_> = owned
                .iter()
                .map(|owned| {
                    || {
                        done(
                            envelope
                                .try_encrypt(black_box(&PLAINTEXT), &owned[pick(owned)].0)
                                .expect("it is cached"),
                        );
                    }
                })
                .collect();
            let opens: Vec<_> = owned
                .iter()
                .map(|owned| {
                    || {
                        let (context, message) = &owned[pick(owned)];
                        done(
                            envelope
                                .try_decrypt(black_box(message), context)
                                .expect("it is cached"),
                        );
                    }
                })
                .collect();
            let seals: Vec<_> = seals.iter().map(|call| call as _).collect();
            let opens: Vec<_> = opens.iter().map(|call| call as _).collect();
            points.push(self.together(count.to_string(), &seals, &opens));
        }
        Ok(Axis { name: "contexts of each thread", points })
    }

    /// Hits in the cache by chance, among ever more entries.
    async fn entries(&self) -> Result<Axis, Box<dyn Error>> {
        let cache = MaterialsCache::new(1_000_000);
        let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(raw_aes()?));
        let envelope =
            Envelope::builder(manager.cache(&cache).max_age(FOR_LONG).build()?).build()?;
        let (floor, plaintext) = (floor(Backend::RustCrypto), [7; 16]);
        let sealed = floor.seal(&plaintext);
        let (mut points, mut contexts, mut messages) = (vec![], vec![], vec![]);
        for power in 0..=6 {
            for number in contexts.len()..10_usize.pow(power) {
                let context = EncryptionContext::new([("tenant", number.to_string())])?;
                messages.push(envelope.encrypt(&plaintext, &context).await?);
                envelope.decrypt(&messages[number], &context).await?;
                contexts.push(context);
            }
            let mut random = fastrand::Rng::with_seed(7);
            let mut other_random = random.clone();
            let sides: [&mut dyn FnMut(); 4] = [
                &mut || {
                    let context = &contexts[random.usize(..contexts.len())];
                    done(
                        envelope
                            .try_encrypt(black_box(&plaintext), context)
                            .expect("it is in the cache"),
                    );
                },
                &mut || {
                    let number = other_random.usize(..contexts.len());
                    done(
                        envelope
                            .try_decrypt(black_box(&messages[number]), &contexts[number])
                            .expect("it is cached"),
                    );
                },
                &mut || done(floor.seal(black_box(&plaintext))),
                &mut || done(floor.open(black_box(&sealed))),
            ];
            let [seal, open, floor_seal, floor_open] = alternate(self.rounds, 100, sides);
            points.push(Point {
                name: short(contexts.len()),
                cost: [seal, open],
                work: [floor_seal, floor_open],
            });
        }
        Ok(Axis { name: "entries in the cache", points })
    }

    /// A point of several threads; cost is the time of all of them for each operation of any.
    fn together(&self, name: String, seals: &[&Call], opens: &[&Call]) -> Point {
        let floor = floor(Backend::AwsLc);
        let sealed = floor.seal(&PLAINTEXT);
        let floor_seal = || done(floor.seal(black_box(&PLAINTEXT)));
        let floor_open = || done(floor.open(black_box(&sealed)));
        let (floor_seals, floor_opens) =
            (vec![&floor_seal as _; seals.len()], vec![&floor_open as _; opens.len()]);
        let [seal, floor_seal, open, floor_open] =
            throughputs(15, self.span, [seals, &floor_seals, opens, &floor_opens]);
        // Round by round, since threads feel more of what else the machine does.
        let over = |floors: Vec<f64>, rates: &[f64]| {
            median(floors.iter().zip(rates).map(|(floor, rate)| floor / rate).collect())
        };
        let over_floor = [over(floor_seal, &seal), over(floor_open, &open)];
        let cost = [seal, open].map(|rates| 1e9 / median(rates));
        Point { name, cost, work: [0, 1].map(|side| cost[side] / over_floor[side]) }
    }
}

fn floor(backend: Backend) -> Floor {
    Floor::new(backend, AlgorithmSuite::default(), Some(FRAME_LENGTH as usize))
}

fn done<T>(outcome: T) {
    drop(black_box(outcome));
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
