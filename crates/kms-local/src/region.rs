//! The KMS of one region, from an HTTP request to its response.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    counters,
    error::Refusal,
    faults::Fate,
    listener::{Body, Reset},
    operations::{self, Operation},
    service::{Service, check_target, read_body},
    store::StoreHandle,
    time,
};

const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// The state of one region. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Region {
    pub(crate) store: StoreHandle,
    pub(crate) service: Service,
}

#[derive(Serialize)]
struct ErrorBody {
    #[serde(rename = "__type")]
    code: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

impl Region {
    /// Responds to one request and counts it.
    ///
    /// # Errors
    ///
    /// [`Reset`] if a fault resets the connection, or if the server stops while a fault delays the
    /// request.
    pub(crate) async fn respond(
        self,
        request: Request<Incoming>,
        stop: watch::Receiver<bool>,
    ) -> Result<Response<Body>, Reset> {
        let operation = operation_of(request.headers());
        let (visit, fate) = self.service.begin(name_of(operation), stop).await?;
        let outcome = self.outcome(request, operation, fate).await;
        visit.end(outcome.as_ref().map_or_else(Refusal::code, |_| counters::OK));
        let (status, body) = match outcome {
            Ok(body) => (StatusCode::OK, body),
            Err(refusal) => {
                let body = ErrorBody { code: refusal.code(), message: refusal.to_string() };
                // Two strings always have a JSON form.
                (refusal.status(), serde_json::to_vec(&body).unwrap_or_default())
            }
        };
        Ok(self.service.response(Uuid::new_v4(), status, CONTENT_TYPE, body))
    }

    async fn outcome(
        &self,
        request: Request<Incoming>,
        operation: Option<&'static Operation>,
        fate: Fate,
    ) -> Result<Vec<u8>, Refusal> {
        check_target(request.method(), request.uri())?;
        let (head, body) = request.into_parts();
        let body = read_body(body).await?;
        self.service.authenticate(name_of(operation), &head.headers, &body)?;
        self.service.check_faults(fate)?;
        let operation = operation.ok_or(Refusal::UnknownOperation)?;
        self.check_access(&body)?;
        let response = self.run(operation, body).await?;
        if self.service.faults.plan().wrong_key_id {
            return with_wrong_key_id(&response);
        }
        Ok(response)
    }

    /// Refuses a request that a fault denies.
    fn check_access(&self, body: &[u8]) -> Result<(), Refusal> {
        let faults = &self.service.faults;
        let context_denied = faults.denies_some_contexts()
            && operations::context_of(body).is_some_and(|context| faults.denies(&context));
        if context_denied || faults.plan().access_denied {
            return Err(Refusal::AccessDenied(
                "The principal is not authorized to perform this operation: this is simulated",
            ));
        }
        Ok(())
    }

    /// Runs an operation. If it waits for a disk, it runs on a thread that may block.
    async fn run(&self, operation: &'static Operation, body: Bytes) -> Result<Vec<u8>, Refusal> {
        if !(operation.changes && self.store.is_persistent()) {
            return operation.run(&self.store, &body, time::now());
        }
        let store = self.store.clone();
        // The change completes even if the caller disconnects.
        tokio::task::spawn_blocking(move || operation.run(&store, &body, time::now()))
            .await
            .unwrap_or_else(|error| Err(Refusal::Internal(error.to_string())))
    }
}

/// Replaces the `KeyId` of a response, if it has one, with the id of a key that does not exist.
fn with_wrong_key_id(response: &[u8]) -> Result<Vec<u8>, Refusal> {
    let internal = |error: serde_json::Error| Refusal::Internal(error.to_string());
    if response.is_empty() {
        return Ok(vec![]);
    }
    let mut response: Value = serde_json::from_slice(response).map_err(internal)?;
    if let Some(Value::String(key)) = response.get_mut("KeyId") {
        let last = if key.ends_with('0') { "1" } else { "0" };
        key.replace_range(key.len() - 1.., last);
    }
    serde_json::to_vec(&response).map_err(internal)
}

fn operation_of(headers: &HeaderMap) -> Option<&'static Operation> {
    headers.get("x-amz-target")?.to_str().ok().and_then(Operation::from_target)
}

/// Returns the name under which a request is counted.
fn name_of(operation: Option<&'static Operation>) -> &'static str {
    operation.map_or("Unknown", |operation| operation.name)
}
