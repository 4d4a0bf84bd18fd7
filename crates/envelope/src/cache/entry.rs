//! One cached value with its age and usage.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    limits::{Limits, Usage},
    policy::Policy,
};

/// A cached value: shared by those who use it, dropped (and wiped, where it is secret) with the last.
#[derive(Debug)]
pub(crate) struct Entry<V> {
    value: Arc<V>,
    asked: Instant,
    load_time: Duration,
    usage: Usage,
    proven: AtomicBool,
}

impl<V> Entry<V> {
    /// A new entry, of a value that was asked for at `asked` and came at `landed`. Age counts from the first: the
    /// last moment at which the caller was certainly authorized.
    pub(crate) fn new(value: Arc<V>, asked: Instant, landed: Instant) -> Self {
        let load_time = landed.saturating_duration_since(asked);
        Self { value, asked, load_time, usage: Usage::default(), proven: AtomicBool::new(false) }
    }

    /// How long ago the value was asked for.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.asked)
    }

    /// Whether the entry is younger than `max_age`.
    pub(crate) fn is_fresh(&self, now: Instant, max_age: Duration) -> bool {
        self.age(now) < max_age
    }

    /// The value for one message of `bytes` bytes, if the limits on usage allow it; `None` is a use that is not counted.
    pub(crate) fn reserve(&self, limits: &Limits, bytes: Option<u64>) -> Option<Arc<V>> {
        bytes.is_none_or(|bytes| self.usage.reserve(limits, bytes)).then(|| Arc::clone(&self.value))
    }

    /// Whether it is time to fetch the next one.
    pub(crate) fn is_low(&self, now: Instant, policy: &Policy) -> bool {
        policy.is_low(self.age(now), self.usage.used(), self.load_time)
    }

    /// Whether hardly any message fits under it any more.
    pub(crate) fn is_used_up(&self, limits: &Limits) -> bool {
        let (messages, bytes) = self.usage.used();
        // A twentieth of the bytes may stay unused where messages are long.
        messages >= limits.max_messages || bytes > limits.max_bytes - limits.max_bytes / 20
    }

    /// Notes that the value has served.
    pub(crate) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Whether the value has ever served.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// The value, to look at.
    pub(crate) fn value(&self) -> &V {
        &self.value
    }
}
