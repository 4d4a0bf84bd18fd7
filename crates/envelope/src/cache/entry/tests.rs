use std::thread;

use super::*;
use crate::{
    cache::{key::tests::key, policy::tests::policy},
    time::Clock,
};

const SECOND: Duration = Duration::from_secs(1);

fn empty(now: Moment) -> Arc<Entry<u8>> {
    Arc::new(Entry::empty(key(b"").to_owned(), 1, now))
}

fn loaded(value: u8, asked: Moment) -> Arc<Loaded<u8>> {
    Arc::new(Loaded::new(Arc::new(value), (asked, 0), asked, &policy(10 * SECOND, 100, 100)))
}

fn take(
    entry: &Entry<u8>,
    now: Moment,
    policy: &Policy,
    bytes: u64,
) -> Result<(u8, bool), MissReason> {
    entry
        .take(now, policy, Some(bytes), |value| **value)
        .map(|taken| (taken.outcome, taken.promoted))
}

#[test]
fn a_standby_replaces_the_current_value_by_age_and_by_usage() {
    let (now, policy) = (Clock::system().now(), policy(10 * SECOND, 3, 100));
    let entry = empty(now);
    assert_eq!(take(&entry, now, &policy, 1), Err(MissReason::Absent));
    assert!(entry.put(&loaded(1, now), now, &policy, false));
    assert!(entry.put(&loaded(2, now), now, &policy, false));
    assert!((0..3).all(|_| take(&entry, now, &policy, 1) == Ok((1, false))));
    assert_eq!(take(&entry, now, &policy, 1), Ok((2, true)));
    assert!(entry.put(&loaded(3, now + 9 * SECOND), now, &policy, false));
    assert_eq!(take(&entry, now + 9 * SECOND, &policy, 1), Ok((2, false)));
    assert_eq!(take(&entry, now + 10 * SECOND, &policy, 1), Ok((3, true)));
    assert_eq!(take(&entry, now + 19 * SECOND, &policy, 1), Err(MissReason::Age));
}

#[test]
fn a_long_message_leaves_room_for_short_ones() {
    let (now, policy) = (Clock::system().now(), policy(10 * SECOND, 100, 100));
    let entry = empty(now);
    entry.put(&loaded(1, now), now, &policy, false);
    assert_eq!(take(&entry, now, &policy, 60), Ok((1, false)));
    assert_eq!(take(&entry, now, &policy, 60), Err(MissReason::Bytes));
    entry.put(&loaded(2, now), now, &policy, false);
    assert_eq!(take(&entry, now, &policy, 60), Ok((2, false)));
    assert_eq!(take(&entry, now, &policy, 38), Ok((1, false)));
    // Hardly anything is left, so the next value takes over, with its remaining limits.
    assert_eq!(take(&entry, now, &policy, 38), Ok((2, true)));
    assert_eq!(take(&entry, now, &policy, 3), Err(MissReason::Bytes));
    assert_eq!(take(&entry, now, &policy, 2), Ok((2, false)));
}

#[test]
fn one_refresh_runs_at_a_time_and_the_next_one_waits_after_a_failure() {
    let now = Clock::system().now();
    let policy = policy(10 * SECOND, 100, 100);
    let entry = empty(now);
    let refresh = entry.begin_refresh(now);
    assert!(refresh.is_some() && entry.begin_refresh(now).is_none() && !entry.may_refresh(now));
    entry.note_failure(now, &policy, 0.0, Some(true));
    drop(refresh);
    assert!(entry.begin_refresh(now).is_none());
    let later = now + SECOND / 10;
    let refresh = entry.begin_refresh(later);
    assert!(refresh.is_some());
    entry.note_failure(later, &policy, 0.0, Some(true));
    drop(refresh);
    assert!(entry.begin_refresh(later + SECOND / 10).is_none());
    entry.put(&loaded(1, now), now, &policy, false);
    assert!(entry.begin_refresh(now).is_some());
}

#[test]
fn in_an_outage_a_value_is_used_past_its_age_up_to_a_limit() {
    let now = Clock::system().now();
    let policy = Policy { stale: 5 * SECOND, ..policy(10 * SECOND, 3, 100) };
    let entry = empty(now);
    entry.put(&loaded(1, now), now, &policy, false);
    assert_eq!(take(&entry, now + 10 * SECOND, &policy, 1), Err(MissReason::Age));
    entry.note_failure(now + 10 * SECOND, &policy, 0.0, Some(true));
    let taken = entry
        .take(now + 10 * SECOND, &policy, Some(1), |_| ())
        .unwrap_or_else(|why| panic!("{why:?}"));
    assert!(taken.stale && taken.wants_refresh);
    assert_eq!(take(&entry, now + 15 * SECOND, &policy, 1), Err(MissReason::Age));
    assert_eq!(take(&entry, now + 14 * SECOND, &policy, 1), Ok((1, false)));
    assert_eq!(take(&entry, now + 14 * SECOND, &policy, 1), Ok((1, false)));
    assert_eq!(take(&entry, now + 14 * SECOND, &policy, 1), Err(MissReason::Messages));
}

#[test]
fn a_failure_that_says_nothing_about_an_outage_neither_begins_nor_ends_one() {
    let now = Clock::system().now();
    let policy = Policy { stale: 5 * SECOND, ..policy(10 * SECOND, 100, 100) };
    let entry = empty(now);
    entry.put(&loaded(1, now), now, &policy, false);
    let later = now + 10 * SECOND;
    entry.note_failure(later, &policy, 0.0, None);
    assert_eq!(take(&entry, later, &policy, 1), Err(MissReason::Age));
    entry.note_failure(later, &policy, 0.0, Some(true));
    entry.note_failure(later, &policy, 0.0, None);
    assert!(take(&entry, later, &policy, 1).is_ok());
    entry.note_failure(later, &policy, 0.0, Some(false));
    assert_eq!(take(&entry, later, &policy, 1), Err(MissReason::Age));
}

#[test]
fn in_an_outage_a_standby_past_its_age_is_used_if_the_current_value_is_spent_or_older() {
    let now = Clock::system().now();
    let policy = Policy { stale: 5 * SECOND, ..policy(10 * SECOND, 100, 100) };
    for asked in [now, now + 4 * SECOND] {
        let entry = empty(now);
        entry.put(&loaded(1, now), now, &policy, false);
        assert_eq!(take(&entry, now, &policy, 94), Ok((1, false)));
        entry.put(&loaded(2, asked), now, &policy, false);
        let later = asked + 14 * SECOND;
        entry.note_failure(later, &policy, 0.0, Some(true));
        assert_eq!(take(&entry, later, &policy, 39), Ok((2, true)));
        assert_eq!(take(&entry, later + SECOND, &policy, 39), Err(MissReason::Age));
    }
}

#[test]
fn a_revived_entry_takes_over_values_and_failures() {
    let now = Clock::system().now();
    let policy = Policy { stale: 5 * SECOND, ..policy(10 * SECOND, 100, 100) };
    let (first, second) = (empty(now), empty(now));
    first.note_failure(now, &policy, 0.0, Some(true));
    first.retire();
    second.put(&loaded(1, now), now, &policy, false);
    first.revive(Some(&second));
    assert_eq!(take(&first, now + 10 * SECOND, &policy, 1), Err(MissReason::Age));
    first.retire();
    second.note_failure(now, &policy, 0.0, Some(true));
    first.revive(Some(&second));
    assert_eq!(take(&first, now + 10 * SECOND, &policy, 1), Ok((1, false)));
    assert!(first.begin_refresh(now).is_none());
}

#[test]
fn a_retired_entry_holds_no_value_and_takes_none() {
    let (now, policy) = (Clock::system().now(), policy(10 * SECOND, 3, 100));
    let entry = empty(now);
    let value = Arc::new(1);
    entry.put(
        &Arc::new(Loaded::new(Arc::clone(&value), (now, 0), now, &policy)),
        now,
        &policy,
        false,
    );
    entry.retire();
    assert_eq!(Arc::strong_count(&value), 1);
    assert!(!entry.put(&loaded(2, now), now, &policy, false));
    assert_eq!(take(&entry, now, &policy, 1), Err(MissReason::Absent));
}

/// Threads use up values while another one adds standbys. No value is used more often than its
/// limit allows, and a caller finds nothing only if there is nothing.
#[test]
fn threads_together_spend_each_value_exactly() {
    const VALUES: u8 = 200;
    let (now, policy) = (Clock::system().now(), policy(10 * SECOND, 100, u64::MAX));
    let (entry, done) = (empty(now), AtomicBool::new(false));
    let served: Vec<u64> = thread::scope(|scope| {
        let drain = || {
            let (mut served, mut last) = (vec![0; VALUES.into()], 0);
            loop {
                let is_last_look = done.load(Relaxed);
                match take(&entry, now, &policy, 1) {
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
            entry.put(&loaded(value, now), now, &policy, false);
            // So that no standby is replaced by another one.
            while entry.has_standby() {
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
