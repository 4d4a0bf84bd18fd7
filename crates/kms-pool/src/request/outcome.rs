//! The outcome of an attempt.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::ConnectorError;

use crate::error::KmsErrorKind;

/// The outcome of an attempt, as far as it matters for later attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Ok,
    /// KMS refused the request itself, for example because access is denied.
    Refused,
    /// KMS rejected the credentials.
    CredentialsRejected,
    /// KMS rejected the credentials because they have expired.
    CredentialsExpired,
    Throttled,
    /// KMS failed internally.
    Failed,
    /// There was no response in time.
    TimedOut,
    /// No connection could be opened, or it broke.
    Disconnected,
}

impl Outcome {
    /// The name in logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::CredentialsRejected | Self::CredentialsExpired => "credentials_rejected",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Disconnected => "disconnected",
        }
    }

    /// Whether the region seems to be unavailable.
    pub(super) fn is_outage(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Disconnected)
    }

    pub(super) fn of_response(response: &HttpResponse, body: &[u8]) -> Self {
        let status = response.status().as_u16();
        if (200..300).contains(&status) {
            return Self::Ok;
        }
        let kind = code(response, body).and_then(|code| KmsErrorKind::of_code(&code));
        match kind.unwrap_or_else(|| KmsErrorKind::of_status(status)) {
            KmsErrorKind::Throttled => Self::Throttled,
            KmsErrorKind::CredentialsExpired => Self::CredentialsExpired,
            KmsErrorKind::CredentialsRejected => Self::CredentialsRejected,
            KmsErrorKind::TimedOut => Self::TimedOut,
            KmsErrorKind::Unavailable => Self::Failed,
            _ => Self::Refused,
        }
    }

    pub(super) fn of_failure(error: &ConnectorError) -> Self {
        if error.is_timeout() { Self::TimedOut } else { Self::Disconnected }
    }
}

/// The error code of a response, without its namespace: from a header, or else from the body.
fn code(response: &HttpResponse, body: &[u8]) -> Option<String> {
    let in_body = || {
        let body = serde_json::from_slice::<serde_json::Value>(body).ok()?;
        Some(body.get("__type").or_else(|| body.get("code"))?.as_str()?.to_owned())
    };
    let in_header = response.headers().get("x-amzn-errortype").map(str::to_owned);
    let code = in_header.or_else(in_body)?;
    let code = code.rsplit('#').next()?.split(':').next()?;
    Some(code.to_owned())
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::body::SdkBody;

    use super::*;

    fn outcome(status: u16, header: Option<&'static str>, body: &str) -> Outcome {
        let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
        if let Some(header) = header {
            response.headers_mut().insert("x-amzn-errortype", header);
        }
        Outcome::of_response(&response, body.as_bytes())
    }

    #[test]
    fn a_response_is_classified_by_its_code_or_else_by_its_status() {
        let throttled = r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#;
        assert_eq!(outcome(400, None, throttled), Outcome::Throttled);
        let expired = r#"{"__type":"com.amazonaws.kms#ExpiredTokenException"}"#;
        assert_eq!(outcome(400, None, expired), Outcome::CredentialsExpired);
        assert_eq!(
            outcome(400, Some("InvalidSignatureException:http://x"), ""),
            Outcome::CredentialsRejected
        );
        assert_eq!(outcome(400, None, r#"{"__type":"NotFoundException"}"#), Outcome::Refused);
        assert_eq!(outcome(200, None, ""), Outcome::Ok);
        assert_eq!(outcome(500, None, "not JSON"), Outcome::Failed);
        assert_eq!(
            outcome(400, None, r#"{"__type":"ThrottlingException","code":"x"}"#),
            Outcome::Throttled
        );
        assert_eq!(outcome(429, None, "{}"), Outcome::Throttled);
        assert_eq!(outcome(403, None, "[]"), Outcome::Refused);
    }
}
