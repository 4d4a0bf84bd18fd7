//! Where the database is, and how to connect to it.

use std::fmt;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use tokio::time::Instant;

use super::connection::{Connection, Driver};
use super::error::Failure;
use crate::storage::{StorageError, StorageErrorKind};

/// A database, with the user and password for it.
pub(super) struct Target {
    options: Options,
    /// Without user, password and parameters.
    address: String,
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    timeout: Duration,
}

enum Options {
    #[cfg(feature = "sqlite")]
    Sqlite(Box<sqlx::sqlite::SqliteConnectOptions>),
    #[cfg(feature = "postgres")]
    Postgres(Box<sqlx::postgres::PgConnectOptions>),
    #[cfg(feature = "mysql")]
    MySql(Box<sqlx::mysql::MySqlConnectOptions>),
}

impl Target {
    /// Parses the URL of a database.
    ///
    /// # Errors
    ///
    /// [`StorageErrorKind::Other`] if it is invalid. The error shows no part of the URL.
    pub(super) fn parse(url: &str, timeout: Duration) -> Result<Self, StorageError> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let (options, address) = match scheme {
            #[cfg(feature = "sqlite")]
            "sqlite" => sqlite(url, timeout)?,
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => postgres(url)?,
            #[cfg(feature = "mysql")]
            "mysql" | "mariadb" => mysql(url)?,
            _ => return Err(invalid(UNKNOWN_SCHEME)),
        };
        Ok(Self {
            options,
            address,
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            timeout,
        })
    }

    /// Returns whether it is a file of this machine, whose connections no network interrupts.
    pub(super) fn is_file(&self) -> bool {
        match &self.options {
            #[cfg(feature = "sqlite")]
            Options::Sqlite(_) => true,
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            _ => false,
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Opens a connection and configures its session.
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        let opened = Instant::now();
        match &self.options {
            #[cfg(feature = "sqlite")]
            Options::Sqlite(options) => {
                create_file(options.get_filename())?;
                Ok(Connection::new(Driver::Sqlite(options.connect().await?), opened))
            }
            #[cfg(feature = "postgres")]
            Options::Postgres(options) => {
                let driver = Driver::Postgres(options.connect().await?);
                let mut connection = Connection::new(driver, opened);
                let milliseconds = self.timeout.as_millis();
                let session = format!(
                    "SET statement_timeout = {milliseconds}; SET lock_timeout = {milliseconds}; \
                     SET idle_in_transaction_session_timeout = {milliseconds}; \
                     SELECT set_config('synchronous_commit', 'on', false) \
                     WHERE current_setting('synchronous_commit') = 'off'"
                );
                connection.run(sqlx::AssertSqlSafe(session)).await?;
                Ok(connection)
            }
            #[cfg(feature = "mysql")]
            Options::MySql(options) => {
                let driver = Driver::MySql(options.connect().await?);
                let mut connection = Connection::new(driver, opened);
                // A process that hangs in a transaction keeps its locks for at most 90 s. That is
                // longer than a connection is idle here.
                // Strict: a value that is too long is an error, and is not cut.
                let session = format!(
                    "SET SESSION autocommit = 1, innodb_lock_wait_timeout = {}, wait_timeout = 90, \
                     sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
                    self.timeout.as_secs().max(1)
                );
                connection.run(sqlx::AssertSqlSafe(session)).await?;
                let isolation = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
                connection.run(isolation).await?;
                Ok(connection)
            }
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

const UNKNOWN_SCHEME: &str = "unknown scheme: expected sqlite:FILE, postgres://… or mysql://…, \
    with the feature of the same name";

/// The message of an error must not contain parts of the URL, because a password that is not
/// percent-encoded can be in any of them.
fn invalid(message: &str) -> StorageError {
    let message = format!("invalid database URL: {message}");
    StorageError::new(StorageErrorKind::Other).with_message(message)
}

#[cfg(feature = "sqlite")]
fn sqlite(url: &str, timeout: Duration) -> Result<(Options, String), StorageError> {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

    let path = url.trim_start_matches("sqlite:");
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.contains(['?', '#']) || path.starts_with(":memory:") {
        return Err(invalid("expected the path of a file after sqlite:, without parameters"));
    }
    let path = std::path::absolute(path)
        .map_err(|cause| invalid("could not resolve the path").with_source(cause))?;
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .busy_timeout(timeout / 4)
        .journal_mode(SqliteJournalMode::Wal)
        // Also after a power failure, what was committed is there.
        .synchronous(SqliteSynchronous::Full)
        // Overwrites deleted ciphertexts.
        .pragma("secure_delete", "ON")
        // The file may come from elsewhere.
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging();
    Ok((Options::Sqlite(Box::new(options)), format!("sqlite:{}", path.display())))
}

/// Creates an empty file that only its owner can read, unless it exists. SQLite gives the same
/// permissions to the files that it adds.
///
/// An existing file is not opened here: closing it would release the locks that SQLite has on it in
/// this process. A new file is created under another name first for the same reason.
#[cfg(feature = "sqlite")]
fn create_file(path: &std::path::Path) -> Result<(), Failure> {
    use std::fs;
    use std::io::ErrorKind;

    if path.exists() {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.new", fastrand::u64(..)));
    let temporary = path.with_file_name(name);
    let create = || {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        drop(options.open(&temporary)?);
        let linked = fs::hard_link(&temporary, path);
        fs::remove_file(&temporary)?;
        match linked {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    };
    create().map_err(|cause| {
        let kind = match cause.kind() {
            ErrorKind::PermissionDenied => StorageErrorKind::Denied,
            _ => StorageErrorKind::Unavailable,
        };
        let error = StorageError::new(kind).with_message("could not create the file");
        Failure::Answer(error.with_source(cause))
    })
}

#[cfg(feature = "postgres")]
fn postgres(url: &str) -> Result<(Options, String), StorageError> {
    use sqlx::postgres::{PgConnectOptions, PgSslMode};

    const PARAMETERS: [&str; 12] = [
        "application_name",
        "dbname",
        "host",
        "hostaddr",
        "options",
        "password",
        "port",
        "sslcert",
        "sslkey",
        "sslmode",
        "sslrootcert",
        "user",
    ];
    check_parameters(url, &PARAMETERS)?;
    let mut options: PgConnectOptions =
        url.parse().map_err(|_| invalid("expected postgres://USER:PASSWORD@HOST:PORT/DATABASE"))?;
    let is_local = options.get_socket().is_some() || is_local(options.get_host());
    if !has_parameter(url, "sslmode") && !is_local {
        options = options.ssl_mode(PgSslMode::VerifyFull);
    }
    let server = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => options.get_host().to_owned(),
    };
    let address = format!("postgres://{server}:{}", options.get_port());
    Ok((Options::Postgres(Box::new(options.disable_statement_logging())), address))
}

#[cfg(feature = "mysql")]
fn mysql(url: &str) -> Result<(Options, String), StorageError> {
    use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};

    const PARAMETERS: [&str; 5] = ["socket", "ssl-ca", "ssl-cert", "ssl-key", "ssl-mode"];
    check_parameters(url, &PARAMETERS)?;
    let mut options: MySqlConnectOptions =
        url.parse().map_err(|_| invalid("expected mysql://USER:PASSWORD@HOST:PORT/DATABASE"))?;
    let Some(database) = options.get_database().map(ToOwned::to_owned) else {
        return Err(invalid("expected the name of a database at its end"));
    };
    let is_local = options.get_socket().is_some() || is_local(options.get_host());
    if !has_parameter(url, "ssl-mode") && !is_local {
        options = options.ssl_mode(MySqlSslMode::VerifyIdentity);
    }
    let server = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let address = format!("mysql://{server}/{database}");
    Ok((Options::MySql(Box::new(options.disable_statement_logging())), address))
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn is_local(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]")
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn parameters(url: &str) -> impl Iterator<Item = &str> {
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    let parameters = parameters.split('&').filter(|it| !it.is_empty());
    parameters.map(|it| it.split_once('=').map_or(it, |(name, _)| name))
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn has_parameter(url: &str, name: &str) -> bool {
    parameters(url).any(|it| it == name)
}

/// Drivers ignore parameters that they don't know, such as a mistyped `sslmode`, and log them.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn check_parameters(url: &str, known: &[&str]) -> Result<(), StorageError> {
    // Drivers ignore what follows, `sslmode` included.
    if url.contains('#') {
        return Err(invalid("write the character # as %23"));
    }
    if parameters(url).all(|it| known.contains(&it)) {
        Ok(())
    } else {
        Err(invalid(&format!("unknown parameter: expected {}", known.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(feature = "postgres", feature = "mysql"))]
    use super::*;

    #[cfg(all(feature = "postgres", feature = "mysql"))]
    fn parse(url: &str) -> Result<Target, StorageError> {
        Target::parse(url, Duration::from_secs(1))
    }

    #[test]
    #[cfg(all(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    fn only_a_server_is_reached_over_a_network() {
        for (url, is_file) in [
            ("sqlite:/a/b.db", true),
            ("postgres://localhost/database", false),
            ("mysql://localhost/database", false),
        ] {
            assert_eq!(parse(url).unwrap().is_file(), is_file, "{url}");
        }
    }

    #[test]
    #[cfg(all(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    fn an_invalid_url_is_an_error_that_does_not_show_it() {
        for url in [
            "",
            "sesame",
            "http://sesame@host/",
            "sqlite:",
            "sqlite::memory:",
            "sqlite://",
            "sqlite:file?sesame=ro",
            "postgres://user:sesame@host:port/database",
            "postgres://user:se?sesame@host/database",
            "postgres://user@host/database?ssl_mode=sesame",
            "postgres://user@host/database?sslmode=sesame",
            "postgres://user@host/database#sesame?sslmode=verify-full",
            "mysql://user@host/database#sesame?ssl-mode=required",
            "mysql://user:sesame@host",
            "mysql://user:sesame@host:port/database",
            "mysql://user@host/database?sslmode=sesame",
        ] {
            let error = format!("{:?}", parse(url).unwrap_err());
            assert!(!error.contains("sesame"), "{error}");
        }
    }

    #[test]
    #[cfg(all(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    fn a_target_shows_neither_user_nor_password() {
        for (url, shown) in [
            ("sqlite:/a/b.db", "sqlite:/a/b.db"),
            ("sqlite:///a/b.db", "sqlite:/a/b.db"),
            ("postgres://user:sesame@host/database", "postgres://host:5432"),
            ("postgresql://host/database?user=u&password=sesame", "postgres://host:5432"),
            ("mysql://user:sesame@host:1/database", "mysql://host:1/database"),
            ("mariadb://user:sesame@host/database", "mysql://host:3306/database"),
        ] {
            assert_eq!(format!("{:?}", parse(url).unwrap()), shown);
        }
    }

    #[test]
    #[cfg(all(feature = "postgres", feature = "mysql"))]
    fn a_remote_server_has_to_prove_its_name() {
        use sqlx::mysql::MySqlSslMode;
        use sqlx::postgres::PgSslMode;

        let mode = |url: &str| match parse(url).unwrap().options {
            Options::Postgres(options) => match options.get_ssl_mode() {
                PgSslMode::VerifyFull => "verified",
                PgSslMode::Require => "encrypted",
                _ => "any",
            },
            Options::MySql(options) => match options.get_ssl_mode() {
                MySqlSslMode::VerifyIdentity => "verified",
                MySqlSslMode::Required => "encrypted",
                _ => "any",
            },
            #[cfg(feature = "sqlite")]
            Options::Sqlite(_) => "none",
        };
        assert_eq!(mode("postgres://host/database"), "verified");
        assert_eq!(mode("postgres://host/database?sslmode=require"), "encrypted");
        assert_eq!(mode("postgres://host/database?sslmode=prefer"), "any");
        assert_eq!(mode("postgres://localhost/database"), "any");
        assert_eq!(mode("mysql://host/database"), "verified");
        assert_eq!(mode("mysql://host/database?ssl-mode=required"), "encrypted");
        assert_eq!(mode("mysql://127.0.0.1/database"), "any");
    }
}
