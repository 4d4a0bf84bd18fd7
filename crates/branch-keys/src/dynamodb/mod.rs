//! Stores branch keys in a DynamoDB table, with the schema of AWS's clients.

mod error;
mod read;
mod row;
mod table;
mod transaction;
mod write;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{AsyncSleep as _, Builder, SharedAsyncSleep};
use kms_pool::{KmsPool, Principal};

use self::error::of;
use crate::item::{Item, ItemType};
use crate::storage::{Storage, StorageError, StorageFuture};

/// The average pause before the first retry of a request is half of this.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Branch keys in a DynamoDB table.
///
/// The table has the schema of AWS's clients: they can use the branch keys of this storage, and
/// this storage theirs. [`create_table`](Self::create_table) creates it.
///
/// Requests are signed as a [`Principal`] and use the connections, proxies, certificate authorities
/// and timeouts of a [`KmsPool`], with a budget and a circuit of their own: if DynamoDB throttles
/// or fails, requests to KMS are not slowed down. Set another endpoint with
/// [`KmsPoolBuilder::service_endpoint_url`](kms_pool::KmsPoolBuilder::service_endpoint_url).
///
/// # Permissions
///
/// The principal needs `dynamodb:GetItem` and `dynamodb:Query` to use branch keys;
/// `dynamodb:Scan` to list them; `dynamodb:PutItem` and `dynamodb:ConditionCheckItem` to create and
/// rotate them; and also `dynamodb:DeleteItem` to shred them.
///
/// # Examples
///
/// ```no_run
/// use branch_keys::DynamoDbStorage;
/// use kms_pool::{KmsPool, Principal};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = KmsPool::builder().build()?;
/// let principal = Principal::from_default_chain();
/// let storage = DynamoDbStorage::new(pool, principal, "eu-central-1", "branch-keys");
/// storage.create_table().await?;
/// # Ok(())
/// # }
/// ```
pub struct DynamoDbStorage {
    /// Distinguishes this storage from all others of the process: another principal may belong to
    /// another account, whose table has the same name.
    number: u64,
    pool: KmsPool,
    principal: Principal,
    region: String,
    table: String,
    /// The last connection, with the principal's tenure that its budget belongs to.
    connection: Mutex<Option<(u64, Connection)>>,
}

/// A client of DynamoDB, and the timer of the pool's threads.
#[derive(Clone)]
struct Connection {
    client: Client,
    timer: Option<SharedAsyncSleep>,
}

impl DynamoDbStorage {
    /// Creates a storage over a table: its name, or its ARN if it belongs to another account.
    ///
    /// This sends no request.
    #[must_use]
    pub fn new(
        pool: KmsPool,
        principal: Principal,
        region: impl Into<String>,
        table: impl Into<String>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NEXT.fetch_add(1, Relaxed),
            pool,
            principal,
            region: region.into(),
            table: table.into(),
            connection: Mutex::new(None),
        }
    }

    /// The client, which is built on first use and again when the principal's identity changes.
    async fn connection(&self) -> Result<Connection, StorageError> {
        let tenure = self.principal.tenure();
        // Single assignments: a panic leaves nothing half done.
        let last = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, connection)) = last.filter(|(of, _)| *of == tenure) {
            return Ok(connection);
        }
        let config = self.pool.service_config("dynamodb", &self.region, &self.principal).await;
        let config = config.map_err(of)?;
        let retries = config.sdk_config().retry_config().cloned();
        let retries = retries.unwrap_or_else(RetryConfig::standard);
        let builder = Builder::from(config.sdk_config())
            .interceptor(config.interceptor())
            .retry_classifier(config.retry_classifier())
            .retry_partition(config.retry_partition())
            .retry_config(retries.with_initial_backoff(FIRST_PAUSE));
        let connection = Connection {
            client: Client::from_conf(builder.build()),
            timer: config.sdk_config().sleep_impl(),
        };
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((tenure, connection.clone()));
        Ok(connection)
    }
}

impl Connection {
    /// Waits for a random time up to `FIRST_PAUSE`, doubled with each retry before this one.
    async fn pause(&self, retries: u32) {
        let pause = FIRST_PAUSE * (1 << retries.min(5));
        self.sleep(pause.mul_f64(fastrand::f64())).await;
    }

    async fn sleep(&self, time: Duration) {
        if let Some(timer) = &self.timer {
            timer.sleep(time).await;
        }
    }
}

impl Storage for DynamoDbStorage {
    fn identity(&self) -> String {
        let Self { number, region, table, .. } = self;
        format!("DynamoDB {region} {table} {number}")
    }

    fn read<'a>(
        &'a self,
        id: &'a str,
        item_type: ItemType,
        consistent: bool,
    ) -> StorageFuture<'a, Option<Item>> {
        Box::pin(self.read_item(id, item_type, consistent))
    }

    fn items<'a>(&'a self, id: &'a str) -> StorageFuture<'a, Vec<Item>> {
        Box::pin(self.query_items(id))
    }

    fn ids<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StorageFuture<'a, Vec<String>> {
        Box::pin(self.scan_ids(after, limit))
    }

    fn create<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        beacon: &'a Item,
    ) -> StorageFuture<'a, ()> {
        Box::pin(self.put_new(active, version, beacon))
    }

    fn rotate<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        old_ciphertext: &'a [u8],
    ) -> StorageFuture<'a, ()> {
        Box::pin(self.put_next(active, version, old_ciphertext))
    }

    fn replace<'a>(&'a self, item: &'a Item, old_ciphertext: &'a [u8]) -> StorageFuture<'a, ()> {
        Box::pin(self.put_instead(item, old_ciphertext))
    }

    fn shred<'a>(&'a self, tombstone: &'a Item) -> StorageFuture<'a, u64> {
        Box::pin(self.delete_all(tombstone))
    }

    fn region(&self) -> Option<&str> {
        Some(&self.region)
    }

    fn tenure(&self) -> u64 {
        self.principal.tenure()
    }
}

impl fmt::Debug for DynamoDbStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbStorage")
            .field("region", &self.region)
            .field("table", &self.table)
            .field("principal", &self.principal)
            .finish_non_exhaustive()
    }
}
