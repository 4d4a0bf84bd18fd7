//! A generic cache with usage limits, single flight, refresh ahead of need, and a memory for failures. Knows neither
//! keys nor clocks.

mod counts;
mod departed;
pub(crate) mod entry;
pub(crate) mod failures;
pub(crate) mod flight;
pub(crate) mod gate;
pub(crate) mod limits;
pub(crate) mod policy;
mod repeats;
mod sight;
pub(crate) mod slot;
pub(crate) mod store;
pub(crate) mod stripe;
pub(crate) mod sync;

#[cfg(all(test, shuttle))]
mod shuttle_tests;

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures_util::FutureExt;

pub use self::counts::{Counts, FailureCounts};
use self::{
    entry::Entry,
    failures::Failures,
    flight::{Boarding, Flights},
    gate::{Gate, Pass, Priority},
    policy::Policy,
    sight::Sight,
    slot::{Slot, Taken, Vacant},
    store::{Key, OwnedKey, Store},
    sync::RwLock,
};
use crate::{
    error::{Error, KeyringErrorKind},
    observer::{EventKind, Observer, Operation},
};

/// Something to be done while nobody waits for it.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How values are kept, and what a cache needs of the world around it.
pub(crate) trait Settings: Send + Sync {
    /// The time.
    fn now(&self) -> Instant;

    /// A random number in 0..1.
    fn chance(&self) -> f64;

    /// How values are kept.
    fn policy(&self) -> &Policy;

    /// A load failed. `had` tells that there was a value before.
    fn failed(&self, error: &Error, had: bool);

    /// Does something in the background, or drops it where there is none.
    fn spawn(&self, task: Task);
}

/// Where values come from, for one operation. Made only where a value must be loaded.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// What is loaded.
    type Value: Send + Sync + 'static;

    /// Whether a new value takes the place of the current one at once, rather than when that is spent.
    const IN_PLACE: bool;

    /// How values are kept.
    fn settings(&self) -> &impl Settings;

    /// What the operation reserves, in bytes; `None` is a use that is not counted.
    fn bytes(&self) -> Option<u64>;

    /// The wrapping keys of which any one may be asked, by the names in [`KeyringError`](crate::error::KeyringError); none
    /// where that is not known.
    fn wrapping_keys(&self) -> Vec<Arc<str>>;

    /// Asks for a value.
    fn load(self) -> impl Future<Output = Result<Arc<Self::Value>, Error>> + Send + 'static;

    /// A value that was asked for at `asked` is about to be kept. Nothing is invalidated meanwhile.
    fn loaded(&self, value: &Arc<Self::Value>, asked: Instant) {
        let _ = (value, asked);
    }
}

/// What the two halves of a cache have in common: how much is asked at once, and which wrapping keys are left alone.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    gate: Gate,
    backoffs: Arc<Failures<Arc<str>>>,
}

impl Shared {
    /// At most `max_loads` loads run at once.
    pub(crate) fn new(max_loads: usize) -> Self {
        Self { gate: Gate::new(max_loads), backoffs: Arc::new(Failures::new(WRAPPING_KEYS)) }
    }
}

/// How many wrapping keys are remembered to fail.
const WRAPPING_KEYS: usize = 1_000;

/// Entries, the loads under way for those that are missing, and counts of what happened.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    slots: Store<V>,
    flights: Flights<Result<Arc<Entry<V>>, Error>>,
    gate: Gate,
    failures: Failures<OwnedKey>,
    backoffs: Arc<Failures<Arc<str>>>,
    /// How often values were invalidated. What was asked for before is not put in after.
    invalidations: RwLock<u64>,
    sight: Arc<Sight>,
}

/// A place in a cache that was looked up once.
#[derive(Debug)]
pub(crate) struct Place<V> {
    key: OwnedKey,
    slot: Arc<Slot<V>>,
}

impl<V> Place<V> {
    /// The key it is at.
    pub(crate) fn key(&self) -> Key<'_> {
        self.key.borrow()
    }
}

impl<V: Send + Sync + 'static> Cache<V> {
    /// An empty cache of at most `capacity` entries.
    pub(crate) fn new(
        capacity: usize,
        shared: Shared,
        operation: Operation,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        let sight = Arc::new(Sight::new(capacity, operation, observer));
        let Shared { gate, backoffs } = shared;
        Self {
            slots: Store::new(capacity, Arc::clone(&sight)),
            flights: Flights::new(),
            gate,
            failures: Failures::new(capacity),
            backoffs,
            invalidations: RwLock::new(0),
            sight,
        }
    }

    /// A value from the entry under `key`, for one message of `bytes` bytes; never waits for a load.
    pub(crate) fn find(
        &self,
        key: &Key<'_>,
        now: Instant,
        policy: &Policy,
        bytes: Option<u64>,
    ) -> Result<Taken<V>, Vacant> {
        let taken = self.slots.find(key).ok_or(Vacant::Absent)?.take(now, policy, bytes)?;
        self.sight.taken(key, &taken);
        Ok(taken)
    }

    /// The place of `key`, to find values there without looking it up again.
    pub(crate) fn place(&self, key: Key<'_>, now: Instant) -> Place<V> {
        let key = key.to_owned();
        Place { slot: self.slots.slot(&key, now), key }
    }

    /// A value from a place, as [`find`](Self::find) gives it.
    #[inline]
    pub(crate) fn find_at(
        &self,
        place: &Place<V>,
        now: Instant,
        policy: &Policy,
        bytes: Option<u64>,
    ) -> Result<Taken<V>, Vacant> {
        let mut taken = place.slot.take(now, policy, bytes);
        if matches!(taken, Err(Vacant::Absent)) && place.slot.is_retired() {
            let _one_at_a_time = self.invalidations.write().unwrap_or_else(PoisonError::into_inner);
            if place.slot.is_retired() {
                self.slots.put_back(&place.key, &place.slot);
            }
            taken = place.slot.take(now, policy, bytes);
        }
        taken.inspect(|taken| self.sight.taken(&place.key(), taken))
    }

    /// A value from the entry under `key`, which is loaded as often as it takes: a load may be used up by others who
    /// waited for it.
    ///
    /// # Errors
    ///
    /// The load's, shared by all who waited for it, or remembered from an earlier one.
    pub(crate) async fn obtain<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: Key<'_>,
        source: S,
    ) -> Result<Arc<V>, Error> {
        let key = key.to_owned();
        let settings = source.settings();
        let (policy, bytes) = (settings.policy(), source.bytes());
        let mut missed = false;
        loop {
            let mut vacant = Vacant::Absent;
            let find = || match self.find(&key.borrow(), settings.now(), policy, bytes) {
                Ok(taken) => Some(Ok((taken.value.to_arc(), taken.wants_refresh))),
                Err(why) => {
                    vacant = why;
                    self.remembered(&key, &source).map(Err)
                }
            };
            let boarding = self.flights.board(&key, find, || self.foreground(key.clone(), source.clone()));
            let (flight, started) = match boarding {
                Boarding::Landed(Ok((value, wants_refresh))) => {
                    if wants_refresh {
                        self.refresh(&key.borrow(), &source);
                    }
                    return Ok(value);
                }
                Boarding::Landed(Err((cause, retry_after))) => {
                    if !missed {
                        self.sight.missed(&key.borrow(), vacant);
                    }
                    return Err(self.refused(&key, cause.remembered(retry_after)));
                }
                Boarding::Wait { flight, started } => (flight, started),
            };
            if !std::mem::replace(&mut missed, true) {
                self.sight.missed(&key.borrow(), vacant);
            }
            if !started {
                self.sight.tell(&key.borrow(), EventKind::Coalesced);
            }
            match flight.await {
                // Whoever began the load uses what it brought, however long that took.
                Ok(entry) => {
                    let usable = started || entry.is_fresh(settings.now(), policy.limits.max_age);
                    if usable && entry.reserve(&policy.limits, bytes) {
                        return Ok(Arc::clone(entry.value()));
                    }
                }
                Err(error) => {
                    let stale = self.find(&key.borrow(), settings.now(), policy, bytes);
                    return stale.map(|taken| taken.value.to_arc()).map_err(|_| self.refused(&key, error));
                }
            }
        }
    }

    /// Fetches the next value in the background, unless that is under way.
    pub(crate) fn refresh<S: Source<Value = V>>(self: &Arc<Self>, key: &Key<'_>, source: &S) {
        let now = source.settings().now();
        if self.backed_off(source, now).is_some() {
            return;
        }
        let Some(slot) = self.slots.find(key).filter(|slot| slot.begin_refresh(now)) else { return };
        let end = EndOfRefresh(slot);
        let (cache, key, task_source) = (Arc::clone(self), (*key).to_owned(), source.clone());
        source.settings().spawn(Box::pin(async move {
            let _end = end;
            // Nobody can join it before its turn: who waits must not wait behind what nobody waits for.
            let pass = cache.gate.enter(Priority::Background).await;
            let load = || cache.load(key.clone(), task_source, pass, true);
            if let Boarding::Wait { flight, .. } = cache.flights.board(&key, || None::<()>, load) {
                // Its failure was noted.
                let _ = flight.await;
            }
        }));
    }

    /// Puts in a value that was come by otherwise, and asked for at `asked`.
    pub(crate) fn prime<S: Source<Value = V>>(&self, key: &Key<'_>, value: Arc<V>, asked: Instant, source: &S) {
        let invalidations = *self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        let settings = source.settings();
        let entry = Arc::new(Entry::new(value, asked, settings.now(), settings.policy()));
        entry.prove();
        self.put(&(*key).to_owned(), &entry, source, asked, invalidations);
    }

    /// Tells how the value under `key` served one that waited for it. A value that never served is dropped at
    /// the first failure; one that has is not, or else a bad message could drop what good ones need.
    pub(crate) fn served(&self, key: &Key<'_>, well: bool) {
        if well {
            self.slots.find(key).inspect(|slot| {
                slot.holds(|entry| {
                    entry.prove();
                    true
                });
            });
        } else {
            self.slots.remove_if(key, |slot| !slot.holds(Entry::is_proven));
        }
    }

    /// Counts an operation that may not use the cache.
    pub(crate) fn bypass(&self, key: &Key<'_>) {
        self.sight.tell(key, EventKind::Bypassed);
    }

    /// Drops the entries that `doomed` picks, and all memory of failures. Nothing that was asked for before is used by
    /// an operation that begins after.
    pub(crate) fn invalidate(&self, doomed: impl Fn(&OwnedKey, &V) -> bool) {
        let mut invalidations = self.invalidations.write().unwrap_or_else(PoisonError::into_inner);
        *invalidations += 1;
        self.flights.detach();
        self.drop_where(doomed);
        self.failures.clear();
        self.backoffs.clear();
    }

    /// Drops the entries that `doomed` picks, and nothing else: what is being loaded may come, since whoever supplies it
    /// is asked at this moment.
    pub(crate) fn drop_where(&self, doomed: impl Fn(&OwnedKey, &V) -> bool) {
        let entries = self.slots.remove_where(|key, slot| {
            let goes = slot.holds(|entry| doomed(key, entry.value()));
            if goes {
                self.sight.invalidated(&key.borrow());
            }
            goes
        });
        if entries > 0 {
            self.sight.invalidated_in_all(entries);
        }
    }

    /// Drops every entry, as [`invalidate`](Self::invalidate) does.
    pub(crate) fn clear(&self) {
        self.invalidate(|_, _| true);
    }

    /// Drops the entries whose values are all older than `age`; a value that is being loaded may come after.
    pub(crate) fn remove_older_than(&self, age: Duration, now: Instant) -> u64 {
        self.slots.remove_where(|_, slot| !slot.holds(|entry| entry.age(now) < age))
    }

    /// The age of the oldest value. Looks at each entry.
    pub(crate) fn oldest(&self, now: Instant) -> Option<Duration> {
        self.slots.iter().filter_map(|slot| slot.oldest(now)).max()
    }

    /// What happened so far.
    pub(crate) fn counts(&self) -> Counts {
        self.sight.counts(self.slots.len())
    }

    /// A load that somebody waits for.
    fn foreground<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: OwnedKey,
        source: S,
    ) -> impl Future<Output = Result<Arc<Entry<V>>, Error>> + Send + use<S, V> {
        let cache = Arc::clone(self);
        async move {
            let pass = cache.gate.enter(Priority::Foreground).await;
            // Those before it may have been told meanwhile that there is no use in asking.
            if let Some((cause, retry_after)) = cache.backed_off(&source, source.settings().now()) {
                return Err(cause.remembered(retry_after));
            }
            cache.load(key, source, pass, false).await
        }
    }

    /// A load that leaves its entry in the cache before it ends. A load that panics is a failure like any other.
    fn load<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: OwnedKey,
        source: S,
        pass: Pass,
        ahead: bool,
    ) -> impl Future<Output = Result<Arc<Entry<V>>, Error>> + Send + use<S, V> {
        let cache = Arc::clone(self);
        async move {
            let _pass = pass;
            let settings = source.settings();
            let invalidations = *cache.invalidations.read().unwrap_or_else(PoisonError::into_inner);
            let asked = settings.now();
            let outcome = AssertUnwindSafe(source.clone().load()).catch_unwind().await;
            let took = settings.now().saturating_duration_since(asked);
            match outcome.unwrap_or(Err(Error::Panicked)) {
                Ok(value) => {
                    let entry = Arc::new(Entry::new(value, asked, settings.now(), settings.policy()));
                    cache.sight.tell(&key.borrow(), EventKind::Loaded { ahead, took });
                    cache.put(&key, &entry, &source, asked, invalidations);
                    Ok(entry)
                }
                Err(error) => {
                    cache.sight.tell(&key.borrow(), EventKind::LoadFailed { ahead, took, cause: &error });
                    cache.note_failure(&key, &error, &source, asked);
                    Err(error)
                }
            }
        }
    }

    /// Keeps an entry, unless something was invalidated since it was asked for.
    fn put<S>(&self, key: &OwnedKey, entry: &Arc<Entry<V>>, source: &S, asked: Instant, asked_after: u64)
    where
        S: Source<Value = V>,
    {
        let invalidations = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        if *invalidations != asked_after {
            return;
        }
        self.failures.forget(&key.borrow());
        if !self.backoffs.is_empty() {
            source.wrapping_keys().iter().for_each(|key| self.backoffs.forget(&**key));
        }
        let settings = source.settings();
        let now = settings.now();
        // A slot may be evicted in between; not for ever.
        (0..3).any(|_| self.slots.slot(key, now).put(entry, now, settings.policy(), S::IN_PLACE));
        source.loaded(entry.value(), asked);
    }

    /// Remembers what a keyring failed with, and drops what it will not give again.
    fn note_failure<S: Source<Value = V>>(&self, key: &OwnedKey, error: &Error, source: &S, asked: Instant) {
        let settings = source.settings();
        let (now, policy, chance) = (settings.now(), settings.policy(), settings.chance());
        let (failures, may_pass) = (error.keyring_errors(), error.is_retryable());
        let slot = self.slots.find(&key.borrow());
        // A value that served, or that we made ourselves: a bad message can't have brought it here.
        let had = slot.as_ref().is_some_and(|slot| slot.holds(|entry| !S::IN_PLACE || entry.is_proven()));
        if let Some(slot) = slot {
            slot.note_failure(now, policy, chance, may_pass && !failures.is_empty());
        }
        if failures.is_empty() {
            return;
        }
        self.failures.note(key, error, asked, now, |streak| {
            if may_pass { policy.backoff(streak.waves, chance) } else { policy.refuse_for }
        });
        for failure in failures.iter().filter(|failure| failure.is_retryable()) {
            let wrapping_key = Arc::from(failure.wrapping_key());
            self.backoffs.note(&wrapping_key, error, asked, now, |streak| {
                policy.key_backoff(streak.failures, streak.waves, chance)
            });
        }
        if !may_pass && failures.iter().any(|failure| is_refusal(failure.kind())) {
            let removed = self.slots.remove_if(&key.borrow(), |_| true);
            if removed {
                self.sight.invalidated(&key.borrow());
                self.sight.invalidated_in_all(1);
            }
        }
        settings.failed(error, had);
    }

    /// The failure that the entry under `key`, or all wrapping keys of it, are refused with, and for how long.
    fn remembered<S: Source>(&self, key: &OwnedKey, source: &S) -> Option<(Error, Duration)> {
        let now = source.settings().now();
        let (own, backed_off) = (self.failures.find(&key.borrow(), now), self.backed_off(source, now));
        match (own, backed_off) {
            (Some((error, left)), Some((_, longer))) => Some((error, left.max(longer))),
            (own, backed_off) => own.or(backed_off),
        }
    }

    /// The failure for which the wrapping keys are left alone, and for how long.
    fn backed_off<S: Source>(&self, source: &S, now: Instant) -> Option<(Error, Duration)> {
        if self.backoffs.is_empty() {
            return None;
        }
        let mut shortest: Option<(Error, Duration)> = None;
        for key in source.wrapping_keys() {
            let (error, left) = self.backoffs.find(&*key, now)?;
            if shortest.as_ref().is_none_or(|(_, shortest)| left < *shortest) {
                shortest = Some((error, left));
            }
        }
        shortest
    }

    /// Tells of a failure that is served from memory.
    fn refused(&self, key: &OwnedKey, error: Error) -> Error {
        if let Error::Remembered { cause, retry_after } = &error {
            self.sight.tell(&key.borrow(), EventKind::Refused { cause, retry_after: *retry_after });
        }
        error
    }
}

/// Whether a failure says that what was cached must not be used any more.
fn is_refusal(kind: KeyringErrorKind) -> bool {
    matches!(kind, KeyringErrorKind::Denied | KeyringErrorKind::Unusable)
}

/// Ends a refresh, however it goes.
struct EndOfRefresh<V>(Arc<Slot<V>>);

impl<V> Drop for EndOfRefresh<V> {
    fn drop(&mut self) {
        self.0.end_refresh();
    }
}
