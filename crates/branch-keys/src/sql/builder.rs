//! Settings of [`SqlStorage`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::pool::Pool;
use super::runtime::Runtime;
use super::schema;
use super::storage::SqlStorage;
use super::target::Target;
use crate::storage::{StorageError, StorageErrorKind};

/// Settings of a [`SqlStorage`].
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use branch_keys::SqlStorage;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let storage = SqlStorage::builder(std::env::var("DATABASE_URL")?)
///     .max_connections(2)
///     .timeout(Duration::from_secs(5))
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use]
#[derive(Clone)]
pub struct SqlStorageBuilder {
    url: String,
    timeout: Duration,
    max_connections: usize,
    migrate: bool,
}

impl SqlStorage {
    /// Returns the settings for a database. See [`SqlStorage`] for the URL.
    pub fn builder(url: impl Into<String>) -> SqlStorageBuilder {
        SqlStorageBuilder {
            url: url.into(),
            timeout: Duration::from_secs(5),
            max_connections: 8,
            migrate: true,
        }
    }

    /// Connects to a database with the default settings, and creates the table if it is missing.
    ///
    /// # Errors
    ///
    /// The errors of [`SqlStorageBuilder::connect`].
    pub async fn connect(url: impl Into<String>) -> Result<Self, StorageError> {
        Self::builder(url).connect().await
    }
}

impl SqlStorageBuilder {
    /// Sets the time limit of one operation, from waiting for a connection to the response.
    ///
    /// Default: 5 s. Allowed: 10 ms to 5 min. It includes the time to connect, the second attempt
    /// if an idle connection is broken, and the repetition of transactions that conflict.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use branch_keys::SqlStorage;
    /// let builder = SqlStorage::builder("sqlite:keys.db").timeout(Duration::from_secs(2));
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the max number of connections.
    ///
    /// Default: 8. Allowed: 1 to 1,000. A cache of branch keys sends few requests. Connections are
    /// opened when they are needed, and closed after a minute without use. Half of them, rounded
    /// up, may change branch keys at once: those that wait for a lock leave the others for reads.
    ///
    /// ```
    /// # use branch_keys::SqlStorage;
    /// let builder = SqlStorage::builder("sqlite:keys.db").max_connections(2);
    /// ```
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.max_connections = max_connections;
        self
    }

    /// Sets whether to create the table, or to migrate it to a new version of its schema.
    ///
    /// Default: true. If the database user may not create tables, connect once as a user who
    /// may.
    ///
    /// ```
    /// # use branch_keys::SqlStorage;
    /// let builder = SqlStorage::builder("sqlite:keys.db").migrate(false);
    /// ```
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Connects to the database, and creates or migrates the table if necessary.
    ///
    /// This method is cancel-safe. Programs that start at the same time wait for each other.
    ///
    /// # Errors
    ///
    /// - [`Other`](StorageErrorKind::Other) if the URL or a setting is invalid, or the table is
    ///   that of a newer version of this crate.
    /// - [`Denied`](StorageErrorKind::Denied) if the database refuses the user.
    /// - [`Unavailable`](StorageErrorKind::Unavailable) if it cannot be reached.
    pub async fn connect(self) -> Result<SqlStorage, StorageError> {
        let limits = Duration::from_millis(10)..=Duration::from_mins(5);
        if !limits.contains(&self.timeout) {
            return Err(invalid("the timeout must be 10 ms to 5 min"));
        }
        if !(1..=1000).contains(&self.max_connections) {
            return Err(invalid("the max number of connections must be 1 to 1,000"));
        }
        let target = Target::parse(&self.url, self.timeout)?;
        let pool = Arc::new(Pool::new(target, self.timeout, self.max_connections));
        let runtime = Runtime::start()?;
        let prepare = {
            let pool = Arc::clone(&pool);
            let migrate = self.migrate;
            async move { pool.run(|it| Box::pin(schema::prepare(it, migrate))).await }
        };
        let location = runtime.run(prepare).await?;
        let identity = format!("{}{location}", pool.target().address());
        Ok(SqlStorage::new(identity, runtime, pool))
    }
}

impl fmt::Debug for SqlStorageBuilder {
    /// Omits the URL, which contains the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStorageBuilder")
            .field("timeout", &self.timeout)
            .field("max_connections", &self.max_connections)
            .field("migrate", &self.migrate)
            .finish_non_exhaustive()
    }
}

fn invalid(message: &str) -> StorageError {
    StorageError::new(StorageErrorKind::Other).with_message(message)
}
