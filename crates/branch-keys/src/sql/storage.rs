//! The storage itself.

use std::fmt;
use std::sync::Arc;

use super::change::Change;
use super::connection::Connection;
use super::pool::{Attempt, Pool};
use super::row::{self, SELECT_ALL, SELECT_IDS, SELECT_ONE, Value};
use super::runtime::Runtime;
use crate::item::{Item, ItemType};
use crate::storage::{Storage, StorageError, StorageFuture};

/// The maximum number of ids in one page. They fit into what one statement may return.
const MAX_IDS: usize = 5_000;

/// Keeps branch keys in a table of SQLite, PostgreSQL, MariaDB or MySQL. Cloning is cheap.
///
/// | URL | feature | database |
/// | --- | --- | --- |
/// | `sqlite:FILE` | `sqlite` | a file, for the programs of one machine |
/// | `postgres://USER:PASSWORD@HOST:PORT/DATABASE` | `postgres` | PostgreSQL 12 or later |
/// | `mysql://USER:PASSWORD@HOST:PORT/DATABASE` | `mysql` | MariaDB 10.5 or MySQL 8.0, or later |
///
/// The storage creates the table `branch_keys`, in which all text is binary: no collation makes two
/// branch keys one. Each change is one transaction, on connections of the storage's own. For text
/// in PostgreSQL, use `convert_from(branch_key_id, 'UTF8')`.
///
/// # Connections
///
/// The connections belong to a thread of the storage. You can use it under any executor, and in a
/// `static` that several Tokio runtimes use, at once or one after another. In a forked child
/// process it fails: connect again there.
///
/// Each operation has a [time limit](crate::SqlStorageBuilder::timeout). If a server restarts, the
/// operation after that connects again. A connection that fails or does not respond in time is
/// closed, together with the idle ones.
///
/// Hosts other than `localhost` must have a certificate of one of the platform's certificate
/// authorities, or of those in the file that `sslrootcert` (PostgreSQL) or `ssl-ca` (MySQL) names.
/// To allow other certificates, or connections without TLS, set `sslmode` or `ssl-mode` in the URL.
/// PostgreSQL's environment variables and password file supply what the URL omits. A pooler in
/// front of PostgreSQL must keep one session per connection.
///
/// # Durability
///
/// A change that was acknowledged survives a crash of the process or of the machine, if the server
/// is configured for that. SQLite syncs each commit, and only the owner can read a file that the
/// storage creates. For PostgreSQL the storage turns `synchronous_commit` on if it is off. In
/// MySQL, leave `innodb_flush_log_at_trx_commit` at 1.
///
/// SQLite overwrites deleted items in the file with zeros. Copies, logs and backups of a database
/// keep them: to delete a branch key for good, delete its KMS key as well.
///
/// # Examples
///
/// ```
/// use branch_keys::{SqlStorage, Storage};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("keys.db");
/// # let file = file.display();
/// let storage = SqlStorage::connect(format!("sqlite:{file}")).await?;
/// assert!(storage.ids(None, 10).await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqlStorage(Arc<Shared>);

struct Shared {
    identity: String,
    runtime: Runtime,
    pool: Arc<Pool>,
}

impl SqlStorage {
    pub(super) fn new(identity: String, runtime: Runtime, pool: Arc<Pool>) -> Self {
        Self(Arc::new(Shared { identity, runtime, pool }))
    }

    /// Runs an operation on the storage's runtime.
    async fn run<T: Send + 'static>(
        &self,
        operation: impl for<'a> Fn(&'a mut Connection) -> Attempt<'a, T> + Send + Sync + 'static,
    ) -> Result<T, StorageError> {
        let pool = Arc::clone(&self.0.pool);
        self.0.runtime.run(async move { pool.run(operation).await }).await
    }

    async fn commit(&self, change: Change) -> Result<u64, StorageError> {
        let change = Arc::new(change);
        let pool = Arc::clone(&self.0.pool);
        let commit = async move {
            pool.change(|connection| {
                let change = Arc::clone(&change);
                Box::pin(async move { change.commit(connection).await })
            })
            .await
        };
        self.0.runtime.run(commit).await
    }
}

impl Storage for SqlStorage {
    fn identity(&self) -> String {
        self.0.identity.clone()
    }

    fn read<'a>(
        &'a self,
        id: &'a str,
        item_type: ItemType,
        _consistent: bool,
    ) -> StorageFuture<'a, Option<Item>> {
        let id = id.to_owned();
        Box::pin(self.run(move |connection| {
            let key = vec![row::id(&id), row::item_type(item_type)];
            Box::pin(async move {
                let rows = connection.fetch(SELECT_ONE, key).await?;
                rows.into_iter().next().map(row::read).transpose()
            })
        }))
    }

    fn items<'a>(&'a self, id: &'a str) -> StorageFuture<'a, Vec<Item>> {
        let id = id.to_owned();
        Box::pin(self.run(move |connection| {
            let key = vec![row::id(&id)];
            Box::pin(async move {
                let rows = connection.fetch(SELECT_ALL, key).await?;
                rows.into_iter().map(row::read).collect()
            })
        }))
    }

    fn ids<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StorageFuture<'a, Vec<String>> {
        let after = after.unwrap_or_default().to_owned();
        let limit = i64::try_from(limit.min(MAX_IDS)).unwrap_or(i64::MAX);
        Box::pin(self.run(move |connection| {
            let active = row::item_type(ItemType::Active);
            let values = vec![row::id(&after), active, Value::Integer(limit)];
            Box::pin(async move {
                let rows = connection.fetch(SELECT_IDS, values).await?;
                rows.into_iter().map(row::read_id).collect()
            })
        }))
    }

    fn create<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        beacon: &'a Item,
    ) -> StorageFuture<'a, ()> {
        let items = [active.clone(), version.clone(), beacon.clone()];
        Box::pin(async move { self.commit(Change::Create(items)).await.map(drop) })
    }

    fn rotate<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        old_ciphertext: &'a [u8],
    ) -> StorageFuture<'a, ()> {
        let change = Change::Rotate {
            active: active.clone(),
            version: version.clone(),
            old_ciphertext: old_ciphertext.to_vec(),
        };
        Box::pin(async move { self.commit(change).await.map(drop) })
    }

    fn replace<'a>(&'a self, item: &'a Item, old_ciphertext: &'a [u8]) -> StorageFuture<'a, ()> {
        let change =
            Change::Replace { item: item.clone(), old_ciphertext: old_ciphertext.to_vec() };
        Box::pin(async move { self.commit(change).await.map(drop) })
    }

    fn shred<'a>(&'a self, tombstone: &'a Item) -> StorageFuture<'a, u64> {
        let change = Change::Shred { tombstone: tombstone.clone() };
        Box::pin(async move {
            let deleted = self.commit(change).await?;
            // A log that is in use is emptied later: by SQLite itself, or by the next call.
            #[cfg(feature = "sqlite")]
            drop(self.run(|it| Box::pin(async { Ok(it.empty_log().await?) })).await);
            Ok(deleted)
        })
    }
}

impl fmt::Debug for SqlStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqlStorage").field(&self.0.identity).finish()
    }
}
