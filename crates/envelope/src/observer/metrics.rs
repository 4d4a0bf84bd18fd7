//! Counters and a histogram for the `metrics` facade.
//!
//! [`MaterialsCache`](crate::materials::MaterialsCache) lists their names and labels.

use std::time::Duration;

use metrics::{Label, counter, histogram};

use super::event::{Event, EventKind, Operation};
use crate::error::Error;

/// Counts an event.
pub(super) fn emit(event: &Event<'_>) {
    let mut labels = labels(event.operation, event.partition);
    match event.kind {
        EventKind::Hit => {}
        EventKind::Missed(reason) => {
            labels.push(Label::new("reason", reason.name()));
            counter!("envelope_cache_misses_total", labels).increment(1);
        }
        EventKind::Coalesced => counter!("envelope_cache_coalesced_total", labels).increment(1),
        EventKind::Bypassed => counter!("envelope_cache_bypasses_total", labels).increment(1),
        EventKind::Refused { .. } => counter!("envelope_cache_refused_total", labels).increment(1),
        EventKind::Loaded { ahead, took } => loaded(labels, ahead, "ok", took),
        EventKind::LoadFailed { ahead, took, cause } => loaded(labels, ahead, kind(cause), took),
        EventKind::Promoted => counter!("envelope_cache_promotions_total", labels).increment(1),
        EventKind::StaleServed => {
            counter!("envelope_cache_stale_served_total", labels).increment(1);
        }
        EventKind::Evicted => counter!("envelope_cache_evictions_total", labels).increment(1),
        EventKind::Invalidated { entries } => {
            counter!("envelope_cache_invalidations_total", labels).increment(entries);
        }
        EventKind::ContextsNeverRepeat => {
            counter!("envelope_cache_contexts_never_repeat_total", labels).increment(1);
        }
        EventKind::CacheTooSmall { .. } => {
            counter!("envelope_cache_too_small_total", labels).increment(1);
        }
    }
}

/// Counts hits.
pub(super) fn hits(operation: Operation, partition: Option<&str>, count: u64) {
    counter!("envelope_cache_hits_total", labels(operation, partition)).increment(count);
}

fn labels(operation: Operation, partition: Option<&str>) -> Vec<Label> {
    let mut labels = vec![Label::new("operation", operation.name())];
    labels.extend(partition.map(|partition| Label::new("partition", partition.to_owned())));
    labels
}

fn loaded(mut labels: Vec<Label>, ahead: bool, outcome: &'static str, took: Duration) {
    labels.push(Label::new("outcome", outcome));
    histogram!("envelope_cache_load_seconds", labels.clone()).record(took.as_secs_f64());
    labels.push(Label::new("ahead", if ahead { "true" } else { "false" }));
    counter!("envelope_cache_loads_total", labels).increment(1);
}

fn kind(cause: &Error) -> &'static str {
    cause.keyring_errors().first().map_or("other", |failure| failure.kind().name())
}
