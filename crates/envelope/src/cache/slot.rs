//! The place of one key in the cache: the value in use, and the one that takes its place.

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    entry::Entry,
    policy::Policy,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};
use crate::time::Moment;

/// Holds a current and a standby value. Both change by one swap, so a caller that finds the current
/// one spent finds its successor at the same time.
pub(crate) struct Slot<V> {
    state: ArcSwap<State<V>>,
    /// When the slot was last used, to a thirty-second of the age: so that few uses write.
    last_use: AtomicU64,
    /// The last refresh failed in a way that may pass, so a value past its age may serve for a
    /// while.
    in_outage: AtomicBool,
    refresh: Mutex<Refresh>,
}

/// The content of a slot. Never changed, only replaced.
enum State<V> {
    Live {
        current: Option<Arc<Entry<V>>>,
        standby: Option<Arc<Entry<V>>>,
    },
    /// Taken out of the cache: nothing is put in any more.
    Retired,
}

/// The state of refreshing.
#[derive(Debug, Default)]
struct Refresh {
    under_way: bool,
    failures: u32,
    not_before: Moment,
}

/// What a value out of a slot was good for, and what else came of it.
pub(crate) struct Taken<R> {
    pub(crate) outcome: R,
    /// Whether the next value should be fetched now.
    pub(crate) wants_refresh: bool,
    /// Whether it was past its age.
    pub(crate) stale: bool,
    /// Whether the standby took the current one's place.
    pub(crate) promoted: bool,
}

/// Why nothing could be taken out of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vacant {
    /// Nothing was there.
    Absent,
    /// It was too old.
    Age,
    /// Its messages were spent.
    Messages,
    /// It had not as many bytes left.
    Bytes,
}

impl<V> Slot<V> {
    /// A slot with nothing in it.
    pub(crate) fn empty(now: Moment) -> Self {
        let state = ArcSwap::from_pointee(State::Live { current: None, standby: None });
        let (last_use, in_outage) = (AtomicU64::new(now.to_nanos()), AtomicBool::new(false));
        Self { state, last_use, in_outage, refresh: Mutex::default() }
    }

    /// Lends a value for one message of `bytes` bytes; `None` is a use that is not counted. Waits
    /// for nothing.
    ///
    /// It is lent without counting who holds it, so that threads do not get into each other's way.
    #[inline]
    pub(crate) fn take<R>(
        &self,
        now: Moment,
        policy: &Policy,
        bytes: Option<u64>,
        borrow: impl FnOnce(&Arc<V>) -> R,
    ) -> Result<Taken<R>, Vacant> {
        let limits = &policy.limits;
        let gap = self.used(now, policy.least_gap());
        let mut promoted = false;
        loop {
            let state = self.state.load();
            let State::Live { current: Some(current), standby } = &**state else {
                return Err(Vacant::Absent);
            };
            let (next, standby) =
                (standby.as_ref(), standby.as_ref().filter(|it| it.is_fresh(now, limits.max_age)));
            let age = current.age(now);
            let fresh = age < limits.max_age;
            let past_age = !fresh && standby.is_none() && self.may_be_stale(age, policy);
            if fresh || past_age {
                if current.reserve(limits, bytes) {
                    let wants_refresh = policy.refresh_ahead
                        && standby.is_none()
                        && current.is_low(age, gap, policy);
                    return Ok(Taken {
                        outcome: borrow(current.value()),
                        wants_refresh,
                        stale: past_age,
                        promoted,
                    });
                }
                // A long message does not spend a value in which short ones still have room.
                let mut standby = standby.filter(|_| !current.is_used_up(limits));
                if let Some(standby) = standby.take_if(|standby| standby.reserve(limits, bytes)) {
                    let outcome = borrow(standby.value());
                    return Ok(Taken { outcome, wants_refresh: false, stale: false, promoted });
                }
            }
            // In an outage, a standby that is past its age as well is the better one.
            let Some(next) = standby.or(next.filter(|_| !fresh)) else {
                return Err(match fresh || past_age {
                    false => Vacant::Age,
                    true if current.has_no_message_left(limits) => Vacant::Messages,
                    true => Vacant::Bytes,
                });
            };
            let next = Arc::new(State::Live { current: Some(Arc::clone(next)), standby: None });
            let found = self.state.compare_and_swap(&state, next);
            promoted |= Arc::ptr_eq(&found, &state);
        }
    }

    /// Puts a value in: beside the current one where that is still good, or else in its place.
    /// False if the slot was retired.
    pub(crate) fn put(
        &self,
        entry: &Arc<Entry<V>>,
        now: Moment,
        policy: &Policy,
        in_place: bool,
    ) -> bool {
        let limits = &policy.limits;
        let state = self.state.rcu(|state| match &**state {
            State::Retired => Arc::clone(state),
            State::Live { current: Some(current), .. }
                if !in_place
                    && current.is_fresh(now, limits.max_age)
                    && !current.is_used_up(limits) =>
            {
                Arc::new(State::Live {
                    current: Some(Arc::clone(current)),
                    standby: Some(Arc::clone(entry)),
                })
            }
            State::Live { .. } => {
                Arc::new(State::Live { current: Some(Arc::clone(entry)), standby: None })
            }
        });
        self.in_outage.store(false, Relaxed);
        let mut refresh = self.lock();
        (refresh.failures, refresh.not_before) = (0, Moment::default());
        matches!(&*state, State::Live { .. })
    }

    /// Empties the slot; nothing is put in from now on.
    pub(crate) fn retire(&self) {
        self.state.store(Arc::new(State::Retired));
    }

    /// Whether it was retired.
    pub(crate) fn is_retired(&self) -> bool {
        matches!(&**self.state.load(), State::Retired)
    }

    /// Takes the place of `other`, with what that holds and what its loads came to, if this slot
    /// was retired.
    pub(crate) fn succeed(&self, other: Option<&Self>) {
        self.in_outage.store(other.is_some_and(|other| other.in_outage.load(Relaxed)), Relaxed);
        let (failures, not_before) = other.map_or((0, Moment::default()), |other| {
            let refresh = other.lock();
            (refresh.failures, refresh.not_before)
        });
        let mut refresh = self.lock();
        (refresh.failures, refresh.not_before) = (failures, not_before);
        drop(refresh);
        let heritage = other.map(|other| other.state.load_full());
        let empty = || Arc::new(State::Live { current: None, standby: None });
        self.state.rcu(|state| match (&**state, &heritage) {
            (State::Live { .. }, _) => Arc::clone(state),
            (State::Retired, Some(heritage)) if matches!(**heritage, State::Live { .. }) => {
                Arc::clone(heritage)
            }
            (State::Retired, _) => empty(),
        });
    }

    /// Whether any of its values is `wanted`.
    pub(crate) fn holds(&self, wanted: impl Fn(&Entry<V>) -> bool) -> bool {
        match &**self.state.load() {
            State::Live { current, standby } => {
                [current, standby].into_iter().flatten().any(|entry| wanted(entry))
            }
            State::Retired => false,
        }
    }

    /// The current value.
    pub(crate) fn current(&self) -> Option<Arc<V>> {
        match &**self.state.load() {
            State::Live { current: Some(current), .. } => Some(Arc::clone(current.value())),
            _ => None,
        }
    }

    /// Whether a refresh may start.
    pub(crate) fn may_refresh(&self, now: Moment) -> bool {
        let refresh = self.lock();
        !refresh.under_way && now >= refresh.not_before
    }

    /// The age of its oldest value.
    pub(crate) fn oldest(&self, now: Moment) -> Option<Duration> {
        match &**self.state.load() {
            State::Live { current, standby } => {
                [current, standby].into_iter().flatten().map(|it| it.age(now)).max()
            }
            State::Retired => None,
        }
    }

    /// Whether a standby waits.
    #[cfg(test)]
    pub(crate) fn has_standby(&self) -> bool {
        matches!(&**self.state.load(), State::Live { standby: Some(_), .. })
    }

    /// Whether the caller is the one to refresh; then it must tell how that ended.
    pub(crate) fn begin_refresh(&self, now: Moment) -> bool {
        let mut refresh = self.lock();
        let may = !refresh.under_way && now >= refresh.not_before;
        refresh.under_way |= may;
        may
    }

    /// Whether a refresh has just brought a value: to an operation that looked before, that one
    /// seemed to be missing.
    pub(crate) fn is_refreshed(&self, now: Moment, policy: &Policy, in_place: bool) -> bool {
        match &**self.state.load() {
            State::Live { current: Some(current), .. } if in_place => {
                current.age(now) < policy.least_gap()
            }
            State::Live { standby, .. } => standby.is_some(),
            State::Retired => false,
        }
    }

    /// The refresh has ended, well or not.
    pub(crate) fn end_refresh(&self) {
        self.lock().under_way = false;
    }

    /// Records that a load failed, so that the next refresh waits. In an `outage` that may pass,
    /// values past their age may be served; `None` if the failure says nothing about an outage.
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
        let mut refresh = self.lock();
        refresh.failures = refresh.failures.saturating_add(1);
        refresh.not_before = now + policy.backoff(refresh.failures, chance);
    }

    #[inline]
    fn may_be_stale(&self, age: Duration, policy: &Policy) -> bool {
        let ceiling = policy.limits.max_age.saturating_add(policy.stale);
        age < ceiling && self.in_outage.load(Relaxed)
    }

    /// Notes a use, and tells how long it was after the one before: zero where that is less than
    /// `least`.
    #[inline]
    fn used(&self, now: Moment, least: Duration) -> Duration {
        let gap = now.since(Moment::from_nanos(self.last_use.load(Relaxed)));
        if gap < least {
            return Duration::ZERO;
        }
        self.last_use.fetch_max(now.to_nanos(), Relaxed);
        gap
    }

    /// Whole between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Refresh> {
        self.refresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> fmt::Debug for Slot<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::{cache::policy::tests::policy, time::Clock};

    const SECOND: Duration = Duration::from_secs(1);

    fn entry(value: u8, asked: Moment) -> Arc<Entry<u8>> {
        Arc::new(Entry::new(Arc::new(value), (asked, 0), asked, &policy(10 * SECOND, 100, 100)))
    }

    fn take(
        slot: &Slot<u8>,
        now: Moment,
        policy: &Policy,
        bytes: u64,
    ) -> Result<(u8, bool), Vacant> {
        slot.take(now, policy, Some(bytes), |value| **value)
            .map(|taken| (taken.outcome, taken.promoted))
    }

    #[test]
    fn a_standby_takes_over_by_age_and_by_usage() {
        let (now, policy) = (Clock::system().now(), policy(10 * SECOND, 3, 100));
        let slot = Slot::empty(now);
        assert_eq!(take(&slot, now, &policy, 1), Err(Vacant::Absent));
        assert!(slot.put(&entry(1, now), now, &policy, false));
        assert!(slot.put(&entry(2, now), now, &policy, false));
        assert!((0..3).all(|_| take(&slot, now, &policy, 1) == Ok((1, false))));
        assert_eq!(take(&slot, now, &policy, 1), Ok((2, true)));
        assert!(slot.put(&entry(3, now + 9 * SECOND), now, &policy, false));
        assert_eq!(take(&slot, now + 9 * SECOND, &policy, 1), Ok((2, false)));
        assert_eq!(take(&slot, now + 10 * SECOND, &policy, 1), Ok((3, true)));
        assert_eq!(take(&slot, now + 19 * SECOND, &policy, 1), Err(Vacant::Age));
    }

    #[test]
    fn a_long_message_leaves_room_for_short_ones() {
        let (now, policy) = (Clock::system().now(), policy(10 * SECOND, 100, 100));
        let slot = Slot::empty(now);
        slot.put(&entry(1, now), now, &policy, false);
        assert_eq!(take(&slot, now, &policy, 60), Ok((1, false)));
        assert_eq!(take(&slot, now, &policy, 60), Err(Vacant::Bytes));
        slot.put(&entry(2, now), now, &policy, false);
        assert_eq!(take(&slot, now, &policy, 60), Ok((2, false)));
        assert_eq!(take(&slot, now, &policy, 38), Ok((1, false)));
        // Hardly anything is left, so the next value takes over, with its remaining limits.
        assert_eq!(take(&slot, now, &policy, 38), Ok((2, true)));
        assert_eq!(take(&slot, now, &policy, 3), Err(Vacant::Bytes));
        assert_eq!(take(&slot, now, &policy, 2), Ok((2, false)));
    }

    #[test]
    fn a_refresh_is_one_persons_and_waits_after_a_failure() {
        let (now, policy) = (Clock::system().now(), policy(10 * SECOND, 100, 100));
        let slot = Slot::<u8>::empty(now);
        assert!(slot.begin_refresh(now) && !slot.begin_refresh(now));
        slot.note_failure(now, &policy, 0.0, Some(true));
        slot.end_refresh();
        assert!(!slot.begin_refresh(now));
        assert!(slot.begin_refresh(now + SECOND / 10));
        slot.note_failure(now + SECOND / 10, &policy, 0.0, Some(true));
        slot.end_refresh();
        assert!(!slot.begin_refresh(now + SECOND / 5));
        slot.put(&entry(1, now), now, &policy, false);
        assert!(slot.begin_refresh(now));
    }

    #[test]
    fn past_its_age_a_value_serves_in_an_outage_up_to_the_ceiling_alone() {
        let now = Clock::system().now();
        let policy = Policy { stale: 5 * SECOND, ..policy(10 * SECOND, 3, 100) };
        let slot = Slot::empty(now);
        slot.put(&entry(1, now), now, &policy, false);
        assert_eq!(take(&slot, now + 10 * SECOND, &policy, 1), Err(Vacant::Age));
        slot.note_failure(now + 10 * SECOND, &policy, 0.0, Some(true));
        let taken = slot
            .take(now + 10 * SECOND, &policy, Some(1), |_| ())
            .unwrap_or_else(|why| panic!("{why:?}"));
        assert!(taken.stale && taken.wants_refresh);
        assert_eq!(take(&slot, now + 15 * SECOND, &policy, 1), Err(Vacant::Age));
        assert_eq!(take(&slot, now + 14 * SECOND, &policy, 1), Ok((1, false)));
        assert_eq!(take(&slot, now + 14 * SECOND, &policy, 1), Ok((1, false)));
        assert_eq!(take(&slot, now + 14 * SECOND, &policy, 1), Err(Vacant::Messages));
    }

    #[test]
    fn a_failure_that_is_not_about_an_outage_neither_begins_nor_ends_one() {
        let now = Clock::system().now();
        let policy = Policy { stale: 5 * SECOND, ..policy(10 * SECOND, 100, 100) };
        let slot = Slot::empty(now);
        slot.put(&entry(1, now), now, &policy, false);
        let later = now + 10 * SECOND;
        slot.note_failure(later, &policy, 0.0, None);
        assert_eq!(take(&slot, later, &policy, 1), Err(Vacant::Age));
        slot.note_failure(later, &policy, 0.0, Some(true));
        slot.note_failure(later, &policy, 0.0, None);
        assert!(take(&slot, later, &policy, 1).is_ok());
        slot.note_failure(later, &policy, 0.0, Some(false));
        assert_eq!(take(&slot, later, &policy, 1), Err(Vacant::Age));
    }

    #[test]
    fn in_an_outage_a_standby_serves_past_its_age_when_the_current_one_is_spent_or_older() {
        let now = Clock::system().now();
        let policy = Policy { stale: 5 * SECOND, ..policy(10 * SECOND, 100, 100) };
        for asked in [now, now + 4 * SECOND] {
            let slot = Slot::empty(now);
            slot.put(&entry(1, now), now, &policy, false);
            assert_eq!(take(&slot, now, &policy, 94), Ok((1, false)));
            slot.put(&entry(2, asked), now, &policy, false);
            let later = asked + 14 * SECOND;
            slot.note_failure(later, &policy, 0.0, Some(true));
            assert_eq!(take(&slot, later, &policy, 39), Ok((2, true)));
            assert_eq!(take(&slot, later + SECOND, &policy, 39), Err(Vacant::Age));
        }
    }

    #[test]
    fn what_succeeds_a_slot_knows_what_its_loads_came_to() {
        let now = Clock::system().now();
        let policy = Policy { stale: 5 * SECOND, ..policy(10 * SECOND, 100, 100) };
        let (first, second) = (Slot::empty(now), Slot::empty(now));
        first.note_failure(now, &policy, 0.0, Some(true));
        first.retire();
        second.put(&entry(1, now), now, &policy, false);
        first.succeed(Some(&second));
        assert_eq!(take(&first, now + 10 * SECOND, &policy, 1), Err(Vacant::Age));
        first.retire();
        second.note_failure(now, &policy, 0.0, Some(true));
        first.succeed(Some(&second));
        assert_eq!(take(&first, now + 10 * SECOND, &policy, 1), Ok((1, false)));
        assert!(!first.begin_refresh(now));
    }

    #[test]
    fn what_was_retired_stays_empty_and_holds_nothing() {
        let (now, policy) = (Clock::system().now(), policy(10 * SECOND, 3, 100));
        let slot = Slot::empty(now);
        let value = Arc::new(1);
        slot.put(
            &Arc::new(Entry::new(Arc::clone(&value), (now, 0), now, &policy)),
            now,
            &policy,
            false,
        );
        slot.retire();
        assert_eq!(Arc::strong_count(&value), 1);
        assert!(!slot.put(&entry(2, now), now, &policy, false));
        assert_eq!(take(&slot, now, &policy, 1), Err(Vacant::Absent));
    }

    /// Threads drain values while another one adds standby values: no value serves more often than
    /// its limit, and a caller finds nothing only if there was nothing.
    #[test]
    fn threads_together_spend_each_value_exactly() {
        const VALUES: u8 = 200;
        let (now, policy) = (Clock::system().now(), policy(10 * SECOND, 100, u64::MAX));
        let (slot, done) = (Slot::empty(now), AtomicBool::new(false));
        let served: Vec<u64> = thread::scope(|scope| {
            let drain = || {
                let (mut served, mut last) = (vec![0; VALUES.into()], 0);
                loop {
                    let is_last_look = done.load(Relaxed);
                    match take(&slot, now, &policy, 1) {
                        Ok((value, _)) => {
                            assert!(value >= last, "a spent value came back");
                            last = value;
                            served[usize::from(value)] += 1;
                        }
                        Err(_) if is_last_look => return served,
                        Err(_) => thread::yield_now(),
                    }
                }
            };
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(drain)).collect();
            for value in 0..VALUES {
                slot.put(&entry(value, now), now, &policy, false);
                // The next one when this one is in use: a standby is never replaced by another.
                while slot.has_standby() {
                    thread::yield_now();
                }
            }
            done.store(true, Relaxed);
            let mut total = vec![0; VALUES.into()];
            for thread in threads {
                total
                    .iter_mut()
                    .zip(thread.join().unwrap())
                    .for_each(|(total, served)| *total += served);
            }
            total
        });
        assert_eq!(served, vec![100; VALUES.into()]);
    }
}
