//! Loads, and how long their operations take.
//!
//! [`steady`] and [`crowd`] are open loops: each operation has its start time, independent of
//! earlier ones, and its latency counts from then. A pause therefore delays all operations that
//! should have started during it, and not only the one that was running.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use benches::Result;
use hdrhistogram::Histogram;
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, timeout},
};

/// Operations that take longer than this count as failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Durations with three digits, up to a minute.
#[derive(Debug, Clone)]
pub(crate) struct Durations(Histogram<u64>);

impl Durations {
    pub(crate) fn record(&mut self, duration: Duration) {
        self.0.saturating_record(nanos(duration));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The duration that this share of them does not exceed.
    pub(crate) fn at(&self, share: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(share))
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    /// The share of them between neighbors of `bounds`.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn shares(&self, bounds: &[Duration]) -> Vec<f64> {
        let within = |pair: &[Duration]| self.0.count_between(nanos(pair[0]), nanos(pair[1]) - 1);
        bounds.windows(2).map(|pair| within(pair) as f64 / self.count().max(1) as f64).collect()
    }
}

impl Default for Durations {
    fn default() -> Self {
        let max = nanos(Duration::from_mins(1));
        Self(Histogram::new_with_bounds(1, max, 3).expect("three digits of a minute are allowed"))
    }
}

/// The outcomes of operations.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outcomes {
    /// From when each was due until it ended.
    pub(crate) latency: Durations,
    /// From when each began until it ended.
    pub(crate) service: Durations,
    /// How many failed, by error.
    pub(crate) failures: BTreeMap<String, u64>,
    /// When the last one that failed was due.
    pub(crate) last_failed: Option<Duration>,
    /// How long the thread was ready while no core was free. Zero where the system does not say,
    /// and for loads that move between threads.
    pub(crate) without_core: Duration,
}

/// The columns of the `Display` of [`Outcomes`].
pub(crate) const HEAD: &str = "   all failed       p50       p99     p99.9    p99.99       max";

impl Outcomes {
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Runs an operation that is due now, and records its outcome.
    pub(crate) async fn run<T, E: fmt::Display>(
        &mut self,
        operation: impl Future<Output = std::result::Result<T, E>>,
    ) {
        let began = Instant::now();
        let failure = match timeout(PATIENCE, operation).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no response within {PATIENCE:?}")),
        };
        self.record([Duration::ZERO, Duration::ZERO, began.elapsed()], failure);
    }

    fn record(&mut self, [due, began, ended]: [Duration; 3], failure: Option<String>) {
        self.latency.record(ended.saturating_sub(due));
        self.service.record(ended.saturating_sub(began));
        if let Some(failure) = failure {
            *self.failures.entry(failure).or_default() += 1;
            self.last_failed = self.last_failed.max(Some(due));
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.last_failed = self.last_failed.max(other.last_failed);
        self.without_core += other.without_core;
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} {:>6} {}", self.latency.count(), self.failed(), self.latency)?;
        if self.failures.is_empty() { Ok(()) } else { write!(f, "   {:?}", self.failures) }
    }
}

/// The percentiles, and the maximum.
impl fmt::Display for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for share in [0.5, 0.99, 0.999, 0.9999, 1.0] {
            let duration = if share < 1.0 { self.at(share) } else { self.max() };
            write!(f, " {:>9}", format!("{duration:.1?}"))?;
        }
        Ok(())
    }
}

/// Starts an operation each `interval` for so long, on this task. Returns the first error.
pub(crate) async fn steady<T, E, F: Future<Output = std::result::Result<T, E>>>(
    interval: Duration,
    length: Duration,
    mut operation: impl FnMut() -> F,
) -> std::result::Result<Outcomes, E> {
    let mut outcomes = Outcomes::default();
    let waited = without_core();
    let begun = Instant::now();
    let mut due = Duration::ZERO;
    while due < length {
        let mut now = begun.elapsed();
        while now < due {
            // As in a service, other tasks of this thread run meanwhile.
            tokio::task::yield_now().await;
            now = begun.elapsed();
        }
        operation().await?;
        outcomes.record([due, now, begun.elapsed()], None);
        due += interval;
    }
    outcomes.without_core = without_core().saturating_sub(waited);
    Ok(outcomes)
}

/// Operations that have all been started, and may not all have ended.
pub(crate) struct Crowd {
    outcomes: Arc<Mutex<Outcomes>>,
    ends: mpsc::Receiver<()>,
}

impl Crowd {
    /// Waits for all of them.
    pub(crate) async fn ended(mut self) -> Outcomes {
        // Nothing is ever sent: the channel closes when the last operation ends.
        while self.ends.recv().await.is_some() {}
        std::mem::take(&mut self.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Starts an operation each `interval` for so long, each on its own task. A separate thread keeps
/// the time more precisely than the timers of the runtime do.
pub(crate) async fn crowd<E, F>(
    interval: Duration,
    length: Duration,
    operation: impl Fn() -> F + Send + 'static,
) -> Crowd
where
    E: fmt::Display,
    F: Future<Output = std::result::Result<(), E>> + Send + 'static,
{
    let runtime = Handle::current();
    let outcomes = Arc::<Mutex<Outcomes>>::default();
    let (end, ends) = mpsc::channel(1);
    let crowd = Crowd { outcomes: Arc::clone(&outcomes), ends };
    let clock = move || {
        let start = Instant::now();
        let mut due = Duration::ZERO;
        while due < length {
            thread::sleep(due.saturating_sub(start.elapsed()));
            let (operation, outcomes, end) = (operation(), Arc::clone(&outcomes), end.clone());
            runtime.spawn(async move {
                let began = start.elapsed();
                let failure = operation.await.err().map(|error| error.to_string());
                let times = [due, began, start.elapsed()];
                outcomes.lock().unwrap_or_else(PoisonError::into_inner).record(times, failure);
                drop(end);
            });
            due += interval;
        }
    };
    tokio::task::spawn_blocking(clock).await.expect("making an operation does not panic");
    crowd
}

/// Returns how many operations `tasks` complete in a second, if each starts when the one before it
/// has ended.
pub(crate) async fn capacity<F>(
    tasks: usize,
    length: Duration,
    operation: impl Fn() -> F + Clone + Send + 'static,
) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let begun = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let operation = operation.clone();
            tokio::spawn(async move {
                let mut count = 0.0;
                while begun.elapsed() < length {
                    operation().await?;
                    count += 1.0;
                }
                Result::Ok(count)
            })
        })
        .collect();
    let mut count = 0.0;
    for task in tasks {
        count += task.await??;
    }
    Ok(count / begun.elapsed().as_secs_f64())
}

/// Waits until the condition holds, but not longer than `patience`. Returns whether it holds.
pub(crate) async fn until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !condition() {
        if Instant::now() >= deadline {
            return condition();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}

/// Returns the bytes of this process that are in memory.
pub(crate) fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    status_bytes(&status, "VmRSS:").ok_or_else(|| io::Error::other("no VmRSS in /proc/self/status"))
}

/// Returns a size from a `/proc/…/status` in bytes.
pub(crate) fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// How long this thread has been ready while no core was free.
fn without_core() -> Duration {
    let schedule = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited = schedule.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(crate) fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_count_each_duration_once() {
        let mut durations = Durations::default();
        for micros in [1, 2, 3, 5_000] {
            durations.record(Duration::from_micros(micros));
        }
        let bounds = [1, 3, 1_000, 10_000].map(Duration::from_micros);
        assert_eq!(durations.shares(&bounds), [0.5, 0.25, 0.25]);
    }

    #[tokio::test]
    async fn a_pause_delays_all_operations_that_were_due_during_it() {
        let pause = Duration::from_millis(20);
        let mut is_first = true;
        let operation = || {
            let pauses = std::mem::take(&mut is_first);
            async move {
                if pauses {
                    thread::sleep(pause);
                }
                Ok::<_, io::Error>(())
            }
        };
        let outcomes = steady(pause / 20, pause, operation).await.unwrap();
        assert!(outcomes.latency.at(0.5) >= pause / 3);
    }

    #[tokio::test]
    async fn a_crowd_waits_for_no_operation_and_counts_failures_by_error() {
        let leave = Arc::new(tokio::sync::Semaphore::new(0));
        let number = Mutex::new(0);
        let gate = Arc::clone(&leave);
        let operation = move || {
            let mut number = number.lock().unwrap();
            *number += 1;
            let (number, gate) = (*number, Arc::clone(&gate));
            async move {
                gate.acquire().await.unwrap().forget();
                if number % 2 == 0 { Ok(()) } else { Err(number) }
            }
        };
        let interval = Duration::from_millis(1);
        let crowd = crowd(interval, interval * 4, operation).await;
        leave.add_permits(4);
        let outcomes = crowd.ended().await;
        assert_eq!((outcomes.latency.count(), outcomes.failed()), (4, 2));
        assert_eq!((outcomes.failures["1"], outcomes.failures["3"]), (1, 1));
        assert_eq!(outcomes.last_failed, Some(interval * 2));
    }
}
