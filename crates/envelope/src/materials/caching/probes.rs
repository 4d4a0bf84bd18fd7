//! Decides which entries to drop after a wrapping key was refused.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use super::{
    CachingMaterialsManager,
    cache::is_wrapped_by,
    sources::{DecryptionSource, EncryptionSource},
};
use crate::{
    cache::{source::Settings as _, store::Key},
    context::EncryptionContext,
    error::{Error, KeyringError, KeyringErrorKind},
    format::encrypted_data_key::EncryptedDataKeys,
    observer::Operation,
    time::Moment,
};

/// After this many consecutive denials for different encryption contexts, the wrapping key counts
/// as denied.
const DENIED_CONTEXTS: usize = 3;

/// The wrapping keys that are being probed, and those whose probe has recently succeeded, by
/// operation.
#[derive(Debug, Clone, Default)]
pub(super) struct Probes(Arc<Mutex<HashMap<Probed, State>>>);

type Probed = (String, Operation);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
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
    fn begin(&self, probed: Probed, now: Moment) -> Option<Arc<Probe>> {
        let mut states = self.lock();
        states.retain(|_, state| match state {
            State::UnderWay => true,
            State::Works { until } => *until > now,
        });
        if states.contains_key(&probed) {
            return None;
        }
        states.insert(probed.clone(), State::UnderWay);
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
    /// The contexts that were denied so far, plus this one.
    fn denied(&self, context: &EncryptionContext) -> Vec<EncryptionContext> {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        denied.push(context.without_reserved());
        denied.clone()
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

impl CachingMaterialsManager {
    /// Handles a failed load. Data keys under a refused wrapping key must be dropped, but only if
    /// the load was for a data key that we had cached or wanted to generate: a new message may have
    /// been sent to cause this failure. They are kept if a related key has not responded, because
    /// that key may still be valid.
    ///
    /// A denial may concern only the encryption context. Other contexts are therefore probed first,
    /// and the rest of the partition is dropped only if they are denied, too.
    pub(super) fn refused(
        &self,
        error: &Error,
        had: bool,
        (operation, context): (Operation, &EncryptionContext),
        probe: Option<&Arc<Probe>>,
    ) {
        let failures = error.keyring_errors();
        for failure in failures {
            if !(had || probe.is_some()) || failure.may_pass_among(failures) {
                continue;
            }
            match failure.kind() {
                KeyringErrorKind::Unusable => {
                    names(failure).for_each(|name| self.0.cache.drop_refused(name, None));
                }
                KeyringErrorKind::Denied => {
                    let begun = if let Some(probe) = probe {
                        (failure.wrapping_key() == probe.probed.0).then(|| Arc::clone(probe))
                    } else {
                        let probed = (failure.wrapping_key().to_owned(), operation);
                        self.0.probes.begin(probed, self.now())
                    };
                    if let Some(probe) = begun {
                        self.probe(failure, operation, &probe.denied(context), &probe);
                    }
                }
                _ => {}
            }
        }
    }

    /// Handles a successful refresh. If it was a probe, the wrapping key works: for a while,
    /// further denials then concern only their own encryption contexts.
    pub(super) fn probe_succeeded(&self, probe: Option<&Probe>) {
        if let Some(probe) = probe {
            let policy = self.policy();
            let while_ = (policy.limits.max_age / 10).max(policy.longest_backoff);
            let _ = probe.works_until.set(self.now() + while_);
        }
    }

    /// Probes the encryption context that has the least in common with the denied ones.
    fn probe(
        &self,
        failure: &KeyringError,
        operation: Operation,
        denied: &[EncryptionContext],
        probe: &Arc<Probe>,
    ) {
        // Without `tokio` there are no background tasks.
        if denied.len() >= DENIED_CONTEXTS || cfg!(not(feature = "tokio")) {
            return self.drop_denied(failure);
        }
        let (cache, now) = (&self.0.cache, self.now());
        let rank = |key: &Key<'_>, keys: EncryptedDataKeys<'_>, context: &EncryptionContext| {
            let context = context.without_reserved();
            let is_ours = key.partition == &*self.0.partition;
            let is_other = || !denied.contains(&context);
            let in_common = |denied: &EncryptionContext| {
                context.iter().filter(|(key, value)| denied.get(key) == Some(value)).count()
            };
            (is_ours && names(failure).any(|name| is_wrapped_by(keys, name)) && is_other())
                .then(|| denied.iter().map(in_common).sum())
        };
        let probe_encryption = || {
            let (place, _) = cache.encryption().pick(now, |key, it| {
                rank(key, it.serialized_data_keys(), it.encryption_context())
            })?;
            let source = EncryptionSource::probing(self.clone(), &place.key(), Arc::clone(probe))?;
            cache.encryption().probe(&place.key(), &source);
            Some(())
        };
        let probe_decryption = || {
            let (place, known) = cache.decryption().pick(now, |key, it| {
                let keys = EncryptedDataKeys::from_checked(key.encrypted_data_keys);
                rank(key, keys, it.encryption_context())
            })?;
            let probe = Arc::clone(probe);
            let source = DecryptionSource::probing(self.clone(), &place.key(), known, probe)?;
            cache.decryption().probe(&place.key(), &source);
            Some(())
        };
        // The principal may still be allowed one operation, but no longer the other.
        let probed = match operation {
            Operation::Encryption => probe_encryption().or_else(probe_decryption),
            Operation::Decryption => probe_decryption().or_else(probe_encryption),
        };
        if probed.is_none() {
            self.drop_denied(failure);
        }
    }

    fn drop_denied(&self, failure: &KeyringError) {
        names(failure).for_each(|name| self.0.cache.drop_refused(name, Some(&self.0.partition)));
    }
}

/// The names of a wrapping key that failed: as in the request, and as in messages.
fn names(failure: &KeyringError) -> impl Iterator<Item = &str> {
    let (asked, named) = (failure.wrapping_key(), failure.name_in_messages());
    [Some(asked), (named != asked).then_some(named)].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time::Clock;

    #[test]
    fn a_key_has_one_probe_at_a_time_and_none_soon_after_success() {
        let (probes, now) = (Probes::default(), Clock::system().moment());
        let begin = |key: &str, operation, now| probes.begin((key.to_owned(), operation), now);
        let (encryption, decryption) = (Operation::Encryption, Operation::Decryption);
        let later = now + Duration::from_secs(5);
        let probe = begin("a", encryption, now).unwrap();
        assert!(begin("a", encryption, now).is_none());
        begin("a", decryption, now).unwrap();
        begin("b", encryption, now).unwrap();
        drop(probe);
        let probe = begin("a", encryption, now).unwrap();
        probe.works_until.set(later).unwrap();
        drop(probe);
        assert!(begin("a", encryption, now).is_none());
        assert!(begin("a", encryption, later).is_some());
        assert!(probes.lock().is_empty());
    }
}
