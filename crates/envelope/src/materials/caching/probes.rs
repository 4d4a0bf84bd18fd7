//! The probes of wrapping keys that are running or have succeeded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use crate::{context::EncryptionContext, error::KeyringError, observer::Operation, time::Moment};

/// The wrapping keys that are being probed, and those whose probe has recently succeeded, by
/// operation.
#[derive(Debug, Clone, Default)]
pub(super) struct Probes(Arc<Mutex<HashMap<Probed, State>>>);

/// The names of the wrapping key, and the operation. Branch keys under one KMS key have names of
/// their own in messages, and are denied separately.
type Probed = (String, String, Operation);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// The wrapping key works, and is not probed again before this time.
    Works {
        until: Moment,
    },
}

/// A running probe of a wrapping key: it refreshes entries of encryption contexts that have not
/// been denied. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Probe {
    probes: Probes,
    probed: Probed,
    denied: Mutex<Vec<EncryptionContext>>,
    works_until: OnceLock<Moment>,
}

impl Probes {
    /// Starts a probe, unless one of that key is running or has recently succeeded.
    pub(super) fn begin(
        &self,
        failure: &KeyringError,
        operation: Operation,
        now: Moment,
    ) -> Option<Arc<Probe>> {
        let mut states = self.lock();
        states.retain(|_, state| match state {
            State::Running => true,
            State::Works { until } => *until > now,
        });
        let name_in_messages = failure.name_in_messages().to_owned();
        let probed = (failure.wrapping_key().to_owned(), name_in_messages, operation);
        if states.contains_key(&probed) {
            return None;
        }
        states.insert(probed.clone(), State::Running);
        Some(Arc::new(Probe {
            probes: self.clone(),
            probed,
            denied: Mutex::default(),
            works_until: OnceLock::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Probed, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe {
    /// Returns whether the wrapping key that is probed failed.
    pub(super) fn is_of(&self, failure: &KeyringError) -> bool {
        self.probed.0 == failure.wrapping_key() || self.probed.1 == failure.name_in_messages()
    }

    /// Adds a denied context, and returns all of them.
    pub(super) fn deny(&self, context: &EncryptionContext) -> Vec<EncryptionContext> {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        denied.push(context.without_reserved());
        denied.clone()
    }

    /// Notes that the wrapping key works, and starts no other probe before `until`.
    pub(super) fn succeeded(&self, until: Moment) {
        let _ = self.works_until.set(until);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let mut states = self.probes.lock();
        match self.works_until.get() {
            Some(until) => {
                states.insert(self.probed.clone(), State::Works { until: *until });
            }
            None => _ = states.remove(&self.probed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{error::KeyringErrorKind, time::Clock};

    #[test]
    fn a_key_has_one_probe_at_a_time_and_none_soon_after_success() {
        let probes = Probes::default();
        let now = Clock::system().now();
        let denied = |key: &str| KeyringError::new(key, KeyringErrorKind::Denied, "denied");
        let begin = |key, operation, now| probes.begin(&denied(key), operation, now);
        let encryption = Operation::Encryption;
        let later = now + Duration::from_secs(5);
        let probe = begin("a", encryption, now).unwrap();
        assert!(begin("a", encryption, now).is_none());
        begin("a", Operation::Decryption, now).unwrap();
        begin("b", encryption, now).unwrap();
        // A branch key under it.
        let branch_key = denied("a").with_name_in_messages("c");
        let other = probes.begin(&branch_key, encryption, now).unwrap();
        assert!(probe.is_of(&denied("a")) && !probe.is_of(&denied("b")));
        // A failure that is remembered has only the name in messages.
        assert!(other.is_of(&denied("c")) && other.is_of(&denied("a")));
        drop((probe, other));
        let probe = begin("a", encryption, now).unwrap();
        probe.succeeded(later);
        drop(probe);
        assert!(begin("a", encryption, now).is_none());
        assert!(begin("a", encryption, later).is_some());
        assert!(probes.lock().is_empty());
    }
}
