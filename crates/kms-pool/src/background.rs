//! The pool's own runtime, for work that must continue even if no caller drives it.
//!
//! A caller's future runs on the caller's executor, which may end, or stall while its thread does
//! something else. Connections, credential refreshes, watchers and timers on that executor would
//! end or stall with it. They therefore run on the pool's threads. Callers wait for a task, which
//! works under any executor.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_smithy_async::rt::sleep::{AsyncSleep, Sleep};
use futures_util::future::{Either, select};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::{KmsError, KmsErrorKind};
use crate::time::monotonic;

/// A runtime that starts on first use and ends when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Background(Arc<Shared>);

struct Shared {
    workers: usize,
    /// The process that started the runtime; 0 before the start. A forked child has none of its
    /// threads.
    process: AtomicU32,
    handle: OnceLock<Handle>,
    state: Mutex<State>,
}

enum State {
    Idle,
    Running {
        runtime: Arc<Owned>,
        /// Dropped to signal that the runtime is about to end.
        _end: watch::Sender<()>,
        end: watch::Receiver<()>,
    },
    Ended,
}

/// The runtime itself. It ends when the last reference is dropped.
struct Owned {
    runtime: Option<Runtime>,
    process: u32,
}

/// Keeps the runtime alive for a thread that itself drives a future of the runtime.
///
/// Without a lease the runtime could end first, and the timers of an ended runtime panic.
pub(crate) struct Lease {
    _runtime: Arc<Owned>,
    end: watch::Receiver<()>,
}

/// Refers to the runtime without keeping it alive, for tasks that run on the runtime itself.
#[derive(Clone)]
pub(crate) struct WeakBackground(Weak<Shared>);

impl Background {
    pub(crate) fn with_workers(workers: usize) -> Self {
        Self(Arc::new(Shared {
            workers,
            process: AtomicU32::new(0),
            handle: OnceLock::new(),
            state: Mutex::new(State::Idle),
        }))
    }

    pub(crate) fn downgrade(&self) -> WeakBackground {
        WeakBackground(Arc::downgrade(&self.0))
    }

    /// Checks that this process started the runtime, or that it has not started yet.
    ///
    /// # Errors
    ///
    /// [`KmsErrorKind::AfterFork`] in a forked child. There, a thread that the child does not have
    /// may hold any lock for ever, so callers check this before anything else.
    pub(crate) fn check_process(&self) -> Result<(), KmsError> {
        if self.0.is_of_this_process() { Ok(()) } else { Err(KmsError::after_fork()) }
    }

    /// The runtime, started if necessary.
    ///
    /// # Errors
    ///
    /// The errors of [`check_process`](Self::check_process); [`KmsErrorKind::InvalidRequest`] if
    /// the runtime was shut down before it started, and [`KmsErrorKind::Unavailable`] if its
    /// threads cannot be started.
    pub(crate) fn handle(&self) -> Result<&Handle, KmsError> {
        self.check_process()?;
        if let Some(handle) = self.0.handle.get() {
            return Ok(handle);
        }
        let process = std::process::id();
        // Before the lock: a child that is forked while the lock is held must not wait for it.
        let _ = self.0.process.compare_exchange(0, process, Relaxed, Relaxed);
        let mut state = self.0.state();
        if let State::Idle = *state {
            let runtime = Builder::new_multi_thread()
                .worker_threads(self.0.workers)
                .thread_name("kms-pool")
                .enable_all()
                .build()
                .map_err(|cause| {
                    let message = "could not start the threads of the pool";
                    KmsError::local(KmsErrorKind::Unavailable, message, Some(Box::new(cause)))
                })?;
            let _ = self.0.handle.set(runtime.handle().clone());
            let runtime = Arc::new(Owned { runtime: Some(runtime), process });
            let (sender, end) = watch::channel(());
            *state = State::Running { runtime, _end: sender, end };
        }
        self.0.handle.get().ok_or_else(KmsError::shut_down)
    }

    /// Keeps the runtime alive for a thread that drives a future of it; `None` if it is not
    /// running.
    pub(crate) fn lease(&self) -> Option<Lease> {
        match &*self.0.state() {
            State::Running { runtime, end, .. } => {
                Some(Lease { _runtime: Arc::clone(runtime), end: end.clone() })
            }
            State::Idle | State::Ended => None,
        }
    }

    /// Runs a future on the runtime. Dropping the returned [`Task`] cancels the future.
    ///
    /// # Errors
    ///
    /// The errors of [`handle`](Self::handle).
    pub(crate) fn run<F>(&self, future: F) -> Result<Task<F::Output>, KmsError>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let join = self.handle()?.spawn(future);
        Ok(Task { join, background: self.downgrade() })
    }

    /// Sleeps; works on any executor.
    pub(crate) fn sleep(
        &self,
        duration: Duration,
    ) -> impl Future<Output = ()> + Send + Sync + use<> {
        let now = monotonic();
        // If the sum overflows, a year is as good as for ever.
        let until = now.checked_add(duration).unwrap_or(now + Duration::from_hours(24 * 365));
        Timer { until, background: self.clone(), task: None }
    }

    /// The output of `future`, or `None` if it is not ready within `limit`.
    pub(crate) async fn timeout<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let (future, limit) = (std::pin::pin!(future), std::pin::pin!(self.sleep(limit)));
        match select(future, limit).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(_) => None,
        }
    }

    /// Ends the runtime and its remaining tasks as soon as no lease is left. Does not wait, and
    /// cannot be undone.
    pub(crate) fn shut_down(&self) {
        if self.check_process().is_ok() {
            let last = std::mem::replace(&mut *self.0.state(), State::Ended);
            drop(last);
        }
    }
}

impl Lease {
    /// Waits until the runtime is about to end.
    pub(crate) async fn end(&mut self) {
        // No value is ever sent: this returns when the sender is dropped.
        let _ = self.end.changed().await;
    }
}

impl WeakBackground {
    pub(crate) fn upgrade(&self) -> Option<Background> {
        self.0.upgrade().map(Background)
    }
}

impl Shared {
    fn is_of_this_process(&self) -> bool {
        let process = self.process.load(Relaxed);
        process == 0 || process == std::process::id()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The value is only ever replaced as a whole, so a panic leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if self.process == std::process::id() {
            // Unlike a drop, this is allowed inside a task, even one of this runtime.
            runtime.shutdown_background();
        } else {
            // The threads exist only in the parent: there is nothing to end or to wake.
            std::mem::forget(runtime);
        }
    }
}

/// A future that runs on the runtime until this handle is dropped.
#[derive(Debug)]
pub(crate) struct Task<T> {
    join: JoinHandle<T>,
    background: WeakBackground,
}

impl<T> Future for Task<T> {
    /// An error if the future panicked, or if the runtime ended before it.
    type Output = Result<T, KmsError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = ready!(Pin::new(&mut self.join).poll(context));
        Poll::Ready(ended.map_err(|error| {
            if error.is_panic() {
                KmsError::local(KmsErrorKind::Other, "a task of the pool panicked", None)
            } else {
                KmsError::shut_down()
            }
        }))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        // When the runtime is gone, so is the task.
        if !self.join.is_finished()
            && self.background.upgrade().is_some_and(|it| it.0.is_of_this_process())
        {
            self.join.abort();
        }
    }
}

/// Waits by a task on the runtime, which starts when this future is first polled.
///
/// A Tokio timer could also be polled anywhere, but it panics once its runtime has ended.
struct Timer {
    until: Instant,
    background: Background,
    task: Option<Task<()>>,
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let until = self.until;
        if self.task.is_none() {
            match self.background.run(async move { tokio::time::sleep_until(until).await }) {
                Ok(task) => self.task = Some(task),
                // The runtime has ended: the operation after the wait reports the error.
                Err(_) => return Poll::Ready(()),
            }
        }
        match &mut self.task {
            Some(task) => Pin::new(task).poll(context).map(drop),
            None => Poll::Ready(()),
        }
    }
}

impl AsyncSleep for Background {
    fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(Background::sleep(self, duration))
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

impl fmt::Debug for WeakBackground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakBackground").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_executor::block_on;
    use futures_util::FutureExt as _;

    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    #[test]
    fn waits_on_a_runtime_end_with_it() {
        let background = Background::with_workers(1);
        let mut sleep = Box::pin(background.sleep(LONG));
        assert!(sleep.as_mut().now_or_never().is_none());
        let late = background.sleep(LONG);
        let task = background.run(std::future::pending::<()>()).unwrap();
        background.shut_down();
        block_on(async { (sleep.await, late.await) });
        assert_eq!(block_on(task).unwrap_err().kind(), KmsErrorKind::InvalidRequest);
        assert!(background.lease().is_none());
    }

    #[test]
    fn a_runtime_that_was_shut_down_before_its_start_does_not_start() {
        let background = Background::with_workers(1);
        background.shut_down();
        assert!(background.handle().is_err());
    }

    #[test]
    fn a_lease_keeps_the_runtime_and_learns_of_its_end() {
        let background = Background::with_workers(1);
        let handle = background.handle().unwrap().clone();
        let mut lease = background.lease().unwrap();
        assert!(lease.end().now_or_never().is_none());
        drop(background);
        block_on(lease.end());
        // The runtime's timers work until the lease ends.
        handle.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        drop(lease);
        let ended = block_on(handle.spawn(async {})).unwrap_err();
        assert!(ended.is_cancelled());
    }

    #[test]
    fn a_dropped_task_is_cancelled_and_a_panic_is_an_error() {
        let background = Background::with_workers(1);
        let (sender, ended) = mpsc::channel::<()>();
        let task = background.run(async move {
            std::future::pending::<()>().await;
            drop(sender);
        });
        drop(task.unwrap());
        assert!(ended.recv().is_err(), "the task was dropped");
        let task = background.run(async { panic!("scripted") }).unwrap();
        assert_eq!(block_on(task).unwrap_err().kind(), KmsErrorKind::Other);
    }

    #[test]
    fn a_timeout_ends_a_slow_future() {
        let background = Background::with_workers(1);
        let limit = Duration::from_millis(1);
        assert!(block_on(background.timeout(limit, std::future::pending::<()>())).is_none());
        assert_eq!(block_on(background.timeout(Duration::MAX, async { 1 })), Some(1));
    }
}
