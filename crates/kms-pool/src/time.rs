//! The only module that reads the clocks. Others take `now` as an argument, or call this one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use aws_smithy_async::time::TimeSource;
use tokio::time::Instant;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// For the expiry of credentials and the dates of requests only.
    pub(crate) date: SystemTime,
    /// For waits, pauses and ages.
    pub(crate) instant: Instant,
}

/// The monotonic clock, for all durations. It does not count suspended time.
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// The clock of file times: the wall clock, including its jumps.
pub(crate) fn of_files() -> SystemTime {
    wall()
}

#[allow(clippy::disallowed_methods, reason = "the only place that reads the wall clock")]
fn wall() -> SystemTime {
    SystemTime::now()
}

/// The date for AWS requests.
///
/// It is read from the wall clock once, when the pool is built, and from then on counted with a
/// clock that cannot be set, so later jumps of the wall clock have no effect. When KMS refuses a
/// request because of its date, the region's clock [learns](Self::learn) the server's date. Clones
/// share one clock.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// The date at the zero of [`uptime`], in nanoseconds since the Unix epoch.
    zero: Arc<AtomicI64>,
}

impl Clock {
    /// A clock that shows the wall clock's current date.
    pub(crate) fn of_this_machine() -> Self {
        let clock = Self { zero: Arc::default() };
        clock.learn(wall());
        clock
    }

    /// A separate clock that shows the same date, until one of the two learns another.
    pub(crate) fn copy(&self) -> Self {
        Self { zero: Arc::new(AtomicI64::new(self.zero.load(Relaxed))) }
    }

    /// Sets the clock to `date`, from which it continues.
    pub(crate) fn learn(&self, date: SystemTime) {
        let since_epoch = date.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.zero.store(nanos(since_epoch).saturating_sub(nanos(uptime())), Relaxed);
    }

    pub(crate) fn now(&self) -> Now {
        Now { date: self.date(), instant: monotonic() }
    }

    pub(crate) fn date(&self) -> SystemTime {
        let since_epoch = self.zero.load(Relaxed).saturating_add(nanos(uptime()));
        SystemTime::UNIX_EPOCH + Duration::from_nanos(since_epoch.try_into().unwrap_or_default())
    }
}

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        self.date()
    }
}

/// How long the machine has been suspended since it started, if the platform reports it.
pub(crate) fn suspended() -> Duration {
    #[cfg(target_os = "linux")]
    {
        use rustix::time::{ClockId, clock_gettime};
        let awake = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
        uptime().saturating_sub(awake)
    }
    #[cfg(not(target_os = "linux"))]
    Duration::ZERO
}

/// The nanoseconds of a duration, which fit until the year 2262.
fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The time since a moment before the program started. It includes suspended time if the platform
/// has a clock that counts it.
#[cfg(target_os = "linux")]
fn uptime() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::Boottime).try_into().unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn uptime() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(monotonic);
    let start = *START;
    monotonic() - start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_continues_from_the_date_that_it_learned_and_so_do_its_clones() {
        let clock = Clock::of_this_machine();
        let clone = clock.clone();
        let other = clock.copy();
        for learned in [SystemTime::UNIX_EPOCH, clock.date() + Duration::from_hours(2)] {
            clock.learn(learned);
            let later = clone.date();
            assert!(learned <= later && later < learned + Duration::from_mins(1));
        }
        assert!(other.date() + Duration::from_hours(1) < clock.date());
    }
}
