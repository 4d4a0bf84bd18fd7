//! The threads on which a cache loads data keys, independent of its callers' runtimes.

use std::{cell::Cell, fmt, future::Future, pin::Pin, time::Duration};
#[cfg(feature = "tokio")]
use std::{
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

#[cfg(feature = "tokio")]
use tokio::runtime::{Builder, Runtime};

use crate::error::Error;

/// Work that continues even if nobody waits for it.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The minimum and maximum number of threads; in between, one per processor. Loads mostly wait;
/// with several threads, a keyring that computes for long does not stop other loads.
#[cfg(feature = "tokio")]
const THREADS: (usize, usize) = (2, 16);

thread_local! {
    /// Whether this thread is blocked until the future that it polls is ready.
    static WAITS: Cell<bool> = const { Cell::new(false) };
    /// The number of the set of threads that this thread belongs to; zero for none.
    #[cfg(feature = "tokio")]
    static AMONG: Cell<u64> = const { Cell::new(0) };
}

/// Runs `wait`, during which this thread is blocked.
pub(crate) fn waiting<T>(wait: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            WAITS.set(self.0);
        }
    }
    let _restore = Restore(WAITS.replace(true));
    wait()
}

/// Threads that start on first use and end when this is dropped. Without the feature `tokio` there
/// are none.
#[derive(Default)]
pub(crate) struct Background {
    /// The process that started the threads; 0 before the start.
    #[cfg(feature = "tokio")]
    process: AtomicU32,
    /// The number of this set of threads in the process; 0 before the start.
    #[cfg(feature = "tokio")]
    number: AtomicU64,
    #[cfg(feature = "tokio")]
    runtime: Mutex<Option<Runtime>>,
}

#[cfg(feature = "tokio")]
impl Background {
    /// Starts the threads, unless they are running. Returns whether there are any.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`] in a process that was forked from the one that has the threads,
    /// [`Error::WaitsForItself`] if one of the threads is blocked in this call, and
    /// [`Error::ThreadsNotStarted`].
    pub(crate) fn start(&self) -> Result<bool, Error> {
        // Before any lock: in a forked process, the thread that holds it may be missing.
        let process = process::id();
        match self.process.compare_exchange(0, process, SeqCst, SeqCst) {
            Err(other) if other != process => return Err(Error::Forked),
            _ => {}
        }
        let among = AMONG.get();
        if WAITS.get() && among != 0 && among == self.number.load(SeqCst) {
            return Err(Error::WaitsForItself);
        }
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if runtime.is_none() {
            static NUMBERS: AtomicU64 = AtomicU64::new(1);
            let number = NUMBERS.fetch_add(1, SeqCst);
            self.number.store(number, SeqCst);
            let mut builder = Builder::new_multi_thread();
            let processors = thread::available_parallelism().map_or(1, usize::from);
            builder
                .worker_threads(processors.clamp(THREADS.0, THREADS.1))
                .thread_name("envelope-cache")
                .on_thread_start(move || AMONG.set(number))
                .enable_all();
            let started = builder.build().map_err(|cause| {
                self.process.store(0, SeqCst);
                Error::ThreadsNotStarted(Arc::new(cause))
            })?;
            // Another call may have failed to start them in between.
            self.process.store(process, SeqCst);
            *runtime = Some(started);
        }
        Ok(true)
    }

    /// Runs a task on the threads, or drops it if they cannot be started. `tracing` events of the
    /// task go to the caller's subscriber.
    pub(crate) fn spawn(&self, task: Task) {
        if self.start().is_err() {
            return;
        }
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(runtime) = runtime.as_ref() else { return };
        #[cfg(feature = "tracing")]
        let task = tracing::instrument::WithSubscriber::with_current_subscriber(task);
        runtime.spawn(task);
    }

    /// Sleeps. Must be called on the threads.
    pub(crate) async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Does not wait for the threads, so the last clone may be dropped on any thread, even one of them.
#[cfg(feature = "tokio")]
impl Drop for Background {
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if self.process.load(SeqCst) == process::id() {
            runtime.into_iter().for_each(Runtime::shutdown_background);
        } else {
            // In a forked process, the threads to shut down do not exist.
            std::mem::forget(runtime);
        }
    }
}

#[cfg(not(feature = "tokio"))]
#[expect(clippy::unused_self, reason = "there are no threads without tokio")]
impl Background {
    /// Does nothing: without the feature `tokio` there are no threads to start.
    #[expect(clippy::unnecessary_wraps, reason = "it can fail with the feature tokio")]
    pub(crate) fn start(&self) -> Result<bool, Error> {
        Ok(false)
    }

    /// Drops the task, because there are no threads.
    pub(crate) fn spawn(&self, task: Task) {
        drop(task);
    }

    /// Waits for ever, because there is no timer.
    pub(crate) async fn sleep(_duration: Duration) {
        std::future::pending::<()>().await;
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}
