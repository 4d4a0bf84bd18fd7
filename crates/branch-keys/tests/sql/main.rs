//! The storage in SQL databases.
//!
//! SQLite is always tested. `BRANCH_KEYS_POSTGRES` and `BRANCH_KEYS_MYSQL` are the URLs of servers
//! to test; `tests/databases/run` starts them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod durability;
mod items;
mod proxy;
mod servers;
mod sqlite;
#[path = "../support/mod.rs"]
mod support;
