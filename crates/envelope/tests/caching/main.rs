//! The cache of data keys: limits, refreshes, failures, events, and executors.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it skips"
)]

#[cfg(feature = "tokio")]
mod executors;
mod loads;
mod observing;
mod prepared;
#[cfg(feature = "tokio")]
mod proven;
mod refusals;
mod reuse;

#[path = "../support/mod.rs"]
mod support;
