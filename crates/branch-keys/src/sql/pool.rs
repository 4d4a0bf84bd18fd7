//! Idle connections, and the time limits of operations.
//!
//! `sqlx` has a pool, too. This one never hangs on a broken connection: a connection whose
//! operation failed, timed out or was cancelled is closed at once instead of being tested or
//! drained, so it does not block another operation. After such a failure no other idle connection
//! is used either, because the same cause has probably broken them all.

use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::Connection;
use super::error::Failure;
use super::target::Target;
use crate::storage::{StorageError, StorageErrorKind};

/// A connection that was idle for longer is closed. Servers and firewalls wait for minutes.
const MAX_IDLE: Duration = Duration::from_mins(1);

/// A connection that was opened before is closed when it is idle, so that a changed address of the
/// server takes effect.
const MAX_AGE: Duration = Duration::from_mins(30);

/// How many times a transaction is repeated if it conflicts with another one.
const MAX_CONFLICTS: u32 = 10;

/// The pause after the first conflict. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// What an operation on a connection returns.
pub(super) type Attempt<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// The connections to one database.
pub(super) struct Pool {
    target: Target,
    timeout: Duration,
    permits: Semaphore,
    /// For changes, which wait for each other's locks: the other half is left for reads.
    changes: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    pub(super) fn new(target: Target, timeout: Duration, max_connections: usize) -> Self {
        let permits = Semaphore::new(max_connections);
        let changes = Semaphore::new(max_connections.div_ceil(2));
        Self { target, timeout, permits, changes, idle: Mutex::default() }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Runs an operation, again if it conflicted with another one or if its connection was broken
    /// before it started.
    ///
    /// # Errors
    ///
    /// The error of the operation; [`StorageErrorKind::Throttled`] if all connections are in use;
    /// [`StorageErrorKind::Unavailable`] if it takes too long, and
    /// [`StorageErrorKind::UnknownOutcome`] if that happens during a commit.
    pub(super) async fn run<T>(
        &self,
        operation: impl for<'a> Fn(&'a mut Connection) -> Attempt<'a, T>,
    ) -> Result<T, StorageError> {
        self.run_until(Instant::now() + self.timeout, operation).await
    }

    /// Runs an operation that may wait for the locks of others, like [`run`](Self::run).
    pub(super) async fn change<T>(
        &self,
        operation: impl for<'a> Fn(&'a mut Connection) -> Attempt<'a, T>,
    ) -> Result<T, StorageError> {
        let deadline = Instant::now() + self.timeout;
        let _permit = acquire(&self.changes, deadline).await?;
        self.run_until(deadline, operation).await
    }

    async fn run_until<T>(
        &self,
        deadline: Instant,
        operation: impl for<'a> Fn(&'a mut Connection) -> Attempt<'a, T>,
    ) -> Result<T, StorageError> {
        let _permit = acquire(&self.permits, deadline).await?;
        let mut conflicts = 0;
        loop {
            let reused = self.take();
            let is_reused = reused.is_some();
            let limit = if is_reused && !self.target.is_file() {
                half_way(Instant::now(), deadline)
            } else {
                deadline
            };
            let failure = match self.attempt(reused, limit, &operation).await {
                Ok(output) => return Ok(output),
                Err(failure) => failure,
            };
            match failure {
                Failure::Broken(_) if is_reused && Instant::now() < deadline => {}
                Failure::Conflict(error) if conflicts < MAX_CONFLICTS => {
                    let pause = FIRST_PAUSE * 2_u32.pow(conflicts);
                    conflicts += 1;
                    let pause = pause.mul_f64(0.5 + fastrand::f64());
                    if Instant::now() + pause >= deadline {
                        return Err(error);
                    }
                    sleep(pause).await;
                }
                failure => return Err(failure.into_error()),
            }
        }
    }

    async fn attempt<T>(
        &self,
        reused: Option<Connection>,
        limit: Instant,
        operation: &impl for<'a> Fn(&'a mut Connection) -> Attempt<'a, T>,
    ) -> Result<T, Failure> {
        let mut connection = match reused {
            Some(connection) => connection,
            None => match timeout_at(limit, self.target.connect()).await {
                Ok(connected) => connected?,
                Err(_) => return Err(Failure::Broken(self.too_slow("no connection"))),
            },
        };
        let outcome = match timeout_at(limit, operation(&mut connection)).await {
            Ok(outcome) => outcome,
            Err(_) if connection.is_committing() => {
                let unknown = StorageError::new(StorageErrorKind::UnknownOutcome);
                Err(Failure::Unknown(unknown.with_message("no response to the commit")))
            }
            Err(_) => Err(Failure::Broken(self.too_slow("no response"))),
        };
        match &outcome {
            Ok(_) | Err(Failure::Answer(_) | Failure::Conflict(_)) => self.put_back(connection),
            Err(Failure::Broken(_) | Failure::Unknown(_)) => {
                let idle = std::mem::take(&mut *self.idle());
                drop((connection, idle));
            }
        }
        outcome
    }

    fn too_slow(&self, what: &str) -> StorageError {
        let message = format!("{what} within {:?}", self.timeout);
        StorageError::new(StorageErrorKind::Unavailable).with_message(message)
    }

    /// The connection that was used last, if it is fresh enough.
    fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        let stale;
        let taken = {
            let mut idle = self.idle();
            let (fresh, old) = std::mem::take(&mut *idle).into_iter().partition(|it| {
                now - it.since < MAX_IDLE && now - it.connection.opened() < MAX_AGE
            });
            *idle = fresh;
            stale = old;
            idle.pop()
        };
        // Not under the lock.
        drop::<Vec<Idle>>(stale);
        taken.map(|it| it.connection)
    }

    fn put_back(&self, connection: Connection) {
        if !connection.is_reading() {
            self.idle().push(Idle { connection, since: Instant::now() });
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // The list is consistent at any time.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn acquire(
    permits: &Semaphore,
    deadline: Instant,
) -> Result<SemaphorePermit<'_>, StorageError> {
    match timeout_at(deadline, permits.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(StorageError::new(StorageErrorKind::Throttled)
            .with_message("all connections are in use")),
    }
}

/// How long an idle connection to a server may take: it may be dead, so half of the time is
/// left for another one.
fn half_way(now: Instant, deadline: Instant) -> Instant {
    now + deadline.saturating_duration_since(now) / 2
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("target", &self.target)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
