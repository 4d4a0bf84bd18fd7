//! What a pool lets be seen: `tracing` spans and events, and metrics. See [crate documentation](crate#sight).

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tracing::{Span, debug, field, info, warn};

use crate::credentials::Principal;
use crate::error::KmsError;
use crate::request::Outcome;
use crate::stats::Counters;

/// The span of one attempt; [`ended`] fills in what is known only then.
pub(crate) fn request(operation: &'static str, region: &str, attempt: u32) -> Span {
    tracing::debug_span!(
        "kms_request",
        operation,
        region,
        attempt,
        request_id = field::Empty,
        outcome = field::Empty,
        milliseconds = field::Empty
    )
}

/// Fills in the present span, and counts.
pub(crate) fn ended(
    operation: &'static str,
    region: &Arc<str>,
    outcome: Outcome,
    request_id: Option<&str>,
    took: Duration,
) {
    let span = Span::current();
    span.record("outcome", outcome.name());
    span.record("milliseconds", took.as_secs_f64() * 1000.0);
    if let Some(id) = request_id {
        span.record("request_id", id);
    }
    debug!(outcome = outcome.name(), "KMS request ended");
    #[cfg(feature = "metrics")]
    {
        let region = || metrics::SharedString::from_shared(Arc::clone(region));
        let labels = [("operation", operation.into()), ("region", region()), ("outcome", outcome.name().into())];
        metrics::counter!("kms_pool_requests_total", &labels).increment(1);
        let labels = [("operation", operation.into()), ("region", region())];
        metrics::histogram!("kms_pool_request_seconds", &labels).record(took.as_secs_f64());
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (operation, region);
}

/// Counts a request as in flight until it is dropped.
pub(crate) struct InFlight(Arc<Counters>);

impl InFlight {
    pub(crate) fn begin(counters: Arc<Counters>) -> Self {
        counters.in_flight.increment();
        #[cfg(feature = "metrics")]
        metrics::gauge!("kms_pool_in_flight").increment(1);
        Self(counters)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.decrement();
        #[cfg(feature = "metrics")]
        metrics::gauge!("kms_pool_in_flight").decrement(1);
    }
}

pub(crate) fn rotated(principal: &Principal, generation: u64) {
    debug!(principal = principal.name(), generation, "credentials in place");
    #[cfg(feature = "metrics")]
    metrics::counter!("kms_pool_rotations_total", "outcome" => "ok").increment(1);
}

pub(crate) fn renewal_failed(principal: &Principal, error: &KmsError) {
    // Without the cause: it is the provider's author's, and may say too much.
    warn!(principal = principal.name(), reason = error.message(), "credentials not renewed");
    #[cfg(feature = "metrics")]
    metrics::counter!("kms_pool_rotations_total", "outcome" => "failed").increment(1);
}

pub(crate) fn circuit_opened(region: &Arc<str>) {
    warn!(region = &**region, "circuit opened: the last requests all failed");
    #[cfg(feature = "metrics")]
    metrics::counter!("kms_pool_circuits_opened_total", "region" => metrics::SharedString::from_shared(Arc::clone(region)))
        .increment(1);
}

pub(crate) fn connection_opened() {
    debug!("connection opened");
    #[cfg(feature = "metrics")]
    {
        metrics::counter!("kms_pool_connections_opened_total").increment(1);
        metrics::gauge!("kms_pool_connections").increment(1);
    }
}

pub(crate) fn connection_closed() {
    debug!("connection closed");
    #[cfg(feature = "metrics")]
    metrics::gauge!("kms_pool_connections").decrement(1);
}

pub(crate) fn connection_failed(error: &(dyn Error + Send + Sync)) {
    info!(error = %error, "connection failed");
    #[cfg(feature = "metrics")]
    metrics::counter!("kms_pool_connections_failed_total").increment(1);
}
