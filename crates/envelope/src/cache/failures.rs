//! Failures that are remembered, so that what can't work is refused at once, and what may work
//! again is not hammered.

use std::{hash::Hash, time::Duration};

use quick_cache::{Equivalent, sync::Cache};

use crate::{error::Error, time::Moment};

/// How long after a failure another one counts as the next in a row, at the least.
const MEMORY: Duration = Duration::from_secs(10);

/// Failures by what failed. Bounded: the oldest are forgotten first.
#[derive(Debug)]
pub(crate) struct Failures<K> {
    failures: Cache<K, Failure>,
}

#[derive(Debug, Clone)]
struct Failure {
    error: Error,
    noted: Moment,
    until: Moment,
    wait: Duration,
    streak: Streak,
}

/// How many failures there were in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Streak {
    /// Each one.
    pub(crate) failures: u32,
    /// Those that were asked for together count as one.
    pub(crate) waves: u32,
}

impl<K: Clone + Eq + Hash> Failures<K> {
    /// Remembers at most `capacity` failures.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { failures: Cache::new(capacity) }
    }

    /// The failure to be refused with at this time, and how long that will go on.
    pub(crate) fn find<Q>(&self, key: &Q, now: Moment) -> Option<(Error, Duration)>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let failure = self.failures.get(key)?;
        let left = failure.until.since(now);
        (!left.is_zero()).then_some((failure.error, left))
    }

    /// Remembers the failure of what was asked for at `asked`, for as long as `wait` says.
    pub(crate) fn note(
        &self,
        key: &K,
        error: &Error,
        asked: Moment,
        now: Moment,
        wait: impl FnOnce(Streak) -> Duration,
    ) {
        // What failed long ago is another story.
        let before = self
            .failures
            .peek(key)
            .filter(|failure| asked.since(failure.until) < failure.wait.max(MEMORY));
        let mut streak = before.as_ref().map_or_else(Streak::default, |failure| failure.streak);
        streak.failures = streak.failures.saturating_add(1);
        if before.is_none_or(|failure| asked >= failure.noted) {
            streak.waves = streak.waves.saturating_add(1);
        }
        let wait = wait(streak);
        self.failures.insert(
            key.clone(),
            Failure { error: error.clone(), noted: now, until: now + wait, wait, streak },
        );
    }

    /// Forgets a failure: it works again.
    pub(crate) fn forget<Q>(&self, key: &Q)
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        if !self.failures.is_empty() {
            self.failures.remove(key);
        }
    }

    /// Records that the key provider has responded meanwhile: its next failure starts a new streak.
    /// The current refusal still lasts as long as announced.
    pub(crate) fn end_streak(&self, key: &K) {
        if let Some(failure) = self.failures.peek(key) {
            self.failures.insert(key.clone(), Failure { streak: Streak::default(), ..failure });
        }
    }

    /// Whether nothing is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }

    /// Forgets every failure.
    pub(crate) fn clear(&self) {
        self.failures.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failure_is_remembered_for_its_time_and_counted() {
        let (failures, now) = (Failures::new(10), Clock::system().now());
        let note = |now, expected: u32| {
            failures.note(&"a", &Error::Authentication, now, now, |streak| {
                assert_eq!((streak.failures, streak.waves), (expected, expected));
                SECOND * streak.waves
            });
        };
        assert!(failures.find(&"a", now).is_none());
        note(now, 1);
        assert_eq!(failures.find(&"a", now).unwrap().1, SECOND);
        assert!(failures.find(&"b", now).is_none());
        assert!(failures.find(&"a", now + SECOND).is_none());
        note(now + SECOND, 2);
        assert_eq!(failures.find(&"a", now + SECOND * 2).unwrap().1, SECOND);
        failures.forget(&"a");
        assert!(failures.find(&"a", now + SECOND).is_none());
        note(now, 1);
    }

    #[test]
    fn a_response_ends_the_streak_but_not_the_refusal() {
        let (failures, now) = (Failures::new(10), Clock::system().now());
        let note = |now| {
            let mut seen = Streak::default();
            failures.note(&"a", &Error::Authentication, now, now, |streak| {
                seen = streak;
                SECOND
            });
            (seen.failures, seen.waves)
        };
        failures.end_streak(&"a");
        assert_eq!((note(now), note(now)), ((1, 1), (2, 2)));
        failures.end_streak(&"a");
        assert_eq!(failures.find(&"a", now).unwrap().1, SECOND);
        assert_eq!(note(now + SECOND), (1, 1));
    }

    #[test]
    fn failures_that_were_asked_for_together_are_one_wave() {
        let (failures, now) = (Failures::new(10), Clock::system().now());
        for (asked, noted, expected) in
            [(0, 5, (1, 1)), (1, 6, (2, 1)), (4, 6, (3, 1)), (6, 9, (4, 2))]
        {
            failures.note(
                &"a",
                &Error::Authentication,
                now + SECOND * asked,
                now + SECOND * noted,
                |streak| {
                    assert_eq!((streak.failures, streak.waves), expected);
                    SECOND
                },
            );
        }
    }
}
