//! One cached value with its age and usage.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::limits::{Limits, Usage};

/// A cached value: shared by those who use it, dropped (and wiped, where it is secret) with the last.
#[derive(Debug)]
pub(crate) struct Entry<V> {
    value: Arc<V>,
    created: Instant,
    usage: Usage,
    proven: AtomicBool,
}

impl<V> Entry<V> {
    /// A new entry. `created` is when its value was asked for, not when it came: age counts from the
    /// last moment at which the caller was certainly authorized.
    pub(crate) fn new(value: Arc<V>, created: Instant) -> Self {
        Self { value, created, usage: Usage::default(), proven: AtomicBool::new(false) }
    }

    /// Whether the entry is younger than `max_age`.
    pub(crate) fn is_fresh(&self, now: Instant, max_age: Duration) -> bool {
        now.saturating_duration_since(self.created) < max_age
    }

    /// The value for one message of `bytes` bytes, if the limits on usage allow it.
    pub(crate) fn reserve(&self, limits: &Limits, bytes: u64) -> Option<Arc<V>> {
        self.usage.reserve(limits, bytes).then(|| self.value())
    }

    /// Notes that the value has served.
    pub(crate) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Whether the value has ever served.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// The value, for uses that are not counted.
    pub(crate) fn value(&self) -> Arc<V> {
        Arc::clone(&self.value)
    }
}
