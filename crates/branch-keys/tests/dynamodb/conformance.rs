//! The storage passes the tests of storages.

use std::sync::Arc;

use branch_keys::conformance;

use crate::server::Server;

#[tokio::test]
async fn dynamodb() {
    let server = Server::with_table().await;
    conformance::storage(Arc::new(server.storage())).await;
}
