//! Tests that count threads, sockets and memory of the whole process, one at a time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod principals;
#[path = "../support/mod.rs"]
mod support;
#[cfg(target_os = "linux")]
mod threads;

/// Held by each test.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
