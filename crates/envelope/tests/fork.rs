//! A client in a forked process. The only test of its binary, because it forks the process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process;

use envelope::Error;
use fork::Fork;
use futures_executor::block_on;
use support::{GatedKeyring, caching, context};

/// In the child, cached data keys still work; loads fail at once, because the cache's threads do
/// not exist there. A client that was made before the fork, but had no threads yet, works.
#[test]
fn a_forked_process_gets_an_error_at_once() {
    let started = caching(GatedKeyring::open(), |builder| builder);
    let fresh = caching(GatedKeyring::open(), |builder| builder);
    let message = block_on(started.encrypt(b"x", &context("a"))).unwrap();
    match fork::fork().unwrap() {
        Fork::Child => {
            let works = started.try_encrypt(b"x", &context("a")).is_ok();
            let new = block_on(started.encrypt(b"x", &context("b")));
            let opened = block_on(started.decrypt(&message, &context("a")));
            let fails = matches!(new, Err(Error::Forked)) && matches!(opened, Err(Error::Forked));
            let begins = block_on(fresh.encrypt(b"x", &context("a"))).is_ok();
            drop((started, fresh));
            process::exit(i32::from(!(works && fails && begins)));
        }
        Fork::Parent(child) => {
            let status = fork::waitpid(child).unwrap();
            assert_eq!(status, 0, "exit status of the forked process");
        }
    }
    started.blocking().encrypt(b"x", &context("b")).unwrap();
}
