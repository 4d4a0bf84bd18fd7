//! Classifies what databases and drivers report.

use crate::storage::{StorageError, StorageErrorKind};

/// Why an operation on a connection failed, and what this means for the connection.
#[derive(Debug)]
pub(super) enum Failure {
    /// The operation itself ended like this, and no transaction is open.
    Answer(StorageError),
    /// It conflicted with another transaction. Nothing was changed: the operation can be repeated.
    Conflict(StorageError),
    /// The connection, or the server, is gone. Nothing was changed.
    Broken(StorageError),
    /// The change may have been committed.
    Unknown(StorageError),
}

impl Failure {
    pub(super) fn answer(kind: StorageErrorKind) -> Self {
        Self::Answer(StorageError::new(kind))
    }

    pub(super) fn broken(cause: sqlx::Error) -> Self {
        Self::Broken(StorageError::new(StorageErrorKind::Unavailable).with_source(cause))
    }

    pub(super) fn unknown(cause: sqlx::Error) -> Self {
        Self::Unknown(StorageError::new(StorageErrorKind::UnknownOutcome).with_source(cause))
    }

    pub(super) fn into_error(self) -> StorageError {
        match self {
            Self::Answer(error)
            | Self::Conflict(error)
            | Self::Broken(error)
            | Self::Unknown(error) => error,
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Answer(error)
    }
}

impl From<sqlx::Error> for Failure {
    /// Classifies an error of any statement but COMMIT.
    fn from(error: sqlx::Error) -> Self {
        let class = Class::of(&error);
        let kind = match class {
            Class::Conflict | Class::Overloaded => StorageErrorKind::Throttled,
            Class::Broken => StorageErrorKind::Unavailable,
            Class::Denied => StorageErrorKind::Denied,
            Class::Untrusted | Class::Other => StorageErrorKind::Other,
        };
        let storage_error = StorageError::new(kind).with_source(error);
        match class {
            Class::Conflict => Self::Conflict(storage_error),
            Class::Broken | Class::Overloaded | Class::Untrusted => Self::Broken(storage_error),
            Class::Denied | Class::Other => Self::Answer(storage_error),
        }
    }
}

/// Returns whether the server says that it rolled the transaction back instead of committing it.
///
/// Everything else leaves the outcome of a COMMIT unknown. A server that shuts down, for example,
/// may say so after the commit.
pub(super) fn is_rolled_back(error: &sqlx::Error) -> bool {
    matches!(Class::of(error), Class::Conflict)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Conflict,
    Overloaded,
    Broken,
    /// TLS failed, for example because of the server's certificate. A later attempt won't help.
    Untrusted,
    Denied,
    Other,
}

impl Class {
    fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(database) => Self::of_server(database.as_ref()),
            sqlx::Error::Tls(_) => Self::Untrusted,
            // rustls reports its errors like this.
            sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Self::Untrusted
            }
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                Self::Broken
            }
            _ => Self::Other,
        }
    }

    fn of_server(error: &(dyn sqlx::error::DatabaseError + 'static)) -> Self {
        #[cfg(feature = "sqlite")]
        if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
            let code = error.code().and_then(|it| it.parse().ok());
            return code.map_or(Self::Other, Self::of_sqlite);
        }
        #[cfg(feature = "mysql")]
        if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
            return Self::of_mysql(error.number());
        }
        // PostgreSQL.
        error.code().map_or(Self::Other, |code| Self::of_sql_state(&code))
    }

    /// <https://www.sqlite.org/rescode.html>; the low byte is the primary code.
    #[cfg(feature = "sqlite")]
    fn of_sqlite(code: i32) -> Self {
        match code & 0xff {
            // SQLITE_BUSY, SQLITE_LOCKED.
            5 | 6 => Self::Conflict,
            // SQLITE_PERM, SQLITE_READONLY, SQLITE_AUTH.
            3 | 8 | 23 => Self::Denied,
            // SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN.
            10 | 13 | 14 => Self::Broken,
            _ => Self::Other,
        }
    }

    /// <https://mariadb.com/docs/server/reference/error-codes>, which MySQL shares below 1900.
    #[cfg(feature = "mysql")]
    fn of_mysql(number: u16) -> Self {
        match number {
            // Lock wait timeout, deadlock.
            1205 | 1213 => Self::Conflict,
            // Too many connections: of the server, of a user, per hour.
            1040 | 1203 | 1226 => Self::Overloaded,
            // Not ready to use (Galera), shutdown, killed, read-only, no disk space, timeouts.
            1021
            | 1047
            | 1053
            | 1114
            | 1158..=1161
            | 1290
            | 1317
            | 1792
            | 1836
            | 1927
            | 1969
            | 3024
            | 4031 => Self::Broken,
            // Access denied: database, password, table, column, privilege, routine, plugin.
            1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1698 => Self::Denied,
            _ => Self::Other,
        }
    }

    /// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
    fn of_sql_state(code: &str) -> Self {
        match code {
            // Serialization failure, deadlock, lock not available.
            "40001" | "40P01" | "55P03" => Self::Conflict,
            // Too many connections, configuration limit exceeded.
            "53300" | "53400" => Self::Overloaded,
            // Read-only transaction: the server became a standby. Statement timeout.
            "25006" | "57014" => Self::Broken,
            // Insufficient privilege, no such database.
            "42501" | "3D000" => Self::Denied,
            _ => match code.get(..2) {
                // Connection, resources, operator intervention, system error.
                Some("08" | "53" | "57" | "58") => Self::Broken,
                // Invalid authorization.
                Some("28") => Self::Denied,
                _ => Self::Other,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_of_servers_have_a_class() {
        for (code, class) in [
            ("40001", Class::Conflict),
            ("40P01", Class::Conflict),
            ("40003", Class::Other),
            ("53300", Class::Overloaded),
            ("53100", Class::Broken),
            ("57P01", Class::Broken),
            ("57P03", Class::Broken),
            ("08006", Class::Broken),
            ("28P01", Class::Denied),
            ("42501", Class::Denied),
            ("42P01", Class::Other),
            ("", Class::Other),
        ] {
            assert_eq!(Class::of_sql_state(code), class, "{code}");
        }
        #[cfg(feature = "mysql")]
        for (number, class) in [
            (1213, Class::Conflict),
            (1040, Class::Overloaded),
            (1053, Class::Broken),
            (1045, Class::Denied),
            (1062, Class::Other),
        ] {
            assert_eq!(Class::of_mysql(number), class, "{number}");
        }
        #[cfg(feature = "sqlite")]
        for (code, class) in [
            (5, Class::Conflict),
            // SQLITE_BUSY_SNAPSHOT.
            (517, Class::Conflict),
            (8, Class::Denied),
            (14, Class::Broken),
            (11, Class::Other),
        ] {
            assert_eq!(Class::of_sqlite(code), class, "{code}");
        }
    }

    #[test]
    fn only_a_conflict_is_known_to_have_rolled_a_commit_back() {
        let broken = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(!is_rolled_back(&broken));
        assert!(!is_rolled_back(&sqlx::Error::WorkerCrashed));
        let Failure::Broken(error) = Failure::from(broken) else { panic!("expected Broken") };
        assert_eq!(error.kind(), StorageErrorKind::Unavailable);
    }
}
