//! Background work after the runtime that started it has ended, or while nothing drives that
//! runtime.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{error::Error, fmt, fs, io, path::Path, thread, time::Duration};

use envelope::Envelope;
use futures_util::future::join_all;
use kms_local::KmsLocal;
use kms_pool::{Credentials, Principal};
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep, timeout},
};

use crate::{
    Lines,
    kms::{Kms, REGION, cache},
    pool::until,
    trials::{Fared, HEAD, count, fresh, millis, new_runtime, round_trip, start, tenant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The time limit for background work.
const BOUND: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(50);
const PRINCIPALS: usize = 51;

/// The state of the first runtime.
#[derive(Debug, Clone, Copy)]
enum First {
    Ended,
    Idle,
}

impl First {
    /// The runtime, if it is kept.
    fn part(self, runtime: Runtime) -> Option<Runtime> {
        matches!(self, Self::Idle).then_some(runtime)
    }
}

impl fmt::Display for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "first runtime ended",
            Self::Idle => "first runtime idle",
        })
    }
}

pub(super) fn run(quick: bool, lines: &mut Lines) -> Outcome<()> {
    let rounds = if quick { 2 } else { 10 };
    println!("\n{:>46}  {HEAD}", "");
    for first in [First::Ended, First::Idle] {
        followers(first, rounds, lines)?;
        abandoned(first, lines)?;
        watcher(first, lines)?;
        janitor(first, lines)?;
        refresh(first, lines)?;
    }
    last_clone(lines)
}

/// Callers who wait for a load that was started on a runtime that no longer runs.
fn followers(first: First, rounds: usize, lines: &mut Lines) -> Outcome<()> {
    let kms = start(|pool| pool)?;
    let mut fared = Fared::default();
    let mut kept = vec![];
    for _ in 0..rounds {
        let context = fresh();
        kms.faults().hang(true);
        let (leader, follower) = (new_runtime()?, new_runtime()?);
        leader.spawn(encrypt(&kms.envelope, &context));
        leader.block_on(until(BOUND, || kms.counters().in_flight == 1));
        let coalesced = kms.cache.stats().encryption.coalesced;
        let waiting = follower.spawn(encrypt(&kms.envelope, &context));
        follower.block_on(until(BOUND, || kms.cache.stats().encryption.coalesced > coalesced));
        kept.extend(first.part(leader));
        kms.faults().hang(false);
        follower.block_on(fared.note(async { waiting.await.map_err(io::Error::other)? }));
    }
    report(&format!("{first}: followers of its loads"), &fared, &kms, lines);
    Ok(())
}

async fn note_error<T>(
    outcome: impl Future<Output = Result<T, envelope::Error>>,
) -> Result<T, io::Error> {
    outcome.await.map_err(io::Error::other)
}

fn encrypt(
    envelope: &Envelope,
    context: &envelope::EncryptionContext,
) -> impl Future<Output = Result<Vec<u8>, io::Error>> + Send + 'static {
    let (envelope, context) = (envelope.clone(), context.clone());
    async move { note_error(envelope.encrypt(b"x", &context)).await }
}

/// New tenants after as many abandoned loads as may run at once.
fn abandoned(first: First, lines: &mut Lines) -> Outcome<()> {
    let kms = start(|pool| pool)?;
    let leader = new_runtime()?;
    kms.faults().hang(true);
    leader
        .block_on(join_all((0..16).map(|_| async {
            timeout(SHORT, kms.envelope.encrypt(b"x", &fresh())).await.is_ok()
        })));
    let kept = first.part(leader);
    kms.faults().hang(false);
    let (second, mut fared) = (new_runtime()?, Fared::default());
    for _ in 0..2 {
        second.block_on(fared.note(round_trip(&kms.envelope)));
    }
    report(&format!("{first}: after 16 abandoned loads"), &fared, &kms, lines);
    drop(kept);
    Ok(())
}

fn report(name: &str, fared: &Fared, kms: &Kms, lines: &mut Lines) {
    println!("{name:>46}  {fared}");
    lines.at_most(format!("{name}: failed"), count(fared.failed), 0.0);
    lines.at_most(format!("{name}: retries"), count(kms.pool().stats().retries), 0.0);
    lines.at_most(format!("{name}: longest, ms"), millis(fared.took.longest()), millis(BOUND));
}

/// How soon a changed credentials file is used for KMS requests.
fn watcher(first: First, lines: &mut Lines) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("credentials");
    let principal = |server: &KmsLocal| {
        write_profile(&file, &server.issue_credentials()).expect("a new folder can be written to");
        Principal::from_profile(&file, "default")
    };
    let start = Kms::start_with(
        principal,
        |pool| pool.watch_files_every(SHORT),
        cache(100_000, 16),
        |builder| builder,
    );
    let kms = futures_executor::block_on(start)?;
    let (leader, mut fared) = (new_runtime()?, Fared::default());
    leader.block_on(fared.note(round_trip(&kms.envelope)));
    let kept = first.part(leader);
    // Longer than the resolution of file times.
    thread::sleep(SHORT);
    let next = kms.server.issue_credentials();
    write_profile(&file, &next)?;
    let (changed, second) = (Instant::now(), new_runtime()?);
    let seen = || kms.counters().access_keys.contains_key(next.access_key_id());
    while !seen() && changed.elapsed() < 2 * BOUND {
        second.block_on(fared.note(round_trip(&kms.envelope)));
    }
    let name = format!("{first}: a credentials file changed");
    report(&name, &fared, &kms, lines);
    let took = if seen() { millis(changed.elapsed()) } else { f64::INFINITY };
    lines.at_most(format!("{name}: seen after, ms"), took, millis(BOUND));
    drop(kept);
    Ok(())
}

fn write_profile(file: &Path, credentials: &Credentials) -> io::Result<()> {
    let (id, secret) = (credentials.access_key_id(), credentials.secret_access_key());
    fs::write(
        file,
        format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"),
    )
}

/// How many unused clients are left after ten times their idle time.
fn janitor(first: First, lines: &mut Lines) -> Outcome<()> {
    let kms = start(|pool| pool.idle_timeout(SHORT))?;
    let principals: Vec<_> =
        (0..PRINCIPALS).map(|_| Principal::new(kms.server.issue_credentials())).collect();
    let leader = new_runtime()?;
    for principal in &principals {
        leader.block_on(kms.pool().client(REGION, principal))?;
    }
    let kept = first.part(leader);
    let began = Instant::now();
    while kms.pool().stats().clients > 0 && began.elapsed() < 10 * SHORT {
        thread::sleep(SHORT / 10);
    }
    let left = kms.pool().stats().clients as u64;
    lines.at_most(format!("{first}: idle clients left of {PRINCIPALS}"), count(left), 0.0);
    drop(kept);
    Ok(())
}

/// Whether data keys are still refreshed ahead after a refresh was interrupted.
fn refresh(first: First, lines: &mut Lines) -> Outcome<()> {
    const MAX_AGE: Duration = Duration::from_secs(1);
    let principal = |server: &KmsLocal| Principal::new(server.issue_credentials());
    let start = Kms::start_with(
        principal,
        |pool| pool,
        cache(100_000, 16),
        |builder| builder.max_age(MAX_AGE),
    );
    let leader = new_runtime()?;
    let kms = leader.block_on(start)?;
    let context = tenant("refreshed");
    leader.block_on(kms.envelope.encrypt(b"x", &context))?;
    thread::sleep(MAX_AGE.mul_f64(0.85));
    // Starts a refresh, and does not wait for it.
    leader.block_on(kms.envelope.encrypt(b"x", &context))?;
    let kept = first.part(leader);
    let (second, mut fared) = (new_runtime()?, Fared::default());
    let (before, began) = (kms.cache.stats().encryption, Instant::now());
    while began.elapsed() < 3 * MAX_AGE {
        second.block_on(async {
            fared.note(kms.envelope.encrypt(b"x", &context)).await;
            sleep(Duration::from_millis(2)).await;
        });
    }
    let after = kms.cache.stats().encryption;
    let name = format!("{first}: data keys refreshed ahead");
    report(&name, &fared, &kms, lines);
    lines.at_most(
        format!("{first}: callers who waited for the next data key"),
        count(after.misses - before.misses),
        0.0,
    );
    lines.at_least(name, count(after.refreshes), 3.0);
    drop(kept);
    Ok(())
}

/// The last clone of everything is dropped inside a task, and on a thread without a runtime.
fn last_clone(lines: &mut Lines) -> Outcome<()> {
    let mut panics = 0;
    let in_a_task = start(|pool| pool)?;
    let runtime = new_runtime()?;
    let task = runtime.spawn(async move {
        let done = round_trip(&in_a_task.envelope).await;
        drop(in_a_task);
        done
    });
    panics += u64::from(!matches!(runtime.block_on(task), Ok(Ok(()))));
    let on_a_thread = start(|pool| pool)?;
    runtime.block_on(round_trip(&on_a_thread.envelope))?;
    panics += u64::from(thread::spawn(move || drop(on_a_thread)).join().is_err());
    lines.at_most("last clone dropped in a task, on a thread: panics", count(panics), 0.0);
    Ok(())
}
