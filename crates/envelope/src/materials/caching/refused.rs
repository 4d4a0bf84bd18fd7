//! Decides which entries to drop after a wrapping key was refused.

use std::sync::Arc;

use super::{
    CachingMaterialsManager,
    cache::is_wrapped_by,
    probes::Probe,
    sources::{DecryptionSource, EncryptionSource},
};
use crate::{
    cache::{Key, source::Settings as _},
    context::EncryptionContext,
    error::{Error, KeyringError, KeyringErrorKind},
    format::encrypted_data_key::EncryptedDataKeys,
    observer::Operation,
};

/// After this many consecutive denials for different encryption contexts, the wrapping key counts
/// as denied.
const DENIED_CONTEXTS: usize = 3;

impl CachingMaterialsManager {
    /// Handles a failed load: drops data keys under a refused wrapping key.
    ///
    /// `had` is whether the failed load was for a data key that was cached or to be generated.
    /// Other failures drop nothing: somebody may have sent a new message to cause them. Nothing is
    /// dropped either if a related key has not responded, because that key may still be valid.
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
                        probe.is_of(failure).then(|| Arc::clone(probe))
                    } else {
                        self.0.probes.begin(failure, operation, self.now())
                    };
                    if let Some(probe) = begun {
                        self.probe(failure, operation, &probe.deny(context), &probe);
                    }
                }
                _ => {}
            }
        }
    }

    /// Handles a successful load. If it was a probe, the wrapping key works: for a while, further
    /// denials concern only their own encryption contexts.
    pub(super) fn probe_succeeded(&self, probe: Option<&Probe>) {
        if let Some(probe) = probe {
            let policy = self.policy();
            let pause = (policy.max_age / 10).max(policy.max_backoff);
            probe.succeeded(self.now() + pause);
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
        let cache = &self.0.cache;
        let now = self.now();
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
            let (entry, _) = cache.encryption().pick(now, |key, it| {
                rank(key, it.serialized_data_keys(), it.encryption_context())
            })?;
            let source = EncryptionSource::probing(self.clone(), &entry.key(), Arc::clone(probe))?;
            cache.encryption().probe(&entry.key(), &source);
            Some(())
        };
        let probe_decryption = || {
            let (entry, known) = cache.decryption().pick(now, |key, it| {
                let keys = EncryptedDataKeys::from_checked(key.encrypted_data_keys);
                rank(key, keys, it.encryption_context())
            })?;
            let probe = Arc::clone(probe);
            let source = DecryptionSource::probing(self.clone(), &entry.key(), known, probe)?;
            cache.decryption().probe(&entry.key(), &source);
            Some(())
        };
        // The principal may still be allowed one operation, but no longer the other.
        let probed = if operation == Operation::Encryption {
            probe_encryption().or_else(probe_decryption)
        } else {
            probe_decryption().or_else(probe_encryption)
        };
        if probed.is_none() {
            self.drop_denied(failure);
        }
    }

    fn drop_denied(&self, failure: &KeyringError) {
        names(failure).for_each(|name| self.0.cache.drop_refused(name, Some(&self.0.partition)));
    }
}

/// Returns the names of a wrapping key that failed: in the request, and in messages.
fn names(failure: &KeyringError) -> impl Iterator<Item = &str> {
    let asked = failure.wrapping_key();
    let named = failure.name_in_messages();
    [Some(asked), (named != asked).then_some(named)].into_iter().flatten()
}
