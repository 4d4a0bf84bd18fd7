//! Tests of pools against a server that speaks the real protocol, over TLS.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clocks;
mod dead_path;
mod kms;
mod network;
mod regions;
mod runtimes;
mod services;
mod sources;
#[path = "../support/mod.rs"]
mod support;
