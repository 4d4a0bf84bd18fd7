//! The KMS client of one region and principal.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_sdk_kms::Client;
use aws_sdk_kms::config::{self, Region};
use aws_sdk_kms::error::SdkError;
use aws_smithy_types::body::SdkBody;

use crate::credentials::SessionCredentials;
use crate::error::KmsError;
use crate::request::{CircuitState, Lane, LaneClient, NoteAttempt, PING, Priority, Retries};
use crate::time::Now;

/// The purpose of a client's requests: see [`KmsPool::client_for`](crate::KmsPool::client_for).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Requests with waiting callers.
    Foreground,
    /// Requests without waiting callers, such as refreshes ahead: they use only the part of the
    /// [rate](crate::KmsPoolBuilder::max_requests_per_second) that other requests leave, and at
    /// most half of the requests in flight.
    Background,
    /// Requests that are not retried in this region, because another region is called instead.
    OneAttempt,
}

/// The state of one client of a [`KmsPool`](crate::KmsPool): see
/// [`KmsPool::client_stats`](crate::KmsPool::client_stats).
///
/// # Examples
///
/// ```no_run
/// use kms_pool::CircuitState;
///
/// # fn example(pool: kms_pool::KmsPool) {
/// for client in pool.client_stats() {
///     if client.circuit != CircuitState::Closed {
///         eprintln!("{} is failing", client.region);
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClientStats {
    /// The client's region.
    pub region: Arc<str>,
    /// The label of the client's principal, if it has one.
    pub principal: Option<Arc<str>>,
    /// The number of the current credential generation, counted from 1.
    pub generation: u64,
    /// How long the current credential generation has been in use.
    pub generation_age: Duration,
    /// The remaining lifetime of the credentials: `None` if they do not expire, zero if they have
    /// expired.
    pub credentials_left: Option<Duration>,
    /// The state of the client's circuit.
    pub circuit: CircuitState,
    /// Requests per second that the account's budget allows in the region, learned or set; `None`
    /// if unlimited.
    pub requests_per_second: Option<f64>,
}

/// The client of one region and principal, with its circuit, budget and credentials.
///
/// The client is built once; only its credentials rotate. Each attempt of a request takes the
/// session's current credentials, so retries and clients that are kept for long use them too.
pub(crate) struct PooledClient {
    lane: Arc<Lane>,
    config: config::Builder,
    /// One SDK client for each [`Purpose`], built on first use.
    by_purpose: [OnceLock<Client>; 3],
}

impl PooledClient {
    pub(crate) fn new(common: config::Builder, lane: Lane) -> Self {
        let lane = Arc::new(lane);
        let config = common
            .region(Region::new(lane.region.to_string()))
            .credentials_provider(SessionCredentials(Arc::clone(&lane.session)))
            .interceptor(NoteAttempt(Arc::clone(&lane.counters)));
        Self { lane, config, by_purpose: Default::default() }
    }

    /// The SDK's client for requests with this purpose.
    pub(crate) fn sdk_client(&self, purpose: Purpose) -> &Client {
        self.by_purpose[purpose as usize].get_or_init(|| {
            let (priority, attempts) = match purpose {
                Purpose::Foreground => (Priority::Foreground, self.lane.max_attempts),
                Purpose::Background => (Priority::Background, self.lane.max_attempts),
                Purpose::OneAttempt => (Priority::Foreground, 1),
            };
            let http = LaneClient {
                lane: Arc::clone(&self.lane),
                priority,
                races: purpose == Purpose::OneAttempt,
            };
            let config =
                self.config.clone().http_client(http).retry_classifier(Retries::new(attempts));
            Client::from_conf(config.retry_config(Retries::config(attempts)).build())
        })
    }

    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Opens a connection, by a request that every AWS endpoint answers without credentials. Any
    /// response will do.
    ///
    /// # Errors
    ///
    /// Why there is no response.
    pub(crate) async fn connect(&self) -> Result<(), KmsError> {
        let client = self.sdk_client(Purpose::OneAttempt);
        let ping = client.generate_random().customize().mutate_request(|request| {
            let url = request.uri().trim_end_matches('/').to_owned() + PING;
            // Neither call fails: the URI and the method that they replace were valid.
            let _ = request.set_uri(url);
            let _ = request.set_method("GET");
            request.headers_mut().remove("content-length");
            request.headers_mut().remove("x-amz-target");
            *request.body_mut() = SdkBody::empty();
        });
        match ping.send().await {
            Ok(_) | Err(SdkError::ServiceError(_) | SdkError::ResponseError(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn stats(&self, now: Now) -> ClientStats {
        let generation = self.lane.session.current();
        let generation = generation.as_ref();
        ClientStats {
            region: Arc::clone(&self.lane.region),
            principal: self.lane.session.principal.label().map(Into::into),
            generation: generation.map_or(0, |it| it.number),
            generation_age: generation
                .map(|it| now.instant.saturating_duration_since(it.since))
                .unwrap_or_default(),
            credentials_left: generation
                .and_then(|it| it.credentials.expiry())
                .map(|end| end.duration_since(now.date).unwrap_or_default()),
            circuit: self.lane.circuit.state(),
            requests_per_second: self.lane.budget.limit(),
        }
    }
}
