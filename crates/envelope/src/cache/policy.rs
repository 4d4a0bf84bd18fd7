//! How long values are used, when they are refreshed, and how long failures are remembered.
//!
//! Pure: reads no clock, and random numbers are arguments.

use std::time::Duration;

use crate::time::nanos;

/// The first back-off after a transient failure. It is doubled with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// How many consecutive loads under a wrapping key must fail before it is backed off.
const FAILURES_OF_A_KEY: u32 = 3;

/// The default limit of a cache in bytes: the minimum, and the number per entry.
const BYTES: (u64, u64) = (16 << 20, 4 << 10);

/// How much a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) entries: usize,
    pub(crate) bytes: u64,
}

/// Bounds with this many entries, and the default number of bytes for them.
impl From<usize> for Bounds {
    fn from(entries: usize) -> Self {
        let (min, each) = BYTES;
        Self { entries, bytes: (entries as u64).saturating_mul(each).max(min) }
    }
}

/// The settings of a caching manager.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// How long a value is used, counted from its request.
    pub(crate) max_age: Duration,
    /// How often a value in use is requested again, however long it may be used; `None` for the
    /// default share of `max_age`.
    pub(crate) check_every: Option<Duration>,
    /// How many messages are encrypted under a value.
    pub(crate) max_messages: u64,
    /// How many bytes are encrypted under a value.
    pub(crate) max_bytes: u64,
    /// How long past `max_age` a value is used while KMS is unavailable.
    pub(crate) stale: Duration,
    /// How long a permanent failure is remembered.
    pub(crate) refuse_for: Duration,
    /// The maximum back-off after transient failures.
    pub(crate) max_backoff: Duration,
    /// Whether a value is replaced before it is spent.
    pub(crate) refresh_ahead: bool,
    /// A random number in 0..1, so that the processes of a fleet do not refresh at the same time.
    pub(crate) jitter: f64,
}

impl Policy {
    /// Returns whether a value will be spent soon, judged by its age and its usage.
    ///
    /// That is so when half of its messages or bytes are used, or when at this pace it will be
    /// spent within four times the time that it took to load.
    #[inline]
    pub(crate) fn is_nearly_used(
        &self,
        age: Duration,
        (messages, bytes): (u64, u64),
        load_time: Duration,
    ) -> bool {
        let Self { max_messages, max_bytes, .. } = *self;
        if messages.saturating_mul(8) < max_messages && bytes.saturating_mul(8) < max_bytes {
            return false;
        }
        let used = share(messages, max_messages).max(share(bytes, max_bytes));
        used >= 0.5 - self.jitter * 0.1
            || age.as_secs_f64() * (1.0 - used) / used < load_time.as_secs_f64() * 4.0
    }

    /// Returns the age at which a value that took `load_time` to load is refreshed: 70 to 80 % of
    /// the maximum age, or 90 to 100 % of the time between checks if that is sooner.
    pub(crate) fn refresh_age(&self, load_time: Duration) -> Duration {
        let early = self.max_age.mul_f64(0.8 - self.jitter * 0.1);
        // Slow loads start sooner, but never before half of the age is used.
        let early = early
            .min(self.max_age.saturating_sub(load_time.saturating_mul(4)))
            .max(self.max_age / 2);
        let check = |every: Duration| every.mul_f64(1.0 - self.jitter * 0.1);
        self.check_every.map_or(early, |every| early.min(check(every)))
    }

    /// Returns the age below which a value has just been refreshed, in nanoseconds.
    pub(crate) fn just_refreshed(&self) -> u64 {
        nanos(self.check_every.unwrap_or(self.max_age).min(self.max_age)) / 32
    }

    /// Returns how far apart two uses must be for the time between them to matter, in nanoseconds.
    #[inline]
    pub(crate) fn min_gap(&self) -> u64 {
        nanos(self.max_age) / 32
    }

    /// Returns the back-off of a wrapping key after this many consecutive failures.
    ///
    /// The first few may concern one entry only, so they cause none. After that, it is the back-off
    /// for this many `waves` of failures.
    pub(crate) fn key_backoff(&self, failures: u32, waves: u32, chance: f64) -> Duration {
        if failures < FAILURES_OF_A_KEY { Duration::ZERO } else { self.backoff(waves, chance) }
    }

    /// Returns the back-off after this many consecutive failures.
    ///
    /// It doubles with each failure. `chance`, a random number in 0..1, shortens it by up to a
    /// half.
    pub(crate) fn backoff(&self, failures: u32, chance: f64) -> Duration {
        let wait = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        wait.min(self.max_backoff).mul_f64(1.0 - chance * 0.5)
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn share(used: u64, limit: u64) -> f64 {
    used as f64 / limit.max(1) as f64
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn policy(max_age: Duration, max_messages: u64, max_bytes: u64) -> Policy {
        Policy {
            max_age,
            check_every: None,
            max_messages,
            max_bytes,
            stale: Duration::ZERO,
            refuse_for: Duration::from_secs(5),
            max_backoff: Duration::from_secs(10),
            refresh_ahead: true,
            jitter: 0.5,
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn little_used_values_are_refreshed_by_age_alone() {
        let policy = policy(10 * SECOND, 1000, 1000);
        assert!(!policy.is_nearly_used(7 * SECOND, (124, 124), SECOND / 10));
        assert_eq!(policy.refresh_age(SECOND / 10), Duration::from_millis(7500));
        // A load that takes long is begun early, but not from the start.
        assert_eq!(policy.refresh_age(5 * SECOND), 5 * SECOND);
    }

    #[test]
    fn what_is_spent_soon_is_refreshed_at_once() {
        let policy = policy(100 * SECOND, 1000, u64::MAX);
        // A fifth in one second: four more to go.
        assert!(policy.is_nearly_used(SECOND, (200, 0), SECOND + SECOND / 100));
        assert!(!policy.is_nearly_used(SECOND, (200, 0), Duration::from_millis(990)));
        assert!(policy.is_nearly_used(50 * SECOND, (500, 0), Duration::ZERO));
    }

    #[test]
    fn a_key_is_left_alone_after_several_failures() {
        let policy = policy(SECOND, 1, 1);
        assert!(policy.key_backoff(2, 2, 0.0).is_zero());
        assert_eq!(policy.key_backoff(16, 1, 0.0), policy.backoff(1, 0.0));
    }

    proptest! {
        #[test]
        fn waits_grow_to_their_limit(failures in 1u32..100, chance in 0.0..1.0) {
            let policy = policy(SECOND, 1, 1);
            let (this, next) = (policy.backoff(failures, 0.0), policy.backoff(failures + 1, 0.0));
            prop_assert!(next == this * 2 || next == policy.max_backoff);
            let shortened = policy.backoff(failures, chance);
            prop_assert!(shortened <= this && shortened >= this / 2);
        }

        #[test]
        fn unused_values_are_not_refreshed_before_half_of_their_age(
            load in 0u64..10_000, jitter in 0.0..1.0,
        ) {
            let policy = Policy { jitter, ..policy(SECOND, 1000, 1000) };
            let refresh_age = policy.refresh_age(Duration::from_millis(load));
            prop_assert!(refresh_age >= SECOND / 2 && refresh_age <= SECOND * 4 / 5);
        }
    }
}
