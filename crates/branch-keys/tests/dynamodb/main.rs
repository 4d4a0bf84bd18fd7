//! The storage in DynamoDB, against an engine in this process, over a real socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;
mod faults;
mod items;
mod outages;
mod schema;
mod server;
mod table;
mod vectors;
