//! Responses of the Query protocol: XML, and the errors of STS.

use http::StatusCode;
use uuid::Uuid;

use crate::error::Refusal;

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
pub(super) const CONTENT_TYPE: &str = "text/xml";

/// The reason why the STS refuses a request.
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
        let message = "The web identity token is unknown to this server".to_owned();
        Self { code: "InvalidIdentityToken", status: StatusCode::BAD_REQUEST, message }
    }
}

/// STS and the other services have different names for the same errors.
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

/// Returns an element that contains text.
pub(super) fn text(name: &str, value: &str) -> String {
    let escaped = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    element(name, &escaped)
}

/// Returns an element that contains XML.
pub(super) fn element(name: &str, inside: &str) -> String {
    format!("<{name}>{inside}</{name}>")
}

/// Returns the status and body of the response to an action.
pub(super) fn response(
    id: Uuid,
    action: &str,
    outcome: Result<String, Fault>,
) -> (StatusCode, String) {
    let request_id = text("RequestId", &id.to_string());
    let (status, name, inside) = match outcome {
        Ok(result) => {
            let result = element(&format!("{action}Result"), &result);
            let metadata = element("ResponseMetadata", &request_id);
            (StatusCode::OK, format!("{action}Response"), result + &metadata)
        }
        Err(fault) => {
            let side = if fault.status.is_server_error() { "Receiver" } else { "Sender" };
            let parts =
                [text("Type", side), text("Code", fault.code), text("Message", &fault.message)];
            let error = element("Error", &parts.concat());
            (fault.status, "ErrorResponse".to_owned(), error + &request_id)
        }
    };
    (status, format!("<{name} xmlns=\"{NAMESPACE}\">{inside}</{name}>"))
}
