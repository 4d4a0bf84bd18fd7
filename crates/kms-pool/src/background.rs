//! The pool's own runtime, for everything that must go on whether or not a caller drives it.
//!
//! A future of a caller is driven by the caller's executor, which may end, or stand still while its
//! thread does something else. Connections, renewals of credentials, watchers and timers that lived
//! there would end or stand still with it. They live here, on threads of the pool; callers wait for
//! a task, which any executor can do.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_smithy_async::rt::sleep::{AsyncSleep, Sleep};
use futures_util::future::{Either, select};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::{KmsError, KmsErrorKind};
use crate::time::monotonic;

/// A runtime that starts when it is first needed, and ends with the last clone.
#[derive(Clone)]
pub(crate) struct Background(Arc<Shared>);

struct Shared {
    workers: usize,
    /// The process that started the runtime; 0 before that. A forked child has none of its threads.
    process: AtomicU32,
    handle: OnceLock<Handle>,
    state: Mutex<State>,
}

enum State {
    Idle,
    Running(Runtime),
    Ended,
}

/// Refers to a runtime without keeping it: what lives on a runtime must not.
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

    /// Whether this process is the one that uses the runtime, rather than a forked child of it.
    ///
    /// # Errors
    ///
    /// [`KmsErrorKind::AfterFork`]. In a child, any lock may be held for ever by a thread that the
    /// child does not have, so this is looked at before anything else.
    pub(crate) fn check_process(&self) -> Result<(), KmsError> {
        if self.0.is_of_this_process() { Ok(()) } else { Err(KmsError::after_fork()) }
    }

    /// The runtime, which starts if need be.
    ///
    /// # Errors
    ///
    /// Those of [`check_process`](Self::check_process); [`KmsErrorKind::InvalidRequest`] if it was
    /// shut down before it started, and [`KmsErrorKind::Other`] if its threads cannot be started.
    pub(crate) fn handle(&self) -> Result<&Handle, KmsError> {
        self.check_process()?;
        if let Some(handle) = self.0.handle.get() {
            return Ok(handle);
        }
        let mut state = self.0.state();
        match *state {
            State::Idle => {}
            State::Running(ref runtime) => {
                return Ok(self.0.handle.get_or_init(|| runtime.handle().clone()));
            }
            State::Ended => return Err(KmsError::shut_down()),
        }
        self.0.process.store(std::process::id(), Relaxed);
        let runtime = Builder::new_multi_thread()
            .worker_threads(self.0.workers)
            .thread_name("kms-pool")
            .enable_all()
            .build()
            .map_err(|cause| {
                let message = "could not start the threads of the pool";
                KmsError::local(KmsErrorKind::Other, message, Some(Box::new(cause)))
            })?;
        let handle = self.0.handle.get_or_init(|| runtime.handle().clone());
        *state = State::Running(runtime);
        Ok(handle)
    }

    /// Runs a future on the runtime. It is given up when the returned one is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`handle`](Self::handle).
    pub(crate) fn run<F>(&self, future: F) -> Result<Task<F::Output>, KmsError>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let join = self.handle()?.spawn(future);
        Ok(Task { join, background: self.downgrade() })
    }

    /// Waits, on whatever executor.
    pub(crate) fn sleep(
        &self,
        duration: Duration,
    ) -> impl Future<Output = ()> + Send + Sync + use<> {
        let now = monotonic();
        // A duration past the end of the clock is as good as for ever.
        let until = now.checked_add(duration).unwrap_or(now + Duration::from_hours(24 * 365));
        Timer { until, background: self.clone(), task: None }
    }

    /// The output of `future`, if it is there within `limit`.
    pub(crate) async fn timeout<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let (future, limit) = (std::pin::pin!(future), std::pin::pin!(self.sleep(limit)));
        match select(future, limit).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(_) => None,
        }
    }

    /// Ends the runtime, and whatever is still on it. Does not wait, and cannot be undone.
    pub(crate) fn shut_down(&self) {
        if !self.0.is_of_this_process() {
            return;
        }
        let last = std::mem::replace(&mut *self.0.state(), State::Ended);
        if let State::Running(runtime) = last {
            runtime.shutdown_background();
        }
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
        // It is replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let is_of_this_process = self.is_of_this_process();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let State::Running(runtime) = std::mem::replace(state, State::Ended) {
            if is_of_this_process {
                // Unlike a drop, this may happen inside a task, also one of its own.
                runtime.shutdown_background();
            } else {
                // Its threads are the parent's: there is nothing to end, and nobody to wake.
                std::mem::forget(runtime);
            }
        }
    }
}

/// A future that runs on the runtime, until this is dropped.
#[derive(Debug)]
pub(crate) struct Task<T> {
    join: JoinHandle<T>,
    background: WeakBackground,
}

impl<T> Future for Task<T> {
    /// `None` if the runtime has ended before it.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(Pin::new(&mut self.join).poll(context)) {
            Ok(output) => Some(output),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_ended) => None,
            },
        })
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        // Where the runtime is gone, so is the task.
        if !self.join.is_finished()
            && self.background.upgrade().is_some_and(|it| it.0.is_of_this_process())
        {
            self.join.abort();
        }
    }
}

/// Waits by a task on the runtime, which begins when it is first polled.
///
/// A timer of Tokio could be polled anywhere too, but it panics where its runtime has ended.
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
            match self.background.run(tokio::time::sleep_until(until)) {
                Ok(task) => self.task = Some(task),
                // Whatever comes after the wait says why it cannot go on.
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
