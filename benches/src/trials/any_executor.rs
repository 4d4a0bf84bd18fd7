//! The quickstart's workload under executors other than Tokio, and in a forked child.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use envelope::{EncryptionContext, Envelope};
use futures_util::future::try_join_all;
use kms_pool::KmsError;
use tokio::time::Instant;

use super::child::{Ended, in_a_child};
use crate::{
    Lines,
    kms::{Kms, REGION},
    trials::{Trial, count, fresh, millis, new_runtime, start, tenant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The time limit for a forked child to succeed or to return an error.
const AT_ONCE: Duration = Duration::from_millis(100);

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
    row("Envelope::blocking", &mut lines, |kms| blocking_job(&kms.envelope, records))?;
    row("8 threads of Envelope::blocking", &mut lines, |kms| {
        let envelope = &kms.envelope;
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| blocking_job(envelope, records / 8))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or(Err(envelope::Error::Panicked)))
        })
    })?;
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

/// The same workload without async.
fn blocking_job(envelope: &Envelope, records: usize) -> Result<(), envelope::Error> {
    let (envelope, context) = (envelope.blocking(), tenant("42"));
    let mut messages = Vec::with_capacity(records);
    for record in 0..records {
        messages.push(envelope.encrypt(format!("payment {record:08}").as_bytes(), &context)?);
    }
    messages.iter().try_for_each(|message| envelope.decrypt(message, &context).map(drop))
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
        Ok(Ok(())) => "works".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "panicked".to_owned(),
    };
    println!("{name:>32}  {:>9.1} ms  {outcome}", millis(took));
    let counters = kms.counters();
    let asked = (counters.requests("GenerateDataKey"), counters.requests("Decrypt"));
    let works = outcome == "works" && asked == (1, 1);
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
    for Use { name, does } in USES {
        let name = format!("{name}{}", if is_busy { ", busy parent" } else { "" });
        let (mut slowest, mut worked, mut lost, mut other) = (Duration::ZERO, 0, 0, String::new());
        for _ in 0..forks {
            let kms = start(|pool| pool)?;
            // It is kept, like the parent's runtime.
            let parent = new_runtime()?;
            parent.block_on(kms.envelope.encrypt(b"x", &tenant("cached")))?;
            let busy = is_busy.then(|| Busy::start(&kms.envelope));
            // Only the child takes it; the parent keeps its own.
            let mut kms = Some(kms);
            let job = || kms.take().map_or(Ok(()), does).map(|()| String::new());
            let (took, ended) = in_a_child(job)?;
            drop((busy, parent));
            slowest = slowest.max(took);
            match ended {
                Ended::Done(_) => worked += 1,
                Ended::Failed(error) => other = error,
                Ended::Lost(how) => (lost, other) = (lost + 1, format!("no response: {how}")),
            }
        }
        let slowest = millis(slowest);
        println!("{name:>46}  {slowest:>9.1} ms  {worked} of {forks} work  {other}");
        lines.at_most(format!("forked: {name}, ms"), slowest, millis(AT_ONCE));
        lines.at_most(format!("forked: {name}, hangs"), count(lost), 0.0);
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
