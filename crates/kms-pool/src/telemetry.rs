//! Emits `tracing` spans and events, and records metrics: see the [crate
//! documentation](crate#observability).

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Span, field};

use crate::error::KmsError;
use crate::stats::Counters;
use crate::time::monotonic;

/// The target of all spans and events.
const TARGET: &str = "kms_pool";

/// The span of one attempt. [`ended`] fills in the empty fields.
pub(crate) fn request(operation: &'static str, region: &str, attempt: u32) -> Span {
    tracing::debug_span!(
        target: TARGET,
        "kms_request",
        operation,
        region,
        attempt,
        request_id = field::Empty,
        outcome = field::Empty,
        milliseconds = field::Empty
    )
}

/// Fills in the current span, and records metrics.
fn ended(
    operation: &'static str,
    region: &Arc<str>,
    outcome: &'static str,
    request_id: Option<&str>,
    took: Duration,
) {
    let span = Span::current();
    span.record("outcome", outcome);
    span.record("milliseconds", took.as_secs_f64() * 1000.0);
    if let Some(id) = request_id {
        span.record("request_id", id);
    }
    tracing::debug!(target: TARGET, outcome, "KMS request ended");
    #[cfg(feature = "metrics")]
    {
        let region = || metrics::SharedString::from_shared(Arc::clone(region));
        let labels =
            [("operation", operation.into()), ("region", region()), ("outcome", outcome.into())];
        metrics::counter!("kms_pool_requests_total", &labels).increment(1);
        let labels = [("operation", operation.into()), ("region", region())];
        metrics::histogram!("kms_pool_request_seconds", &labels).record(took.as_secs_f64());
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (operation, region);
}

/// A request that was sent. It counts as in flight until it ends or is cancelled.
pub(crate) struct InFlight {
    counters: Arc<Counters>,
    operation: &'static str,
    region: Arc<str>,
    began: Instant,
    has_ended: bool,
}

impl InFlight {
    pub(crate) fn begin(
        counters: Arc<Counters>,
        operation: &'static str,
        region: Arc<str>,
    ) -> Self {
        counters.in_flight.increment();
        #[cfg(feature = "metrics")]
        metrics::gauge!("kms_pool_in_flight").increment(1);
        Self { counters, operation, region, began: monotonic(), has_ended: false }
    }

    pub(crate) fn end(mut self, outcome: &'static str, request_id: Option<&str>) {
        self.has_ended = true;
        ended(self.operation, &self.region, outcome, request_id, monotonic() - self.began);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.has_ended {
            ended(self.operation, &self.region, "cancelled", None, monotonic() - self.began);
        }
        self.counters.in_flight.decrement();
        #[cfg(feature = "metrics")]
        metrics::gauge!("kms_pool_in_flight").decrement(1);
    }
}

pub(crate) fn rotated(principal: &str, generation: u64) {
    tracing::debug!(target: TARGET, principal, generation, "credentials rotated");
    #[cfg(feature = "metrics")]
    metrics::counter!("kms_pool_rotations_total", "outcome" => "ok").increment(1);
}

pub(crate) fn refresh_failed(principal: &str, error: &KmsError) {
    // Without the cause: the messages of other providers may contain secrets.
    let reason = error.message();
    tracing::warn!(target: TARGET, principal, reason, "could not refresh credentials");
    #[cfg(feature = "metrics")]
    metrics::counter!("kms_pool_rotations_total", "outcome" => "failed").increment(1);
}

pub(crate) fn date_learned(region: &str) {
    tracing::warn!(target: TARGET, region, "KMS refused the date of a request: using its date");
}

pub(crate) fn circuit_opened(region: &Arc<str>) {
    let name: &str = region;
    tracing::warn!(target: TARGET, region = name, "circuit opened: the last requests all failed");
    #[cfg(feature = "metrics")]
    {
        let region = metrics::SharedString::from_shared(Arc::clone(region));
        metrics::counter!("kms_pool_circuits_opened_total", "region" => region).increment(1);
    }
}

pub(crate) fn circuit_closed(region: &str) {
    tracing::info!(target: TARGET, region, "circuit closed: the region responds again");
}

pub(crate) fn another_region(region: &str, why: &'static str) {
    tracing::debug!(target: TARGET, region, why, "calling another region");
    #[cfg(feature = "metrics")]
    metrics::counter!("kms_pool_other_regions_total", "why" => why).increment(1);
}

pub(crate) fn connection_opened() {
    tracing::debug!(target: TARGET, "connection opened");
    #[cfg(feature = "metrics")]
    {
        metrics::counter!("kms_pool_connections_opened_total").increment(1);
        metrics::gauge!("kms_pool_connections").increment(1);
    }
}

pub(crate) fn reconnected() {
    tracing::debug!(target: TARGET, "a reused connection failed: opening a new one");
}

pub(crate) fn connection_closed() {
    tracing::debug!(target: TARGET, "connection closed");
    #[cfg(feature = "metrics")]
    metrics::gauge!("kms_pool_connections").decrement(1);
}

pub(crate) fn connection_failed(error: &(dyn Error + Send + Sync)) {
    tracing::info!(target: TARGET, error = %error, "connection failed");
    #[cfg(feature = "metrics")]
    metrics::counter!("kms_pool_connections_failed_total").increment(1);
}
