//! Failures that are remembered, so that what can't work is refused at once, and what may work again is not hammered.

use std::{
    hash::Hash,
    time::{Duration, Instant},
};

use quick_cache::{Equivalent, sync::Cache};

use crate::error::Error;

/// Failures by what failed. Bounded: the oldest are forgotten first.
#[derive(Debug)]
pub(crate) struct Failures<K> {
    failures: Cache<K, Failure>,
}

#[derive(Debug, Clone)]
struct Failure {
    error: Error,
    until: Instant,
    in_a_row: u32,
}

impl<K: Clone + Eq + Hash> Failures<K> {
    /// Remembers at most `capacity` failures.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { failures: Cache::new(capacity) }
    }

    /// The failure to be refused with at this time, and how long that will go on.
    pub(crate) fn find<Q>(&self, key: &Q, now: Instant) -> Option<(Error, Duration)>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let failure = self.failures.get(key)?;
        let left = failure.until.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some((failure.error, left))
    }

    /// Remembers a failure for as long as `wait` says, which gets how many there were in a row.
    pub(crate) fn note(&self, key: &K, error: &Error, now: Instant, wait: impl FnOnce(u32) -> Duration) {
        let in_a_row = self.failures.peek(key).map_or(0, |failure| failure.in_a_row).saturating_add(1);
        let Some(until) = now.checked_add(wait(in_a_row)) else { return };
        self.failures.insert(key.clone(), Failure { error: error.clone(), until, in_a_row });
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
            failures.note(&"a", &Error::Authentication, now, |in_a_row| {
                assert_eq!(in_a_row, expected);
                SECOND * in_a_row
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
}
