//! Whether principals that come and go leave anything behind.
//!
//! They come in waves. Each principal of a wave gets a client and sends a request over TLS, with
//! credentials that expire, so that the pool has a task that watches them; all of a wave live at
//! once, and then all are removed. When no principal has a client in the region the pool closes its
//! connections, so all sockets have to go each time. The state after a few waves is the
//! baseline.
//!
//! The server runs on a thread of its own, so the tasks are the client's alone. The sockets and the
//! memory are both's: all principals have the same access key, so that the server has nothing more
//! to remember from one wave to the next. Memory is taken as the least of a while in which the
//! pool's janitor comes round twice: he forgets who is gone. It may end up higher by 2 MiB: the
//! allocator keeps pages for itself, so it goes up and down by a part of that anyway. Of ten
//! thousand that is 210 bytes for each; a client takes some twenty thousand.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, io, process::ExitCode, time::Duration};

use benches::{
    memory,
    pool::{Caller, PooledKms, sockets, until},
    verdict,
};
use clap::Parser;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kms_pool::Principal;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

/// Waves before the baseline is taken: the allocator takes as many until it has all that it needs.
const WAVES_BEFORE: usize = 10;
/// So many of a wave come at once.
const AT_ONCE: usize = 32;
/// A quarter of it passes from one round of the pool's janitor to the next.
const IDLE_TIMEOUT: Duration = Duration::from_secs(8);
/// Within this time everything must have gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much more memory there may be in the end, in bytes.
const TOLERANCE: u64 = 2 * 1024 * 1024;

#[derive(Parser)]
#[command(about = "Has principals come and go, and looks at sockets, tasks and memory")]
struct Args {
    /// 2,000 principals in place of 10,000
    #[arg(long)]
    quick: bool,
    /// How many waves come
    #[arg(long, default_value_t = 10)]
    waves: usize,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Args { quick, waves } = Args::parse();
    let principals = if quick { 200 } else { 1_000 };
    let kms = PooledKms::start(|pool| pool.max_clients(10 * principals).idle_timeout(IDLE_TIMEOUT))
        .await?;
    println!("{waves} waves of {principals} principals, after {WAVES_BEFORE} such waves");
    println!("\n{:>12}  {:>9}  {:>9}  {:>9}  {:>12}", "", "clients", "sockets", "tasks", "memory");
    for _ in 0..WAVES_BEFORE {
        wave(&kms, principals).await?;
        let gone = until(PATIENCE, || is_quiet(&kms)).await;
        if !gone {
            return Err("the connections of a wave stayed open".into());
        }
    }
    let baseline = Footprint::settled(&kms).await?;
    baseline.print("baseline");
    let (mut at_the_top, mut back) = (vec![], true);
    for number in 1..=waves {
        let top = wave(&kms, principals).await?;
        back &= until(PATIENCE, || {
            is_quiet(&kms) && baseline.is_without_more(&Footprint::counted(&kms))
        })
        .await;
        if number == 1 || number == waves {
            top.print(&format!("in wave {number}"));
        }
        at_the_top.push(top);
    }
    let end = Footprint::settled(&kms).await?;
    end.print("in the end");
    let stats = kms.pool.stats();
    println!(
        "{} clients built, {} connections opened, {} open",
        stats.builds, stats.connections_opened, stats.connections
    );

    // Else the baseline would say nothing.
    let lived = at_the_top.iter().all(|top| {
        top.clients >= principals * 9 / 10
            && top.tasks >= top.clients + baseline.tasks
            && top.sockets > baseline.sockets
    });
    let grown = end.memory.saturating_sub(baseline.memory);
    let passed = lived && back && baseline.is_without_more(&end) && grown <= TOLERANCE;
    let figures = format!(
        "{} principals came and went: sockets {} -> {}, tasks {} -> {}, memory {} -> {} ({grown} bytes more)",
        waves * principals,
        baseline.sockets,
        end.sockets,
        baseline.tasks,
        end.tasks,
        mebibytes(baseline.memory),
        mebibytes(end.memory),
    );
    println!();
    Ok(verdict(passed, figures))
}

/// Has so many principals come, send a request each, and go. What there was before they went.
async fn wave(kms: &PooledKms, principals: usize) -> Result<Footprint, Box<dyn Error>> {
    // Renewed at its end, which none lives to see.
    let session = kms.server.issue_session(Duration::from_hours(1));
    let callers: Vec<_> =
        (0..principals).map(|_| kms.caller(Principal::new(session.clone()))).collect();
    let requests = stream::iter(&callers).map(Caller::data_key);
    requests.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    let mut top = Footprint::counted(kms);
    top.memory = memory::resident()?;
    for caller in &callers {
        kms.pool.remove(&caller.principal);
    }
    kms.server.reset_counters(benches::kms::REGION);
    Ok(top)
}

/// Whether no connection is open on either side.
fn is_quiet(kms: &PooledKms) -> bool {
    kms.counters().open_connections == 0 && kms.pool.stats().connections == 0
}

/// What the process holds.
#[derive(Debug, Clone, Copy)]
struct Footprint {
    clients: usize,
    sockets: usize,
    /// Tasks of the client's runtime.
    tasks: usize,
    /// Resident memory, in bytes.
    memory: u64,
}

impl Footprint {
    /// All but the memory, at this moment.
    fn counted(kms: &PooledKms) -> Self {
        let tasks = Handle::current().metrics().num_alive_tasks();
        Self { clients: kms.pool.stats().clients, sockets: sockets(), tasks, memory: 0 }
    }

    /// The least of what there is while the janitor comes round twice.
    async fn settled(kms: &PooledKms) -> io::Result<Self> {
        let begun = Instant::now();
        let mut least = Self::counted(kms);
        least.memory = memory::resident()?;
        while begun.elapsed() < IDLE_TIMEOUT / 2 {
            sleep(Duration::from_millis(50)).await;
            let now = Self::counted(kms);
            least.clients = least.clients.min(now.clients);
            least.sockets = least.sockets.min(now.sockets);
            least.tasks = least.tasks.min(now.tasks);
            least.memory = least.memory.min(memory::resident()?);
        }
        Ok(least)
    }

    /// Whether another has no more clients, sockets and tasks.
    fn is_without_more(&self, other: &Self) -> bool {
        other.clients <= self.clients && other.sockets <= self.sockets && other.tasks <= self.tasks
    }

    fn print(&self, when: &str) {
        let Self { clients, sockets, tasks, memory } = self;
        println!("{when:>12}  {clients:>9}  {sockets:>9}  {tasks:>9}  {:>12}", mebibytes(*memory));
    }
}

#[expect(clippy::cast_precision_loss, reason = "for a person")]
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
