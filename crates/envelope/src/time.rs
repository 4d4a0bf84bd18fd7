//! The only place that reads a clock. Everything below the client takes `now` as an argument.

use std::{
    ops::Add,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

#[cfg(target_os = "linux")]
use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// Where an [`Envelope`](crate::Envelope) takes its time from: the system, or a hand that a test
/// moves.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<ManualClock>);

impl Clock {
    /// The system's monotonic clock. The default.
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
        let hand = ManualClock { start: system_now(), elapsed_nanos: Arc::default() };
        (Self(Some(hand.clone())), hand)
    }

    /// The time by this clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => system_now(),
            Some(hand) => {
                hand.start + Duration::from_nanos(hand.elapsed_nanos.load(Ordering::Acquire))
            }
        }
    }

    /// The same as a moment.
    pub(crate) fn moment(&self) -> Moment {
        match &self.0 {
            None => precise(),
            Some(hand) => Moment(hand.elapsed_nanos.load(Ordering::Acquire)),
        }
    }

    /// The same, four times cheaper where the system has a coarse clock: ahead by up to two ticks
    /// of its timer, of some milliseconds each, and behind by no more than a thread may be held up
    /// anyway.
    #[inline]
    pub(crate) fn moment_at_the_latest(&self) -> Moment {
        match &self.0 {
            None => coarse(),
            Some(_) => self.moment(),
        }
    }
}

/// A time by one clock, in nanoseconds since some moment before: half the size of an [`Instant`],
/// and cheaper to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment(u64);

impl Moment {
    /// How long before this `earlier` was; zero if it was not.
    #[inline]
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
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

/// The hand of a [`Clock::manual`].
#[derive(Debug, Clone)]
pub struct ManualClock {
    start: Instant,
    elapsed_nanos: Arc<AtomicU64>,
}

impl ManualClock {
    /// Moves the clock forward. Durations over 584 years in total wrap around.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed_nanos.fetch_add(nanos, Ordering::AcqRel);
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
#[inline]
fn system_now() -> Instant {
    Instant::now()
}

/// The moment so much later, or the last one that there is.
impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Linux has the monotonic clock's last tick at hand, without asking the hardware.
#[cfg(target_os = "linux")]
fn nanos(clock: ClockId) -> u64 {
    to_nanos(clock_gettime(clock))
}

#[cfg(target_os = "linux")]
fn to_nanos(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000)
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(target_os = "linux")]
fn precise() -> Moment {
    Moment(nanos(ClockId::Monotonic))
}

#[cfg(target_os = "linux")]
#[inline]
fn coarse() -> Moment {
    static TICK: LazyLock<u64> = LazyLock::new(|| to_nanos(clock_getres(ClockId::MonotonicCoarse)));
    Moment(nanos(ClockId::MonotonicCoarse).saturating_add(2 * *TICK))
}

#[cfg(not(target_os = "linux"))]
fn precise() -> Moment {
    static START: LazyLock<Instant> = LazyLock::new(system_now);
    Moment(
        u64::try_from(system_now().saturating_duration_since(*START).as_nanos())
            .unwrap_or(u64::MAX),
    )
}

#[cfg(not(target_os = "linux"))]
fn coarse() -> Moment {
    precise()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheap_clock_tells_the_same_time() {
        let clock = Clock::system();
        let (before, cheap, after) = (clock.moment(), clock.moment_at_the_latest(), clock.moment());
        // As far apart as a machine under load may bring them, but not as another clock would be.
        let slack = Duration::from_mins(1);
        assert!(
            cheap + slack >= before && cheap <= after + slack,
            "{before:?} {cheap:?} {after:?}"
        );
    }
}
