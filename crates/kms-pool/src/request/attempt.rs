//! One attempt of a request: waits for the budget, sends the request and evaluates the outcome.

use std::error::Error;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::time::{Instant, timeout};

use super::budget::{Permit, Priority};
use super::circuit::Pass;
use super::lane::{Lane, LaneClient, own_error};
use super::operation::{self, Operation, PING_NAME};
use super::outcome::Outcome;
use super::retry::SignAgain;
use super::signature::{SKEW, Signature, apart};
use crate::connection::{Exchange, Stale};
use crate::error::{KmsError, KmsErrorKind};
use crate::telemetry::{self, InFlight};
use crate::time;

/// A response and its complete body.
type Received = Result<(HttpResponse, Bytes), ConnectorError>;

impl Lane {
    pub(super) async fn attempt(
        &self,
        client: &LaneClient,
        request: HttpRequest,
        name: &'static str,
    ) -> Result<HttpResponse, ConnectorError> {
        let operation = request.extension::<Operation>().cloned();
        self.note_use();
        let is_first = operation.as_ref().is_none_or(|operation| operation.attempt == 1);
        if self.closed.load(Relaxed) && is_first {
            return Err(own_error(KmsError::shut_down()));
        }
        let entered = time::monotonic();
        let start_by =
            self.start_by(operation.as_ref().map_or(entered, |operation| operation.began));
        let (permit, pass) = self.enter(client, name, entered, start_by).await?;
        let signature = Signature::of(&request);
        if !is_first {
            self.counters.retries.increment();
        }

        let in_flight = InFlight::begin(Arc::clone(&self.counters), name, Arc::clone(&self.region));
        let (received, stale) = self.send(request, operation.as_ref()).await;
        let outcome = match &received {
            // Any response will do: the request only opens a connection.
            Ok(_) if name == PING_NAME => Outcome::Ok,
            Ok((response, body)) => Outcome::of_response(response, body),
            Err(error) => Outcome::of_failure(error),
        };
        let response = received.as_ref().ok().map(|(response, _)| response);
        let request_id = response.and_then(|response| response.headers().get("x-amzn-requestid"));
        in_flight.end(outcome.name(), request_id);
        self.report(outcome, stale, permit, pass);

        let (mut response, body) = received.map_err(|error| self.annotate(error))?;
        // A stream, although the body is complete: the SDK logs in-memory bodies at `TRACE`.
        *response.body_mut() = SdkBody::from_body_1_x(Full::new(body));
        match outcome {
            Outcome::CredentialsRejected | Outcome::CredentialsExpired => {
                if let Some(operation) = &operation
                    && self.helps_to_sign_again(operation, outcome, &response, signature).await
                {
                    response.add_extension(SignAgain);
                }
            }
            Outcome::Ok | Outcome::Refused if name != PING_NAME => {
                self.has_accepted.store(true, Relaxed);
                self.session.accepted(signature.signer);
                self.confirm_date(&signature);
            }
            _ => {}
        }
        Ok(response)
    }

    /// Waits for the budget, and checks the circuit before and after.
    async fn enter(
        &self,
        client: &LaneClient,
        name: &str,
        entered: Instant,
        start_by: Instant,
    ) -> Result<(Permit, Pass), ConnectorError> {
        let is_background = client.priority == Priority::Background;
        self.circuit.check(entered, is_background).map_err(|pause| self.short_circuited(pause))?;
        let permit = self.budget.enter(operation::class(name), client.priority, start_by).await;
        let permit = permit.map_err(|late| {
            self.counters.over_budget.increment();
            let message = "it could not start in time within the budget of its account and region";
            refusal(KmsErrorKind::OverBudget, message, late.retry_after)
        })?;
        // The circuit may have opened while the request waited; and a probe must not wait.
        let pass = self.circuit.enter(time::monotonic(), is_background);
        let mut pass = pass.map_err(|pause| self.short_circuited(pause))?;
        if client.races {
            pass.race();
        }
        Ok((permit, pass))
    }

    /// Tells the budget and the circuit how the attempt ended.
    fn report(&self, outcome: Outcome, stale: Option<Stale>, permit: Permit, pass: Pass) {
        let now = time::monotonic();
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
            if pass.responded() {
                telemetry::circuit_closed(&self.region);
            }
        } else if pass.failed(now) {
            self.counters.circuits_opened.increment();
            telemetry::circuit_opened(&self.region);
        }
    }

    /// Uses the learned date for the expiry of credentials too, once the server has accepted a
    /// request with it.
    fn confirm_date(&self, signature: &Signature) {
        let has_this_date =
            || signature.date.is_some_and(|date| apart(date, self.clock.date()) <= SKEW);
        if self.has_learned.load(Relaxed) && has_this_date() {
            self.has_learned.store(false, Relaxed);
            self.session.clock.learn(self.clock.date());
        }
    }

    /// Sends a request. If it failed because of a reused connection, also returns what that failure
    /// means.
    ///
    /// The first such failure of an operation is retried here over a new connection: the request
    /// keeps its signature and its permit, and only the second try counts.
    async fn send(
        &self,
        request: HttpRequest,
        operation: Option<&Operation>,
    ) -> (Received, Option<Stale>) {
        let again = request.try_clone();
        let (received, stale) = self.send_once(request).await;
        match (stale, again, operation) {
            (Some(Stale::TryAgain), Some(again), Some(operation))
                if operation.take_reconnection() =>
            {
                self.counters.retries.increment();
                telemetry::reconnected();
                self.send_once(again).await
            }
            _ => (received, stale),
        }
    }

    async fn send_once(&self, request: HttpRequest) -> (Received, Option<Stale>) {
        let mut exchange = match self.https.send(request) {
            Ok(exchange) => exchange,
            Err(error) => return (Err(error), None),
        };
        let received =
            timeout(self.attempt_timeout, receive(&mut exchange, self.max_response)).await;
        let received = received.unwrap_or_else(|_| {
            let text =
                format!("no response within {:?}, the attempt timeout", self.attempt_timeout);
            Err(ConnectorError::timeout(text.into()))
        });
        let stale = received.as_ref().err().and_then(|error| exchange.failed(error));
        (received, stale)
    }

    /// Whether KMS may accept a request after all when it is signed again.
    async fn helps_to_sign_again(
        &self,
        operation: &Operation,
        outcome: Outcome,
        refused: &HttpResponse,
        signature: Signature,
    ) -> bool {
        if let Some(date) = signature.correct_date(refused) {
            // Another request may have learned the date while this one was in flight.
            if apart(date, self.clock.date()) > SKEW {
                self.clock.learn(date);
                self.has_learned.store(true, Relaxed);
                telemetry::date_learned(&self.region);
            }
            if operation.take_correction() {
                return true;
            }
        }
        // If the credentials work in another region, and none ever worked here, a refresh does not
        // help: this region does not know the account.
        let is_unknown =
            outcome == Outcome::CredentialsRejected && !self.has_accepted.load(Relaxed);
        let is_region_at_fault = is_unknown && self.session.is_accepted();
        !is_region_at_fault
            && operation.take_refresh()
            && self.session.rejected(signature.signer, self.session.clock.now()).await
    }

    fn short_circuited(&self, pause: Duration) -> ConnectorError {
        self.counters.short_circuited.increment();
        refusal(
            KmsErrorKind::Unavailable,
            "the circuit of the region is open, because its last requests all failed",
            pause,
        )
    }

    /// Adds the region, and the message of the innermost cause, to a failure.
    fn annotate(&self, error: ConnectorError) -> ConnectorError {
        let cause = iter::successors(Some(&error as &dyn Error), |&it| it.source()).last();
        let cause = cause.map(ToString::to_string).unwrap_or_default();
        let message = format!("{}: {cause}", self.region);
        let timed_out = error.is_timeout();
        let is_io = error.is_io();
        let kind = if timed_out { KmsErrorKind::TimedOut } else { KmsErrorKind::Unavailable };
        let annotated = Box::new(KmsError::local(kind, &message, Some(Box::new(error))));
        match (timed_out, is_io) {
            (true, _) => ConnectorError::timeout(annotated),
            (_, true) => ConnectorError::io(annotated),
            _ => ConnectorError::other(annotated, None),
        }
    }

    /// Returns the latest start of an attempt: a full attempt still fits into the operation
    /// timeout, or half of that timeout has passed if that is later.
    fn start_by(&self, began: Instant) -> Instant {
        let latest = self.operation_timeout.saturating_sub(self.attempt_timeout);
        began + latest.max(self.operation_timeout / 2)
    }
}

async fn receive(exchange: &mut Exchange<'_>, max_response: usize) -> Received {
    let mut response = exchange.head().await?;
    let body = std::mem::replace(response.body_mut(), SdkBody::taken());
    let body = Limited::new(body, max_response)
        .collect()
        .await
        .map_err(|error: BoxError| ConnectorError::io(error))?;
    Ok((response, body.to_bytes()))
}

/// The error of a request that the pool did not send.
fn refusal(kind: KmsErrorKind, message: &str, retry_after: Duration) -> ConnectorError {
    own_error(KmsError::refused(kind, message, retry_after))
}
