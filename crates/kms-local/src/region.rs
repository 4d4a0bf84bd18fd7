//! One region: from an HTTP request to its answer, through faults, signature and operation.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::{sync::watch, time::timeout};
use uuid::Uuid;

use crate::{
    counters::{self, Tally},
    error::Refusal,
    faults::{Fate, Faults},
    listener::Reset,
    operations::{self, Operation},
    principals::Principals,
    signature::{Authorization, Service},
    store::Place,
    time,
};

/// More than the largest request of the API, a `CreateKey` with a policy of 128 KiB.
const MAX_BODY: usize = 256 * 1024;
/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.1");

/// All there is to a region. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Region {
    pub(crate) keys: Place,
    pub(crate) principals: Arc<Principals>,
    pub(crate) faults: Faults,
    pub(crate) tally: Tally,
}

#[derive(Serialize)]
struct ErrorBody {
    #[serde(rename = "__type")]
    code: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

impl Region {
    /// Answers one request and counts it. Gives up when the server stops while a fault delays it.
    ///
    /// # Errors
    ///
    /// [`Reset`] when a fault says so, or when the server stops first.
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Response<Body>, Reset> {
        let operation = operation_of(request.headers());
        let visit = self.tally.begin(name_of(operation));
        let fate = tokio::select! {
            fate = self.faults.meet() => fate,
            _ = stop.wait_for(|stop| *stop) => return Err(Reset),
        };
        if fate == Fate::Reset {
            visit.end(counters::RESET);
            return Err(Reset);
        }
        let outcome = self.outcome(request, operation, fate).await;
        visit.end(outcome.as_ref().map_or_else(Refusal::code, |_| counters::OK));
        let mut response = respond(outcome);
        if let Some(date) = self.date() {
            response.headers_mut().insert(header::DATE, date);
        }
        Ok(response)
    }

    async fn outcome(
        &self,
        request: Request<Incoming>,
        operation: Option<&'static Operation>,
        fate: Fate,
    ) -> Result<Vec<u8>, Refusal> {
        if request.method() != Method::POST
            || request.uri().path_and_query().is_none_or(|it| it != "/")
        {
            return Err(Refusal::UnknownOperation);
        }
        let (head, body) = request.into_parts();
        let body = read(body).await?;
        self.authenticate(operation, &head.headers, &body)?;
        if !self.faults.admits(time::monotonic()) {
            return Err(Refusal::Throttling);
        }
        if fate == Fate::InternalError {
            return Err(Refusal::Internal("a fault was asked for".to_owned()));
        }
        let operation = operation.ok_or(Refusal::UnknownOperation)?;
        let denied = self.faults.denies_some_contexts()
            && operations::context_of(&body).is_some_and(|context| self.faults.denies(&context));
        if denied || self.faults.plan().access_denied {
            return Err(Refusal::AccessDenied(
                "The principal is not authorized to perform this operation: a fault was asked for",
            ));
        }
        let answer = self.run(operation, body).await?;
        if self.faults.plan().wrong_key_id {
            return misnamed(&answer);
        }
        Ok(answer)
    }

    fn authenticate(
        &self,
        operation: Option<&'static Operation>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(), Refusal> {
        let authorization = Authorization::parse(headers)?;
        if self.principals.find(authorization.access_key_id).is_some() {
            self.tally.access_key(name_of(operation), authorization.access_key_id);
        }
        let service = Service { name: "kms", region: Some(&self.keys.home.region) };
        authorization.verify(
            headers,
            body,
            &service,
            &self.principals,
            self.faults.clock(time::now()),
        )
    }

    /// What the server's clock shows, right or wrong, so that a client can see how far off it is.
    fn date(&self) -> Option<HeaderValue> {
        let date = time::format_http_date(self.faults.clock(time::now()))?;
        HeaderValue::from_str(&date).ok()
    }

    /// Runs an operation: here, or where it may block if it has to wait for a disk.
    async fn run(&self, operation: &'static Operation, body: Bytes) -> Result<Vec<u8>, Refusal> {
        if !(operation.changes && self.keys.is_persistent()) {
            return operation.run(&self.keys, &body, time::now());
        }
        let keys = self.keys.clone();
        // A caller that goes away does not stop the change: it is made whole or not at all.
        tokio::task::spawn_blocking(move || operation.run(&keys, &body, time::now()))
            .await
            .unwrap_or_else(|error| Err(Refusal::Internal(error.to_string())))
    }
}

/// The response with the `KeyId` of another key, if it contains a `KeyId`.
fn misnamed(answer: &[u8]) -> Result<Vec<u8>, Refusal> {
    let internal = |error: serde_json::Error| Refusal::Internal(error.to_string());
    if answer.is_empty() {
        return Ok(vec![]);
    }
    let mut answer: serde_json::Value = serde_json::from_slice(answer).map_err(internal)?;
    if let Some(serde_json::Value::String(key)) = answer.get_mut("KeyId") {
        let last = if key.ends_with('0') { "1" } else { "0" };
        key.replace_range(key.len() - 1.., last);
    }
    serde_json::to_vec(&answer).map_err(internal)
}

fn operation_of(headers: &HeaderMap) -> Option<&'static Operation> {
    headers.get("x-amz-target")?.to_str().ok().and_then(Operation::from_target)
}

/// What it counts as.
fn name_of(operation: Option<&'static Operation>) -> &'static str {
    operation.map_or("Unknown", |operation| operation.name)
}

/// Reads a body that is bounded in length and in time.
pub(crate) async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let body = timeout(BODY_DEADLINE, Limited::new(body, MAX_BODY).collect())
        .await
        .map_err(|_| Refusal::RequestTimeout)?;
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::RequestTooLarge(MAX_BODY)),
        Err(_) => Err(Refusal::RequestTimeout),
    }
}

fn respond(outcome: Result<Vec<u8>, Refusal>) -> Response<Body> {
    let (status, body) = match outcome {
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) => {
            let body = ErrorBody { code: refusal.code(), message: refusal.to_string() };
            // Two strings always encode.
            (refusal.status(), serde_json::to_vec(&body).unwrap_or_default())
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    if let Ok(id) = HeaderValue::from_str(&Uuid::new_v4().to_string()) {
        headers.insert("x-amzn-requestid", id);
    }
    response
}
