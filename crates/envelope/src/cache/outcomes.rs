//! What becomes of a load: what it brought is kept, or its failure is remembered.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;

use super::{
    Cache, Outcome,
    entry::Entry,
    gate::Pass,
    refusals::{Refusal, is_refusal, note_wrapping_keys},
    source::{Settings, Source},
    store::{OwnedKey, Store},
};
use crate::{
    error::{Error, KeyringError},
    observer::EventKind,
    time::Moment,
};

impl<V: Send + Sync + 'static> Cache<V> {
    /// A load that leaves its entry in the cache before it ends. A load that panics is a failure
    /// like any other.
    pub(super) fn load<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: OwnedKey,
        source: S,
        pass: Pass,
        ahead: bool,
    ) -> impl Future<Output = Outcome<V>> + Send + use<S, V> {
        let cache = Arc::clone(self);
        async move {
            let _pass = pass;
            let settings = source.settings();
            let invalidations = *cache.invalidations.read().unwrap_or_else(PoisonError::into_inner);
            let asked = settings.now();
            let outcome = AssertUnwindSafe(source.clone().load(ahead)).catch_unwind().await;
            let took = settings.now().since(asked);
            // Reported last, so that an observer finds the result in place.
            match outcome.unwrap_or(Err(Error::Panicked)) {
                Ok(value) => {
                    let (now, policy) = (settings.now(), settings.policy());
                    let entry = Arc::new(Entry::new(value, (asked, invalidations), now, policy));
                    if cache.is_proven(&key, entry.value(), &source) {
                        cache.put(&key, &entry, &source);
                    } else {
                        cache.note_unproven(&key, &entry, &source);
                    }
                    cache.sight.tell(&key.borrow(), EventKind::Loaded { ahead, took });
                    Ok(entry)
                }
                Err(error) => {
                    cache.note_failure(&key, &error, &source, asked, invalidations);
                    let kind = EventKind::LoadFailed { ahead, took, cause: &error };
                    cache.sight.tell(&key.borrow(), kind);
                    Err(error)
                }
            }
        }
    }

    /// Keeps an entry, unless something was invalidated since it was asked for.
    pub(super) fn put<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        entry: &Arc<Entry<V>>,
        source: &S,
    ) {
        let invalidations = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        let (asked, asked_after) = entry.asked();
        if *invalidations != asked_after {
            return;
        }
        self.forgive(key, entry, source);
        let (settings, now) = (source.settings(), source.settings().now());
        entry.keep();
        // There may be a next value beside the current one.
        let values = source.weight(entry.value()) * if S::IN_PLACE { 1 } else { 2 };
        let bytes = Store::<V>::bytes_with(key, values);
        if !self.slots.has_room_for(bytes) {
            self.sight.evicted(&key.borrow());
            return;
        }
        // The slot may be evicted in between, so try again, but not for ever.
        (0..3).any(|_| {
            let slot = self.slots.slot(key, bytes, now);
            slot.put(entry, now, settings.policy(), S::IN_PLACE)
        });
        source.loaded(entry.value(), asked);
    }

    /// Handles a value that is not known to be the right one. If it was to replace an existing
    /// value, it is not requested again at once.
    pub(super) fn note_unproven<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        entry: &Arc<Entry<V>>,
        source: &S,
    ) {
        if *self.invalidations.read().unwrap_or_else(PoisonError::into_inner) != entry.asked().1 {
            return;
        }
        self.forgive(key, entry, source);
        let settings = source.settings();
        if let Some(slot) = self.slots.find(&key.borrow()) {
            slot.note_failure(settings.now(), settings.policy(), settings.chance(), Some(false));
        }
    }

    /// Forgets the failures of the key providers that have responded.
    pub(super) fn forgive<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        entry: &Entry<V>,
        source: &S,
    ) {
        self.failures.forget(&self.fingerprints.of(key));
        let backoffs = source.settings().backoffs();
        if !backoffs.is_empty() {
            let only = || {
                let mut keys = source.wrapping_keys();
                let key = keys.pop()?;
                keys.iter().all(|other| *other == key).then_some(key)
            };
            source.answered(entry.value()).or_else(only).inspect(|key| backoffs.forget(&**key));
        }
    }

    /// Remembers what a keyring failed with, and drops what it will not give again; unless
    /// something was invalidated since it was asked.
    pub(super) fn note_failure<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        error: &Error,
        source: &S,
        asked: Moment,
        asked_after: u64,
    ) {
        if *self.invalidations.read().unwrap_or_else(PoisonError::into_inner) != asked_after {
            return;
        }
        let settings = source.settings();
        let (now, policy, chance) = (settings.now(), settings.policy(), settings.chance());
        let (failures, may_pass) = (error.keyring_errors(), error.is_retryable());
        let slot = self.slots.find(&key.borrow());
        // Kept values were proven, or generated here: never the result of a bad message.
        let had = slot.as_ref().is_some_and(|slot| slot.holds(|_| true));
        if let Some(slot) = slot {
            slot.note_failure(now, policy, chance, KeyringError::tell_of_outage(failures));
        }
        if failures.is_empty() {
            return;
        }
        self.failures.note(&self.fingerprints.of(key), error, asked, now, |streak| {
            if may_pass { policy.backoff(streak.waves, chance) } else { policy.refuse_for }
        });
        note_wrapping_keys(failures, source, asked, now, chance);
        if !may_pass && failures.iter().any(|failure| is_refusal(failure.kind())) {
            let removed = self.drop_if(&key.borrow(), |_| true);
            if removed {
                self.sight.invalidated(&key.borrow());
                self.sight.invalidated_in_all(1);
            }
        }
        source.failed(error, had || !S::IN_PLACE);
    }

    /// The failure that the entry under `key`, or all wrapping keys of it, are refused with, and
    /// for how long.
    pub(super) fn remembered<S: Source>(
        &self,
        key: &OwnedKey,
        source: &S,
        backed_off: Option<Refusal>,
    ) -> Option<Refusal> {
        match (self.failures.find(&self.fingerprints.of(key), source.settings().now()), backed_off)
        {
            (Some((error, left)), Some((_, longer))) => Some((error, left.max(longer))),
            (own, backed_off) => own.or(backed_off),
        }
    }

    /// Emits the event for a failure without a request to the keyring.
    pub(super) fn refused(&self, key: &OwnedKey, error: Error) -> Error {
        let refused = match &error {
            Error::Remembered { cause, retry_after } => Some((&**cause, *retry_after)),
            Error::Overloaded { .. } => Some((&error, Duration::ZERO)),
            _ => None,
        };
        if let Some((cause, retry_after)) = refused {
            self.sight.tell(&key.borrow(), EventKind::Refused { cause, retry_after });
        }
        error
    }

    /// Whether a value is the right one under `key`: the source can tell, or it matches the entry
    /// that is there, however old that is.
    pub(super) fn is_proven<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        value: &Arc<V>,
        source: &S,
    ) -> bool {
        let known = || self.peek(&key.borrow());
        source.proves(value) || known().is_some_and(|it| source.replacing(&it).proves(value))
    }

    /// Keeps a value that its load could not prove, once one of the waiters can prove it.
    pub(super) fn keep_if_proven<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        entry: &Arc<Entry<V>>,
        source: &S,
    ) {
        let is_there = || self.slots.find(&key.borrow()).is_some_and(|slot| slot.holds(|_| true));
        if !entry.is_kept() && !is_there() && source.proves(entry.value()) {
            self.put(key, entry, source);
        }
    }
}
