//! The storage in memory passes the tests of storages.

use std::sync::Arc;

use branch_keys::{MemoryStorage, conformance};

#[tokio::test]
async fn memory() {
    conformance::storage(Arc::new(MemoryStorage::new())).await;
}
