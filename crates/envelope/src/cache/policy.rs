//! When to refresh, how long to refuse and when to try again. Pure: no clock, and the only chance
//! is given in.

use std::time::Duration;

use super::limits::Limits;

/// The first wait after a failure that may pass, in milliseconds; doubled with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// How many loads under one wrapping key must fail in a row before it is left alone for a while.
const FAILURES_OF_A_KEY: u32 = 3;

/// What a cache is told to do.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) limits: Limits,
    /// How long past `max_age` a value serves while KMS is out of reach.
    pub(crate) stale: Duration,
    /// How long a failure is remembered that does not pass by itself.
    pub(crate) refuse_for: Duration,
    /// The longest wait after failures that may pass.
    pub(crate) longest_backoff: Duration,
    /// Whether values are replaced before they are spent.
    pub(crate) refresh_ahead: bool,
    /// This process's own share of chance, in 0..1: so that a fleet does not refresh in step.
    pub(crate) jitter: f64,
}

impl Policy {
    /// Whether a value of this age and usage, which took `load_time` to come, will be spent soon:
    /// past half of its messages or bytes, or when at this pace it will be spent within four times
    /// the load time.
    #[inline]
    pub(crate) fn is_nearly_used(
        &self,
        age: Duration,
        (messages, bytes): (u64, u64),
        load_time: Duration,
    ) -> bool {
        let Limits { max_messages, max_bytes, .. } = self.limits;
        if messages.saturating_mul(8) < max_messages && bytes.saturating_mul(8) < max_bytes {
            return false;
        }
        let used = share(messages, max_messages).max(share(bytes, max_bytes));
        used >= 0.5 - self.jitter * 0.1
            || age.as_secs_f64() * (1.0 - used) / used < load_time.as_secs_f64() * 4.0
    }

    /// The age from which a value that took `load_time` to come is refreshed: seven to eight tenths
    /// of the most.
    pub(crate) fn low_age(&self, load_time: Duration) -> Duration {
        let max_age = self.limits.max_age;
        let early = max_age.mul_f64(0.8 - self.jitter * 0.1);
        // Slow loads start sooner, but never before half of the age is used.
        early.min(max_age.saturating_sub(load_time.saturating_mul(4))).max(max_age / 2)
    }

    /// How far apart two uses must be for the time between them to matter.
    #[inline]
    pub(crate) fn least_gap(&self) -> Duration {
        self.limits.max_age / 32
    }

    /// How long to leave a wrapping key alone after so many failures under it: the first few say
    /// nothing yet, since they may be one entry's own; then as long as after so many `waves` of
    /// failures in a row.
    pub(crate) fn key_backoff(&self, failures: u32, waves: u32, chance: f64) -> Duration {
        if failures < FAILURES_OF_A_KEY { Duration::ZERO } else { self.backoff(waves, chance) }
    }

    /// How long to wait after so many failures in a row: doubled each time, and up to a half
    /// shorter by chance.
    pub(crate) fn backoff(&self, failures: u32, chance: f64) -> Duration {
        let wait = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        wait.min(self.longest_backoff).mul_f64(1.0 - chance * 0.5)
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
            limits: Limits { max_age, max_messages, max_bytes },
            stale: Duration::ZERO,
            refuse_for: Duration::from_secs(5),
            longest_backoff: Duration::from_secs(10),
            refresh_ahead: true,
            jitter: 0.5,
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn little_used_values_are_refreshed_by_age_alone() {
        let policy = policy(10 * SECOND, 1000, 1000);
        assert!(!policy.is_nearly_used(7 * SECOND, (124, 124), SECOND / 10));
        assert_eq!(policy.low_age(SECOND / 10), Duration::from_millis(7500));
        // A load that takes long is begun early, but not from the start.
        assert_eq!(policy.low_age(5 * SECOND), 5 * SECOND);
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
            prop_assert!(next == this * 2 || next == policy.longest_backoff);
            let shortened = policy.backoff(failures, chance);
            prop_assert!(shortened <= this && shortened >= this / 2);
        }

        #[test]
        fn nothing_is_low_without_use_before_half_of_its_age(load in 0u64..10_000, jitter in 0.0..1.0) {
            let policy = Policy { jitter, ..policy(SECOND, 1000, 1000) };
            let low_age = policy.low_age(Duration::from_millis(load));
            prop_assert!(low_age >= SECOND / 2 && low_age <= SECOND * 4 / 5);
        }
    }
}
