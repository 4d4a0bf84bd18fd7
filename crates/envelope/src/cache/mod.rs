//! A generic cache with usage limits, single flight, refresh ahead of need, and a memory for failures. Knows neither
//! keys nor clocks.

pub(crate) mod entry;
pub(crate) mod failures;
pub(crate) mod flight;
pub(crate) mod gate;
pub(crate) mod limits;
pub(crate) mod policy;
pub(crate) mod slot;
pub(crate) mod store;
pub(crate) mod stripe;

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use futures_util::FutureExt;

use self::{
    entry::Entry,
    failures::Failures,
    flight::{Boarding, Flights},
    gate::{Gate, Pass, Priority},
    policy::Policy,
    slot::{Slot, Taken, Vacant},
    store::{Key, OwnedKey, Store},
    stripe::Counter,
};
use crate::error::Error;

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

    /// A load failed. `refresh` tells that there was a value before.
    fn failed(&self, error: &Error, refresh: bool);

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

    /// Asks for a value.
    fn load(self) -> impl Future<Output = Result<Arc<Self::Value>, Error>> + Send + 'static;
}

/// Entries, the loads under way for those that are missing, and counts of what happened.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    slots: Store<V>,
    flights: Flights<Result<Arc<Entry<V>>, Error>>,
    gate: Gate,
    failures: Failures<OwnedKey>,
    /// How often values were invalidated. What was asked for before is not put in after.
    invalidations: RwLock<u64>,
    counters: Counters,
}

impl<V: Send + Sync + 'static> Cache<V> {
    /// An empty cache of at most `capacity` entries, with at most as many loads at once as `gate` lets through.
    pub(crate) fn new(capacity: usize, gate: Gate) -> Self {
        Self {
            slots: Store::new(capacity),
            flights: Flights::new(),
            gate,
            failures: Failures::new(capacity),
            invalidations: RwLock::new(0),
            counters: Counters::default(),
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
        self.counters.taken(&taken);
        Ok(taken)
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
                Ok(taken) => Some(Ok(taken)),
                Err(why) => {
                    vacant = why;
                    self.failures.find(&key.borrow(), settings.now()).map(Err)
                }
            };
            let boarding = self.flights.board(&key, find, || self.foreground(key.clone(), source.clone()));
            let (flight, started) = match boarding {
                Boarding::Landed(Ok(taken)) => {
                    if taken.wants_refresh {
                        self.refresh(&key.borrow(), &source);
                    }
                    return Ok(taken.value);
                }
                Boarding::Landed(Err((cause, retry_after))) => {
                    self.counters.refused.count();
                    return Err(cause.remembered(retry_after));
                }
                Boarding::Wait { flight, started } => (flight, started),
            };
            if !std::mem::replace(&mut missed, true) {
                self.counters.missed(vacant);
            }
            if !started {
                self.counters.coalesced.count();
            }
            match flight.await {
                // Whoever began the load uses what it brought, however long that took.
                Ok(entry) => {
                    let usable = started || entry.is_fresh(settings.now(), policy.limits.max_age);
                    if let Some(value) = usable.then(|| entry.reserve(&policy.limits, bytes)).flatten() {
                        return Ok(value);
                    }
                }
                Err(error) => {
                    let stale = self.find(&key.borrow(), settings.now(), policy, bytes);
                    return stale.map(|taken| taken.value).map_err(|_| error);
                }
            }
        }
    }

    /// Fetches the next value in the background, unless that is under way.
    pub(crate) fn refresh<S: Source<Value = V>>(self: &Arc<Self>, key: &Key<'_>, source: &S) {
        let now = source.settings().now();
        let Some(slot) = self.slots.find(key).filter(|slot| slot.begin_refresh(now)) else { return };
        let end = EndOfRefresh(slot);
        let (cache, key, task_source) = (Arc::clone(self), (*key).to_owned(), source.clone());
        source.settings().spawn(Box::pin(async move {
            let _end = end;
            // Nobody can join it before its turn: who waits must not wait behind what nobody waits for.
            let pass = cache.gate.enter(Priority::Background).await;
            let load = || cache.load(key.clone(), task_source, pass, true);
            if let Boarding::Wait { flight, started } = cache.flights.board(&key, || None::<()>, load) {
                if started {
                    cache.counters.refreshes.count();
                }
                // Its failure was noted.
                let _ = flight.await;
            }
        }));
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
    pub(crate) fn bypass(&self) {
        self.counters.bypasses.count();
    }

    /// Drops the entries that `doomed` picks, and all memory of failures. Nothing that was asked for before is used by
    /// an operation that begins after.
    pub(crate) fn invalidate(&self, doomed: impl Fn(&OwnedKey, &V) -> bool) {
        let mut invalidations = self.invalidations.write().unwrap_or_else(PoisonError::into_inner);
        *invalidations += 1;
        self.flights.detach();
        self.slots.remove_where(|key, slot| slot.holds(|entry| doomed(key, entry.value())));
        self.failures.clear();
    }

    /// Drops every entry, as [`invalidate`](Self::invalidate) does.
    pub(crate) fn clear(&self) {
        self.invalidate(|_, _| true);
    }

    /// What happened so far.
    pub(crate) fn counts(&self) -> Counts {
        let Counters { hits, absent, too_old, used_up, loads, load_failures, .. } = &self.counters;
        let Counters { coalesced, bypasses, refreshes, promotions, stale, refused, .. } = &self.counters;
        Counts {
            entries: self.slots.len(),
            hits: hits.total(),
            misses: absent.total() + too_old.total() + used_up.total(),
            misses_absent: absent.total(),
            misses_age: too_old.total(),
            misses_usage: used_up.total(),
            loads: loads.total(),
            load_failures: load_failures.total(),
            coalesced: coalesced.total(),
            bypasses: bypasses.total(),
            refreshes: refreshes.total(),
            promotions: promotions.total(),
            stale: stale.total(),
            refused: refused.total(),
            evictions: self.slots.evicted(),
        }
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
            cache.load(key, source, pass, false).await
        }
    }

    /// A load that leaves its entry in the cache before it ends. A load that panics is a failure like any other.
    fn load<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: OwnedKey,
        source: S,
        pass: Pass,
        refresh: bool,
    ) -> impl Future<Output = Result<Arc<Entry<V>>, Error>> + Send + use<S, V> {
        let cache = Arc::clone(self);
        async move {
            let _pass = pass;
            let settings = source.settings();
            cache.counters.loads.count();
            let invalidations = *cache.invalidations.read().unwrap_or_else(PoisonError::into_inner);
            let asked = settings.now();
            let outcome = AssertUnwindSafe(source.clone().load()).catch_unwind().await;
            match outcome.unwrap_or(Err(Error::Panicked)) {
                Ok(value) => {
                    let entry = Arc::new(Entry::new(value, asked, settings.now()));
                    cache.put(&key, &entry, &source, invalidations);
                    Ok(entry)
                }
                Err(error) => {
                    cache.note_failure(&key, &error, settings, refresh);
                    Err(error)
                }
            }
        }
    }

    /// Keeps an entry, unless something was invalidated since it was asked for.
    fn put<S: Source<Value = V>>(&self, key: &OwnedKey, entry: &Arc<Entry<V>>, source: &S, asked_after: u64) {
        let invalidations = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        if *invalidations != asked_after {
            return;
        }
        self.failures.forget(&key.borrow());
        let settings = source.settings();
        // A slot may be evicted in between; not for ever.
        (0..3).any(|_| self.slots.slot(key).put(entry, settings.now(), settings.policy(), S::IN_PLACE));
    }

    /// Remembers what a keyring failed with, and drops what it will not give again.
    fn note_failure(&self, key: &OwnedKey, error: &Error, settings: &impl Settings, refresh: bool) {
        self.counters.load_failures.count();
        if error.keyring_errors().is_empty() {
            return;
        }
        let (now, policy, chance) = (settings.now(), settings.policy(), settings.chance());
        if error.is_retryable() {
            self.slots.find(&key.borrow()).inspect(|slot| slot.note_outage(now, policy, chance));
            self.failures.note(key, error, now, |in_a_row| policy.backoff(in_a_row, chance));
        } else {
            self.failures.note(key, error, now, |_| policy.refuse_for);
            self.slots.remove_if(&key.borrow(), |_| true);
        }
        settings.failed(error, refresh);
    }
}

/// Ends a refresh, however it goes.
struct EndOfRefresh<V>(Arc<Slot<V>>);

impl<V> Drop for EndOfRefresh<V> {
    fn drop(&mut self) {
        self.0.end_refresh();
    }
}

/// What happened in one half of a cache since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Entries held now, expired ones that nobody asked for since included.
    pub entries: usize,
    /// Operations served from an entry without waiting.
    pub hits: u64,
    /// Operations that found no usable entry.
    pub misses: u64,
    /// Of these, those that found none: the first for its context, or after an eviction or invalidation.
    pub misses_absent: u64,
    /// Of these, those that found one past its age.
    pub misses_age: u64,
    /// Of these, those that found one whose messages or bytes were spent.
    pub misses_usage: u64,
    /// Requests to the underlying materials manager: one `GenerateDataKey` or `Decrypt` each.
    pub loads: u64,
    /// Loads that failed.
    pub load_failures: u64,
    /// Times an operation waited for a load that another had begun.
    pub coalesced: u64,
    /// Operations that may not use the cache: too long for `max_bytes`, of unknown length, or without key
    /// derivation.
    pub bypasses: u64,
    /// Loads ahead of need, in the background.
    pub refreshes: u64,
    /// Times a standby took the place of a spent data key.
    pub promotions: u64,
    /// Operations served by a data key past its age, since KMS was out of reach.
    pub stale: u64,
    /// Operations refused at once, by a failure that was remembered.
    pub refused: u64,
    /// Entries that made room for others.
    pub evictions: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: Counter,
    absent: Counter,
    too_old: Counter,
    used_up: Counter,
    loads: Counter,
    load_failures: Counter,
    coalesced: Counter,
    bypasses: Counter,
    refreshes: Counter,
    promotions: Counter,
    stale: Counter,
    refused: Counter,
}

impl Counters {
    fn taken<V>(&self, taken: &Taken<V>) {
        self.hits.count();
        if taken.stale {
            self.stale.count();
        }
        if taken.promoted {
            self.promotions.count();
        }
    }

    fn missed(&self, why: Vacant) {
        match why {
            Vacant::Absent => self.absent.count(),
            Vacant::Age => self.too_old.count(),
            Vacant::Usage => self.used_up.count(),
        }
    }
}
