//! A generic cache with usage limits, single flight, refresh ahead of need, and a memory for
//! failures. Knows neither keys nor clocks.

mod counts;
mod crowding;
mod departed;
pub(crate) mod entry;
pub(crate) mod failures;
pub(crate) mod flight;
mod front;
pub(crate) mod gate;
pub(crate) mod limits;
mod loads;
#[cfg(any(test, fuzzing))]
pub(crate) mod model;
mod outcomes;
pub(crate) mod policy;
mod refusals;
mod repeats;
mod sight;
pub(crate) mod slot;
pub(crate) mod source;
pub(crate) mod store;
pub(crate) mod stripe;
pub(crate) mod sync;

#[cfg(all(test, shuttle))]
mod shuttle_tests;

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

pub use self::counts::{Counts, FailureCounts};
use self::{
    entry::Entry,
    failures::Failures,
    flight::{Boarding, Flights},
    front::Front,
    gate::{Gate, Priority},
    loads::Turn,
    policy::Policy,
    refusals::{Fingerprint, Fingerprints, backed_off},
    sight::Sight,
    slot::{Slot, Taken, Vacant},
    source::{Settings, Source},
    store::{Bounds, Key, OwnedKey, Place, Store},
    sync::RwLock,
};
use crate::{
    error::Error,
    observer::{EventKind, Observer, Operation},
    time::Moment,
};

/// The maximum size of an entry in the front, which keeps it alive after its eviction.
const LARGEST_AT_THE_FRONT: u64 = 16 << 10;

/// The maximum number of entries that are compared to pick one: so many that one tenant can hardly
/// own all of them, and few enough to compare in milliseconds.
const PICKED_AMONG: usize = 10_000;

/// Whether a hit that was looked up moves its entry to the front: one in 32, at random, because
/// keys in a fixed order would each always have the same numbers of every 32.
fn goes_to_the_front() -> bool {
    cfg!(any(test, fuzzing)) || fastrand::u8(..) < 8
}

/// The outcome of a load.
type Outcome<V> = Result<Arc<Entry<V>>, Error>;

/// Entries, the loads under way for those that are missing, and counts of what happened.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    slots: Store<V>,
    front: Front<V>,
    /// `None` if the task that ran the load ended before it.
    flights: Flights<Option<Outcome<V>>>,
    gate: Gate,
    failures: Failures<Fingerprint>,
    fingerprints: Fingerprints,
    /// How often values were invalidated. What was asked for before is not put in after.
    invalidations: RwLock<u64>,
    sight: Arc<Sight>,
}

impl<V: Send + Sync + 'static> Cache<V> {
    /// An empty cache with these bounds.
    pub(crate) fn new(
        bounds: impl Into<Bounds>,
        gate: Gate,
        operation: Operation,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        let bounds = bounds.into();
        let capacity = bounds.entries;
        let sight = Arc::new(Sight::new(bounds, operation, observer));
        Self {
            slots: Store::new(bounds, Arc::clone(&sight)),
            front: Front::new(capacity),
            flights: Flights::new(),
            gate,
            failures: Failures::new(capacity),
            fingerprints: Fingerprints::default(),
            invalidations: RwLock::new(0),
            sight,
        }
    }

    /// Lends a value from the entry under `key`, for one message of `bytes` bytes; never waits for
    /// a load.
    pub(crate) fn find<R>(
        &self,
        key: &Key<'_>,
        now: Moment,
        policy: &Policy,
        bytes: Option<u64>,
        mut borrow: impl FnMut(&Arc<V>) -> R,
    ) -> Result<Taken<R>, Vacant> {
        let found = self.front.find(key);
        if let Some(place) = found.as_deref().and_then(Option::as_ref) {
            match place.take(now, policy, bytes, &mut borrow) {
                Err(Vacant::Absent) if place.is_retired() => {}
                taken => return taken.inspect(|taken| self.used(place, taken)),
            }
        }
        let place = self.slots.find(key).ok_or(Vacant::Absent)?;
        let taken = place.take(now, policy, bytes, &mut borrow)?;
        self.sight.taken(key, &taken);
        if (found.is_some() || goes_to_the_front()) && place.bytes() <= LARGEST_AT_THE_FRONT {
            self.front.put(place);
        }
        Ok(taken)
    }

    /// A value that is looked up, and nobody is told.
    fn look(
        &self,
        key: &Key<'_>,
        now: Moment,
        policy: &Policy,
        bytes: Option<u64>,
    ) -> Result<Taken<Arc<V>>, Vacant> {
        self.slots.find(key).ok_or(Vacant::Absent)?.take(now, policy, bytes, Arc::clone)
    }

    /// The place of `key`, to find values there without looking it up again.
    pub(crate) fn place(&self, key: Key<'_>, now: Moment) -> Arc<Place<V>> {
        let key = key.to_owned();
        // While a slot is being made, nobody who invalidates can see it.
        let _no_invalidation = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = Store::<V>::bytes_with(&key, 0);
        self.slots.slot(&key, bytes, now)
    }

    /// Lends a value from a place, as [`find`](Self::find) gives it.
    #[inline]
    pub(crate) fn find_at<R>(
        &self,
        place: &Arc<Place<V>>,
        now: Moment,
        policy: &Policy,
        bytes: Option<u64>,
        mut borrow: impl FnMut(&Arc<V>) -> R,
    ) -> Result<Taken<R>, Vacant> {
        let taken = match place.take(now, policy, bytes, &mut borrow) {
            Err(Vacant::Absent) if self.put_back(place) => {
                place.take(now, policy, bytes, &mut borrow)
            }
            taken => taken,
        };
        taken.inspect(|taken| self.used(place, taken))
    }

    /// Something was taken that was not looked up: it must not seem unused when room is needed.
    #[inline]
    fn used<R>(&self, place: &Place<V>, taken: &Taken<R>) {
        self.sight.taken(&place.key(), taken);
        self.slots.touch(place);
    }

    /// Puts a place's slot back, if that was retired; tells whether it was.
    #[cold]
    fn put_back(&self, place: &Arc<Place<V>>) -> bool {
        if !place.is_retired() {
            return false;
        }
        let _one_at_a_time = self.invalidations.write().unwrap_or_else(PoisonError::into_inner);
        if place.is_retired() {
            self.slots.put_back(place);
        }
        true
    }

    /// A value from the entry under `key`, which is loaded as often as it takes: a load may be used
    /// up by others who waited for it.
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
        // Before any lock: in a forked process, the thread that holds it may be missing.
        settings.loads_in_background()?;
        let find = || {
            let found = self.look(&key.borrow(), settings.now(), policy, bytes);
            found.inspect(|taken| {
                if source.is_use() {
                    self.sight.taken(&key.borrow(), taken);
                }
            })
        };
        let flight_key = (key.clone(), self.gate.number(source.share().context));
        // Not for calls that only look up.
        let mut missed = !source.is_use();
        loop {
            let mut vacant = Vacant::Absent;
            let backed_off = backed_off(&source, settings.now());
            let find_or_refuse = || match find() {
                Ok(taken) => Some(Ok((taken.outcome, taken.wants_refresh))),
                Err(why) => {
                    vacant = why;
                    self.remembered(&key, &source, backed_off).map(Err)
                }
            };
            let in_background = settings.loads_in_background()?;
            let mut task = None;
            let load = |landing| {
                let turn = Turn::Foreground;
                if in_background {
                    let (load, running) = self.apart(key.clone(), source.clone(), turn, landing);
                    task = Some(running);
                    load
                } else {
                    self.driven(key.clone(), source.clone(), turn, landing)
                }
            };
            let boarding = self.flights.board(&flight_key, find_or_refuse, load);
            let (flight, started) = match boarding {
                Boarding::Landed(Ok((value, wants_refresh))) => {
                    if wants_refresh {
                        self.refresh(&key.borrow(), &source.replacing(&value));
                    }
                    return Ok(value);
                }
                Boarding::Landed(Err((cause, retry_after))) => {
                    if !missed {
                        self.sight.missed(&key.borrow(), vacant);
                    }
                    return Err(self.refused(&key, cause.remembered(retry_after)));
                }
                Boarding::Join(flight) => (flight, false),
                Boarding::Begin(flight) => (flight, true),
            };
            if !std::mem::replace(&mut missed, true) {
                self.sight.missed(&key.borrow(), vacant);
            }
            if !started {
                self.sight.tell(&key.borrow(), EventKind::Coalesced);
            }
            if let Some(task) = task {
                settings.run(task);
            }
            // The task that ran the load has ended: start again.
            let Some(outcome) = flight.await else { continue };
            match outcome {
                // The caller that started the load uses its value, however long the load took.
                Ok(entry) => {
                    let usable = started || entry.is_fresh(settings.now(), policy.limits.max_age);
                    if usable && entry.reserve(&policy.limits, bytes) {
                        self.keep_if_proven(&key, &entry, &source);
                        return Ok(Arc::clone(entry.value()));
                    }
                }
                // Another caller's wait was too long; this one has not waited as long.
                Err(Error::Overloaded { .. }) if !started => {}
                Err(error) => {
                    return find()
                        .map(|taken| taken.outcome)
                        .map_err(|_| self.refused(&key, error));
                }
            }
        }
    }

    /// Fetches the next value in the background, unless that is under way, or has just been done.
    pub(crate) fn refresh<S: Source<Value = V>>(self: &Arc<Self>, key: &Key<'_>, source: &S) {
        let policy = source.settings().policy();
        let now = source.settings().now();
        self.fetch_ahead(key, source, |slot| !slot.is_refreshed(now, policy, S::IN_PLACE));
    }

    /// Fetches a value in the background to see whether that is still allowed, unless a refresh is
    /// under way.
    pub(crate) fn probe<S: Source<Value = V>>(self: &Arc<Self>, key: &Key<'_>, source: &S) {
        self.fetch_ahead(key, source, |_| true);
    }

    fn fetch_ahead<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: &Key<'_>,
        source: &S,
        is_wanted: impl FnOnce(&Slot<V>) -> bool,
    ) {
        let now = source.settings().now();
        // Before any lock, as in `obtain`.
        if source.settings().loads_in_background().is_err() || backed_off(source, now).is_some() {
            return;
        }
        let Some(slot) = self.slots.find(key).filter(|slot| slot.begin_refresh(now)) else {
            return;
        };
        let end = EndOfRefresh(slot);
        // Now that no other refresh can end.
        if !is_wanted(&end.0) {
            return;
        }
        let (cache, key, task_source) = (Arc::clone(self), (*key).to_owned(), source.clone());
        source.settings().spawn(Box::pin(async move {
            let _end = end;
            // Nobody can join it before its turn: who waits must not wait behind what nobody waits
            // for.
            let Ok(pass) = cache.enter(&key, &task_source, Priority::Background).await else {
                return;
            };
            let Ok(in_background) = task_source.settings().loads_in_background() else { return };
            let mut task = None;
            let load = |landing| {
                let (source, turn) = (task_source.clone(), Turn::Ahead(pass));
                if in_background {
                    let (load, running) = cache.apart(key.clone(), source, turn, landing);
                    task = Some(running);
                    load
                } else {
                    cache.driven(key.clone(), source, turn, landing)
                }
            };
            let flight_key = (key.clone(), cache.gate.number(task_source.share().context));
            let boarding = cache.flights.board(&flight_key, || None::<()>, load);
            // The load itself has recorded any failure.
            match (boarding, task) {
                (_, Some(task)) => task.await,
                (Boarding::Begin(flight) | Boarding::Join(flight), None) => drop(flight.await),
                (Boarding::Landed(()), None) => {}
            }
        }));
    }

    /// Puts in a value that was come by otherwise, and asked for at `asked`.
    pub(crate) fn prime<S: Source<Value = V>>(
        &self,
        key: &Key<'_>,
        value: Arc<V>,
        asked: Moment,
        source: &S,
    ) {
        let invalidations = *self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        let settings = source.settings();
        let asked = (asked, invalidations);
        let entry = Arc::new(Entry::new(value, asked, settings.now(), settings.policy()));
        self.put(&(*key).to_owned(), &entry, source);
    }

    /// The value under `key`, if it exists. Reserves nothing and emits no event.
    pub(crate) fn peek(&self, key: &Key<'_>) -> Option<Arc<V>> {
        self.slots.find(key)?.current()
    }

    /// The entry with the lowest rank among the first ones that have a rank. Prefers entries that
    /// can be refreshed now; ties are broken at random. May look at every entry.
    pub(crate) fn pick(
        &self,
        now: Moment,
        rank: impl Fn(&Key<'_>, &V) -> Option<usize>,
    ) -> Option<(Arc<Place<V>>, Arc<V>)> {
        let found = self.slots.iter().filter_map(|place| {
            let value = place.current()?;
            let rank = (!place.may_refresh(now), rank(&place.key(), &value)?, fastrand::u32(..));
            Some((rank, place, value))
        });
        let lowest = found.take(PICKED_AMONG).min_by_key(|(rank, ..)| *rank);
        lowest.map(|(_, place, value)| (place, value))
    }

    /// Counts an operation that may not use the cache.
    pub(crate) fn bypass(&self, key: &Key<'_>) {
        self.sight.tell(key, EventKind::Bypassed);
    }

    /// Drops the entries that `doomed` picks, and all memory of failures. Nothing that was asked
    /// for before is used by an operation that begins after.
    pub(crate) fn invalidate(&self, doomed: impl Fn(&OwnedKey, &V) -> bool) -> u64 {
        let mut invalidations = self.invalidations.write().unwrap_or_else(PoisonError::into_inner);
        *invalidations += 1;
        self.flights.detach();
        let entries = self.drop_where(doomed);
        self.front.clear();
        self.failures.clear();
        entries
    }

    /// Drops the entries that `doomed` picks, and nothing else. Values that are being loaded may
    /// still arrive, because their source is asked at this moment.
    pub(crate) fn drop_refused(&self, doomed: impl Fn(&OwnedKey, &V) -> bool) {
        let _nothing_moves = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        self.drop_where(doomed);
    }

    fn drop_where(&self, doomed: impl Fn(&OwnedKey, &V) -> bool) -> u64 {
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
        entries
    }

    /// Drops the entry under `key` if it is `unwanted`, and tells whether it was.
    fn drop_if(&self, key: &Key<'_>, unwanted: impl FnOnce(&Slot<V>) -> bool) -> bool {
        let _nothing_moves = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        self.slots.remove_if(key, unwanted)
    }

    /// Drops every entry, as [`invalidate`](Self::invalidate) does.
    pub(crate) fn clear(&self) -> u64 {
        self.invalidate(|_, _| true)
    }

    /// Drops the entries whose values are all older than `age`; a value that is being loaded may
    /// come after.
    pub(crate) fn remove_older_than(&self, age: Duration, now: Moment) -> u64 {
        let _nothing_moves = self.invalidations.read().unwrap_or_else(PoisonError::into_inner);
        self.front.clear();
        self.slots.remove_where(|_, slot| !slot.holds(|entry| entry.age(now) < age))
    }

    /// The age of the oldest value. Looks at each entry.
    pub(crate) fn oldest(&self, now: Moment) -> Option<Duration> {
        self.slots.iter().filter_map(|slot| slot.oldest(now)).max()
    }

    /// What happened so far.
    pub(crate) fn counts(&self) -> Counts {
        self.sight.counts(self.slots.len(), self.slots.bytes())
    }
}

/// Ends a refresh when its task ends or is dropped. Not sooner: an operation that looked just before
/// the new value came would begin another one.
struct EndOfRefresh<V>(Arc<Place<V>>);

impl<V> Drop for EndOfRefresh<V> {
    fn drop(&mut self) {
        self.0.end_refresh();
    }
}
