//! The age of data keys after the machine slept for an hour.
//!
//! A time namespace whose `CLOCK_BOOTTIME` is an hour ahead simulates the sleep. Only a
//! single-threaded process may enter one. A forked child is such a process: it has the cache that
//! its parent filled, and none of the parent's threads.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{
    error::Error,
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{self, Child, Command},
    thread,
    time::Duration,
};

use envelope::Envelope;
use fork::{Fork, fork, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::time::Instant;

use crate::{
    Lines,
    trials::{Trial, new_runtime, start, tenant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const SLEPT: u64 = 3_600;

/// Runs the trial.
///
/// # Errors
///
/// If the server cannot start. If the kernel refuses a time namespace, as it does without root, the
/// trial reports that and fails, because nothing else shows that suspended time counts.
pub fn run(_quick: bool) -> Trial {
    let mut lines = Lines::default();
    let kms = start(|pool| pool)?;
    let (runtime, context) = (new_runtime()?, tenant("sleeper"));
    let message = runtime.block_on(kms.envelope.encrypt(b"x", &context))?;
    runtime.block_on(kms.envelope.decrypt(&message, &context))?;
    // The child has only a copy of this thread, so a runtime would have no threads.
    drop(runtime);
    let holder = Holder::start()?;
    let folder = tempfile::tempdir()?;
    let look = |name: &str, namespace: Option<PathBuf>| {
        let seen = in_a_child(&folder.path().join("seen"), || {
            namespace.as_deref().map(enter).transpose()?;
            Ok(attempt(&kms.envelope, &message))
        });
        println!("{name:>24}  {}", seen.as_deref().unwrap_or("could not be run"));
        seen
    };
    let awake = look("without suspension", None)?;
    let slept = look("after an hour's sleep", Some(holder.namespace()?))?;
    println!();
    let is = |seen: &str, wanted: &str| f64::from(u8::from(seen == wanted));
    lines.at_least("without suspension, both hit", is(&awake, "encrypt hit, decrypt hit"), 1.0);
    let wanted = "encrypt NotCached, decrypt NotCached";
    lines.at_least("after an hour's sleep, both NotCached", is(&slept, wanted), 1.0);
    Ok(lines.verdict())
}

fn attempt(envelope: &Envelope, message: &[u8]) -> String {
    let context = tenant("sleeper");
    let seen = |outcome: Result<(), envelope::Error>| match outcome {
        Ok(()) => "hit".to_owned(),
        Err(envelope::Error::NotCached) => "NotCached".to_owned(),
        Err(error) => error.to_string(),
    };
    let encrypted = seen(envelope.try_encrypt(b"x", &context).map(drop));
    let decrypted = seen(envelope.try_decrypt(message, &context).map(drop));
    format!("encrypt {encrypted}, decrypt {decrypted}")
}

/// Moves this process, which has one thread, into a time namespace.
fn enter(namespace: &Path) -> Outcome<()> {
    let before = boot_time()?;
    move_into_link_name_space(File::open(namespace)?.as_fd(), Some(LinkNameSpaceType::Time))?;
    if boot_time()? - before < 3_599.0 {
        return Err("the namespace did not move CLOCK_BOOTTIME".into());
    }
    Ok(())
}

/// Seconds since the machine was started, including suspended time.
fn boot_time() -> Outcome<f64> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    Ok(uptime.split_whitespace().next().unwrap_or_default().parse()?)
}

/// A process that holds a time namespace in which the machine has slept.
struct Holder(Child);

impl Holder {
    fn start() -> io::Result<Self> {
        let seconds = SLEPT.to_string();
        let unshare = ["--time", "--boottime", &seconds, "--fork", "--kill-child", "sleep", "600"];
        Command::new("unshare").args(unshare).spawn().map(Self)
    }

    /// The namespace, once a process runs in it.
    fn namespace(&self) -> Outcome<PathBuf> {
        let id = self.0.id();
        let (began, children) = (Instant::now(), format!("/proc/{id}/task/{id}/children"));
        while began.elapsed() < Duration::from_secs(5) {
            let child = fs::read_to_string(&children)?;
            if let Some(child) = child.split_whitespace().next() {
                return Ok(format!("/proc/{child}/ns/time").into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err("unshare created no time namespace: the trial could not be run".into())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Its child is killed with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The report of `job` in a forked child, which has one thread.
fn in_a_child(report: &Path, job: impl FnOnce() -> Outcome<String>) -> Outcome<String> {
    match fork()? {
        Fork::Child => {
            let said = match catch_unwind(AssertUnwindSafe(job)) {
                Ok(Ok(seen)) => format!("+{seen}"),
                Ok(Err(error)) => format!("-{error}"),
                Err(_) => "-panicked".to_owned(),
            };
            process::exit(i32::from(fs::write(report, said).is_err()));
        }
        Fork::Parent(child) => {
            waitpid(child)?;
            let said = fs::read_to_string(report)?;
            match said.split_at(1) {
                ("+", seen) => Ok(seen.to_owned()),
                (_, why) => Err(format!("the trial could not be run: {why}").into()),
            }
        }
    }
}
