//! Events and spans for `tracing`, under the target `envelope::cache`.

use tracing::{Instrument, debug, debug_span, info, instrument::Instrumented, warn};

use super::event::{Event, EventKind, Operation};
use crate::context::ContextKeys;

/// Puts a load into a span of its own, so that what the key provider writes shows what it was for.
pub(super) fn in_span<F>(
    operation: Operation,
    context_keys: ContextKeys<'_>,
    load: F,
) -> Instrumented<F> {
    load.instrument(
        debug_span!(target: "envelope::cache", "load_data_key", operation = operation.name(), %context_keys),
    )
}

/// Writes an event at the level of its weight.
pub(super) fn emit(event: &Event<'_>) {
    const TARGET: &str = "envelope::cache";
    let (operation, context_keys) = (event.operation.name(), event.context_keys);
    match event.kind {
        EventKind::Hit => {}
        EventKind::Missed(reason) => {
            debug!(target: TARGET, operation, %context_keys, reason = reason.name(), "no data key was cached");
        }
        EventKind::Coalesced => {
            debug!(target: TARGET, operation, %context_keys, "waiting for a load that is under way");
        }
        EventKind::Bypassed => {
            debug!(target: TARGET, operation, %context_keys, "may not be served from the cache");
        }
        EventKind::Refused { cause, retry_after } => {
            debug!(target: TARGET, operation, %context_keys, %cause, ?retry_after, "refused by a remembered failure");
        }
        EventKind::Loaded { ahead, took } => {
            debug!(target: TARGET, operation, %context_keys, ahead, ?took, "a data key came");
        }
        EventKind::LoadFailed { ahead, took, cause } => {
            warn!(target: TARGET, operation, %context_keys, ahead, ?took, %cause, "no data key came");
        }
        EventKind::Promoted => {
            debug!(target: TARGET, operation, %context_keys, "the standby took over");
        }
        EventKind::StaleServed => {
            debug!(target: TARGET, operation, %context_keys, "served by a data key past its max_age");
        }
        EventKind::Evicted => {
            debug!(target: TARGET, operation, %context_keys, "an entry made room for another");
        }
        EventKind::Invalidated { entries } => {
            info!(target: TARGET, operation, entries, "entries were dropped");
        }
        EventKind::ContextsNeverRepeat => warn!(
            target: TARGET,
            operation,
            %context_keys,
            "hardly any encryption context comes twice, so that the cache does nothing: leave out of it what differs from \
             message to message (an id, a time), or use DefaultMaterialsManager and save the memory"
        ),
        EventKind::CacheTooSmall { evicted, operations, capacity, max_bytes_held } => warn!(
            target: TARGET,
            operation,
            %context_keys,
            evicted,
            operations,
            capacity,
            max_bytes_held,
            "the cache is too small: many data keys are requested again after their eviction; raise \
             `MaterialsCacheBuilder::capacity`, or `max_bytes_held` where entries are large"
        ),
    }
}
