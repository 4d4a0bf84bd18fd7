//! A KMS that takes requests and never answers: callers with deadlines come back in time, and leave
//! nothing behind.
//!
//! Tasks and memory are taken once the allocator, the connections and the cache have seen the same
//! a few times, and again after many more rounds, so that what each leaves behind adds up. The
//! server runs on threads of its own, so the tasks are the client's alone, and none may be left
//! over. The memory is both's. It may end up higher by 4 MiB, which is 200 bytes for each call: the
//! allocator keeps pages for itself, so it goes up and down by one or two MiB anyway.
//!
//! Times are worth something only on a machine that does nothing else: 1,000 deadlines pass within
//! a few milliseconds.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, fmt, fs, process::ExitCode, time::Duration};

use benches::{
    kms::{Kms, cache},
    verdict,
};
use clap::Parser;
use envelope::EncryptionContext;
use futures_util::future::try_join_all;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

const CALLERS: usize = 1_000;
/// How long each caller is willing to wait.
const DEADLINE: Duration = Duration::from_millis(500);
/// When each has to be back.
const BACK_WITHIN: Duration = Duration::from_millis(600);
const ROUNDS_BEFORE: usize = 10;
/// How much more memory there may be in the end, in KiB.
const TOLERANCE: u64 = 4 * 1024;

#[derive(Parser)]
#[command(about = "Has KMS hang, and looks at callers with deadlines, tasks and memory")]
struct Args {
    /// A quarter of the rounds
    #[arg(long)]
    quick: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let rounds = if Args::parse().quick { 5 } else { 20 };
    let kms = Kms::start(cache(10_000, 16), |builder| builder).await?;
    let one = vec![benches::context()?; CALLERS];
    let distinct =
        (0..CALLERS).map(|tenant| EncryptionContext::new([("tenant", format!("t{tenant}"))]));
    let distinct = distinct.collect::<Result<Vec<_>, _>>()?;

    println!("{CALLERS} callers, each with a deadline of {DEADLINE:?}, {rounds} times\n");
    println!(
        "{:>24}  {:>10}  {:>12}  {:>10}  {:>16}  {:>24}",
        "", "gave up", "last one back", "next call", "tasks alive", "memory"
    );
    let mut rows = vec![];
    for (what, contexts) in [("one cold entry", &one), ("as many cold entries", &distinct)] {
        let row = Row::measure(&kms, what, contexts, rounds).await?;
        println!("{row}");
        rows.push(row);
    }
    let last = rows.iter().map(|row| row.last_back).max().unwrap_or_default();
    println!();
    Ok(verdict(
        rows.iter().all(Row::is_met),
        format!("every caller back within {last:.1?} of {BACK_WITHIN:?}"),
    ))
}

/// What became of the callers of many rounds, and what they left behind.
struct Row {
    what: &'static str,
    callers: usize,
    gave_up: usize,
    last_back: Duration,
    next_call: Duration,
    before: Footprint,
    after: Footprint,
}

impl Row {
    async fn measure(
        kms: &Kms,
        what: &'static str,
        contexts: &[EncryptionContext],
        rounds: usize,
    ) -> Result<Self, Box<dyn Error>> {
        for _ in 0..ROUNDS_BEFORE {
            hang(kms, contexts).await?;
        }
        let before = Footprint::settled(0).await?;
        // Not each caller's time: that would be memory, too.
        let (mut gave_up, mut last_back, mut next_call) = (0, Duration::ZERO, Duration::ZERO);
        for _ in 0..rounds {
            let round = hang(kms, contexts).await?;
            gave_up += round.gave_up;
            last_back = last_back.max(round.last_back);
            next_call = next_call.max(round.next_call);
        }
        let after = Footprint::settled(before.tasks).await?;
        Ok(Self {
            what,
            callers: rounds * contexts.len(),
            gave_up,
            last_back,
            next_call,
            before,
            after,
        })
    }

    fn is_met(&self) -> bool {
        self.gave_up == self.callers
            && self.last_back <= BACK_WITHIN
            && self.after.tasks <= self.before.tasks
            && self.after.memory <= self.before.memory + TOLERANCE
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, gave_up, last_back, next_call, before, after, .. } = self;
        let (last_back, next_call) = (format!("{last_back:.1?}"), format!("{next_call:.1?}"));
        let tasks = format!("{} -> {}", before.tasks, after.tasks);
        let memory = format!("{} KiB -> {} KiB", before.memory, after.memory);
        write!(
            f,
            "{what:>24}  {gave_up:>10}  {last_back:>13}  {next_call:>10}  {tasks:>16}  {memory:>24}"
        )
    }
}

/// What became of the callers of one round, and of the call after the fault.
struct Round {
    /// How many came back since their deadline had passed, rather than for anything else.
    gave_up: usize,
    last_back: Duration,
    next_call: Duration,
}

/// One round on a cold cache: the fault, a caller for each context, the end of the fault, and one
/// more call.
async fn hang(kms: &Kms, contexts: &[EncryptionContext]) -> Result<Round, Box<dyn Error>> {
    kms.cache.clear();
    kms.faults().hang(true);
    let callers = contexts.iter().cloned().map(|context| {
        let envelope = kms.envelope.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            let outcome = timeout(DEADLINE, envelope.encrypt(b"x", &context)).await;
            (started.elapsed(), outcome.is_err())
        })
    });
    let backs = try_join_all(callers).await?;
    kms.faults().hang(false);
    let started = Instant::now();
    kms.envelope.encrypt(b"x", &contexts[0]).await?;
    Ok(Round {
        gave_up: backs.iter().filter(|(_, gave_up)| *gave_up).count(),
        last_back: backs.iter().map(|(after, _)| *after).max().unwrap_or_default(),
        next_call: started.elapsed(),
    })
}

/// What the process holds.
struct Footprint {
    /// Tasks of the client's runtime, but for those of connections.
    tasks: usize,
    /// Resident memory, in KiB.
    memory: u64,
}

impl Footprint {
    /// Taken when no more than so many tasks are alive, or when a while has passed.
    async fn settled(tasks: usize) -> Result<Self, Box<dyn Error>> {
        for _ in 0..20 {
            sleep(Duration::from_millis(100)).await;
            if alive_tasks() <= tasks {
                break;
            }
        }
        Ok(Self { tasks: alive_tasks(), memory: resident_memory()? })
    }
}

/// The tasks that are alive, but for those of connections: as many stay warm as were needed at
/// once, give or take one. A connection to the server in this process is two sockets.
fn alive_tasks() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|it| fs::read_link(it.path()).ok());
    let sockets = targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count();
    Handle::current().metrics().num_alive_tasks().saturating_sub(sockets / 2)
}

fn resident_memory() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("the system tells no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
