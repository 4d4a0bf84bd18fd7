//! Decides which failures are served from memory, and remembers failures of wrapping keys.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use super::{
    source::{Settings as _, Source},
    store::OwnedKey,
};
use crate::{
    error::{Error, KeyringError, KeyringErrorKind},
    time::Moment,
};

/// A remembered failure, and for how long it is refused with.
pub(super) type Refusal = (Error, Duration);

/// The failure for which all wrapping keys that may be asked are left alone.
pub(super) fn backed_off(source: &impl Source, now: Moment) -> Option<Refusal> {
    let backoffs = source.settings().backoffs();
    if backoffs.is_empty() {
        return None;
    }
    let mut shortest: Option<Refusal> = None;
    for key in source.wrapping_keys() {
        let (error, left) = backoffs.find(&*key, now)?;
        if shortest.as_ref().is_none_or(|(_, shortest)| left < *shortest) {
            shortest = Some((error, left));
        }
    }
    shortest
}

/// Counts the failures of wrapping keys: each one once for a load, and only if it gave no answer at
/// all, or answered that nobody may use it. What was asked in spite of a back-off, since another
/// key was named beside it, does not prolong it.
pub(super) fn note_wrapping_keys(
    failures: &[KeyringError],
    source: &impl Source,
    asked: Moment,
    now: Moment,
    chance: f64,
) {
    let (backoffs, policy) = (source.settings().backoffs(), source.settings().policy());
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
            if failures.iter().filter(of_key).any(|it| is_refusing_answer(it.kind())) {
                backoffs.end_streak(&key.into());
            }
            continue;
        }
        if backoffs.find(key, asked).is_some() && backed_off(source, asked).is_none() {
            continue;
        }
        // Only this: another caller's error may contain names that are not for everybody.
        let passing = failures.iter().filter(of_key).find(|it| it.is_retryable());
        let error = Error::DataKeyUnavailable(passing.unwrap_or(failure).clone());
        backoffs.note(&key.into(), &error, asked, now, |streak| {
            if unusable {
                policy.refuse_for
            } else {
                policy.key_backoff(streak.failures, streak.waves, chance)
            }
        });
    }
}

/// A key in 128 bits: the memory for failing keys must not grow with their length.
pub(super) type Fingerprint = (u64, u64);

/// Makes fingerprints that nobody can foresee.
#[derive(Debug, Default)]
pub(super) struct Fingerprints(RandomState, RandomState);

impl Fingerprints {
    pub(super) fn of(&self, key: &OwnedKey) -> Fingerprint {
        (self.0.hash_one(key), self.1.hash_one(key))
    }
}

/// Whether a failure is a refusal by the wrapping key's provider itself.
fn is_refusing_answer(kind: KeyringErrorKind) -> bool {
    matches!(kind, KeyringErrorKind::Denied | KeyringErrorKind::InvalidCiphertext)
}

/// Whether a failure says that what was cached must not be used any more.
pub(super) fn is_refusal(kind: KeyringErrorKind) -> bool {
    matches!(kind, KeyringErrorKind::Denied | KeyringErrorKind::Unusable)
}
