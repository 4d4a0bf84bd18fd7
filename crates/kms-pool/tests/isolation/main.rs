//! Tests that principals do not affect each other. In a separate process, because one test installs
//! a global logger, and another one keeps the processor busy.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod log;
mod retries;
mod signing;
#[path = "../support/mod.rs"]
mod support;
