//! The parts that every service shares, whether the KMS of a region or the STS: counters, faults,
//! signatures and the frame of a response.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::{sync::watch, time::timeout};
use uuid::Uuid;

use crate::{
    counters::{self, Tally, Visit},
    error::Refusal,
    faults::{Fate, Faults},
    listener::{Body, Reset},
    principals::{Principal, Principals},
    signature::{Authorization, Scope},
    time,
};

/// The maximum length of a body. The largest request is a `CreateKey` with a policy of 128 KiB.
const MAX_BODY: usize = 256 * 1024;
/// The time within which a body must arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The shared state of one service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Service {
    /// The scope that requests must be signed for.
    pub(crate) scope: Scope,
    pub(crate) principals: Arc<Principals>,
    pub(crate) faults: Faults,
    pub(crate) tally: Tally,
}

impl Service {
    pub(crate) fn new(scope: Scope, principals: Arc<Principals>) -> Self {
        Self { scope, principals, faults: Faults::new(), tally: Tally::default() }
    }

    /// Begins to count a request for `operation`, and waits as long as the faults delay it.
    ///
    /// # Errors
    ///
    /// [`Reset`] if a fault resets the connection, or if the server stops during the wait.
    pub(crate) async fn begin(
        &self,
        operation: &'static str,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(Visit, Fate), Reset> {
        let visit = self.tally.begin(operation);
        let fate = tokio::select! {
            fate = self.faults.meet() => fate,
            _ = stop.wait_for(|stop| *stop) => return Err(Reset),
        };
        if fate == Fate::Reset {
            visit.end(counters::RESET);
            return Err(Reset);
        }
        Ok((visit, fate))
    }

    /// Verifies the signature of a request and returns the principal that signed it. Counts the
    /// access key, if it is known, under `operation`.
    ///
    /// # Errors
    ///
    /// Those of [`Authorization::parse`] and [`Authorization::verify`].
    pub(crate) fn authenticate(
        &self,
        operation: &'static str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Arc<Principal>, Refusal> {
        let authorization = Authorization::parse(headers)?;
        if self.principals.find(authorization.access_key_id).is_some() {
            self.tally.access_key(operation, authorization.access_key_id);
        }
        authorization.verify(headers, body, &self.scope, &self.principals, self.clock())
    }

    /// Refuses an authenticated request if a fault says so.
    ///
    /// # Errors
    ///
    /// [`Refusal::Throttling`] or [`Refusal::Internal`].
    pub(crate) fn check_faults(&self, fate: Fate) -> Result<(), Refusal> {
        if !self.faults.admits(time::monotonic()) {
            return Err(Refusal::Throttling);
        }
        match fate {
            Fate::InternalError => Err(Refusal::Internal("this error is simulated".to_owned())),
            Fate::Pass | Fate::Reset => Ok(()),
        }
    }

    /// Returns the time on the server's clock, which a fault can offset.
    pub(crate) fn clock(&self) -> SystemTime {
        self.faults.clock(time::now())
    }

    /// Returns a response with a request id, and with a `Date` header from the server's clock.
    pub(crate) fn response(
        &self,
        request_id: Uuid,
        status: StatusCode,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Response<Body> {
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Ok(id) = HeaderValue::from_str(&request_id.to_string()) {
            headers.insert("x-amzn-requestid", id);
        }
        // Clients learn from the date how far off the clock is.
        let date = time::format_http_date(self.clock());
        if let Some(date) = date.and_then(|date| HeaderValue::from_str(&date).ok()) {
            headers.insert(header::DATE, date);
        }
        response
    }
}

/// Checks that a request is a `POST /` without a query: the only kind that AWS's protocols use.
///
/// # Errors
///
/// [`Refusal::UnknownOperation`].
pub(crate) fn check_target(method: &Method, uri: &Uri) -> Result<(), Refusal> {
    if method == Method::POST && uri.path_and_query().is_some_and(|it| it == "/") {
        Ok(())
    } else {
        Err(Refusal::UnknownOperation)
    }
}

/// Reads a body, within limits on length and time.
///
/// # Errors
///
/// [`Refusal::RequestTooLarge`] or [`Refusal::RequestTimeout`].
pub(crate) async fn read_body(body: Incoming) -> Result<Bytes, Refusal> {
    let body = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect())
        .await
        .map_err(|_| Refusal::RequestTimeout)?;
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::RequestTooLarge(MAX_BODY)),
        Err(_) => Err(Refusal::RequestTimeout),
    }
}
