//! What the cache holds under one key.

use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::AtomicU64 as Count},
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    key::{Key, OwnedKey},
    loaded::Loaded,
    policy::Policy,
};
use crate::{
    observer::MissReason,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Moment,
};

/// What the cache holds under one key: a current value, and a standby that replaces it.
///
/// Both change in one atomic swap. A caller that finds the current value spent therefore finds the
/// standby at the same time.
pub(crate) struct Entry<V> {
    key: OwnedKey,
    state: ArcSwap<State<V>>,
    /// When a value was last used, rounded to a thirty-second of the maximum age, so that few uses
    /// write it.
    last_use: AtomicU64,
    /// Whether the last load failed in a way that may pass. Then a value may be used past its age.
    in_outage: AtomicBool,
    pacing: Mutex<Pacing>,
    /// How many entries had been created when the store last counted a use of this one.
    touched: Count,
    /// The approximate size in bytes. Changed only while no other thread can find the entry. Read
    /// under locks of the store that shuttle cannot see, so it must not switch threads here.
    bytes: Count,
}

/// The values of an entry. Never changed, only replaced.
enum State<V> {
    Live {
        current: Option<Arc<Loaded<V>>>,
        standby: Option<Arc<Loaded<V>>>,
    },
    /// The entry has left the cache, and takes no values any more.
    Retired,
}

/// When the next refresh may start.
///
/// This is separate from the memory of failures, which fails callers, and which time and
/// invalidations clear. A failed refresh fails no caller. It only delays the next refresh, and the
/// delay grows with each failure until a value is kept.
#[derive(Debug, Default)]
struct Pacing {
    is_refreshing: bool,
    /// How many loads have failed since a value was kept.
    failures: u32,
    not_before: Moment,
}

/// A value that was taken from an entry.
pub(crate) struct Taken<R> {
    /// The result of borrowing the value.
    pub(crate) outcome: R,
    /// Whether the next value should be loaded now.
    pub(crate) wants_refresh: bool,
    /// Whether the value was past its age.
    pub(crate) stale: bool,
    /// Whether the standby has replaced the current value.
    pub(crate) promoted: bool,
}

impl<V> Entry<V> {
    /// Returns an entry without a value.
    pub(crate) fn empty(key: OwnedKey, bytes: u64, now: Moment) -> Self {
        Self {
            key,
            state: ArcSwap::from_pointee(State::Live { current: None, standby: None }),
            last_use: AtomicU64::new(now.to_nanos()),
            in_outage: AtomicBool::new(false),
            pacing: Mutex::default(),
            touched: Count::new(0),
            bytes: Count::new(bytes),
        }
    }

    /// Returns the key that the entry is found by.
    pub(crate) fn key(&self) -> Key<'_> {
        self.key.borrow()
    }

    /// Returns the key that the entry is found by, for keeping.
    pub(crate) fn owned_key(&self) -> &OwnedKey {
        &self.key
    }

    /// Returns the approximate size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Raises the size to `bytes`, and returns by how much. Only for the store.
    pub(crate) fn grow(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.bytes.fetch_max(bytes, Relaxed))
    }

    /// Records a use, and returns whether it is the first since `created` entries were created.
    /// Only for the store.
    #[inline]
    pub(crate) fn touch(&self, created: u64) -> bool {
        let is_first = self.touched.load(Relaxed) != created;
        if is_first {
            self.touched.store(created, Relaxed);
        }
        is_first
    }

    /// Lends a value for one message of `bytes` bytes; `None` is a use that is not counted.
    ///
    /// Does not wait. The value is lent without changing its reference count, so that threads do
    /// not contend for it.
    ///
    /// # Errors
    ///
    /// Why no value can be used: [`MissReason::Absent`], `Age`, `Messages` or `Bytes`.
    #[inline]
    pub(crate) fn take<R>(
        &self,
        now: Moment,
        policy: &Policy,
        bytes: Option<u64>,
        borrow: impl FnOnce(&Arc<V>) -> R,
    ) -> Result<Taken<R>, MissReason> {
        let gap = self.used(now, policy.min_gap());
        let mut promoted = false;
        loop {
            let state = self.state.load();
            let State::Live { current: Some(current), standby: any_standby } = &**state else {
                return Err(MissReason::Absent);
            };
            let standby = any_standby.as_ref().filter(|it| it.is_fresh(now, policy.max_age));
            let fresh = current.is_fresh(now, policy.max_age);
            let past_age =
                !fresh && standby.is_none() && self.may_be_stale(current.age(now), policy);
            if fresh || past_age {
                if current.reserve(policy, bytes) {
                    let wants_refresh = policy.refresh_ahead
                        && standby.is_none()
                        && current.is_low(now, gap, policy);
                    return Ok(Taken {
                        outcome: borrow(current.value()),
                        wants_refresh,
                        stale: past_age,
                        promoted,
                    });
                }
                // A long message does not spend a value in which short ones still have room.
                let mut standby = standby.filter(|_| !current.is_used_up(policy));
                if let Some(standby) = standby.take_if(|standby| standby.reserve(policy, bytes)) {
                    let outcome = borrow(standby.value());
                    return Ok(Taken { outcome, wants_refresh: false, stale: false, promoted });
                }
            }
            // In an outage, even a standby past its age is better than the current value.
            let Some(next) = standby.or(any_standby.as_ref().filter(|_| !fresh)) else {
                return Err(match fresh || past_age {
                    false => MissReason::Age,
                    true if current.has_no_message_left(policy) => MissReason::Messages,
                    true => MissReason::Bytes,
                });
            };
            let next = Arc::new(State::Live { current: Some(Arc::clone(next)), standby: None });
            let found = self.state.compare_and_swap(&state, next);
            promoted |= Arc::ptr_eq(&found, &state);
        }
    }

    /// Puts a value in, and returns whether the entry is still in the cache.
    ///
    /// The value becomes the standby if the current one can still be used, or else replaces it.
    /// With `in_place`, it always replaces it.
    pub(crate) fn put(
        &self,
        value: &Arc<Loaded<V>>,
        now: Moment,
        policy: &Policy,
        in_place: bool,
    ) -> bool {
        let state = self.state.rcu(|state| match &**state {
            State::Retired => Arc::clone(state),
            State::Live { current: Some(current), .. }
                if !in_place
                    && current.is_fresh(now, policy.max_age)
                    && !current.is_used_up(policy) =>
            {
                Arc::new(State::Live {
                    current: Some(Arc::clone(current)),
                    standby: Some(Arc::clone(value)),
                })
            }
            State::Live { .. } => {
                Arc::new(State::Live { current: Some(Arc::clone(value)), standby: None })
            }
        });
        self.in_outage.store(false, Relaxed);
        let mut pacing = self.pacing();
        pacing.failures = 0;
        pacing.not_before = Moment::default();
        matches!(&*state, State::Live { .. })
    }

    /// Drops the values. The entry takes no further ones.
    pub(crate) fn retire(&self) {
        self.state.store(Arc::new(State::Retired));
    }

    /// Returns whether the entry was retired.
    pub(crate) fn is_retired(&self) -> bool {
        matches!(&**self.state.load(), State::Retired)
    }

    /// Makes a retired entry live again, with the values and the failures of the entry that it
    /// replaces.
    pub(crate) fn revive(&self, replaced: Option<&Self>) {
        self.in_outage.store(replaced.is_some_and(|it| it.in_outage.load(Relaxed)), Relaxed);
        let (failures, not_before) = replaced.map_or((0, Moment::default()), |replaced| {
            let pacing = replaced.pacing();
            (pacing.failures, pacing.not_before)
        });
        let mut pacing = self.pacing();
        pacing.failures = failures;
        pacing.not_before = not_before;
        drop(pacing);
        let inherited = replaced.map(|replaced| replaced.state.load_full());
        let empty = || Arc::new(State::Live { current: None, standby: None });
        self.state.rcu(|state| match (&**state, &inherited) {
            (State::Live { .. }, _) => Arc::clone(state),
            (State::Retired, Some(inherited)) if matches!(**inherited, State::Live { .. }) => {
                Arc::clone(inherited)
            }
            (State::Retired, _) => empty(),
        });
    }

    /// Returns whether any of its values is `wanted`.
    pub(crate) fn holds(&self, wanted: impl Fn(&Loaded<V>) -> bool) -> bool {
        match &**self.state.load() {
            State::Live { current, standby } => {
                [current, standby].into_iter().flatten().any(|value| wanted(value))
            }
            State::Retired => false,
        }
    }

    /// Returns the current value.
    pub(crate) fn current(&self) -> Option<Arc<V>> {
        match &**self.state.load() {
            State::Live { current: Some(current), .. } => Some(Arc::clone(current.value())),
            _ => None,
        }
    }

    /// Returns the age of its oldest value.
    pub(crate) fn oldest(&self, now: Moment) -> Option<Duration> {
        match &**self.state.load() {
            State::Live { current, standby } => {
                [current, standby].into_iter().flatten().map(|it| it.age(now)).max()
            }
            State::Retired => None,
        }
    }

    /// Returns whether there is a standby.
    #[cfg(test)]
    pub(crate) fn has_standby(&self) -> bool {
        matches!(&**self.state.load(), State::Live { standby: Some(_), .. })
    }

    /// Returns whether a refresh may start.
    pub(crate) fn may_refresh(&self, now: Moment) -> bool {
        self.pacing().may_refresh(now)
    }

    /// Starts a refresh, unless one is running or a failure was too recent.
    ///
    /// The refresh ends when the result is dropped.
    pub(crate) fn begin_refresh(self: &Arc<Self>, now: Moment) -> Option<Refresh<V>> {
        let mut pacing = self.pacing();
        if !pacing.may_refresh(now) {
            return None;
        }
        pacing.is_refreshing = true;
        Some(Refresh(Arc::clone(self)))
    }

    /// Returns whether a refresh has just loaded a value.
    ///
    /// An operation that looked before the refresh ended may want another one.
    pub(crate) fn is_refreshed(&self, now: Moment, policy: &Policy, in_place: bool) -> bool {
        match &**self.state.load() {
            State::Live { current: Some(current), .. } if in_place => {
                current.age_nanos(now) < policy.just_refreshed()
            }
            State::Live { standby, .. } => standby.is_some(),
            State::Retired => false,
        }
    }

    /// Records that a load failed, so that the next refresh waits.
    ///
    /// `outage` says whether values may be used past their age from now on. `None` changes nothing,
    /// because the failure says nothing about an outage.
    pub(crate) fn note_failure(
        &self,
        now: Moment,
        policy: &Policy,
        chance: f64,
        outage: Option<bool>,
    ) {
        if let Some(outage) = outage {
            self.in_outage.store(outage, Relaxed);
        }
        let mut pacing = self.pacing();
        pacing.failures = pacing.failures.saturating_add(1);
        pacing.not_before = now + policy.backoff(pacing.failures, chance);
    }

    #[inline]
    fn may_be_stale(&self, age: Duration, policy: &Policy) -> bool {
        age < policy.max_age.saturating_add(policy.stale) && self.in_outage.load(Relaxed)
    }

    /// Records a use, and returns the nanoseconds since the last one: zero if fewer than `min`.
    #[inline]
    fn used(&self, now: Moment, min: u64) -> u64 {
        let gap = now.nanos_since(Moment::from_nanos(self.last_use.load(Relaxed)));
        if gap < min {
            return 0;
        }
        self.last_use.fetch_max(now.to_nanos(), Relaxed);
        gap
    }

    /// Valid between any two statements, so a panic of another thread does no harm.
    fn pacing(&self) -> MutexGuard<'_, Pacing> {
        self.pacing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pacing {
    fn may_refresh(&self, now: Moment) -> bool {
        !self.is_refreshing && now >= self.not_before
    }
}

impl<V> fmt::Debug for Entry<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A running refresh of an entry, until it is dropped.
pub(crate) struct Refresh<V>(Arc<Entry<V>>);

impl<V> Refresh<V> {
    /// Returns the entry.
    pub(crate) fn entry(&self) -> &Entry<V> {
        &self.0
    }
}

impl<V> Drop for Refresh<V> {
    fn drop(&mut self) {
        self.0.pacing().is_refreshing = false;
    }
}

#[cfg(test)]
mod tests;
