//! The quickstart's workload under executors other than Tokio, and in a forked child.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{
    error::Error,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use envelope::{EncryptionContext, Envelope};
use fork::{Fork, fork, waitpid_nohang};
use futures_util::future::try_join_all;
use kms_pool::KmsError;
use tokio::time::Instant;

use crate::{
    Lines,
    kms::{Kms, REGION},
    trials::{Trial, count, fresh, millis, new_runtime, start, tenant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The time limit for a forked child to succeed or to return an error.
const AT_ONCE: Duration = Duration::from_millis(100);
/// After this time, a forked child counts as hanging.
const HANGS: Duration = Duration::from_secs(15);

/// Runs the trial.
///
/// # Errors
///
/// If the server cannot start, or the process cannot fork.
pub fn run(quick: bool) -> Trial {
    let mut lines = Lines::default();
    let records = if quick { 1_000 } else { 100_000 };
    println!("{records} records, encrypted and decrypted:\n");
    row("futures::executor::block_on", &mut lines, |kms| {
        futures_executor::block_on(job(&kms.envelope, records))
    })?;
    row("smol::block_on", &mut lines, |kms| smol::block_on(job(&kms.envelope, records)))?;
    row("8 tasks of smol", &mut lines, |kms| {
        let tasks = (0..8).map(|_| {
            let envelope = kms.envelope.clone();
            smol::spawn(async move { job(&envelope, records / 8).await })
        });
        smol::block_on(try_join_all(tasks)).map(drop)
    })?;
    // Add a row for the blocking API here.
    println!("\nIn a forked child:\n");
    let forks = if quick { 3 } else { 20 };
    forked(forks, false, &mut lines)?;
    forked(forks, true, &mut lines)?;
    Ok(lines.verdict())
}

/// The workload of the quickstart.
async fn job(envelope: &Envelope, records: usize) -> Result<(), envelope::Error> {
    let context = tenant("42");
    let mut messages = Vec::with_capacity(records);
    for record in 0..records {
        messages.push(envelope.encrypt(format!("payment {record:08}").as_bytes(), &context).await?);
    }
    for message in &messages {
        envelope.decrypt(message, &context).await?;
    }
    Ok(())
}

/// Runs the workload on a thread without a runtime, with a pool that was built without one.
fn row(
    name: &str,
    lines: &mut Lines,
    job: impl FnOnce(&Kms) -> Result<(), envelope::Error> + Send,
) -> Outcome<()> {
    let kms = start(|pool| pool)?;
    let began = Instant::now();
    let done = thread::scope(|scope| scope.spawn(|| job(&kms)).join());
    let took = began.elapsed();
    let outcome = match done {
        Ok(Ok(())) => WORKS.to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "panicked".to_owned(),
    };
    println!("{name:>32}  {:>9.1} ms  {outcome}", millis(took));
    let counters = kms.counters();
    let asked = (counters.requests("GenerateDataKey"), counters.requests("Decrypt"));
    let works = outcome == WORKS && asked == (1, 1);
    lines.at_least(format!("{name}: works"), f64::from(u8::from(works)), 1.0);
    Ok(())
}

/// An operation of a child.
struct Use {
    name: &'static str,
    does: fn(Kms) -> Result<(), Box<dyn Error>>,
}

const USES: [Use; 5] = [
    Use {
        name: "first encrypt of a tenant",
        does: |kms| keep(kms, |kms| encrypt(&kms.envelope, &fresh())),
    },
    Use {
        name: "client of the pool",
        does: |kms| {
            keep(kms, |kms| {
                let client = kms.pool().client(REGION, kms.principal());
                Ok(new_runtime()?.block_on(client).map(drop)?)
            })
        },
    },
    Use {
        name: "request of a client",
        does: |kms| {
            keep(kms, |kms| {
                new_runtime()?.block_on(async {
                    let client = kms.pool().client(REGION, kms.principal()).await?;
                    let request = client.generate_random().number_of_bytes(32).send();
                    Ok(request.await.map(drop).map_err(KmsError::from)?)
                })
            })
        },
    },
    Use {
        name: "encrypt under a cached data key",
        does: |kms| keep(kms, |kms| encrypt(&kms.envelope, &tenant("cached"))),
    },
    Use {
        name: "dropping everything",
        does: |kms| {
            let Kms { envelope, cache, server, .. } = kms;
            // Its threads and sockets belong to the parent.
            std::mem::forget(server);
            drop((envelope, cache));
            Ok(())
        },
    },
];

/// Uses inherited objects in a child, and drops none of them.
fn keep<T>(kms: Kms, job: impl FnOnce(&Kms) -> T) -> T {
    let done = job(&kms);
    std::mem::forget(kms);
    done
}

fn encrypt(envelope: &Envelope, context: &EncryptionContext) -> Outcome<()> {
    new_runtime()?.block_on(envelope.encrypt(b"x", context))?;
    Ok(())
}

/// Forks while the pool's threads are running; each child uses the objects of the parent. With
/// `is_busy`, another thread of the parent uses them as well, so a child may inherit any lock in
/// the locked state.
fn forked(forks: usize, is_busy: bool, lines: &mut Lines) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    for Use { name, does } in USES {
        let name = format!("{name}{}", if is_busy { ", busy parent" } else { "" });
        let (mut slowest, mut outcomes) = (Duration::ZERO, vec![]);
        for _ in 0..forks {
            let kms = start(|pool| pool)?;
            // It is kept, like the parent's runtime.
            let parent = new_runtime()?;
            parent.block_on(kms.envelope.encrypt(b"x", &tenant("cached")))?;
            let busy = is_busy.then(|| Busy::start(&kms.envelope));
            // Only the child takes it; the parent keeps its own.
            let mut kms = Some(kms);
            let (took, outcome) = in_a_child(&report, || kms.take().map_or(Ok(()), does))?;
            drop((busy, parent));
            slowest = slowest.max(took);
            outcomes.push(outcome);
        }
        let worked = outcomes.iter().filter(|it| *it == WORKS).count();
        let other = outcomes.iter().find(|it| *it != WORKS).map_or("", String::as_str);
        println!("{name:>46}  {:>9.1} ms  {worked} of {forks} work  {other}", millis(slowest));
        lines.at_most(format!("forked: {name}, ms"), millis(slowest), millis(AT_ONCE));
        let bad = outcomes.iter().filter(|it| it.starts_with(BAD)).count();
        lines.at_most(format!("forked: {name}, hangs"), count(bad as u64), 0.0);
    }
    Ok(())
}

/// A thread that encrypts for one new tenant after another until this is dropped.
struct Busy {
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Busy {
    fn start(envelope: &Envelope) -> Self {
        let (ended, envelope) = (Arc::<AtomicBool>::default(), envelope.clone());
        let is_over = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let Ok(runtime) = new_runtime() else { return };
            while !is_over.load(Relaxed) {
                // The outcome is not measured here.
                let _ = runtime.block_on(envelope.encrypt(b"x", &fresh()));
            }
        });
        Self { ended, thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

const WORKS: &str = "works";
/// The prefix of an outcome that is neither success nor an error.
const BAD: &str = "no response: ";

/// Forks, and runs `job` only in the child. Returns how long that took there, and its outcome.
fn in_a_child(
    report: &Path,
    job: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Outcome<(Duration, String)> {
    let forked = Instant::now();
    match fork()? {
        Fork::Child => {
            let began = Instant::now();
            let outcome = match catch_unwind(AssertUnwindSafe(job)) {
                Ok(Ok(())) => WORKS.to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("{BAD}it panicked"),
            };
            let micros = began.elapsed().as_micros();
            let written = fs::write(report, format!("{micros} {outcome}"));
            process::exit(i32::from(written.is_err()));
        }
        Fork::Parent(child) => {
            while waitpid_nohang(child)?.is_none() {
                if forked.elapsed() > HANGS {
                    kill(child)?;
                    return Ok((HANGS, format!("{BAD}it hangs")));
                }
                thread::sleep(Duration::from_millis(5));
            }
            let text = fs::read_to_string(report).unwrap_or_default();
            let _ = fs::remove_file(report);
            let (micros, outcome) =
                text.split_once(' ').unwrap_or(("0", "no response: it ended without a report"));
            Ok((Duration::from_micros(micros.parse()?), outcome.to_owned()))
        }
    }
}

fn kill(child: i32) -> io::Result<()> {
    process::Command::new("kill").args(["-KILL", &child.to_string()]).status()?;
    while waitpid_nohang(child)?.is_none() {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
