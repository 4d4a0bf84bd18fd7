//! Whether a request of one principal is ever signed with the credentials of another.
//!
//! Two principals share a pool, a region and its connections. Each asks for an operation that the
//! other never asks for, and the server counts for each operation which access keys came with it. A
//! single request signed with the other's key would show, also if two were exchanged for one
//! another. Both are rotated to other credentials every few hundred requests, without a pause,
//! and the old ones are revoked in the same moment: so there are requests on their way with either,
//! and some that are refused and signed again.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{
    error::Error,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use benches::{
    kms::Server,
    pool::{Caller, KeyRing, PooledKms},
    verdict,
};
use clap::Parser;
use futures_util::future::try_join_all;
use kms_local::Counters;
use kms_pool::{KmsError, Principal};

const TASKS: usize = 32;
const ROTATE_EVERY: u64 = 300;
/// No session ends by itself.
const LIFETIME: Duration = Duration::from_hours(12);

#[derive(Parser)]
#[command(about = "Counts requests that came under another principal's access key")]
struct Args {
    /// 20,000 requests in place of 100,000
    #[arg(long)]
    quick: bool,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let wanted: u64 = if Args::parse().quick { 20_000 } else { 100_000 };
    let kms = PooledKms::start(|pool| pool).await?;
    let owners = [Does::DataKeys, Does::RandomNumbers].map(|does| Arc::new(Owner::new(&kms, does)));
    println!("{wanted} requests by {TASKS} tasks, each for the two principals alternately");
    println!(
        "each principal gets other credentials every {ROTATE_EVERY} requests, and the old ones are revoked"
    );

    let tasks = (0..TASKS).map(|_| {
        let owners = owners.clone();
        tokio::spawn(async move {
            while owners.iter().map(|owner| owner.sent.load(Relaxed)).sum::<u64>() < wanted {
                for owner in &owners {
                    owner.send().await;
                }
            }
        })
    });
    try_join_all(tasks).await?;

    let counters = kms.counters();
    println!(
        "\n{:>16}  {:>9}  {:>7}  {:>11}  {:>12}",
        "", "asked for", "failed", "access keys", "signed again"
    );
    let accounts: Vec<_> = owners.iter().map(|owner| owner.account(&counters)).collect();
    println!(
        "\n{:>16}  {:>9}  {:>9}  {:>10}  {:>9}",
        "at the server", "arrived", "done", "own key", "other key"
    );
    for account in &accounts {
        let Account { operation, arrived, done, own, wrong, .. } = account;
        println!("{operation:>16}  {arrived:>9}  {done:>9}  {own:>10}  {wrong:>9}");
    }
    let stats = kms.pool.stats();
    println!(
        "{} connections; {} rotations and {} retries as the pool counts",
        counters.connections, stats.rotations, stats.retries
    );

    let asked: u64 = accounts.iter().map(|account| account.asked).sum();
    let wrong: u64 = accounts.iter().map(|account| account.wrong).sum();
    let rotations: usize = owners.iter().map(|owner| owner.keys.len() - 1).sum();
    let balanced = accounts.iter().all(Account::is_balanced);
    let elsewhere = counters.operations.len() != owners.len();
    let passed = wrong == 0 && balanced && !elsewhere && asked >= wanted && rotations > 10;
    println!();
    let figures = format!(
        "{asked} requests during {rotations} rotations: under the wrong access key {wrong}"
    );
    Ok(verdict(passed, figures))
}

/// What a principal asks for, and nobody else.
#[derive(Debug, Clone, Copy)]
enum Does {
    DataKeys,
    RandomNumbers,
}

impl Does {
    fn operation(self) -> &'static str {
        match self {
            Self::DataKeys => "GenerateDataKey",
            Self::RandomNumbers => "GenerateRandom",
        }
    }

    async fn ask(self, caller: &Caller) -> Result<(), KmsError> {
        match self {
            Self::DataKeys => caller.data_key().await,
            Self::RandomNumbers => caller.random().await,
        }
    }
}

/// A principal, what it does, and the keys that it has had.
struct Owner {
    server: Arc<Server>,
    caller: Caller,
    does: Does,
    keys: KeyRing,
    sent: AtomicU64,
    failed: AtomicU64,
    /// Held for a rotation: the last one to begin is the last one to end.
    turn: Mutex<()>,
}

impl Owner {
    fn new(kms: &PooledKms, does: Does) -> Self {
        let (first, keys) = (kms.server.issue_session(LIFETIME), KeyRing::default());
        keys.add(&first);
        Self {
            server: Arc::clone(&kms.server),
            caller: kms.caller(Principal::new(first)),
            does,
            keys,
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            turn: Mutex::default(),
        }
    }

    async fn send(&self) {
        if self.sent.fetch_add(1, Relaxed) % ROTATE_EVERY == ROTATE_EVERY - 1 {
            self.rotate();
        }
        if self.does.ask(&self.caller).await.is_err() {
            self.failed.fetch_add(1, Relaxed);
        }
    }

    fn rotate(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.server.issue_session(LIFETIME);
        let last = self.keys.add(&next);
        self.caller.principal.rotate(next);
        if let Some(last) = last {
            self.server.revoke(&last);
        }
    }

    /// What the server counted of it, beside what it asked for.
    fn account(&self, counters: &Counters) -> Account {
        let operation = self.does.operation();
        let (own, wrong) =
            counters.callers.get(operation).map_or((0, 0), |counts| self.keys.sort(counts));
        let account = Account {
            operation,
            asked: self.sent.load(Relaxed),
            failed: self.failed.load(Relaxed),
            arrived: counters.requests(operation),
            done: counters.succeeded(operation),
            own,
            wrong,
        };
        let Account { asked, failed, arrived, .. } = account;
        let keys = self.keys.len();
        println!(
            "{operation:>16}  {asked:>9}  {failed:>7}  {keys:>11}  {:>12}",
            arrived.saturating_sub(asked)
        );
        account
    }
}

/// What a principal asked for, and what of it came to the server.
struct Account {
    operation: &'static str,
    asked: u64,
    failed: u64,
    arrived: u64,
    done: u64,
    own: u64,
    wrong: u64,
}

impl Account {
    /// Whether everything that was asked for was done once, and came under this principal's keys.
    fn is_balanced(&self) -> bool {
        self.failed == 0 && self.done == self.asked && self.own == self.arrived
    }
}
