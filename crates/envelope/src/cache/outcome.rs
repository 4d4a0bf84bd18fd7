//! What becomes of a load: its value is kept, or its failure is remembered.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;

use super::{
    Cache,
    key::{Key, OwnedKey},
    loaded::Loaded,
    source::{Settings as _, Source},
    store::{Evicted, Store},
};
use crate::{
    error::{Error, KeyringError, KeyringErrorKind},
    gate::Pass,
    observer::EventKind,
    time::Moment,
};

/// How many times to try to put a value in, if its entry is evicted in between.
const ATTEMPTS: usize = 3;

impl<V: Send + Sync + 'static> Cache<V> {
    /// Loads a value, and stores it before the load ends. A panic is a failure like any other.
    pub(super) fn load<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: OwnedKey,
        source: S,
        pass: Pass,
        ahead: bool,
    ) -> impl Future<Output = Result<Arc<Loaded<V>>, Error>> + Send + use<S, V> {
        let cache = Arc::clone(self);
        async move {
            let _pass = pass;
            let settings = source.settings();
            let invalidations = cache.invalidations();
            let asked = settings.now();
            let outcome = AssertUnwindSafe(source.clone().load(ahead)).catch_unwind().await;
            let took = settings.now().since(asked);
            // Reported last, so that an observer finds the result in place.
            match outcome.unwrap_or(Err(Error::Panicked)) {
                Ok(value) => {
                    let asked = (asked, invalidations);
                    let value =
                        Arc::new(Loaded::new(value, asked, settings.now(), settings.policy()));
                    if cache.is_proven(&key, value.value(), &source) {
                        cache.put(&key, &value, &source);
                    } else {
                        cache.note_unproven(&key, &value, &source);
                    }
                    cache.telemetry.report(&key.borrow(), EventKind::Loaded { ahead, took });
                    Ok(value)
                }
                Err(error) => {
                    cache.note_failure(&key, &error, &source, asked, invalidations);
                    let kind = EventKind::LoadFailed { ahead, took, cause: &error };
                    cache.telemetry.report(&key.borrow(), kind);
                    Err(error)
                }
            }
        }
    }

    /// Keeps a value, unless entries were invalidated since its request.
    pub(super) fn put<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: &OwnedKey,
        value: &Arc<Loaded<V>>,
        source: &S,
    ) {
        self.put_quietly(key, value, source)();
    }

    /// Keeps a value that another cache has loaded, and requested at `asked`.
    ///
    /// Reports no events, because the other cache may hold a lock. The result reports them.
    pub(crate) fn prime<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: &Key<'_>,
        value: Arc<V>,
        asked: Moment,
        source: &S,
    ) -> impl FnOnce() + use<S, V> {
        let asked = (asked, self.invalidations());
        let settings = source.settings();
        let value = Arc::new(Loaded::new(value, asked, settings.now(), settings.policy()));
        self.put_quietly(&(*key).to_owned(), &value, source)
    }

    /// Keeps a value, as [`put`](Self::put) does. The result must be called without locks: it
    /// reports events, and brings the store back to its bounds.
    fn put_quietly<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: &OwnedKey,
        value: &Arc<Loaded<V>>,
        source: &S,
    ) -> impl FnOnce() + use<S, V> {
        let mut evicted = Evicted::default();
        let after = self.put_locked(key, value, source, &mut evicted);
        let cache = Arc::clone(self);
        move || {
            drop(evicted);
            cache.store.trim();
            if let Some(after) = after {
                after();
            }
        }
    }

    fn put_locked<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        value: &Arc<Loaded<V>>,
        source: &S,
        evicted: &mut Evicted,
    ) -> Option<impl FnOnce() + use<S, V>> {
        let invalidations = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        let (asked, asked_after) = value.asked();
        if *invalidations != asked_after {
            return None;
        }
        self.forgive(key, value, source);
        let policy = source.settings().policy();
        let now = source.settings().now();
        value.keep();
        // There may be a standby beside the current value.
        let values = source.weight(value.value()) * if S::IN_PLACE { 1 } else { 2 };
        let bytes = Store::<V>::bytes_with(key, values);
        if !self.store.has_room_for(bytes) {
            evicted.add(&self.telemetry, key.clone());
            return None;
        }
        (0..ATTEMPTS).any(|_| {
            let entry = self.store.entry(key, bytes, now, evicted);
            entry.put(value, now, policy, S::IN_PLACE)
        });
        Some(source.loaded(value.value(), asked))
    }

    /// Handles a value that is not known to be the right one. If it was to replace another value,
    /// the next attempt waits.
    fn note_unproven<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        value: &Arc<Loaded<V>>,
        source: &S,
    ) {
        if self.invalidations() != value.asked().1 {
            return;
        }
        self.forgive(key, value, source);
        let settings = source.settings();
        if let Some(entry) = self.store.find(&key.borrow()) {
            entry.note_failure(settings.now(), settings.policy(), settings.chance(), Some(false));
        }
    }

    /// Forgets the failures of the key and of the wrapping key that have now succeeded.
    fn forgive<S: Source<Value = V>>(&self, key: &OwnedKey, value: &Loaded<V>, source: &S) {
        self.failures.forget(&self.fingerprint(key));
        let backoffs = source.settings().backoffs();
        if !backoffs.is_empty() {
            let only = || {
                let mut keys = source.wrapping_keys();
                let key = keys.pop()?;
                keys.iter().all(|other| *other == key).then_some(key)
            };
            source.answered(value.value()).or_else(only).inspect(|key| backoffs.forget(&**key));
        }
    }

    /// Remembers the failure of a load that was requested at `asked`, and drops the entry if it
    /// must not be used any more. Does nothing if entries were invalidated since the request.
    pub(super) fn note_failure<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        error: &Error,
        source: &S,
        asked: Moment,
        asked_after: u64,
    ) {
        if self.invalidations() != asked_after {
            return;
        }
        let settings = source.settings();
        let policy = settings.policy();
        let now = settings.now();
        let chance = settings.chance();
        let failures = error.keyring_errors();
        let may_pass = error.is_retryable();
        let entry = self.store.find(&key.borrow());
        // A kept value was proven, or generated here: it is not the result of a forged message.
        let was_kept = entry.as_ref().is_some_and(|entry| entry.holds(|_| true));
        if let Some(entry) = entry {
            entry.note_failure(now, policy, chance, KeyringError::tell_of_outage(failures));
        }
        if failures.is_empty() {
            return;
        }
        self.failures.note(&self.fingerprint(key), error, asked, now, |_, waves| {
            if may_pass { policy.backoff(waves, chance) } else { policy.refuse_for }
        });
        let wrapping_keys = || source.wrapping_keys();
        settings.backoffs().note_load(failures, wrapping_keys, policy, (asked, now), chance);
        let is_forbidden = |failure: &KeyringError| {
            matches!(failure.kind(), KeyringErrorKind::Denied | KeyringErrorKind::Unusable)
        };
        if !may_pass && failures.iter().any(is_forbidden) {
            self.remove(&key.borrow());
        }
        source.failed(error, was_kept || source.is_ours());
    }

    /// Returns the failure that operations under `key` are refused with, and for how long: the
    /// key's own, or the one that all its wrapping keys are backed off for.
    pub(super) fn remembered<S: Source>(
        &self,
        key: &OwnedKey,
        source: &S,
        backed_off: Option<(Error, Duration)>,
    ) -> Option<(Error, Duration)> {
        let own = self.failures.find(&self.fingerprint(key), source.settings().now());
        match (own, backed_off) {
            (Some((error, left)), Some((_, longer))) => Some((error, left.max(longer))),
            (own, backed_off) => own.or(backed_off),
        }
    }

    /// Reports a failure that was returned without a request to the keyring, and returns it.
    pub(super) fn refused(&self, key: &OwnedKey, error: Error) -> Error {
        let refused = match &error {
            Error::Remembered { cause, retry_after } => Some((&**cause, *retry_after)),
            Error::Overloaded { .. } => Some((&error, Duration::ZERO)),
            _ => None,
        };
        if let Some((cause, retry_after)) = refused {
            self.telemetry.report(&key.borrow(), EventKind::Refused { cause, retry_after });
        }
        error
    }

    /// Returns whether a value is the right one under `key`: the source can tell, or it equals the
    /// current value, however old that is.
    fn is_proven<S: Source<Value = V>>(&self, key: &OwnedKey, value: &Arc<V>, source: &S) -> bool {
        let current = || self.peek(&key.borrow());
        source.proves(value) || current().is_some_and(|it| source.replacing(&it).proves(value))
    }

    /// Keeps a value that its load could not prove, if this caller can.
    pub(super) fn keep_if_proven<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: &OwnedKey,
        value: &Arc<Loaded<V>>,
        source: &S,
    ) {
        let is_there = || self.store.find(&key.borrow()).is_some_and(|it| it.holds(|_| true));
        if !value.is_kept() && !is_there() && source.proves(value.value()) {
            self.put(key, value, source);
        }
    }

    fn fingerprint(&self, key: &OwnedKey) -> u128 {
        key.borrow().fingerprint(&self.hasher)
    }
}
