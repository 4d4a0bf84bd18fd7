//! Events and spans for `tracing`, under the target `envelope::cache`.

use tracing::{Instrument, debug, debug_span, info, instrument::Instrumented, warn};

use super::event::{Event, EventKind, Operation};
use crate::{context::ContextKeys, error::Chain};

/// Runs a load in a span of its own, so that events of the key provider show what the load is for.
pub(super) fn in_span<F>(
    operation: Operation,
    context_keys: ContextKeys<'_>,
    load: F,
) -> Instrumented<F> {
    load.instrument(debug_span!(
        target: "envelope::cache",
        "load_data_key",
        operation = operation.name(),
        %context_keys
    ))
}

/// Runs a load of the branch key `id` in a span of its own.
pub(super) fn in_branch_key_span<F>(operation: Operation, id: &str, load: F) -> Instrumented<F> {
    load.instrument(debug_span!(
        target: "envelope::cache",
        "load_branch_key",
        operation = operation.name(),
        branch_key = id
    ))
}

/// Emits an event.
pub(super) fn emit(event: &Event<'_>) {
    const TARGET: &str = "envelope::cache";
    let operation = event.operation.name();
    let partition = event.partition;
    let context_keys = event.context_keys;
    macro_rules! about_entry {
        ($level:ident, $($rest:tt)*) => {
            $level!(target: TARGET, operation, partition, %context_keys, $($rest)*)
        };
    }
    match event.kind {
        EventKind::Hit => {}
        EventKind::Missed(reason) => {
            about_entry!(debug, reason = reason.name(), "no data key in the cache");
        }
        EventKind::Coalesced => about_entry!(debug, "waiting for a load in progress"),
        EventKind::Bypassed => about_entry!(debug, "cannot be served from the cache"),
        EventKind::Refused { cause, retry_after } => about_entry!(
            debug,
            cause = %Chain(cause),
            ?retry_after,
            "refused without a request"
        ),
        EventKind::Loaded { ahead, took } => about_entry!(debug, ahead, ?took, "data key loaded"),
        EventKind::LoadFailed { ahead, took, cause } => about_entry!(
            warn,
            ahead,
            ?took,
            cause = %Chain(cause),
            "could not load a data key"
        ),
        EventKind::Promoted => about_entry!(debug, "standby data key in use"),
        EventKind::StaleServed => about_entry!(debug, "used a data key past its max_age"),
        EventKind::Evicted => about_entry!(debug, "entry evicted"),
        EventKind::Invalidated { entries } => info!(
            target: TARGET,
            operation,
            partition,
            entries,
            "entries invalidated"
        ),
        EventKind::ContextsNeverRepeat => about_entry!(
            warn,
            "almost no encryption context repeats, so caching has no effect: remove values that \
             differ in each message, such as ids and times, or use `DefaultMaterialsManager`"
        ),
        EventKind::CacheTooSmall { evicted, operations, capacity, max_bytes_held } => about_entry!(
            warn,
            evicted,
            operations,
            capacity,
            max_bytes_held,
            "the cache is too small, and many data keys are loaded again after their eviction: \
             raise `MaterialsCacheBuilder::capacity`, or `max_bytes_held` if entries are large"
        ),
    }
}
