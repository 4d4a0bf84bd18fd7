//! Messages and streams: formats, suites, contexts, and messages of other clients.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it skips"
)]

mod buffers;
mod client_vectors;
#[cfg(feature = "parallel")]
mod parallel;
#[cfg(feature = "aws-lc-rs")]
mod published_vectors;
mod reencrypt;
mod required_keys;
mod streams;
mod suites;
mod turns;

#[path = "../support/mod.rs"]
mod support;
