//! Counters and a histogram for the `metrics` facade.
//!
//! [`MaterialsCache`](crate::materials::MaterialsCache) lists their names and labels.

use metrics::{counter, histogram};

use super::event::{Event, EventKind, Operation};
use crate::error::Error;

/// Counts an event.
pub(super) fn emit(event: &Event<'_>) {
    let operation = event.operation.name();
    match event.kind {
        EventKind::Hit => {}
        EventKind::Missed(reason) => {
            counter!(
                "envelope_cache_misses_total",
                "operation" => operation,
                "reason" => reason.name()
            )
            .increment(1);
        }
        EventKind::Coalesced => {
            counter!("envelope_cache_coalesced_total", "operation" => operation).increment(1);
        }
        EventKind::Bypassed => {
            counter!("envelope_cache_bypasses_total", "operation" => operation).increment(1);
        }
        EventKind::Refused { .. } => {
            counter!("envelope_cache_refused_total", "operation" => operation).increment(1);
        }
        EventKind::Loaded { ahead, took } => loaded(operation, ahead, "ok", took.as_secs_f64()),
        EventKind::LoadFailed { ahead, took, cause } => {
            loaded(operation, ahead, kind(cause), took.as_secs_f64());
        }
        EventKind::Promoted => {
            counter!("envelope_cache_promotions_total", "operation" => operation).increment(1);
        }
        EventKind::StaleServed => {
            counter!("envelope_cache_stale_served_total", "operation" => operation).increment(1);
        }
        EventKind::Evicted => {
            counter!("envelope_cache_evictions_total", "operation" => operation).increment(1);
        }
        EventKind::Invalidated { entries } => {
            counter!("envelope_cache_invalidations_total", "operation" => operation)
                .increment(entries);
        }
        EventKind::ContextsNeverRepeat => {
            counter!("envelope_cache_contexts_never_repeat_total", "operation" => operation)
                .increment(1);
        }
        EventKind::CacheTooSmall { .. } => {
            counter!("envelope_cache_too_small_total", "operation" => operation).increment(1);
        }
    }
}

/// Counts hits.
pub(super) fn hits(operation: Operation, count: u64) {
    counter!("envelope_cache_hits_total", "operation" => operation.name()).increment(count);
}

fn loaded(operation: &'static str, ahead: bool, outcome: &'static str, seconds: f64) {
    let ahead = if ahead { "true" } else { "false" };
    counter!(
        "envelope_cache_loads_total",
        "operation" => operation,
        "ahead" => ahead,
        "outcome" => outcome
    )
    .increment(1);
    histogram!("envelope_cache_load_seconds", "operation" => operation, "outcome" => outcome)
        .record(seconds);
}

fn kind(cause: &Error) -> &'static str {
    cause.keyring_errors().first().map_or("other", |failure| failure.kind().name())
}
