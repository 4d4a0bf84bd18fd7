//! Cache events for your own [`Observer`], for `tracing` and for the `metrics` facade.

mod event;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tracing")]
mod tracing;

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
};

pub use self::event::{Event, EventKind, MissReason, Observer, Operation};
use crate::context::ContextKeys;

/// Runs a load in a span of its own, with the feature `tracing`.
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

/// Runs a load of the branch key `id` in a span of its own, with the feature `tracing`.
pub(crate) fn traced_branch_key<F: Future>(
    operation: Operation,
    id: &str,
    load: F,
) -> impl Future<Output = F::Output> + use<F> {
    #[cfg(feature = "tracing")]
    let load = tracing::in_branch_key_span(operation, id, load);
    #[cfg(not(feature = "tracing"))]
    let _ = (operation, id);
    load
}

/// Runs a task in the caller's span and subscriber, with the feature `tracing`.
pub(crate) fn in_current_span(
    task: impl Future<Output = ()> + Send + 'static,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    #[cfg(feature = "tracing")]
    let task = ::tracing::Instrument::in_current_span(task);
    Box::pin(task)
}

/// The observers of one half of a cache.
#[derive(Debug)]
pub(crate) struct Observers {
    operation: Operation,
    own: Option<Arc<dyn Observer>>,
    labels_partitions: bool,
}

impl Observers {
    /// `own` is the user's observer. The features `tracing` and `metrics` add their own.
    pub(crate) fn new(operation: Operation, own: Option<Arc<dyn Observer>>) -> Self {
        Self { operation, own, labels_partitions: false }
    }

    /// Sets whether events and metrics have the partition of the entry.
    pub(crate) fn label_partitions(mut self, labels_partitions: bool) -> Self {
        self.labels_partitions = labels_partitions;
        self
    }

    /// Reports an event to all observers. `partition` is `None` for events about many entries.
    pub(crate) fn tell(
        &self,
        partition: Option<&str>,
        context_keys: ContextKeys<'_>,
        kind: EventKind<'_>,
    ) {
        let partition = partition.filter(|_| self.labels_partitions);
        let event = Event { operation: self.operation, partition, context_keys, kind };
        ignoring_panics(|| {
            #[cfg(feature = "tracing")]
            tracing::emit(&event);
            #[cfg(feature = "metrics")]
            metrics::emit(&event);
        });
        if let Some(own) = &self.own {
            observe(own, &event);
        }
    }

    /// Reports a hit to the user's observer, and with its partition to the `metrics` facade.
    /// Without partitions, [`hits`](Self::hits) reports counts, because there are too many hits.
    #[inline]
    pub(crate) fn hit<'a>(&self, entry: impl Fn() -> (&'a str, ContextKeys<'a>)) {
        if let Some(own) = &self.own {
            let (partition, context_keys) = entry();
            let partition = Some(partition).filter(|_| self.labels_partitions);
            let kind = EventKind::Hit;
            observe(own, &Event { operation: self.operation, partition, context_keys, kind });
        }
        #[cfg(feature = "metrics")]
        if self.labels_partitions {
            let (partition, _) = entry();
            ignoring_panics(|| metrics::hits(self.operation, Some(partition), 1));
        }
    }

    /// Reports several hits to the `metrics` facade at once.
    #[cfg(feature = "metrics")]
    pub(crate) fn hits(&self, count: u64) {
        if !self.labels_partitions {
            ignoring_panics(|| metrics::hits(self.operation, None, count));
        }
    }
}

/// Calls the user's observer, unless it has caused the event itself.
fn observe(own: &Arc<dyn Observer>, event: &Event<'_>) {
    thread_local! {
        static IS_OBSERVING: Cell<bool> = const { Cell::new(false) };
    }
    if !IS_OBSERVING.replace(true) {
        ignoring_panics(|| own.observe(event));
        IS_OBSERVING.set(false);
    }
}

/// Calls an observer. A panic of an observer must not stop the operation that reports an event.
fn ignoring_panics(call: impl FnOnce()) {
    // The panic hook has shown the message.
    let _ = catch_unwind(AssertUnwindSafe(call));
}
