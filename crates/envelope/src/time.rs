//! The only place that reads a clock. Everything below the client takes `now` as an argument.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Where an [`Envelope`](crate::Envelope) takes its time from: the system, or a hand that a test moves.
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
    #[inline]
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => system_now(),
            Some(hand) => hand.start + Duration::from_nanos(hand.elapsed_nanos.load(Ordering::Acquire)),
        }
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
