//! Measures what the library and the pool cost, and what they promise under load and in trouble.
#![cfg_attr(not(feature = "kms"), allow(dead_code, reason = "the other commands use the rest"))]

#[cfg(feature = "kms")]
mod kms;
mod load;
mod messages;
mod picture;
#[cfg(feature = "kms")]
mod pool;
mod rounds;
#[cfg(feature = "kms")]
mod trials;

use std::path::PathBuf;

use benches::Result;
use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

#[derive(Parser)]
#[command(about = "Measures the library and the pool, and compares figures with their limits")]
struct Program {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    args: Args,
}

/// The arguments of all commands.
#[derive(clap::Args)]
struct Args {
    /// Take less than a minute, with rougher figures; figures of an idle machine are not judged
    #[arg(long, global = true)]
    quick: bool,
    /// How long a load or an outage lasts, if the command has one [default: depends on the command]
    #[arg(long, global = true)]
    seconds: Option<u64>,
    /// The seed of random choices
    #[arg(long, global = true, default_value_t = 7)]
    seed: u64,
}

impl Args {
    /// The first value for quick runs, and the second one for others.
    fn pick<T>(&self, quick: T, usual: T) -> T {
        if self.quick { quick } else { usual }
    }

    /// The seconds that were given, or else the first value for quick runs and the second one for
    /// others.
    fn seconds(&self, quick: u64, usual: u64) -> u64 {
        self.seconds.unwrap_or(self.pick(quick, usual))
    }
}

#[derive(Subcommand)]
enum Command {
    /// Cost of encrypt, decrypt and a cache hit, as ratios to the bare primitives
    Ratios,
    /// Cost of encrypt, decrypt and a cache hit over a branch key, without a cache of data keys
    BranchKeys,
    /// Cost for every size, suite, frame length and number of threads
    Matrix {
        /// Only rows whose name contains this, for example `encrypt 0x0578`
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Growth of the cost with payload, context, keys, threads and cache entries
    Scale,
    /// How long other tasks of a thread wait while a long message is encrypted or decrypted
    Turns,
    /// Runs one hot path, for `benches/instructions` to count its instructions
    HotPaths {
        /// Which path; without one, the paths are listed
        path: Option<String>,
        #[arg(long, default_value_t = 1)]
        times: u32,
    },
    /// Speed of the `envelope` program with a file (Linux only)
    File {
        /// The size of the file
        #[arg(long, value_name = "MIB")]
        size: Option<u64>,
        /// A folder on the disk that is measured [default: that of this program]
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    #[cfg(feature = "kms")]
    #[command(flatten)]
    Kms(KmsCommand),
}

/// The commands that need a KMS.
#[cfg(feature = "kms")]
#[derive(Clone, Copy, Subcommand)]
enum KmsCommand {
    /// Latency of encrypt while data keys rotate
    Rotation,
    /// Cost of a client from the pool, and of a new one
    PoolGet,
    /// Latency of KMS requests while credentials rotate
    PoolRotation {
        /// Seconds that a session lives; it is renewed at half of its life
        #[arg(long, default_value_t = 2)]
        lifetime: u64,
    },
    /// KMS requests while a credentials provider hangs or fails
    PoolProviderOutage,
    /// A client per call, the pool, and cached data keys, with KMS a round trip away
    PoolTable {
        /// Milliseconds of a round trip
        #[arg(long, default_value_t = 20)]
        rtt_ms: u64,
    },
    /// Requests that a throttled KMS still answers, with the budget of the pool and without
    PoolBudget,
    /// Effect of a region that hangs, failover to another one, and hedging
    PoolFailover,
    /// One pool and one client for many runtimes
    Runtimes,
    /// Delay from addresses that do not respond, and from dropped connections
    DeadPath,
    /// Invalid messages of attackers, next to other tenants (Linux only)
    Hostile,
}

fn main() -> Result {
    let Program { command, args } = Program::parse();
    let args = &args;
    match command {
        Command::Ratios => on(0, messages::ratios::run(args)),
        Command::BranchKeys => messages::branch_keys::run(args),
        Command::Matrix { only } => messages::matrix::run(args, &only),
        Command::Scale => on(0, messages::scale::run(args)),
        Command::Turns => on(0, messages::turns::run(args)),
        Command::HotPaths { path, times } => messages::hot_paths::run(path.as_deref(), times),
        Command::File { size, folder } => messages::file::run(args, size, folder.as_deref()),
        #[cfg(feature = "kms")]
        Command::Kms(command) => with_kms(command, args),
    }
}

#[cfg(feature = "kms")]
fn with_kms(command: KmsCommand, args: &Args) -> Result {
    match command {
        KmsCommand::Rotation => on(2, pool::data_keys::run(args)),
        KmsCommand::PoolGet => on(1, pool::get::run(args)),
        KmsCommand::PoolRotation { lifetime } => on(2, pool::rotation::run(args, lifetime)),
        KmsCommand::PoolProviderOutage => on(2, pool::provider_outage::run(args)),
        KmsCommand::PoolTable { rtt_ms } => on(2, pool::table::run(args, rtt_ms)),
        KmsCommand::PoolBudget => on(2, pool::budget::run(args)),
        KmsCommand::PoolFailover => on(1, pool::failover::run(args)),
        KmsCommand::Runtimes => trials::runtimes::run(args),
        KmsCommand::DeadPath => on(1, trials::dead_path::run(args)),
        KmsCommand::Hostile => on(2, trials::hostile::run(args)),
    }
}

/// Runs a command with so many worker threads. Without any, tasks run on this thread.
fn on(threads: usize, command: impl Future<Output = Result>) -> Result {
    let mut builder = match threads {
        0 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()?.block_on(command)
}
