//! A steady load, and how long its operations take.
//!
//! The load is an open loop: each operation has its start time, independent of earlier ones, and
//! its latency counts from then. A pause therefore delays all operations that should have started
//! during it, and not only the one that was running.

use std::{
    collections::HashMap,
    fs,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{runtime::Handle, sync::mpsc, time::Instant};

/// Longer ones count as this.
const LONGEST: Duration = Duration::from_mins(1);

/// How long operations took, to three digits.
#[derive(Debug, Clone)]
pub struct Durations(Histogram<u64>);

impl Durations {
    /// Adds one more.
    pub fn record(&mut self, duration: Duration) {
        self.0.saturating_record(nanos(duration));
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// What this share of them did not exceed.
    #[must_use]
    pub fn at(&self, share: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(share))
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    /// The longest.
    #[must_use]
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    /// The share of them between neighbors of `bounds`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub fn shares(&self, bounds: &[Duration]) -> Vec<f64> {
        let within = |pair: &[Duration]| self.0.count_between(nanos(pair[0]), nanos(pair[1]) - 1);
        bounds.windows(2).map(|pair| within(pair) as f64 / self.count() as f64).collect()
    }
}

impl Default for Durations {
    fn default() -> Self {
        Self(
            Histogram::new_with_bounds(1, nanos(LONGEST), 3)
                .expect("three digits of a minute are allowed"),
        )
    }
}

/// What a load's operations took.
#[derive(Debug, Default, Clone)]
pub struct Measured {
    /// From when each was due until it was done.
    pub latency: Durations,
    /// From when each began until it was done.
    pub service: Durations,
    /// How long the thread was ready and no core was free: what the machine did, and not what was
    /// measured. Zero where the system does not tell. A load that moves between threads has no such
    /// time.
    pub without_core: Duration,
}

impl Measured {
    /// Adds what another load took.
    pub fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.without_core += other.without_core;
    }
}

/// Begins an operation each `interval` for so long, and adds to `measured` what each took.
///
/// # Errors
///
/// The first of an operation.
pub async fn steady<T, E, F: Future<Output = Result<T, E>>>(
    interval: Duration,
    length: Duration,
    measured: &mut Measured,
    mut operation: impl FnMut() -> F,
) -> Result<(), E> {
    let without_core = without_core();
    let (begun, mut due) = (Instant::now(), Duration::ZERO);
    while due < length {
        let mut now = begun.elapsed();
        while now < due {
            // As in a service, other tasks of this thread get their turn.
            tokio::task::yield_now().await;
            now = begun.elapsed();
        }
        operation().await?;
        let done = begun.elapsed();
        measured.latency.record(done.saturating_sub(due));
        measured.service.record(done.saturating_sub(now));
        due += interval;
    }
    measured.without_core += self::without_core().saturating_sub(without_core);
    Ok(())
}

/// How the operations of a crowd fared.
#[derive(Debug, Clone)]
pub struct Fared<E> {
    /// What each took, whether it failed or not.
    pub measured: Measured,
    /// How many failed, by what they failed with.
    pub failures: HashMap<E, u64>,
    /// When the last one that failed was due, from the beginning of the load.
    pub last_failed: Option<Duration>,
}

impl<E: Eq + Hash> Fared<E> {
    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Adds how others fared. When the last of them failed stays the latest of both.
    pub fn merge(&mut self, other: Self) {
        self.measured.merge(&other.measured);
        self.last_failed = self.last_failed.max(other.last_failed);
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
    }

    fn note(&mut self, [due, began, done]: [Duration; 3], failure: Option<E>) {
        self.measured.latency.record(done.saturating_sub(due));
        self.measured.service.record(done.saturating_sub(began));
        if let Some(failure) = failure {
            *self.failures.entry(failure).or_default() += 1;
            self.last_failed = self.last_failed.max(Some(due));
        }
    }
}

impl<E> Default for Fared<E> {
    fn default() -> Self {
        Self { measured: Measured::default(), failures: HashMap::new(), last_failed: None }
    }
}

/// Operations that have all begun and may not all have ended.
#[derive(Debug)]
pub struct Crowd<E> {
    fared: Arc<Mutex<Fared<E>>>,
    ends: mpsc::Receiver<()>,
}

impl<E> Crowd<E> {
    /// Waits for all of them.
    ///
    /// # Panics
    ///
    /// Never: nobody panics with the figures in hand.
    pub async fn ended(mut self) -> Fared<E> {
        // Nothing is ever sent: it ends when the last one lets its end go.
        while self.ends.recv().await.is_some() {}
        std::mem::take(&mut self.fared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Begins an operation each `interval` for so long, each on a task of its own, however many are
/// under way. A thread of its own keeps the time, to a fraction of the millisecond that the
/// runtime's timers keep it to.
///
/// # Panics
///
/// When `operation` does.
pub async fn crowd<E, F>(
    interval: Duration,
    length: Duration,
    operation: impl Fn() -> F + Send + 'static,
) -> Crowd<E>
where
    E: Eq + Hash + Send + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
{
    let (runtime, fared) = (Handle::current(), Arc::new(Mutex::new(Fared::default())));
    let (end, ends) = mpsc::channel(1);
    let crowd = Crowd { fared: Arc::clone(&fared), ends };
    let clock = move || {
        let (start, mut due) = (Instant::now(), Duration::ZERO);
        while due < length {
            thread::sleep(due.saturating_sub(start.elapsed()));
            let (operation, fared, end) = (operation(), Arc::clone(&fared), end.clone());
            runtime.spawn(async move {
                let began = start.elapsed();
                let outcome = operation.await;
                let times = [due, began, start.elapsed()];
                fared.lock().unwrap_or_else(PoisonError::into_inner).note(times, outcome.err());
                drop(end);
            });
            due += interval;
        }
    };
    tokio::task::spawn_blocking(clock).await.expect("making an operation does not panic");
    crowd
}

/// How many operations `tasks` do together in a second when each begins as the one before it ends.
///
/// # Errors
///
/// The first of an operation.
///
/// # Panics
///
/// When an operation does.
pub async fn capacity_together<E, F>(
    tasks: usize,
    length: Duration,
    operation: impl Fn() -> F + Clone + Send + 'static,
) -> Result<f64, E>
where
    E: Send + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
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
                Ok(count)
            })
        })
        .collect();
    let mut count = 0.0;
    for task in tasks {
        count += task.await.expect("an operation does not panic")?;
    }
    Ok(count / begun.elapsed().as_secs_f64())
}

/// How many operations one thread does in a second when each begins as the one before it ends.
///
/// # Errors
///
/// The first of an operation.
pub async fn capacity<T, E, F: Future<Output = Result<T, E>>>(
    mut operation: impl FnMut() -> F,
) -> Result<f64, E> {
    let (begun, mut count) = (Instant::now(), 0.0);
    while begun.elapsed() < Duration::from_secs(2) {
        operation().await?;
        count += 1.0;
    }
    Ok(count / begun.elapsed().as_secs_f64())
}

/// How long this thread has been ready while no core was free, ever since it began.
fn without_core() -> Duration {
    let schedule = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited = schedule.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_count_each_duration_once() {
        let mut durations = Durations::default();
        [1, 2, 3, 5_000]
            .into_iter()
            .map(Duration::from_micros)
            .for_each(|duration| durations.record(duration));
        let bounds = [1, 3, 1_000, 10_000].map(Duration::from_micros);
        assert_eq!(durations.shares(&bounds), [0.5, 0.25, 0.25]);
    }

    #[tokio::test]
    async fn a_pause_counts_for_all_who_came_during_it() {
        let (mut measured, mut first) = (Measured::default(), true);
        let pause = Duration::from_millis(20);
        let operation = || {
            let begins = std::mem::take(&mut first);
            async move {
                if begins {
                    thread::sleep(pause);
                }
                Ok::<_, ()>(())
            }
        };
        steady(pause / 20, pause, &mut measured, operation).await.unwrap();
        // Due in the first half of the pause, at least.
        assert!(measured.latency.at(0.5) >= pause / 3);
    }

    #[tokio::test]
    async fn a_crowd_waits_for_nobody_and_tells_its_failures_apart() {
        let (leave, counter) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(Mutex::new(0)));
        let operation = {
            let leave = Arc::clone(&leave);
            move || {
                let mut counter = counter.lock().unwrap();
                *counter += 1;
                let (number, leave) = (*counter, Arc::clone(&leave));
                async move {
                    leave.acquire().await.unwrap().forget();
                    if number % 2 == 0 { Ok(()) } else { Err(number) }
                }
            }
        };
        let (interval, length) = (Duration::from_millis(1), Duration::from_millis(4));
        let crowd = crowd(interval, length, operation).await;
        leave.add_permits(4);
        let fared = crowd.ended().await;
        assert_eq!((fared.measured.latency.count(), fared.failed()), (4, 2));
        assert_eq!((fared.failures[&1], fared.failures[&3]), (1, 1));
        assert_eq!(fared.last_failed, Some(interval * 2));
    }
}
