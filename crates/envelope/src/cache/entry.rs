//! One cached value with its age and usage.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    limits::{Limits, Usage},
    policy::Policy,
};
use crate::time::Moment;

/// A cached value. Its users share it; it is dropped (and wiped, if it is secret) with the last
/// one.
#[derive(Debug)]
pub(crate) struct Entry<V> {
    value: Arc<V>,
    asked: Moment,
    /// The age from which its successor is wanted, however little it was used.
    low_age: Duration,
    load_time: Duration,
    usage: Usage,
    /// The number of invalidations when the value was requested.
    asked_after: u64,
    kept: AtomicBool,
}

impl<V> Entry<V> {
    /// A new entry, whose value was requested at `asked` (with the number of invalidations at that
    /// time) and arrived at `landed`. Its age counts from the request: the last moment at which the
    /// caller was certainly authorized.
    pub(crate) fn new(
        value: Arc<V>,
        (asked, asked_after): (Moment, u64),
        landed: Moment,
        policy: &Policy,
    ) -> Self {
        let load_time = landed.since(asked);
        let low_age = policy.low_age(load_time);
        Self {
            value,
            asked,
            low_age,
            load_time,
            usage: Usage::default(),
            asked_after,
            kept: AtomicBool::new(false),
        }
    }

    /// How long ago the value was asked for.
    #[inline]
    pub(crate) fn age(&self, now: Moment) -> Duration {
        now.since(self.asked)
    }

    /// Whether the entry is younger than `max_age`.
    #[inline]
    pub(crate) fn is_fresh(&self, now: Moment, max_age: Duration) -> bool {
        self.age(now) < max_age
    }

    /// Whether the limits on usage allow one message of `bytes` bytes, which then counts; `None` is
    /// a use that is not counted.
    #[inline]
    pub(crate) fn reserve(&self, limits: &Limits, bytes: Option<u64>) -> bool {
        match bytes {
            Some(bytes) => self.usage.reserve(limits, bytes),
            None => !self.is_used_up(limits),
        }
    }

    /// Whether it is time to fetch the next one, for uses that are `gap` apart.
    #[inline]
    pub(crate) fn is_low(&self, age: Duration, gap: Duration, policy: &Policy) -> bool {
        age >= self.low_age
            || age.saturating_add(gap).saturating_add(gap) >= policy.limits.max_age
            || policy.is_nearly_used(age, self.usage.used(), self.load_time)
    }

    /// Whether hardly any message fits under it any more.
    #[inline]
    pub(crate) fn is_used_up(&self, limits: &Limits) -> bool {
        // A twentieth of the bytes may stay unused where messages are long.
        self.has_no_message_left(limits)
            || self.usage.used().1 > limits.max_bytes - limits.max_bytes / 20
    }

    /// Whether all its messages were reserved or leased.
    pub(crate) fn has_no_message_left(&self, limits: &Limits) -> bool {
        self.usage.used().0 >= limits.max_messages
    }

    /// When the value was requested, and the number of invalidations at that time.
    pub(crate) fn asked(&self) -> (Moment, u64) {
        (self.asked, self.asked_after)
    }

    /// Records that the cache keeps this entry.
    pub(crate) fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Whether the cache keeps this entry, or has kept it.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// The value.
    #[inline]
    pub(crate) fn value(&self) -> &Arc<V> {
        &self.value
    }
}
