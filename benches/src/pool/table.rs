//! What an operation costs with an SDK client per call, with the pool, and with cached data keys.
//!
//! An operation encrypts a small payment record. In the first column, it makes an `aws_sdk_kms`
//! client with its own HTTPS client, generates a data key, and encrypts with the bare primitives;
//! certificates are read once. In the second column it is `Envelope::encrypt` without a cache and
//! with a `KmsPool`, in the third one the same with the default cache. KMS is a round trip away.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{fmt, hint::black_box, sync::Arc, time::Duration};

use benches::{
    Result, context, done,
    floor::{Backend, Floor},
    limits::Limits,
};
use envelope::{
    EncryptionContext, Envelope,
    materials::{CachingMaterialsManager, DefaultMaterialsManager},
};
use futures_util::future::try_join_all;
use kms_local::{KmsLocal, KmsLocalBuilder};
use kms_pool::Principal;
use tokio::time::Instant;

use crate::{
    Args,
    kms::{Sdk, Server, keyring},
    load::Durations,
    picture,
};

const REGIONS: [&str; 2] = ["us-east-1", "eu-west-1"];
const RECORD: &[u8] = b"card 4111 1111 1111 1111, 42.00 EUR, payment 00000042";
/// The maximum share of the pool of what a client per call takes for the next operation: one round
/// trip of three, because a connection costs a little more than its round trips.
const MAX_NEXT: f64 = 33.0;
/// The maximum share of the cache for 100 operations.
const MAX_HUNDRED: f64 = 2.0;

pub(crate) async fn run(args: &Args, rtt_ms: u64) -> Result {
    let far = KmsLocal::builder().round_trip_time(Duration::from_millis(rtt_ms));
    let server = Server::start(REGIONS.into_iter().fold(far, KmsLocalBuilder::region))?;
    let world = World {
        sdk: Sdk::new(&server, false)?,
        principal: Principal::new(server.issue_credentials()),
        keys: REGIONS.map(|region| server.create_key(region)),
        server,
    };
    println!("KMS is {rtt_ms} ms away; requests and TLS handshakes are those of one repetition\n");
    println!("{:>30}{}", "", SIDES.map(|side| format!("  {:>44}", side.name())).concat());
    let head = format!("  {:>10}  {:>10}  {:>9}  {:>9}", "median", "p99", "requests", "handshakes");
    println!("{:>30}{}", "", head.repeat(3));
    let mut rows = vec![];
    for row in ROWS {
        let cells = row.measure(&world, args.pick(row.few, row.repeats)).await?;
        println!("{:>30}{}", row.name, cells.iter().map(Cell::to_string).collect::<String>());
        rows.push((row, cells));
    }
    let medians =
        rows.iter().map(|(row, cells)| (row.name, cells.each_ref().map(|cell| cell.took.at(0.5))));
    let title = format!("Median time with KMS {rtt_ms} ms away");
    let medians: Vec<_> = medians.collect();
    let picture = picture::bars("pool-table", &title, &SIDES.map(Side::name), &medians)?;
    println!("\npicture: {}", picture.display());

    let mut limits = Limits::default();
    let share =
        |row: usize, side: usize| 100.0 * medians[row].1[side].div_duration_f64(medians[row].1[0]);
    for (row, cells) in &rows {
        row.check(cells, &mut limits);
    }
    let (next, hundred) = (share(1, 1), share(3, 2));
    limits.at_most_if(!args.quick, "next operation: pool, % of a client per call", next, MAX_NEXT);
    let name = "100 operations: cache, % of a client per call";
    limits.at_most_if(!args.quick, name, hundred, MAX_HUNDRED);
    Ok(limits.verdict())
}

/// One of the three ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    ClientPerCall,
    Pool,
    Cache,
}

const SIDES: [Side; 3] = [Side::ClientPerCall, Side::Pool, Side::Cache];

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::ClientPerCall => "a client per call",
            Self::Pool => "pool",
            Self::Cache => "pool + data-key cache",
        }
    }
}

/// The measured operations.
struct Row {
    name: &'static str,
    operations: usize,
    regions: usize,
    tasks: usize,
    /// Whether each region has had an operation before.
    warm: bool,
    repeats: usize,
    few: usize,
}

const ROW: Row =
    Row { name: "", operations: 1, regions: 1, tasks: 1, warm: false, repeats: 100, few: 5 };
const ROWS: [Row; 5] = [
    Row { name: "first operation", ..ROW },
    Row { name: "next operation, same region", warm: true, ..ROW },
    Row { name: "two regions, one each", operations: 2, regions: 2, warm: true, ..ROW },
    Row { name: "100 operations", operations: 100, repeats: 7, few: 1, ..ROW },
    Row { name: "1,000 from 64 tasks", operations: 1_000, tasks: 64, repeats: 15, few: 2, ..ROW },
];

impl Row {
    async fn measure(&self, world: &World, repeats: usize) -> Result<[Cell; 3]> {
        let mut cells = [(); 3].map(|()| Cell::default());
        for _ in 0..repeats {
            for (side, cell) in SIDES.into_iter().zip(&mut cells) {
                self.measure_once(world, side, cell).await?;
            }
        }
        Ok(cells)
    }

    async fn measure_once(&self, world: &World, side: Side, cell: &mut Cell) -> Result<()> {
        let mut process = None;
        if self.warm {
            let warm = world.process(side)?;
            for region in 0..self.regions {
                warm.operation(region).await?;
            }
            process = Some(warm);
        }
        for region in REGIONS {
            world.server.reset_counters(region);
        }
        let begun = Instant::now();
        // What a process makes once is a part of its first operation.
        let process = &process.map_or_else(|| world.process(side), Ok)?;
        let tasks = (0..self.tasks).map(|task| async move {
            for number in (task..self.operations).step_by(self.tasks) {
                process.operation(number % self.regions).await?;
            }
            Result::Ok(())
        });
        try_join_all(tasks).await?;
        cell.took.record(begun.elapsed());
        let counters = REGIONS.map(|region| world.server.counters(region));
        let requests = counters.iter().map(|it| it.requests("GenerateDataKey")).sum();
        cell.counts.push((requests, counters.iter().map(|it| it.tls_handshakes).sum()));
        Ok(())
    }

    /// Adds whether the requests and handshakes of each side were as expected.
    fn check(&self, cells: &[Cell; 3], limits: &mut Limits) {
        let [operations, regions, tasks] =
            [self.operations, self.regions, self.tasks].map(|it| it as u64);
        let cold = u64::from(!self.warm);
        // A task that finds all connections busy opens one, and may use one that becomes idle
        // meanwhile. With the cache, one task loads the data key for all.
        let opened = if operations > 1 { 2 * tasks } else { 1 };
        let expected = [
            (operations, operations),
            (operations, cold * opened),
            (cold * regions, cold * regions),
        ];
        for ((side, cell), (requests, max_handshakes)) in SIDES.iter().zip(cells).zip(expected) {
            let is_expected = |(sent, handshakes): &(u64, u64)| {
                *sent == requests && *handshakes <= max_handshakes
            };
            let name = format!("{}, {}: requests", self.name, side.name());
            limits.holds(name, cell.counts.iter().all(is_expected));
        }
    }
}

/// What one side took for a row.
#[derive(Default)]
struct Cell {
    took: Durations,
    /// Requests and handshakes of each repetition.
    counts: Vec<(u64, u64)>,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, p99] = [0.5, 0.99].map(|share| format!("{:.1?}", self.took.at(share)));
        let mut counts = self.counts.clone();
        counts.sort_unstable();
        let (requests, handshakes) = counts[counts.len() / 2];
        write!(f, "  {median:>10}  {p99:>10}  {requests:>9}  {handshakes:>10}")
    }
}

/// The server, and what a process knows before its first operation.
struct World {
    server: Arc<Server>,
    sdk: Sdk,
    principal: Principal,
    keys: [String; 2],
}

impl World {
    /// What a new process has.
    fn process(&self, side: Side) -> Result<Process<'_>> {
        if side == Side::ClientPerCall {
            return Ok(Process::ClientPerCall(self));
        }
        let pool = self.server.pool().build()?;
        let mut envelopes = vec![];
        for key in &self.keys {
            let source = DefaultMaterialsManager::new(keyring(&pool, &self.principal, key)?);
            let builder = match side {
                Side::Cache => Envelope::builder(CachingMaterialsManager::builder(source).build()?),
                _ => Envelope::builder(source),
            };
            envelopes.push(builder.build()?);
        }
        Ok(Process::Envelopes(envelopes, context()))
    }
}

enum Process<'a> {
    ClientPerCall(&'a World),
    /// A client for each region.
    Envelopes(Vec<Envelope>, EncryptionContext),
}

impl Process<'_> {
    async fn operation(&self, region: usize) -> Result<()> {
        match self {
            Self::ClientPerCall(world) => {
                let client = world.sdk.client(&world.server, REGIONS[region]);
                let request =
                    client.generate_data_key().key_id(&world.keys[region]).number_of_bytes(32);
                let data_key = request.encryption_context("tenant", "42").send().await?.plaintext;
                let data_key = data_key.ok_or("no data key")?.as_ref().try_into()?;
                done(Floor::usual(Backend::AwsLc).with_data_key(data_key).encrypt(RECORD));
            }
            Self::Envelopes(envelopes, context) => {
                black_box(envelopes[region].encrypt(RECORD, context).await?);
            }
        }
        Ok(())
    }
}
