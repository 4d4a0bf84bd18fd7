//! The storage, and key stores over it, pass the tests of storages.

use std::sync::Arc;

use branch_keys::{KeyStore, KmsKeys, conformance};
use kms_pool::Principal;

use crate::server::{REGION, Server};

#[tokio::test]
async fn storage() {
    let server = Server::with_table().await;
    conformance::storage(Arc::new(server.storage())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_store() {
    let server = Server::with_table().await;
    let key = server.kms.create_key(REGION);
    let pool = server.pool().build().unwrap();
    let clients = pool.clients(&Principal::new(server.kms.issue_credentials()));
    let open = |storage| {
        let keys = KmsKeys::exact(key.parse().unwrap());
        KeyStore::builder(storage, "logical name", keys, clients.clone()).build().unwrap()
    };
    // ROUNDS, for a long run.
    let rounds = std::env::var("ROUNDS").map_or(25, |it| it.parse().unwrap());
    conformance::key_store(Arc::new(server.storage()), open, rounds).await;
}
