//! The answer's side of the Query protocol: XML, and errors in the words of STS.

use std::time::SystemTime;

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use uuid::Uuid;

use crate::{error::Refusal, time};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/xml");

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: &'static str,
    status: StatusCode,
    message: String,
}

impl Fault {
    pub(super) fn validation(message: &str) -> Self {
        Self {
            code: "ValidationError",
            status: StatusCode::BAD_REQUEST,
            message: message.to_owned(),
        }
    }

    pub(super) fn invalid_identity_token() -> Self {
        let message = "The web identity token was not accepted before".to_owned();
        Self { code: "InvalidIdentityToken", status: StatusCode::BAD_REQUEST, message }
    }
}

/// STS has names of its own for what other services call otherwise.
impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let (code, status) = match refusal {
            Refusal::AccessDenied(_) => ("AccessDenied", StatusCode::FORBIDDEN),
            Refusal::ExpiredToken => ("ExpiredToken", StatusCode::FORBIDDEN),
            Refusal::IncompleteSignature(_) => ("IncompleteSignature", StatusCode::BAD_REQUEST),
            Refusal::Internal(_) => ("InternalFailure", StatusCode::INTERNAL_SERVER_ERROR),
            Refusal::InvalidSignature(_) => ("SignatureDoesNotMatch", StatusCode::FORBIDDEN),
            Refusal::MissingAuthenticationToken => {
                ("MissingAuthenticationToken", StatusCode::FORBIDDEN)
            }
            Refusal::Throttling => ("Throttling", StatusCode::BAD_REQUEST),
            Refusal::UnknownOperation => ("InvalidAction", StatusCode::BAD_REQUEST),
            Refusal::UnrecognizedClient => ("InvalidClientTokenId", StatusCode::FORBIDDEN),
            ref other => ("ValidationError", other.status()),
        };
        Self { code, status, message: refusal.to_string() }
    }
}

/// An element with text in it.
pub(super) fn text(name: &str, value: &str) -> String {
    let escaped = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    element(name, &escaped)
}

/// An element with XML in it.
pub(super) fn element(name: &str, inside: &str) -> String {
    format!("<{name}>{inside}</{name}>")
}

/// The answer to an action: its result, or why there is none.
pub(super) fn respond(
    action: &str,
    outcome: Result<String, Fault>,
    clock: SystemTime,
) -> Response<Body> {
    let id = Uuid::new_v4().to_string();
    let request_id = text("RequestId", &id);
    let (status, name, inside) = match outcome {
        Ok(result) => {
            let result = element(&format!("{action}Result"), &result);
            (
                StatusCode::OK,
                format!("{action}Response"),
                result + &element("ResponseMetadata", &request_id),
            )
        }
        Err(fault) => {
            let whose = if fault.status.is_server_error() { "Receiver" } else { "Sender" };
            let parts =
                [text("Type", whose), text("Code", fault.code), text("Message", &fault.message)];
            (
                fault.status,
                "ErrorResponse".to_owned(),
                element("Error", &parts.concat()) + &request_id,
            )
        }
    };
    let mut response =
        Response::new(Body::from(format!("<{name} xmlns=\"{NAMESPACE}\">{inside}</{name}>")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    for (name, value) in [("x-amzn-requestid", Some(id)), ("date", time::format_http_date(clock))] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    }
    response
}
