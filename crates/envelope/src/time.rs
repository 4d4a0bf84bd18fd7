//! The only place that reads a clock. Everything below the client takes `now` as an argument.

use std::{
    ops::{Add, Sub},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
#[cfg(not(target_os = "linux"))]
use std::{sync::LazyLock, time::Instant};

#[cfg(target_os = "linux")]
use rustix::time::{ClockId, clock_gettime};

/// The source of time of a cache: the system's clock, or a manual clock for tests. Clones share the
/// time.
///
/// It measures ages: `max_age`, `serve_stale_for`, and how long failures are remembered.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// The elapsed nanoseconds of a manual clock.
    manual: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// Returns the system's monotonic clock. The default.
    ///
    /// On Linux this is `CLOCK_BOOTTIME`, which includes suspended time, so that data keys age
    /// while the machine is suspended. Elsewhere it is [`std::time::Instant`], where it depends on
    /// the system whether suspended time counts. Changes of the date have no effect.
    #[must_use]
    pub fn system() -> Self {
        Self { manual: None }
    }

    /// Returns a clock that moves only when [`advance`](Self::advance) is called, so that tests of
    /// expiry need no sleep.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use envelope::{Clock, materials::MaterialsCache};
    ///
    /// let clock = Clock::manual();
    /// let cache = MaterialsCache::builder().clock(&clock).build();
    /// clock.advance(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn manual() -> Self {
        Self { manual: Some(Arc::default()) }
    }

    /// Moves a manual clock forward. Durations over 584 years in total wrap around.
    ///
    /// # Panics
    ///
    /// If this is the system's clock.
    pub fn advance(&self, by: Duration) {
        let elapsed = self.manual.as_ref().expect("only a clock of `Clock::manual` can be moved");
        elapsed.fetch_add(nanos(by), Ordering::AcqRel);
    }

    /// Returns the current time of this clock.
    #[inline]
    pub(crate) fn now(&self) -> Moment {
        match &self.manual {
            None => system_now(),
            Some(elapsed) => Moment(elapsed.load(Ordering::Acquire)),
        }
    }
}

/// A time of a [`Clock`]. Unlike [`std::time::Instant`], it includes suspended time if its clock
/// does.
///
/// Moments of two clocks cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Returns the time from `earlier` to this moment; zero if `earlier` is later.
    #[inline]
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// Returns the nanoseconds from `earlier` to this moment; zero if `earlier` is later.
    #[inline]
    pub(crate) fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the moment as a number, for atomics.
    #[inline]
    pub(crate) fn to_nanos(self) -> u64 {
        self.0
    }

    /// Returns the moment of a number from [`to_nanos`](Self::to_nanos).
    #[inline]
    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
}

/// Returns a duration in nanoseconds; at most 584 years.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the moment that is `duration` later, or the last possible moment.
impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

/// Returns the time between two moments, like [`Moment::since`].
impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

#[cfg(target_os = "linux")]
#[inline]
fn system_now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = time.tv_sec.cast_unsigned();
    let nanos = time.tv_nsec.cast_unsigned();
    Moment(seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos))
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "the only place that reads the clock")]
fn system_now() -> Moment {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Moment(u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{env, process::Command};

    use super::*;

    #[test]
    #[should_panic(expected = "only a clock of `Clock::manual` can be moved")]
    fn the_system_clock_cannot_be_moved() {
        Clock::system().advance(Duration::from_secs(1));
    }

    /// Started by the test below in a separate time namespace.
    #[test]
    #[ignore = "prints the time for the test below"]
    fn print_the_time() {
        println!("now={}", Clock::system().now().to_nanos());
    }

    /// Simulates a suspended hour by a namespace whose `CLOCK_BOOTTIME`, but not its
    /// `CLOCK_MONOTONIC`, is an hour ahead.
    #[test]
    fn suspended_time_counts() {
        let mut command = Command::new("unshare");
        command.args(["--time", "--boottime", "3600", "--fork"]).arg(env::current_exe().unwrap());
        command.args(["--exact", "time::tests::print_the_time", "--ignored", "--nocapture"]);
        let before = Clock::system().now();
        let Ok(output) = command.output() else {
            println!("skipped: `unshare` is not installed");
            return;
        };
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some(there) = output.lines().find_map(|line| line.split_once("now=")) else {
            println!("skipped: not permitted to create a time namespace");
            return;
        };
        let there = Moment(there.1.parse().unwrap());
        assert!(there - before >= Duration::from_hours(1), "{before:?} {there:?}");
    }
}
