//! The table, and its versions.
//!
//! A program migrates the schema when it connects. One that starts at the same time waits, and then
//! finds it migrated. Where DDL cannot be rolled back (MariaDB, MySQL), each migration can be run
//! again after it was interrupted.

use super::connection::{Connection, Driver};
use super::error::Failure;
use super::row::Value;
use crate::storage::{StorageError, StorageErrorKind};

/// The version of the schema that this crate uses: the number of migrations.
const VERSION: i64 = 1;

const CREATE_SCHEMA: &str =
    "CREATE TABLE IF NOT EXISTS branch_keys_schema (version BIGINT NOT NULL PRIMARY KEY)";

#[cfg(feature = "sqlite")]
const SQLITE: [&str; 1] = ["CREATE TABLE branch_keys (
    branch_key_id BLOB NOT NULL,
    item_type BLOB NOT NULL,
    kms_arn BLOB NOT NULL,
    create_time BLOB NOT NULL,
    hierarchy_version INTEGER NOT NULL,
    active_version BLOB,
    enc BLOB NOT NULL,
    attributes BLOB NOT NULL,
    PRIMARY KEY (branch_key_id, item_type)
) STRICT, WITHOUT ROWID"];

#[cfg(feature = "postgres")]
const POSTGRES: [&str; 1] = ["CREATE TABLE branch_keys (
    branch_key_id BYTEA NOT NULL,
    item_type BYTEA NOT NULL,
    kms_arn BYTEA NOT NULL,
    create_time BYTEA NOT NULL,
    hierarchy_version BIGINT NOT NULL,
    active_version BYTEA,
    enc BYTEA NOT NULL,
    attributes BYTEA NOT NULL,
    PRIMARY KEY (branch_key_id, item_type)
)"];

// An id has at most 2,048 bytes, and InnoDB's keys at most 3,072.
#[cfg(feature = "mysql")]
const MYSQL: [&str; 1] = ["CREATE TABLE IF NOT EXISTS branch_keys (
    branch_key_id VARBINARY(2048) NOT NULL,
    item_type VARBINARY(64) NOT NULL,
    kms_arn VARBINARY(2048) NOT NULL,
    create_time VARBINARY(64) NOT NULL,
    hierarchy_version BIGINT NOT NULL,
    active_version VARBINARY(64),
    enc BLOB NOT NULL,
    attributes MEDIUMBLOB NOT NULL,
    PRIMARY KEY (branch_key_id, item_type)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC"];

/// Takes the lock for migrations. Its number is "branch" in ASCII.
#[cfg(feature = "postgres")]
const LOCK_POSTGRES: &str = "SELECT pg_advisory_xact_lock(108243400418152)";

/// Names of locks are those of the server, not of the database, and have at most 64 characters.
#[cfg(feature = "mysql")]
const LOCK_MYSQL: &str = "SELECT GET_LOCK(CONCAT('branch_keys.', MD5(DATABASE())), 1)";
#[cfg(feature = "mysql")]
const UNLOCK_MYSQL: &str = "SELECT RELEASE_LOCK(CONCAT('branch_keys.', MD5(DATABASE())))";

/// Which of several tables of this name the connection uses.
#[cfg(feature = "postgres")]
const LOCATION: &str = "SELECT convert_to(concat(current_database(), '.', nspname), 'UTF8') \
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
    WHERE pg_class.oid = to_regclass('branch_keys')";

/// Checks the version of the schema, and migrates it if necessary and allowed.
///
/// Returns what identifies the table beyond the address of the server.
///
/// # Errors
///
/// [`StorageErrorKind::Other`] if the schema is newer than this crate, and if it is older and must
/// not be migrated.
pub(super) async fn prepare(
    connection: &mut Connection,
    may_migrate: bool,
) -> Result<String, Failure> {
    // Reads first: a program may use the table without the permission to create tables.
    let version = match version(connection).await {
        Err(Failure::Answer(error)) if error.kind() == StorageErrorKind::Other => 0,
        version => version?,
    };
    check(version)?;
    if version < VERSION {
        if !may_migrate {
            return Err(failure("the table is missing or old: connect once with migration").into());
        }
        migrate(connection).await?;
    }
    match connection.driver() {
        #[cfg(feature = "postgres")]
        Driver::Postgres(_) => {
            let rows = connection.fetch(LOCATION, Vec::new()).await?;
            match rows.into_iter().flatten().next() {
                Some(Value::Bytes(name)) => Ok(format!("/{}", String::from_utf8_lossy(&name))),
                _ => Err(failure("the table is not in the search path").into()),
            }
        }
        #[cfg(any(feature = "sqlite", feature = "mysql"))]
        _ => Ok(String::new()),
    }
}

async fn migrate(connection: &mut Connection) -> Result<(), Failure> {
    match connection.driver() {
        #[cfg(feature = "sqlite")]
        Driver::Sqlite(_) => {
            connection.begin().await?;
            let applied = apply(connection, &SQLITE).await;
            end(connection, applied).await
        }
        #[cfg(feature = "postgres")]
        Driver::Postgres(_) => {
            connection.begin().await?;
            let applied = match connection.run(LOCK_POSTGRES).await {
                Ok(()) => apply(connection, &POSTGRES).await,
                Err(error) => Err(error.into()),
            };
            end(connection, applied).await
        }
        #[cfg(feature = "mysql")]
        Driver::MySql(_) => {
            let locked = connection.fetch(LOCK_MYSQL, Vec::new()).await?;
            if locked != [[Value::Integer(1)]] {
                let busy = StorageError::new(StorageErrorKind::Throttled);
                return Err(Failure::Conflict(
                    busy.with_message("another program is migrating it"),
                ));
            }
            let applied = apply(connection, &MYSQL).await;
            connection.run(UNLOCK_MYSQL).await.map_err(Failure::broken)?;
            applied
        }
    }
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
async fn end(connection: &mut Connection, applied: Result<(), Failure>) -> Result<(), Failure> {
    match applied {
        Ok(()) => connection.commit().await,
        Err(failure) => {
            connection.rollback().await?;
            Err(failure)
        }
    }
}

async fn apply(connection: &mut Connection, migrations: &[&'static str]) -> Result<(), Failure> {
    connection.run(CREATE_SCHEMA).await?;
    let version = version(connection).await?;
    check(version)?;
    for (migration, next) in migrations.iter().zip(1..).filter(|(_, next)| *next > version) {
        connection.run(*migration).await?;
        let insert = "INSERT INTO branch_keys_schema (version) VALUES (?)";
        connection.execute(insert, vec![Value::Integer(next)]).await?;
    }
    Ok(())
}

async fn version(connection: &mut Connection) -> Result<i64, Failure> {
    let select = "SELECT MAX(version) FROM branch_keys_schema";
    let rows = connection.fetch(select, Vec::new()).await?;
    match rows.into_iter().flatten().next() {
        Some(Value::Integer(version)) => Ok(version),
        _ => Ok(0),
    }
}

fn check(version: i64) -> Result<(), StorageError> {
    if version <= VERSION {
        return Ok(());
    }
    Err(failure(&format!(
        "the table has version {version}, newer than {VERSION}: update this crate"
    )))
}

fn failure(message: &str) -> StorageError {
    StorageError::new(StorageErrorKind::Other).with_message(message)
}
