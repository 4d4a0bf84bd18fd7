//! Failures that are remembered.
//!
//! A request that would fail again is refused at once, and a key provider that has failed is not
//! asked again too soon.

use std::{hash::Hash, sync::Arc, time::Duration};

use quick_cache::{Equivalent, sync::Cache};

use super::policy::Policy;
use crate::{
    error::{Error, KeyringError, KeyringErrorKind},
    time::Moment,
};

/// The minimum time after a failure in which another one counts as consecutive.
const MEMORY: Duration = Duration::from_secs(10);

/// Failures by the key that failed. Bounded: the oldest are forgotten first.
#[derive(Debug)]
pub(crate) struct Failures<K> {
    failures: Cache<K, Failure>,
}

/// The last failure of a key, and the number of failures before it.
#[derive(Debug, Clone)]
struct Failure {
    error: Error,
    noted: Moment,
    until: Moment,
    wait: Duration,
    /// How many consecutive failures there were.
    failures: u32,
    /// The same, but requests that were running at the same time count as one.
    waves: u32,
}

impl<K: Clone + Eq + Hash> Failures<K> {
    /// Returns an empty memory of at most `capacity` failures.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { failures: Cache::new(capacity) }
    }

    /// Returns the failure that requests are refused with at `now`, and for how long.
    pub(crate) fn find<Q>(&self, key: &Q, now: Moment) -> Option<(Error, Duration)>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let failure = self.failures.get(key)?;
        let left = failure.until.since(now);
        (!left.is_zero()).then_some((failure.error, left))
    }

    /// Remembers the failure of a request that was made at `asked`.
    ///
    /// `wait` returns for how long, from the numbers of consecutive failures and of waves.
    pub(crate) fn note(
        &self,
        key: &K,
        error: &Error,
        asked: Moment,
        now: Moment,
        wait: impl FnOnce(u32, u32) -> Duration,
    ) {
        // A failure of long ago is not part of this streak.
        let before = self
            .failures
            .peek(key)
            .filter(|failure| asked.since(failure.until) < failure.wait.max(MEMORY));
        let (failures, waves) = before.as_ref().map_or((0, 0), |it| (it.failures, it.waves));
        let failures = failures.saturating_add(1);
        let is_new_wave = before.is_none_or(|failure| asked >= failure.noted);
        let waves = waves.saturating_add(is_new_wave.into());
        let wait = wait(failures, waves);
        let error = error.clone();
        let failure = Failure { error, noted: now, until: now + wait, wait, failures, waves };
        self.failures.insert(key.clone(), failure);
    }

    /// Forgets the failure of a key that works again.
    pub(crate) fn forget<Q>(&self, key: &Q)
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        if !self.failures.is_empty() {
            self.failures.remove(key);
        }
    }

    /// Records that the key provider has responded: its next failure starts a new streak.
    ///
    /// The current refusal still lasts as long as announced.
    fn end_streak(&self, key: &K) {
        if let Some(failure) = self.failures.peek(key) {
            self.failures.insert(key.clone(), Failure { failures: 0, waves: 0, ..failure });
        }
    }

    /// Returns whether no failure is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }

    /// Forgets all failures.
    pub(crate) fn clear(&self) {
        self.failures.clear();
    }
}

/// The failures of wrapping keys, by name.
impl Failures<Arc<str>> {
    /// Returns the failure with which to refuse a request that any of these wrapping keys may
    /// serve. If all of them are backed off, this is the failure whose back-off ends first;
    /// otherwise `None`.
    ///
    /// `wrapping_keys` is called only if any failure is remembered.
    pub(crate) fn backed_off(
        &self,
        wrapping_keys: impl FnOnce() -> Vec<Arc<str>>,
        now: Moment,
    ) -> Option<(Error, Duration)> {
        if self.is_empty() {
            return None;
        }
        let mut shortest: Option<(Error, Duration)> = None;
        for key in wrapping_keys() {
            let (error, left) = self.find(&*key, now)?;
            if shortest.as_ref().is_none_or(|(_, shortest)| left < *shortest) {
                shortest = Some((error, left));
            }
        }
        shortest
    }

    /// Remembers the failures of a load that was started at `asked` and may use any of
    /// `wrapping_keys`.
    ///
    /// A wrapping key counts once for each load, and only if it did not respond, or responded that
    /// nobody may use it. If it was backed off, and was called only because another key was not,
    /// its back-off does not become longer.
    pub(super) fn note_load(
        &self,
        failures: &[KeyringError],
        wrapping_keys: impl Fn() -> Vec<Arc<str>>,
        policy: &Policy,
        (asked, now): (Moment, Moment),
        chance: f64,
    ) {
        for (at, failure) in failures.iter().enumerate() {
            let key = failure.name_in_messages();
            let of_key = |other: &&KeyringError| other.name_in_messages() == key;
            if failures[..at].iter().any(|other| of_key(&other)) {
                continue;
            }
            let all = |condition: &dyn Fn(&KeyringError) -> bool| {
                failures.iter().filter(of_key).all(condition)
            };
            let unusable = all(&|it| it.kind() == KeyringErrorKind::Unusable);
            if !unusable && !all(&|it| it.may_pass_among(failures)) {
                // A refusal is a response. Other failures may have happened before any request.
                if failures.iter().filter(of_key).any(|it| is_refusing_response(it.kind())) {
                    self.end_streak(&key.into());
                }
                continue;
            }
            if self.find(key, asked).is_some() && self.backed_off(&wrapping_keys, asked).is_none() {
                continue;
            }
            // Without the rest of the error: it may contain names that other callers must not see.
            let passing = failures.iter().filter(of_key).find(|it| it.kind().is_retryable());
            let error = Error::DataKeyUnavailable(passing.unwrap_or(failure).clone());
            self.note(&key.into(), &error, asked, now, |failures, waves| {
                if unusable {
                    policy.refuse_for
                } else {
                    policy.key_backoff(failures, waves, chance)
                }
            });
        }
    }
}

/// Returns whether a failure is a response of the wrapping key's provider that refuses the request.
fn is_refusing_response(kind: KeyringErrorKind) -> bool {
    matches!(kind, KeyringErrorKind::Denied | KeyringErrorKind::InvalidCiphertext)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failure_is_remembered_for_its_time_and_counted() {
        let failures = Failures::new(10);
        let now = Clock::system().now();
        let note = |now, expected: u32| {
            failures.note(&"a", &Error::Authentication, now, now, |failures, waves| {
                assert_eq!((failures, waves), (expected, expected));
                SECOND * waves
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
        let failures = Failures::new(10);
        let now = Clock::system().now();
        let note = |now| {
            let mut seen = (0, 0);
            failures.note(&"a", &Error::Authentication, now, now, |failures, waves| {
                seen = (failures, waves);
                SECOND
            });
            seen
        };
        failures.end_streak(&"a");
        assert_eq!((note(now), note(now)), ((1, 1), (2, 2)));
        failures.end_streak(&"a");
        assert_eq!(failures.find(&"a", now).unwrap().1, SECOND);
        assert_eq!(note(now + SECOND), (1, 1));
    }

    #[test]
    fn failures_of_concurrent_requests_are_one_wave() {
        let failures = Failures::new(10);
        let now = Clock::system().now();
        for (asked, noted, expected) in
            [(0, 5, (1, 1)), (1, 6, (2, 1)), (4, 6, (3, 1)), (6, 9, (4, 2))]
        {
            failures.note(
                &"a",
                &Error::Authentication,
                now + SECOND * asked,
                now + SECOND * noted,
                |failures, waves| {
                    assert_eq!((failures, waves), expected);
                    SECOND
                },
            );
        }
    }

    #[test]
    fn a_request_is_refused_only_if_all_its_wrapping_keys_are_backed_off() {
        let failures = Failures::<Arc<str>>::new(10);
        let now = Clock::system().now();
        let backed_off = |keys: &[&str]| {
            let keys = || keys.iter().map(|key| Arc::from(*key)).collect();
            failures.backed_off(keys, now).map(|(_, left)| left)
        };
        let note = |key: &str, wait| {
            failures.note(&key.into(), &Error::Authentication, now, now, |_, _| wait);
        };
        assert_eq!(backed_off(&["a"]), None);
        note("a", SECOND * 2);
        assert_eq!(backed_off(&["a"]), Some(SECOND * 2));
        assert_eq!((backed_off(&["a", "b"]), backed_off(&[])), (None, None));
        note("b", SECOND);
        assert_eq!(backed_off(&["a", "b"]), Some(SECOND));
    }
}
