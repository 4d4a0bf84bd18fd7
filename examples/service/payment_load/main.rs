//! Runs two instances of `payment_service` over one SQLite file, and sends them payments.
//!
//! Meanwhile it rotates one tenant every second, and deletes another one after half of the time.
//! It fails if any other payment failed, or if an instance accepts the deleted tenant for longer
//! than documented.
//!
//! ```console
//! $ cargo build --release --package examples-service --examples
//! $ cargo run --release --example payment_load
//! ```
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

mod instance;
mod load;

use std::sync::{Arc, atomic::Ordering::Relaxed};
use std::time::Duration;

use axum::http::Method;
use clap::Parser;
use examples::Report;
use instance::{Instance, LIMIT};
use kms_local::KmsLocal;
use load::Load;
use tokio::time::timeout;

const REGION: &str = "us-east-1";
const ROTATED: &str = "rotated";
const SHREDDED: &str = "shredded";
/// Created while the instances are running.
const LATE: &str = "late";
/// Those that exist from the start. Both instances try to create them at the same time.
const EARLY: [&str; 8] = [ROTATED, SHREDDED, "a", "b", "c", "d", "e", "f"];
/// Sends payments to two instances of `payment_service` over one key store.
#[derive(Parser)]
struct Options {
    /// Seconds of load, at least 10
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..))]
    seconds: u32,

    /// Run for 10 seconds
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,

    /// Connections to each instance
    #[arg(long, default_value_t = 16)]
    connections: u64,

    /// Seconds after which the instances check a branch key in use again
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    check_every: u64,
}

#[tokio::main]
async fn main() -> Result<(), Report> {
    let options = Options::parse();
    let seconds = if options.quick { 10 } else { options.seconds };
    let folder = tempfile::tempdir()?;
    let kms = KmsLocal::builder().start().await?;
    let key = kms.create_key(REGION);
    let check_every = options.check_every.to_string();
    let tenants = EARLY.join(",");
    let arguments = ["--tenants", &tenants, "--check-every", &check_every];
    let start = || Instance::start(&kms, &key, folder.path(), &arguments);
    let (first, second) = tokio::try_join!(start(), start())?;

    let load = Arc::new(Load::new([first.address, second.address]));
    let mut connections = load.connect().await?;
    connections[1].expect(Method::PUT, &format!("/tenants/{LATE}"), "").await?;
    let workers: Vec<_> = (0..options.connections)
        .map(|seed| {
            let load = Arc::clone(&load);
            tokio::spawn(async move { load.pay(fastrand::Rng::with_seed(seed)).await })
        })
        .collect();
    let outcome = load.rotate_and_shred(&mut connections, seconds).await;
    load.stop.store(true, Relaxed);
    for worker in workers {
        timeout(LIMIT, worker).await???;
    }
    outcome?;

    println!("{seconds} s, 2 instances, {} tenants", EARLY.len() + 1);
    println!("  payments encrypted and decrypted: {}", load.payments.load(Relaxed));
    println!("  of these, encrypted before a rotation: {}", load.old.load(Relaxed));
    let rotations = load.rotations.load(Relaxed);
    let unconfirmed = load.unconfirmed.load(Relaxed);
    println!("  rotations: {rotations}, not confirmed in time: {unconfirmed}");
    let mut pages = vec![];
    for connection in &mut connections {
        let page = connection.expect(Method::GET, "/metrics", "").await?;
        pages.push(String::from_utf8_lossy(&page).into_owned());
    }
    let counted = |operation: &str, outcome: &str| -> u64 {
        let labels = [format!("operation=\"{operation}\""), format!("outcome=\"{outcome}\"")];
        pages.iter().map(|page| sum(page, "branch_keys_operations_total", &labels)).sum()
    };
    for operation in ["active", "version", "create", "rotate", "shred"] {
        println!("  operations of the key stores, {operation}: {}", counted(operation, "ok"));
    }
    println!("  KMS requests, as the server counted them: {}", kms.counters(REGION).total());
    load.check(counted("rotate", "ok") == rotations, || "the metrics count other rotations");
    // Each was created once, although two instances tried.
    load.check(counted("create", "ok") == EARLY.len() as u64 + 1, || "created twice");
    load.verdict([Duration::ZERO, Duration::from_secs(options.check_every)])
}

/// Adds up the values of a metric that has these labels.
fn sum(page: &str, name: &str, labels: &[String]) -> u64 {
    let is_it = |line: &&str| {
        line.starts_with(name) && labels.iter().all(|label| line.contains(label.as_str()))
    };
    let values = page.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<u64>().ok()).sum()
}
