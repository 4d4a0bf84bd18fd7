//! A key store for branch keys, compatible with that of the AWS Encryption SDKs (specification:
//! `framework/branch-key-store.md`).
//!
//! A *branch key* is one 256-bit key per tenant, or per purpose. AWS KMS protects it, and a table
//! keeps it. Each process fetches it once and caches it, then wraps data keys under it locally.
//!
//! - [`KeyStore`] creates, rotates, reads, verifies and shreds branch keys.
//! - [`KmsKeys`] are the KMS keys that it may call.
//! - [`Storage`] keeps the items of branch keys, and changes them in transactions.
//!   `DynamoDbStorage` (feature `dynamodb`) has the table of the AWS Encryption SDKs.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "conformance")]
pub mod conformance;
mod context;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod error;
mod info;
mod item;
mod kms;
mod kms_keys;
mod memory;
mod storage;
mod store;
mod time;

#[cfg(feature = "dynamodb")]
pub use dynamodb::DynamoDbStorage;
pub use error::{BuildError, Error};
pub use info::BranchKeyInfo;
pub use item::{InvalidItemType, Item, ItemType};
pub use kms_keys::KmsKeys;
pub use memory::MemoryStorage;
pub use storage::{Storage, StorageError, StorageErrorKind, StorageFuture};
pub use store::{CreateBranchKey, ItemProblem, KeyStore, KeyStoreBuilder, Verification};

/// Compiles the code in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
