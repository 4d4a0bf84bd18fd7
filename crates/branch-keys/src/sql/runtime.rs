//! The storage's own runtime.
//!
//! Connections belong to the runtime that opened them, and end with it. A storage is shared by
//! callers on several runtimes, which start and end at any time, so its connections have one of
//! their own.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::JoinHandle;

use crate::storage::{StorageError, StorageErrorKind};

/// One thread that runs operations. Ends when it is dropped.
pub(super) struct Runtime {
    runtime: Option<tokio::runtime::Runtime>,
    process: u32,
}

/// An operation on the runtime. Dropping it cancels the operation.
struct Task<T> {
    join: JoinHandle<T>,
    process: u32,
}

impl Runtime {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// [`StorageErrorKind::Unavailable`] if the thread cannot be started.
    pub(super) fn start() -> Result<Self, StorageError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("branch-keys-sql")
            .enable_all()
            .build()
            .map_err(|cause| {
                StorageError::new(StorageErrorKind::Unavailable)
                    .with_message("could not start a thread")
                    .with_source(cause)
            })?;
        Ok(Self { runtime: Some(runtime), process: std::process::id() })
    }

    /// Runs a future on the runtime. Dropping the returned future cancels it.
    ///
    /// # Errors
    ///
    /// Those of the future; [`StorageErrorKind::Other`] if it panicked, and in a forked child
    /// process, which does not have the thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, StorageError>> + Send + 'static,
    ) -> Result<T, StorageError> {
        let runtime = self.runtime.as_ref().filter(|_| self.process == std::process::id());
        let Some(runtime) = runtime else {
            return Err(StorageError::new(StorageErrorKind::Other)
                .with_message("the process was forked: connect again in the child process"));
        };
        let task = Task { join: runtime.spawn(future), process: self.process };
        task.await.unwrap_or_else(|_| {
            let error = StorageError::new(StorageErrorKind::Other);
            Err(error.with_message("a task of the storage panicked"))
        })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if self.process == std::process::id() {
            // Unlike a drop, this is allowed inside a task.
            runtime.shutdown_background();
        } else {
            // The thread exists only in the parent: there is nothing to end or to wake.
            std::mem::forget(runtime);
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.join).poll(context)))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            self.join.abort();
        }
    }
}
