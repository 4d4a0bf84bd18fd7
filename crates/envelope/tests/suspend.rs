//! Cached data keys age while the machine sleeps.
//!
//! A time namespace whose `CLOCK_BOOTTIME` is an hour ahead simulates the sleep. Only a
//! single-threaded process may enter one. A forked child is such a process: it has the cache that
//! its parent filled, and none of the parent's threads. The only test of its binary, because it
//! forks the process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    process::{self, Child, Command, Stdio},
    thread,
    time::Duration,
};

use envelope::{EncryptionContext, Envelope, Error};
use fork::Fork;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use support::{caching, context, keyring, now};

#[test]
fn suspended_time_counts_for_cached_data_keys() {
    let envelope = caching(keyring(), |builder| builder.max_age(Duration::from_mins(30)));
    let context = context("sleeper");
    let message = now(envelope.encrypt(b"x", &context)).unwrap();
    now(envelope.decrypt(&message, &context)).unwrap();
    let outcome = in_a_child(|| Ok(attempt(&envelope, &message, &context)));
    assert_eq!(outcome, "cached, cached");
    let Some(mut holder) = Holder::start() else {
        println!("skipped: `unshare` is not installed");
        return;
    };
    let Some(namespace) = holder.namespace() else {
        println!("skipped: not permitted to create a time namespace");
        return;
    };
    let outcome = in_a_child(|| {
        enter(&namespace)?;
        Ok(attempt(&envelope, &message, &context))
    });
    if outcome == "PermissionDenied" {
        println!("skipped: not permitted to enter a time namespace");
        return;
    }
    assert_eq!(outcome, "NotCached, NotCached");
}

/// The outcomes of an encryption and a decryption.
fn attempt(envelope: &Envelope, message: &[u8], context: &EncryptionContext) -> String {
    let outcome = |result: Result<(), Error>| match result {
        Ok(()) => "cached".to_owned(),
        Err(Error::NotCached) => "NotCached".to_owned(),
        Err(error) => error.to_string(),
    };
    let encrypted = outcome(envelope.try_encrypt(b"x", context).map(drop));
    format!("{encrypted}, {}", outcome(envelope.try_decrypt(message, context).map(drop)))
}

/// Runs a job in a forked child, and returns its result or the kind of its error.
fn in_a_child(job: impl FnOnce() -> io::Result<String>) -> String {
    let report = tempfile::NamedTempFile::new().unwrap();
    match fork::fork().unwrap() {
        Fork::Child => {
            let text = job().unwrap_or_else(|error| format!("{:?}", error.kind()));
            let written = fs::write(report.path(), text);
            // Nothing that belongs to the parent is dropped here.
            process::exit(i32::from(written.is_err()));
        }
        Fork::Parent(child) => {
            assert_eq!(fork::waitpid(child).unwrap(), 0, "exit status of the child");
            fs::read_to_string(report.path()).unwrap()
        }
    }
}

/// Moves this process, which has one thread, into a time namespace.
fn enter(namespace: &str) -> io::Result<()> {
    let before = boot_time();
    move_into_link_name_space(File::open(namespace)?.as_fd(), Some(LinkNameSpaceType::Time))?;
    assert!(boot_time() - before >= 3_599.0, "the namespace did not move CLOCK_BOOTTIME");
    Ok(())
}

/// Seconds since the machine was started, including suspended time.
fn boot_time() -> f64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    uptime.split_whitespace().next().unwrap().parse().unwrap()
}

/// A process that holds a time namespace.
struct Holder(Child);

impl Holder {
    fn start() -> Option<Self> {
        let mut command = Command::new("unshare");
        command.args(["--time", "--boottime", "3600", "--fork", "cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().ok().map(Self)
    }

    /// The namespace, once a process runs in it.
    fn namespace(&mut self) -> Option<String> {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        while self.0.try_wait().unwrap().is_none() {
            let child = fs::read_to_string(&children).unwrap_or_default();
            if let Some(child) = child.split_whitespace().next() {
                return Some(format!("/proc/{child}/ns/time"));
            }
            thread::yield_now();
        }
        None
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // `cat` ends with its input.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
