//! Trials of situations beyond a healthy runtime, a clean network and well-behaved tenants.
//!
//! Each module is one subcommand of the program `trials`.

mod child;
pub mod clock;
pub mod dead_path;
mod forge;
pub mod hostile;
mod relay;
pub mod runtimes;
pub mod suspend;

use std::{
    error::Error,
    fmt,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use envelope::{EncryptionContext, Envelope};
use kms_pool::KmsPoolBuilder;
use tokio::{
    runtime::{self, Runtime},
    time::{Instant, timeout},
};

use crate::{
    kms::{Kms, cache},
    load::Durations,
};

/// The result of a trial: the program's exit code, or why the trial could not be run.
pub type Trial = Result<ExitCode, Box<dyn Error>>;

/// Operations that take longer than this count as failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A runtime with one thread, which runs only inside `block_on`.
fn new_runtime() -> Result<Runtime, std::io::Error> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// A KMS on its own threads, and a client for it. Both are independent of the caller's runtime.
fn start(set: impl FnOnce(KmsPoolBuilder) -> KmsPoolBuilder) -> Result<Kms, Box<dyn Error>> {
    let principal =
        |server: &kms_local::KmsLocal| kms_pool::Principal::new(server.issue_credentials());
    let kms = Kms::start_with(principal, set, cache(100_000, 16), |builder| builder);
    futures_executor::block_on(kms)
}

/// An encryption context that has not been used before.
fn fresh() -> EncryptionContext {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    tenant(&format!("t{}", NEXT.fetch_add(1, Relaxed)))
}

/// The encryption context of a tenant.
fn tenant(name: &str) -> EncryptionContext {
    EncryptionContext::new([("tenant", name)]).expect("one short pair is allowed")
}

/// Encrypts and decrypts a record of a new tenant: two requests to KMS.
async fn round_trip(envelope: &Envelope) -> Result<(), envelope::Error> {
    let context = fresh();
    let message = envelope.encrypt(b"x", &context).await?;
    envelope.decrypt(&message, &context).await.map(drop)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn count(number: u64) -> f64 {
    number as f64
}

/// The outcomes of operations.
#[derive(Debug, Default)]
struct Fared {
    took: Durations,
    failed: u64,
    first_failure: Option<String>,
}

impl Fared {
    /// Runs an operation and records its outcome. Must be called within a Tokio runtime.
    async fn note<T, E: fmt::Display>(&mut self, operation: impl Future<Output = Result<T, E>>) {
        let began = Instant::now();
        let outcome = timeout(PATIENCE, operation).await;
        let failure = match outcome {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no response within {PATIENCE:?}")),
        };
        self.add(began.elapsed(), failure);
    }

    /// Adds an operation with its duration, and the failure if it failed.
    fn add(&mut self, took: Duration, failure: Option<String>) {
        self.took.record(took);
        if failure.is_some() {
            self.failed += 1;
            self.first_failure = self.first_failure.take().or(failure);
        }
    }

    fn merge(&mut self, other: Self) {
        self.took.merge(&other.took);
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}

impl fmt::Display for Fared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { took, failed, first_failure } = self;
        let [median, p99] = [0.5, 0.99].map(|share| millis(took.at(share)));
        let longest = millis(took.longest());
        write!(f, "{:>6} {failed:>6} {median:>10.1} {p99:>10.1} {longest:>10.1}", took.count())?;
        first_failure.iter().try_for_each(|failure| write!(f, "   {failure}"))
    }
}

/// The header of a table of [`Fared`].
const HEAD: &str = "   all failed  median ms     p99 ms longest ms";
