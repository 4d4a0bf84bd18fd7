//! One connection to a database.

use futures_util::TryStreamExt as _;
#[cfg(feature = "postgres")]
use sqlx::AssertSqlSafe;
use sqlx::{Column as _, Executor as _, Row as _, SqlSafeStr};
use tokio::time::Instant;

use super::error::{Failure, is_rolled_back};
#[cfg(feature = "mysql")]
use super::row::INSERT;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use super::row::INSERT_IF_NEW;
use super::row::Value;
use crate::storage::{StorageError, StorageErrorKind};

/// The maximum size of the rows that one statement returns: those of 20,000 versions.
pub(super) const MAX_READ: usize = 16 << 20;

/// A connection, which closes when it is dropped. The server then rolls its transaction back.
#[derive(Debug)]
pub(super) struct Connection {
    driver: Driver,
    committing: bool,
    reading: bool,
    opened: Instant,
}

#[derive(Debug)]
pub(super) enum Driver {
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgConnection),
    #[cfg(feature = "mysql")]
    MySql(sqlx::MySqlConnection),
}

/// Prepares a statement with its parameters.
macro_rules! query {
    ($statement:expr, $values:expr) => {{
        let mut query = sqlx::query($statement);
        for value in $values {
            query = match value {
                Value::Bytes(bytes) => query.bind(bytes),
                Value::Integer(integer) => query.bind(integer),
                Value::Null => query.bind(None::<Vec<u8>>),
            };
        }
        query
    }};
}

/// Takes the values out of rows, as many as fit. A column is binary, or else an integer.
macro_rules! values {
    ($rows:expr) => {{
        let value = |row: &_, index| {
            let bytes: Result<Option<Vec<u8>>, _> = sqlx::Row::try_get(row, index);
            match bytes {
                Ok(Some(bytes)) => Ok(Value::Bytes(bytes)),
                Ok(None) => Ok(Value::Null),
                Err(_) => sqlx::Row::try_get(row, index).map(Value::Integer),
            }
        };
        let mut rows = $rows;
        let mut taken = Vec::new();
        let mut left = MAX_READ;
        while let Some(row) = rows.try_next().await? {
            let columns = row.columns().iter();
            let values = columns.map(|column| value(&row, column.ordinal()));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            left = left
                .checked_sub(values.iter().map(Value::len).sum::<usize>())
                .ok_or_else(too_many)?;
            taken.push(values);
        }
        taken
    }};
}

impl Connection {
    pub(super) fn new(driver: Driver, opened: Instant) -> Self {
        Self { driver, committing: false, reading: false, opened }
    }

    pub(super) fn driver(&self) -> &Driver {
        &self.driver
    }

    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Returns whether a COMMIT was sent and not answered.
    pub(super) fn is_committing(&self) -> bool {
        self.committing
    }

    /// Returns whether a query was not read to its end. The rest would delay the next statement.
    pub(super) fn is_reading(&self) -> bool {
        self.reading
    }

    /// Runs statements without parameters.
    pub(super) async fn run(&mut self, statements: impl SqlSafeStr) -> Result<(), sqlx::Error> {
        let statements = sqlx::raw_sql(statements);
        match &mut self.driver {
            #[cfg(feature = "sqlite")]
            Driver::Sqlite(driver) => driver.execute(statements).await.map(drop),
            #[cfg(feature = "postgres")]
            Driver::Postgres(driver) => driver.execute(statements).await.map(drop),
            #[cfg(feature = "mysql")]
            Driver::MySql(driver) => driver.execute(statements).await.map(drop),
        }
    }

    /// Runs a statement with `?` for each value. Returns the number of rows that it changed.
    pub(super) async fn execute(
        &mut self,
        statement: &'static str,
        values: Vec<Value>,
    ) -> Result<u64, sqlx::Error> {
        match &mut self.driver {
            #[cfg(feature = "sqlite")]
            Driver::Sqlite(driver) => {
                Ok(driver.execute(query!(statement, values)).await?.rows_affected())
            }
            #[cfg(feature = "postgres")]
            Driver::Postgres(driver) => {
                let statement = AssertSqlSafe(numbered(statement));
                Ok(driver.execute(query!(statement, values)).await?.rows_affected())
            }
            #[cfg(feature = "mysql")]
            Driver::MySql(driver) => {
                Ok(driver.execute(query!(statement, values)).await?.rows_affected())
            }
        }
    }

    /// Runs a statement with `?` for each value. Returns its rows.
    ///
    /// # Errors
    ///
    /// [`StorageErrorKind::Invalid`](crate::StorageErrorKind::Invalid) if they take more than
    /// [`MAX_READ`] bytes.
    pub(super) async fn fetch(
        &mut self,
        statement: &'static str,
        values: Vec<Value>,
    ) -> Result<Vec<Vec<Value>>, Failure> {
        self.reading = true;
        let rows = match &mut self.driver {
            #[cfg(feature = "sqlite")]
            Driver::Sqlite(driver) => values!(driver.fetch(query!(statement, values))),
            #[cfg(feature = "postgres")]
            Driver::Postgres(driver) => {
                let statement = AssertSqlSafe(numbered(statement));
                values!(driver.fetch(query!(statement, values)))
            }
            #[cfg(feature = "mysql")]
            Driver::MySql(driver) => values!(driver.fetch(query!(statement, values))),
        };
        self.reading = false;
        Ok(rows)
    }

    /// Inserts a row with the values of [`row::write`](super::row::write). Returns false if its
    /// primary key exists.
    ///
    /// It waits for another transaction that inserted or deleted the same primary key.
    pub(super) async fn insert(&mut self, values: Vec<Value>) -> Result<bool, sqlx::Error> {
        match self.driver {
            #[cfg(feature = "mysql")]
            // An `INSERT IGNORE` would also ignore other errors. This error does not end the
            // transaction.
            Driver::MySql(_) => match self.execute(INSERT, values).await {
                Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
                inserted => Ok(inserted? == 1),
            },
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            // In PostgreSQL, an error would end the transaction.
            _ => Ok(self.execute(INSERT_IF_NEW, values).await? == 1),
        }
    }

    pub(super) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        let begin = match self.driver {
            // Without IMMEDIATE, two transactions that have read cannot both write.
            #[cfg(feature = "sqlite")]
            Driver::Sqlite(_) => "BEGIN IMMEDIATE",
            #[cfg(feature = "postgres")]
            Driver::Postgres(_) => "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE",
            #[cfg(feature = "mysql")]
            Driver::MySql(_) => "START TRANSACTION READ WRITE",
        };
        self.run(begin).await
    }

    /// Commits the transaction.
    ///
    /// # Errors
    ///
    /// [`Failure::Conflict`] if it was rolled back, otherwise [`Failure::Unknown`].
    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        self.committing = true;
        let committed = self.run("COMMIT").await;
        match committed {
            Ok(()) => {
                self.committing = false;
                Ok(())
            }
            Err(error) if is_rolled_back(&error) => {
                self.committing = false;
                // SQLite keeps the transaction open.
                self.rollback().await?;
                Err(error.into())
            }
            Err(error) => Err(Failure::unknown(error)),
        }
    }

    /// Moves the write-ahead log of SQLite into the file. The log may have deleted ciphertexts.
    ///
    /// This waits for readers in other connections, and gives up if they do not end.
    #[cfg(feature = "sqlite")]
    pub(super) async fn empty_log(&mut self) -> Result<(), sqlx::Error> {
        match self.driver {
            Driver::Sqlite(_) => self.run("PRAGMA wal_checkpoint(TRUNCATE)").await,
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            _ => Ok(()),
        }
    }

    /// Rolls the transaction back.
    ///
    /// # Errors
    ///
    /// [`Failure::Broken`]: the transaction may still be open.
    pub(super) async fn rollback(&mut self) -> Result<(), Failure> {
        self.run("ROLLBACK").await.map_err(Failure::broken)
    }
}

fn too_many() -> Failure {
    let error = StorageError::new(StorageErrorKind::Invalid);
    error.with_message("the rows are larger than 16 MiB in total").into()
}

/// Replaces each `?` by `$1`, `$2` and so on, as PostgreSQL requires.
#[cfg(feature = "postgres")]
fn numbered(statement: &str) -> String {
    let mut parts = statement.split('?');
    let mut numbered = parts.next().unwrap_or_default().to_owned();
    for (index, part) in parts.enumerate() {
        numbered.push('$');
        numbered.push_str(&(index + 1).to_string());
        numbered.push_str(part);
    }
    numbered
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered() {
        assert_eq!(numbered("a = ? AND b = ?"), "a = $1 AND b = $2");
        assert_eq!(numbered("SELECT 1"), "SELECT 1");
    }
}
