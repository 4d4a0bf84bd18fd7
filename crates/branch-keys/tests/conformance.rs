//! The storage in memory, and key stores over it, pass the tests of storages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use branch_keys::{MemoryStorage, conformance};

use self::support::Kms;

#[tokio::test]
async fn storage() {
    conformance::storage(Arc::new(MemoryStorage::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_store() {
    let kms = Kms::start().await;
    let key = kms.key();
    let open = |storage| kms.store(storage, &key);
    conformance::key_store(Arc::new(MemoryStorage::new()), open, 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_store_under_a_root() {
    let kms = Kms::start().await;
    let key = kms.key();
    let storage = Arc::new(MemoryStorage::new());
    kms.create_root(storage.clone(), &key).await;
    conformance::key_store(storage, |it| kms.store_under_root(it, &key), 25).await;
}
