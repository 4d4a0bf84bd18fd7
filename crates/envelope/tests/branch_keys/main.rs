//! Branch keys: their cache, and the hierarchical keyring over it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod keyring;
mod revocation;
mod source;
mod unknown_versions;
