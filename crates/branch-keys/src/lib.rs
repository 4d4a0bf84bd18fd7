//! A key store for branch keys, compatible with that of the AWS Encryption SDKs (specification:
//! `framework/branch-key-store.md`).
//!
//! A *branch key* is one 256-bit key per tenant, or per purpose. AWS KMS protects it, and a table
//! keeps it. Each process fetches it once and caches it, then wraps data keys under it locally.
//!
//! - [`Storage`] keeps the items of branch keys, and changes them in transactions.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "conformance")]
pub mod conformance;
mod item;
mod memory;
mod storage;

pub use item::{InvalidItemType, Item, ItemType};
pub use memory::MemoryStorage;
pub use storage::{Storage, StorageError, StorageErrorKind, StorageFuture};

/// Compiles the code in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
