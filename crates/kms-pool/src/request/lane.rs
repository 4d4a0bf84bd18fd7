//! The route of a client's requests, as the HTTP client of the AWS SDK.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use tracing::Instrument as _;
use tracing::instrument::WithSubscriber as _;

use super::budget::{Budget, Priority};
use super::circuit::Circuit;
use super::operation::{self, Operation};
use crate::background::Background;
use crate::connection::{self, HttpsClient};
use crate::credentials::Session;
use crate::error::KmsError;
use crate::stats::Counters;
use crate::telemetry;
use crate::time::Clock;

/// The route of one client's requests: its circuit, budget, connections and credentials.
pub(crate) struct Lane {
    pub(crate) region: Arc<str>,
    pub(crate) session: Arc<Session>,
    /// The runtime that its requests run on.
    pub(crate) background: Background,
    /// The region's clock, for the dates of requests. The session's clock is for the expiry of
    /// credentials.
    pub(crate) clock: Clock,
    /// Whether the clock has learned a date with which no request has been accepted yet.
    pub(crate) has_learned: AtomicBool,
    pub(crate) https: Arc<HttpsClient>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) circuit: Arc<Circuit>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) attempt_timeout: Duration,
    pub(crate) operation_timeout: Duration,
    pub(crate) max_attempts: u32,
    /// The maximum length of a response body.
    pub(crate) max_response: usize,
    /// Whether the pool has been shut down.
    pub(crate) closed: Arc<AtomicBool>,
    /// Counts the rounds of the pool's janitor.
    pub(crate) tick: Arc<AtomicU64>,
    /// The tick of the last use.
    pub(crate) used: AtomicU64,
    /// Whether KMS has ever accepted credentials of this client.
    pub(crate) has_accepted: AtomicBool,
    /// The principal's tenure that the budget was chosen for.
    pub(crate) tenure: u64,
}

/// The HTTP client of a KMS client: the region's HTTPS client, behind the client's lane.
#[derive(Clone)]
pub(crate) struct LaneClient {
    pub(crate) lane: Arc<Lane>,
    pub(crate) priority: Priority,
    /// Whether another region may be called for the same operation.
    pub(crate) races: bool,
}

impl HttpClient for LaneClient {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(LaneConnector { client: self.clone() })
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        Some(connection::metadata())
    }
}

impl fmt::Debug for LaneClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneClient").field("region", &self.lane.region).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct LaneConnector {
    client: LaneClient,
}

impl HttpConnector for LaneConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.client.clone();
        let operation = operation::name(&request);
        let attempt = request.extension::<Operation>().map_or(1, |operation| operation.attempt);
        let lane = Arc::clone(&client.lane);
        let span = telemetry::request(operation, &lane.region, attempt);
        let attempt = async move { client.lane.attempt(&client, request, operation).await };
        // Spawned here and not on the first poll, to get the caller's subscriber.
        match lane.background.run(attempt.instrument(span).with_current_subscriber()) {
            Ok(attempt) => HttpConnectorFuture::new(async move {
                attempt.await.unwrap_or_else(|error| Err(own_error(error)))
            }),
            Err(error) => HttpConnectorFuture::ready(Err(own_error(error))),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.background.check_process().is_err() {
            // Its connections are the parent's: closing them would wake threads that do not exist
            // here.
            std::mem::forget(Arc::clone(&self.https));
        }
    }
}

impl Lane {
    /// Records that the client is used in this tick.
    pub(crate) fn note_use(&self) {
        let tick = self.tick.load(Relaxed);
        // Usually recorded already: skip the write, which would slow down other threads.
        if self.used.load(Relaxed) != tick {
            self.used.store(tick, Relaxed);
        }
    }

    pub(crate) fn last_used(&self) -> u64 {
        self.used.load(Relaxed)
    }
}

/// Wraps an error of the pool itself. The SDK does not retry it.
pub(super) fn own_error(error: KmsError) -> ConnectorError {
    ConnectorError::other(Box::new(error), None)
}
