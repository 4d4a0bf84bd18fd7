//! What other clients take for the same work: each runs in a process of its own, they take turns,
//! and the medians of alternating rounds are compared. `benches/peers/run` installs the peers and
//! starts this.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

mod checks;
mod contender;
mod lines;
mod machine;
mod measure;
mod memory;
mod peer;
mod picture;
mod report;
mod requests;
mod worker;

use std::{error::Error, fs, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use self::{lines::Lines, machine::Machine, measure::Plan, peer::Peers, report::Report};

#[derive(Parser)]
#[command(about = "Compares envelope with its peers, and writes the report")]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Be one of those that are compared
    Worker {
        /// Which one
        name: String,
    },
    /// Compare all of them
    Compare(Settings),
}

/// Where the peers are, and where the report goes.
#[derive(clap::Args)]
struct Settings {
    /// Fewer rounds and sizes, in about a minute
    #[arg(long)]
    quick: bool,
    /// A Python with the Python peers installed
    #[arg(long)]
    python: PathBuf,
    /// The folder of their workers
    #[arg(long)]
    python_workers: PathBuf,
    /// The JavaScript worker, beside its `node_modules`
    #[arg(long)]
    javascript: PathBuf,
    /// What building a service took, as JSON
    #[arg(long)]
    build: PathBuf,
    /// The folder for REPORT.md and the pictures
    #[arg(long)]
    output: PathBuf,
    /// A README that shows the newest figures
    #[arg(long)]
    readme: Option<PathBuf>,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    match Args::parse().role {
        Role::Worker { name } => worker::serve(contender::named(&name)?.as_ref())?,
        Role::Compare(settings) => return compare(&settings),
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(settings: &Settings) -> Result<ExitCode, Box<dyn Error>> {
    let (machine, plan) = (Machine::here(), Plan::new(settings.quick));
    println!(
        "{machine}\n\n== each opens what it sealed, and what the others sealed in the same format"
    );
    let mut peers = Peers::start(settings)?;
    let checked = checks::run(&mut peers)?;

    println!("\n== time for one message; medians of {} alternating rounds", plan.rounds);
    let figures = measure::run(&mut peers, &plan)?;

    println!("\n== peak memory, each in a fresh process that does the same work");
    let memory = memory::run(settings)?;

    println!("\n== requests to KMS");
    let requests = requests::run(settings, &plan)?;

    println!("\n== what it had to show");
    let lines = Lines::judge(&figures);
    print!("{lines}");

    let build = fs::read_to_string(&settings.build)
        .ok()
        .map(|text| serde_json::from_str(&text))
        .transpose()?;
    let versions = peers.versions();
    let report =
        Report { machine, plan, versions, checked, figures, memory, requests, lines, build };
    report.write(&settings.output)?;
    if let Some(readme) = &settings.readme {
        report.show_in(readme)?;
    }
    println!("\nreport: {}", settings.output.join("REPORT.md").display());
    println!("{}", report.lines.verdict());
    Ok(if report.lines.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
