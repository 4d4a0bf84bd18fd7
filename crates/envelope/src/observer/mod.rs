//! Receives cache events.

mod event;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tracing")]
mod tracing;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
};

pub use self::event::{Event, EventKind, MissReason, Observer, Operation};
use crate::context::ContextKeys;

/// A load, in a span where there is `tracing`.
pub(crate) fn traced<F: Future>(
    operation: Operation,
    context_keys: ContextKeys<'_>,
    load: F,
) -> impl Future<Output = F::Output> + use<F> {
    #[cfg(feature = "tracing")]
    let load = tracing::in_span(operation, context_keys, load);
    #[cfg(not(feature = "tracing"))]
    let _ = (operation, context_keys);
    load
}

/// Runs a task in the caller's span and subscriber, if there is `tracing`.
pub(crate) fn in_current_span(
    task: impl Future<Output = ()> + Send + 'static,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    #[cfg(feature = "tracing")]
    let task = ::tracing::Instrument::in_current_span(task);
    Box::pin(task)
}

/// All who watch one half of a cache.
#[derive(Debug)]
pub(crate) struct Observers {
    operation: Operation,
    own: Option<Arc<dyn Observer>>,
}

impl Observers {
    /// `own` is the user's; the features `tracing` and `metrics` bring theirs.
    pub(crate) fn new(operation: Operation, own: Option<Arc<dyn Observer>>) -> Self {
        Self { operation, own }
    }

    /// Tells all of them.
    pub(crate) fn tell(&self, context_keys: ContextKeys<'_>, kind: EventKind<'_>) {
        let event = Event { operation: self.operation, context_keys, kind };
        unharmed(|| {
            #[cfg(feature = "tracing")]
            tracing::emit(&event);
            #[cfg(feature = "metrics")]
            metrics::emit(&event);
            if let Some(own) = &self.own {
                own.observe(&event);
            }
        });
    }

    /// Tells of a hit, which only the user's may want to hear: those are too many, and counted
    /// elsewhere.
    #[inline]
    pub(crate) fn hit<'a>(&self, context_keys: impl FnOnce() -> ContextKeys<'a>) {
        if let Some(own) = &self.own {
            let event = Event {
                operation: self.operation,
                context_keys: context_keys(),
                kind: EventKind::Hit,
            };
            unharmed(|| own.observe(&event));
        }
    }

    /// Tells the `metrics` facade of several hits at once.
    #[cfg(feature = "metrics")]
    pub(crate) fn hits(&self, count: u64) {
        unharmed(|| metrics::hits(self.operation, count));
    }
}

/// Calls others' code while our own is in the middle of something: a panic of theirs must not stop
/// ours there.
fn unharmed(call: impl FnOnce()) {
    // The panic's message was shown by the hook.
    let _ = catch_unwind(AssertUnwindSafe(call));
}
