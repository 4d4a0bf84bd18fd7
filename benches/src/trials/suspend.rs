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
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use envelope::Envelope;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::time::Instant;

use super::child::{Ended, in_a_child};
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
    let look = |name: &str, namespace: Option<PathBuf>| {
        let (_, ended) = in_a_child(|| {
            namespace.as_deref().map(enter).transpose()?;
            Outcome::Ok(attempt(&kms.envelope, &message))
        })?;
        let seen = match ended {
            Ended::Done(seen) => Ok(seen),
            Ended::Failed(why) => Err(format!("the trial could not be run: {why}")),
            Ended::Lost(how) => Err(format!("the child sent no report: {how}")),
        }?;
        println!("{name:>24}  {seen}");
        Outcome::Ok(seen)
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
        let unshare = ["--time", "--boottime", &seconds, "--fork", "cat"];
        let mut command = Command::new("unshare");
        command.args(unshare).stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().map(Self)
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
        // `cat` ends with its input, even if this process is killed.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
