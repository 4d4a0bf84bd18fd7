//! Keeps items in SQLite, PostgreSQL, MariaDB or MySQL.

mod builder;
mod change;
mod connection;
mod error;
mod pool;
mod row;
mod runtime;
mod schema;
mod storage;
mod target;

pub use builder::SqlStorageBuilder;
pub use storage::SqlStorage;
