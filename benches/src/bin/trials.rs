//! Trials of situations beyond a healthy runtime, a clean network and well-behaved tenants.

use std::{error::Error, process::ExitCode};

use benches::trials::{clock, dead_path, hostile, runtimes, suspend};
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(
    about = "Tests the pool and the cache in real processes, on broken networks, next to hostile tenants"
)]
struct Program {
    #[command(subcommand)]
    trial: Trial,
}

#[derive(Subcommand)]
enum Trial {
    /// One pool for many runtimes that are dropped, or kept and not driven
    Runtimes(Settings),
    /// The age of cached data keys after the machine slept for an hour (as root, on Linux)
    Suspend(Settings),
    /// A wall clock that jumps by two hours (needs Debian's package `faketime`)
    Clock(Settings),
    /// One unreachable address of two, and connections that a router dropped (as root, on Linux)
    DeadPath(Settings),
    /// Invalid messages from attackers, and senders who disconnect
    Hostile(Settings),
    #[command(name = clock::CLIENT, hide = true)]
    ClockClient { settings: Vec<String> },
    #[command(name = dead_path::INSIDE, hide = true)]
    DeadPathInside(Settings),
}

#[derive(Args)]
struct Settings {
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    match Program::parse().trial {
        Trial::Runtimes(Settings { quick }) => runtimes::run(quick),
        Trial::Suspend(Settings { quick }) => suspend::run(quick),
        Trial::Clock(Settings { quick }) => clock::run(quick),
        Trial::DeadPath(Settings { quick }) => dead_path::run(quick),
        Trial::Hostile(Settings { quick }) => hostile::run(quick),
        Trial::ClockClient { settings } => clock::run_client(&settings).map(|()| ExitCode::SUCCESS),
        Trial::DeadPathInside(Settings { quick }) => dead_path::run_inside(quick),
    }
}
