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

/// The source of time of an [`Envelope`](crate::Envelope): the system's clock, or a manual clock
/// for tests.
///
/// It measures ages: `max_age`, `serve_stale_for`, and how long failures are remembered.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<ManualClock>);

impl Clock {
    /// The system's monotonic clock. The default.
    ///
    /// On Linux this is `CLOCK_BOOTTIME`, which includes suspended time, so that data keys age
    /// while the machine is suspended. Elsewhere it is [`std::time::Instant`], where it depends on
    /// the system whether suspended time counts. Changes of the date have no effect.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands still until its hand is moved, so that tests of expiry need no sleep.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let (clock, hand) = envelope::Clock::manual();
    /// let before = clock.now();
    /// hand.advance(Duration::from_secs(60));
    /// assert_eq!(clock.now() - before, Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn manual() -> (Self, ManualClock) {
        let hand = ManualClock { elapsed_nanos: Arc::default() };
        (Self(Some(hand.clone())), hand)
    }

    /// The time by this clock.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Moment {
        match &self.0 {
            None => system_now(),
            Some(hand) => Moment(hand.elapsed_nanos.load(Ordering::Acquire)),
        }
    }

    /// Same as [`now`](Self::now).
    pub(crate) fn moment(&self) -> Moment {
        self.now()
    }
}

/// A time of a [`Clock`]. Unlike [`std::time::Instant`], it includes suspended time if its clock
/// does.
///
/// Moments of two clocks cannot be compared.
///
/// ```
/// # use std::time::Duration;
/// let clock = envelope::Clock::system();
/// let before = clock.now();
/// assert!(clock.now().duration_since(before) < Duration::from_secs(3600));
/// assert_eq!((before + Duration::from_secs(5)) - before, Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// How long before this `earlier` was; zero if it was not.
    #[inline]
    #[must_use]
    pub fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Same as [`duration_since`](Self::duration_since).
    #[inline]
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }

    /// The moment as a number, to be kept in an atomic.
    #[inline]
    pub(crate) fn to_nanos(self) -> u64 {
        self.0
    }

    /// The moment that was kept as a number.
    #[inline]
    pub(crate) fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
}

/// The moment so much later, or the last one that there is.
impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The time between two moments, like [`Moment::duration_since`].
impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

/// Moves a [`Clock::manual`].
#[derive(Debug, Clone)]
pub struct ManualClock {
    elapsed_nanos: Arc<AtomicU64>,
}

impl ManualClock {
    /// Moves the clock forward. Durations over 584 years in total wrap around.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed_nanos.fetch_add(nanos, Ordering::AcqRel);
    }
}

#[cfg(target_os = "linux")]
#[inline]
fn system_now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
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

    /// Run by the test below, in a separate time namespace.
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
