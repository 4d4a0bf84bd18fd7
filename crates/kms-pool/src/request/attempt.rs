//! One attempt of a request, from waiting for the budget to the conclusions from its outcome.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;
use tracing::instrument::WithSubscriber as _;

use super::budget::{Budget, Priority};
use super::circuit::Circuit;
use super::operation::{self, Operation, WARM_UP};
use super::outcome::Outcome;
use super::retry::SignAgain;
use crate::background::Background;
use crate::connection::{self, Exchange, HttpsClient, Stale};
use crate::credentials::{Fingerprint, Session};
use crate::error::{KmsError, KmsErrorKind};
use crate::stats::Counters;
use crate::telemetry::{self, InFlight};
use crate::time::{self, Clock};

/// More than any answer of KMS.
const MAX_RESPONSE: usize = 256 * 1024;

/// AWS accepts signatures that are up to five minutes old. From four minutes on, the date may be
/// the reason for a refusal.
const SKEW: Duration = Duration::from_mins(4);

/// What the requests of one client go through.
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
    /// Whether the pool has been shut down.
    pub(crate) closed: Arc<AtomicBool>,
    /// The pool's, which advances with each round of its janitor.
    pub(crate) tick: Arc<AtomicU64>,
    /// The tick of the last use.
    pub(crate) used: AtomicU64,
    /// Whether KMS has ever accepted credentials here.
    pub(crate) has_accepted: AtomicBool,
    /// The principal's tenure that the budget was chosen for.
    pub(crate) tenure: u64,
}

/// The HTTP client of a KMS client: the region's HTTPS client, behind the client's lane.
#[derive(Clone)]
pub(crate) struct LaneClient {
    pub(crate) lane: Arc<Lane>,
    pub(crate) priority: Priority,
    /// Whether another region may be asked for the same.
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
    /// Notes that it is used in this tick.
    pub(crate) fn note_use(&self) {
        let tick = self.tick.load(Relaxed);
        // Most uses find it noted, and write nothing that other threads read.
        if self.used.load(Relaxed) != tick {
            self.used.store(tick, Relaxed);
        }
    }

    pub(crate) fn last_used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    async fn attempt(
        &self,
        client: &LaneClient,
        request: HttpRequest,
        name: &'static str,
    ) -> Result<HttpResponse, ConnectorError> {
        let operation = request.extension::<Operation>().cloned();
        self.note_use();
        if self.closed.load(Relaxed)
            && operation.as_ref().is_none_or(|operation| operation.attempt == 1)
        {
            return Err(own_error(KmsError::shut_down()));
        }
        let entered = time::monotonic();
        let is_background = client.priority == Priority::Background;
        self.circuit.check(entered, is_background).map_err(|pause| self.short_circuited(pause))?;
        let start_by =
            self.start_by(operation.as_ref().map_or(entered, |operation| operation.began));
        let permit =
            self.budget.enter(operation::class(name), client.priority, start_by).await.map_err(
                |late| {
                    self.counters.over_budget.increment();
                    let message =
                        "it could not start in time within the budget of its account and region";
                    refusal(KmsErrorKind::OverBudget, message, late.retry_after)
                },
            )?;
        // The circuit may have opened while it waited; and a probe must not wait.
        let pass = self.circuit.enter(time::monotonic(), is_background);
        let mut pass = pass.map_err(|pause| self.short_circuited(pause))?;
        let signature = Signature::of(&request);
        if operation.as_ref().is_some_and(|operation| operation.attempt > 1) {
            self.counters.retries.increment();
        }

        if client.races {
            pass.race();
        }
        let in_flight = InFlight::begin(Arc::clone(&self.counters), name, Arc::clone(&self.region));
        let (answer, stale) = self.answer(request, operation.as_ref()).await;
        let now = time::monotonic();

        let outcome = match &answer {
            // Any answer will do: it is the connection that was wanted.
            Ok(_) if name == WARM_UP => Outcome::Ok,
            Ok((response, body)) => Outcome::of_answer(response, body),
            Err(error) => Outcome::of_failure(error),
        };
        let request_id = answer
            .as_ref()
            .ok()
            .and_then(|(response, _)| response.headers().get("x-amzn-requestid"));
        in_flight.end(outcome, request_id);
        if outcome == Outcome::Throttled {
            self.counters.throttles.increment();
            self.budget.throttled(&permit, now);
        } else if !outcome.is_outage() {
            self.budget.accepted(now);
        }
        drop(permit);
        if stale == Some(Stale::FailureAgain) {
            pass.learned_nothing();
        } else if !outcome.is_outage() {
            if pass.answered() {
                telemetry::circuit_closed(&self.region);
            }
        } else if pass.failed(now) {
            self.counters.circuits_opened.increment();
            telemetry::circuit_opened(&self.region);
        }

        let (mut response, body) = answer.map_err(|error| self.told(error))?;
        // A stream, although the body is complete: the SDK logs in-memory bodies at `TRACE`.
        *response.body_mut() = SdkBody::from_body_1_x(Full::new(body));
        match outcome {
            Outcome::CredentialsRefused | Outcome::CredentialsExpired => {
                let operation = operation.as_ref();
                if let Some(operation) = operation
                    && self.helps_to_sign_again(operation, outcome, &response, signature).await
                {
                    response.add_extension(SignAgain);
                }
            }
            Outcome::Ok | Outcome::Refused if name != WARM_UP => {
                self.has_accepted.store(true, Relaxed);
                self.session.accepted(signature.signer);
                self.believe_date(&signature);
            }
            _ => {}
        }
        Ok(response)
    }

    /// Uses the learned date for the expiry of credentials too, once the server has accepted a
    /// request with it.
    fn believe_date(&self, signature: &Signature) {
        let is_of_this_date =
            || signature.date.is_some_and(|date| apart(date, self.clock.date()) <= SKEW);
        if self.has_learned.load(Relaxed) && is_of_this_date() {
            self.has_learned.store(false, Relaxed);
            self.session.clock.learn(self.clock.date());
        }
    }

    /// The response to a request. If it failed because of a reused connection, also what that
    /// failure means. The first such failure of an operation is retried here over a new connection:
    /// the request keeps its signature and its place in the budget, and only the second try counts.
    async fn answer(
        &self,
        request: HttpRequest,
        operation: Option<&Operation>,
    ) -> (Answer, Option<Stale>) {
        let again = request.try_clone();
        let (answer, stale) = self.try_once(request).await;
        match (stale, again, operation) {
            (Some(Stale::TryAgain), Some(again), Some(operation))
                if operation.take_reconnection() =>
            {
                self.counters.retries.increment();
                telemetry::reconnected();
                self.try_once(again).await
            }
            _ => (answer, stale),
        }
    }

    async fn try_once(&self, request: HttpRequest) -> (Answer, Option<Stale>) {
        let mut exchange = match self.https.send(request) {
            Ok(exchange) => exchange,
            Err(error) => return (Err(error), None),
        };
        let answer = timeout(self.attempt_timeout, whole_answer(&mut exchange)).await;
        let answer = answer.unwrap_or_else(|_| {
            let text =
                format!("no response within {:?}, the attempt timeout", self.attempt_timeout);
            Err(ConnectorError::timeout(text.into()))
        });
        let stale = answer.as_ref().err().and_then(|error| exchange.failed(error));
        (answer, stale)
    }

    /// Whether a request that was refused for its credentials may be taken when it is signed again.
    async fn helps_to_sign_again(
        &self,
        operation: &Operation,
        outcome: Outcome,
        refused: &HttpResponse,
        signature: Signature,
    ) -> bool {
        if let Some(date) = signature.is_dated_wrong_by(refused) {
            // Another request may have learned the date while this one was in flight.
            if apart(date, self.clock.date()) > SKEW {
                self.clock.learn(date);
                self.has_learned.store(true, Relaxed);
                telemetry::date_learnt(&self.region);
            }
            if operation.take_correction() {
                return true;
            }
        }
        // Credentials that are good elsewhere, and never were here, don't get better: the region
        // does not know the account.
        let is_unknown = outcome == Outcome::CredentialsRefused && !self.has_accepted.load(Relaxed);
        let is_of_region = is_unknown && self.session.is_accepted();
        !is_of_region
            && operation.take_refresh()
            && self.session.refused(signature.signer, self.session.clock.now()).await
    }

    fn short_circuited(&self, pause: Duration) -> ConnectorError {
        self.counters.short_circuited.increment();
        refusal(
            KmsErrorKind::Unavailable,
            "the circuit of the region is open, because its last requests all failed",
            pause,
        )
    }

    /// The same failure, with the region and the message of its innermost cause.
    fn told(&self, error: ConnectorError) -> ConnectorError {
        let bottom = std::iter::successors(Some(&error as &dyn Error), |&it| it.source())
            .last()
            .map(ToString::to_string);
        let message = format!("{}: {}", self.region, bottom.unwrap_or_default());
        let (timed_out, io) = (error.is_timeout(), error.is_io());
        let kind = if timed_out { KmsErrorKind::TimedOut } else { KmsErrorKind::Unavailable };
        let told = Box::new(KmsError::local(kind, &message, Some(Box::new(error))));
        match (timed_out, io) {
            (true, _) => ConnectorError::timeout(told),
            (_, true) => ConnectorError::io(told),
            _ => ConnectorError::other(told, None),
        }
    }

    /// Late enough that all of the time is used, early enough that an attempt still fits in.
    fn start_by(&self, began: Instant) -> Instant {
        let latest = self.operation_timeout.saturating_sub(self.attempt_timeout);
        began + latest.max(self.operation_timeout / 2)
    }
}

/// The signer and the date of a request, as far as its headers show them.
struct Signature {
    signer: Fingerprint,
    date: Option<SystemTime>,
    /// Whether the response can only come from the server whose certificate was checked.
    is_over_tls: bool,
}

impl Signature {
    fn of(request: &HttpRequest) -> Self {
        let authorization = request.headers().get("authorization").unwrap_or_default();
        let credential = authorization.split_once("Credential=").map_or("", |(_, rest)| rest);
        let access_key_id = credential.split('/').next().unwrap_or_default();
        let token = request.headers().get("x-amz-security-token");
        Self {
            signer: Fingerprint::of_parts(access_key_id, token),
            date: request.headers().get("x-amz-date").and_then(signing_date),
            is_over_tls: request.uri().starts_with("https://"),
        }
    }

    /// The server's date, if it differs so much from the signature's that the server refuses the
    /// request.
    ///
    /// Only the date of an authenticated server is used: somebody who could set it could choose
    /// when our signatures are valid.
    fn is_dated_wrong_by(&self, refused: &HttpResponse) -> Option<SystemTime> {
        let is_cached = refused.headers().get("age").is_some();
        let date = refused.headers().get("date").filter(|_| self.is_over_tls && !is_cached)?;
        let date = DateTime::from_str(date, Format::HttpDate).ok()?;
        let date = SystemTime::try_from(date).ok()?;
        (apart(date, self.date?) > SKEW).then_some(date)
    }
}

/// Parses the date of a signature, such as `20261127T231502Z`.
fn signing_date(text: &str) -> Option<SystemTime> {
    let part = |range| text.get(range);
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(9..11)?, part(11..13)?, part(13..15)?);
    let date = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    DateTime::from_str(&date, Format::DateTime).ok()?.try_into().ok()
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|later| later.duration())
}

/// A response whose body has been read.
type Answer = Result<(HttpResponse, Bytes), ConnectorError>;

async fn whole_answer(exchange: &mut Exchange<'_>) -> Answer {
    let mut response = exchange.head().await?;
    let body = std::mem::replace(response.body_mut(), SdkBody::taken());
    let body = Limited::new(body, MAX_RESPONSE)
        .collect()
        .await
        .map_err(|error: BoxError| ConnectorError::io(error))?;
    Ok((response, body.to_bytes()))
}

/// A refusal by the pool itself.
fn refusal(kind: KmsErrorKind, message: &str, retry_after: Duration) -> ConnectorError {
    own_error(KmsError::refused(kind, message, retry_after))
}

/// An error of the pool itself. The SDK does not retry it.
fn own_error(error: KmsError) -> ConnectorError {
    ConnectorError::other(Box::new(error), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_a_signature_is_parsed() {
        let date = SystemTime::UNIX_EPOCH + Duration::from_mins(24_015_636);
        assert_eq!(signing_date("20150830T123600Z"), Some(date));
        for text in ["", "20150830", "20150830T1236", "2015083\u{e9}T123600Z", "20151330T123600Z"] {
            assert_eq!(signing_date(text), None, "{text}");
        }
    }

    #[test]
    fn a_date_is_learnt_only_from_an_authenticated_server() {
        let refused = |date: &'static str| {
            let mut response = HttpResponse::new(400.try_into().unwrap(), SdkBody::empty());
            response.headers_mut().insert("date", date);
            response
        };
        let signed = |uri: &str| {
            let mut request = HttpRequest::empty();
            request.set_uri(uri).unwrap();
            request.headers_mut().insert("x-amz-date", "20150830T123600Z");
            Signature::of(&request)
        };
        let two_hours_later = refused("Sun, 30 Aug 2015 14:36:00 GMT");
        assert!(signed("https://kms").is_dated_wrong_by(&two_hours_later).is_some());
        assert_eq!(signed("http://localhost").is_dated_wrong_by(&two_hours_later), None);
        let mut cached = refused("Sun, 30 Aug 2015 14:36:00 GMT");
        cached.headers_mut().insert("age", "3600");
        assert_eq!(signed("https://kms").is_dated_wrong_by(&cached), None);
        let soon_after = refused("Sun, 30 Aug 2015 12:39:00 GMT");
        assert_eq!(signed("https://kms").is_dated_wrong_by(&soon_after), None);
    }
}
