//! Forked children: copies of this process with one thread, and without an `exec`.

use std::{
    error::Error,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{self, Command},
    thread,
    time::Duration,
};

use fork::{Fork, fork, waitpid_nohang};
use tokio::time::Instant;

/// After this time, a child counts as hanging.
const HANGS: Duration = Duration::from_secs(15);

/// The outcome of a job in a child.
#[derive(Debug)]
pub(super) enum Ended {
    /// The job succeeded, with this result.
    Done(String),
    /// The job returned this error.
    Failed(String),
    /// The job returned nothing: the child panicked, hung or ended.
    Lost(&'static str),
}

/// Forks, and runs `job` only in the child. Returns how long that took there, and its outcome.
pub(super) fn in_a_child<E: ToString>(
    job: impl FnOnce() -> Result<String, E>,
) -> Result<(Duration, Ended), Box<dyn Error>> {
    let report = tempfile::NamedTempFile::new()?;
    match fork()? {
        Fork::Child => {
            let began = Instant::now();
            let (mark, said) = match catch_unwind(AssertUnwindSafe(job)) {
                Ok(Ok(said)) => ("done", said),
                Ok(Err(error)) => ("failed", error.to_string()),
                Err(_) => ("panicked", String::new()),
            };
            let micros = began.elapsed().as_micros();
            let written = fs::write(report.path(), format!("{mark} {micros} {said}"));
            // Without unwinding, so that nothing that belongs to the parent is dropped here.
            process::exit(i32::from(written.is_err()));
        }
        Fork::Parent(child) => {
            if !has_ended(child)? {
                return Ok((HANGS, Ended::Lost("it hangs")));
            }
            let text = fs::read_to_string(report.path())?;
            let mut words = text.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default();
            let (mark, micros, said) = (word(), word(), word().to_owned());
            let took = Duration::from_micros(micros.parse().unwrap_or(0));
            let ended = match mark {
                "done" => Ended::Done(said),
                "failed" => Ended::Failed(said),
                "panicked" => Ended::Lost("it panicked"),
                _ => Ended::Lost("it ended without a report"),
            };
            Ok((took, ended))
        }
    }
}

/// Waits for a child, and kills it if it hangs. Returns whether it ended by itself.
fn has_ended(child: i32) -> io::Result<bool> {
    let began = Instant::now();
    let mut hangs = false;
    while waitpid_nohang(child)?.is_none() {
        if !hangs && began.elapsed() > HANGS {
            hangs = true;
            Command::new("kill").args(["-KILL", &child.to_string()]).status()?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(!hangs)
}
