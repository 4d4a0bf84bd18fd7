//! A key store for branch keys, compatible with that of the AWS Encryption SDKs (specification:
//! `framework/branch-key-store.md`).
//!
//! A *branch key* is one 256-bit key per tenant, or per purpose. AWS KMS protects it, and a table
//! keeps it. Each process fetches and caches it, then wraps data keys under it locally.
//!
//! - [`KeyStore`] creates, rotates, reads, verifies and shreds branch keys.
//! - [`KmsKeys`] are the KMS keys that it may call.
//! - [`KeyStore::under_root`] protects all branch keys with one of them, the *root*: a process then
//!   sends one request to AWS KMS, however many tenants it has. Read first what this gives up.
//! - [`Storage`] keeps the items of branch keys, and changes them in transactions.
//!   `DynamoDbStorage` (feature `dynamodb`) has the table of the AWS Encryption SDKs.
//!   `SqlStorage` (features `sqlite`, `postgres`, `mysql`) has a table in SQLite, PostgreSQL,
//!   MariaDB or MySQL.
//!
//! The [`guide`] says how to use them with many tenants and hosts.
//!
//! # Examples
//!
//! One branch key for a tenant. The number of KMS requests no longer depends on the number of
//! messages:
//!
//! ```no_run
//! use branch_keys::{CreateBranchKey, KeyStore, KmsKeys, MemoryStorage};
//! use envelope::branch_key::BranchKeys;
//! use envelope::materials::DefaultMaterialsManager;
//! use envelope::{EncryptionContext, Envelope, keyring::HierarchicalKeyring};
//! use kms_pool::{KmsPool, Principal};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let clients = KmsPool::builder().build()?.clients(&Principal::from_default_chain());
//! let key = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
//! let kms_keys = KmsKeys::exact(key.parse()?);
//! let store = KeyStore::builder(MemoryStorage::new(), "payments", kms_keys, clients).build()?;
//! store.ensure(CreateBranchKey::new("tenant-42", [("tenant", "42")])).await?;
//!
//! let keyring = HierarchicalKeyring::new(BranchKeys::new(store), "tenant-42")?;
//! let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring)).build()?;
//! let context = EncryptionContext::new([("tenant", "42"), ("row", "1")])?;
//! let message = envelope.encrypt(b"4111 1111 1111 1111", &context).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Observability
//!
//! Each read, creation, rotation and shredding of a branch key is a `tracing` span at `DEBUG`,
//! named `branch_key_operation`, with the fields `store` (the logical name), `operation`,
//! `branch_key` (its id) and `outcome`. Changes are events at `INFO`. Items that are refused are
//! events at `WARN`. All have the target `branch_keys`.
//!
//! With the feature `metrics`, the installed recorder receives these metrics, with the label
//! `store`:
//!
//! | name | kind | further labels |
//! | --- | --- | --- |
//! | `branch_keys_operations_total` | counter | `operation` (`active`, `version`, `create`, `rotate`, `shred`), `outcome` (`ok`, or the [`Error`] in `snake_case`) |
//! | `branch_keys_operation_seconds` | histogram | `operation` |
//! | `branch_keys_active_age_seconds` | histogram | |
//!
//! The last one is the age of each active version that is read. A rotation that another process
//! won has the outcome `version_race`. Ids are not labels: there may be any number of them.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "conformance")]
pub mod conformance;
mod context;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod error;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
#[cfg(any(doc, doctest))]
pub mod guide;
mod info;
mod item;
mod kms;
mod kms_keys;
mod memory;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod sql;
mod storage;
mod store;
mod telemetry;
mod tier;
mod time;

#[cfg(feature = "dynamodb")]
pub use dynamodb::DynamoDbStorage;
pub use error::{BuildError, Error};
pub use info::BranchKeyInfo;
pub use item::{InvalidItemType, Item, ItemType};
pub use kms_keys::KmsKeys;
pub use memory::MemoryStorage;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use sql::{SqlStorage, SqlStorageBuilder};
pub use storage::{Storage, StorageError, StorageErrorKind, StorageFuture};
pub use store::{CreateBranchKey, ItemProblem, KeyStore, KeyStoreBuilder, Migration, Verification};
pub use tier::Tier;

/// Compiles the code in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
