//! What becomes of the entries under a wrapping key that was refused.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    CachingMaterialsManager,
    sources::{DecryptionSource, EncryptionSource},
};
use crate::{
    cache::{source::Settings as _, store::Key},
    context::EncryptionContext,
    error::{Error, KeyringError, KeyringErrorKind},
    format::encrypted_data_key::EncryptedDataKeys,
    observer::Operation,
};

/// The wrapping keys of which an entry is being probed.
#[derive(Debug, Clone, Default)]
pub(super) struct Probes(Arc<Mutex<HashSet<String>>>);

/// The one probe under a wrapping key: the refresh of an entry that has another encryption context
/// than the one that was denied. Ends with its drop.
#[derive(Debug)]
pub(super) struct Probe {
    probes: Probes,
    wrapping_key: String,
}

impl Probes {
    /// A probe, unless there is one for that key.
    fn begin(&self, wrapping_key: &str) -> Option<Arc<Probe>> {
        let begins = self.lock().insert(wrapping_key.to_owned());
        let (probes, wrapping_key) = (self.clone(), wrapping_key.to_owned());
        begins.then(|| Arc::new(Probe { probes, wrapping_key }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.probes.lock().remove(&self.wrapping_key);
    }
}

impl CachingMaterialsManager {
    /// A load for this operation and encryption context failed. What came of a wrapping key that
    /// may not be used any more must go, once that was heard of a data key that we had or asked to
    /// be made. (What is said of a message that is not known yet may be what its sender wants to be
    /// heard.) Not while a related key gave no answer: that one may be as good as ever.
    ///
    /// A denial may be about the encryption context alone. So another context is asked for, and
    /// only if that is denied, too, the rest of the partition goes.
    pub(super) fn refused(
        &self,
        error: &Error,
        had: bool,
        (operation, context): (Operation, &EncryptionContext),
        probe: Option<&Probe>,
    ) {
        let failures = error.keyring_errors();
        for failure in failures {
            if !(had || probe.is_some()) || failure.may_pass_among(failures) {
                continue;
            }
            match (failure.kind(), probe) {
                (KeyringErrorKind::Unusable, _) => {
                    names(failure).for_each(|name| self.0.cache.drop_refused(name, None));
                }
                (KeyringErrorKind::Denied, Some(probe)) => {
                    if names(failure).any(|name| name == probe.wrapping_key) {
                        self.drop_denied(failure);
                    }
                }
                (KeyringErrorKind::Denied, None) => self.probe(failure, operation, context),
                _ => {}
            }
        }
    }

    /// Asks for another encryption context than the one that was denied.
    fn probe(&self, denied: &KeyringError, operation: Operation, context: &EncryptionContext) {
        if cfg!(not(feature = "tokio")) {
            // Nothing runs in the background.
            return self.drop_denied(denied);
        }
        let Some(probe) = self.0.probes.begin(denied.wrapping_key()) else { return };
        let (cache, now) = (&self.0.cache, self.now());
        let context = context.without_reserved();
        let is_other = |key: &Key<'_>, keys: EncryptedDataKeys<'_>, other: &EncryptionContext| {
            key.partition == &*self.0.partition
                && names(denied).any(|name| super::cache::is_under(keys, name))
                && other.without_reserved() != context
        };
        let probe_encryption = || {
            let (place, _) = cache.encryption().pick(now, |key, it| {
                is_other(key, it.encrypted_data_keys(), it.encryption_context())
            })?;
            let source = EncryptionSource::probing(self.clone(), &place.key(), Arc::clone(&probe))?;
            cache.encryption().refresh(&place.key(), &source);
            Some(())
        };
        let probe_decryption = || {
            let (place, known) = cache.decryption().pick(now, |key, it| {
                let keys = EncryptedDataKeys::from_checked(key.encrypted_data_keys);
                is_other(key, keys, it.encryption_context())
            })?;
            let probe = Arc::clone(&probe);
            let source = DecryptionSource::probing(self.clone(), &place.key(), known, probe)?;
            cache.decryption().refresh(&place.key(), &source);
            Some(())
        };
        // Who may still do the one may no longer do the other.
        let probed = match operation {
            Operation::Encryption => probe_encryption().or_else(probe_decryption),
            Operation::Decryption => probe_decryption().or_else(probe_encryption),
        };
        if probed.is_none() {
            self.drop_denied(denied);
        }
    }

    fn drop_denied(&self, denied: &KeyringError) {
        names(denied).for_each(|name| self.0.cache.drop_refused(name, Some(&self.0.partition)));
    }
}

/// The names of a wrapping key that failed: as it was asked, and as messages have it.
fn names(failure: &KeyringError) -> impl Iterator<Item = &str> {
    let (asked, named) = (failure.wrapping_key(), failure.name_in_messages());
    [Some(asked), (named != asked).then_some(named)].into_iter().flatten()
}
