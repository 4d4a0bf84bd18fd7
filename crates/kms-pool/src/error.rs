//! Errors of KMS calls, classified by what the caller can do about them.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

pub use self::build::BuildError;
pub use self::kind::KmsErrorKind;

mod build;
mod kind;

/// The error of a failed KMS call, or of a client that could not be supplied.
///
/// The error of any operation converts with `?`. Clones share the cause, so several callers can
/// get the same failure. `Display` and `Debug` show no secrets, and the raw HTTP response is never
/// kept: it may contain a plaintext key. [`source`](Error::source) returns an error of the network
/// or of a credentials provider. Messages of your own provider may contain secrets: do not log them
/// without need.
///
/// # Examples
///
/// ```no_run
/// use kms_pool::{KmsError, KmsErrorKind};
///
/// # async fn example(client: aws_sdk_kms::Client) -> Result<(), KmsError> {
/// async fn enabled(client: &aws_sdk_kms::Client, key: &str) -> Result<bool, KmsError> {
///     let answer = client.describe_key().key_id(key).send().await?;
///     Ok(answer.key_metadata.is_some_and(|key| key.enabled))
/// }
///
/// match enabled(&client, "alias/orders").await {
///     Ok(enabled) => println!("enabled: {enabled}"),
///     Err(error) if error.kind() == KmsErrorKind::KeyNotFound => println!("no such key"),
///     Err(error) if error.is_retryable() => println!("later: {error}"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct KmsError {
    details: Arc<Details>,
}

#[derive(Debug)]
struct Details {
    kind: KmsErrorKind,
    code: Option<String>,
    message: Option<String>,
    request_id: Option<String>,
    retry_after: Option<Duration>,
    /// Whether the pool refused the request itself.
    is_own: bool,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl KmsError {
    /// Creates the error of a failure without a request.
    pub(crate) fn local(
        kind: KmsErrorKind,
        message: &str,
        cause: Option<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::from(Details {
            kind,
            code: None,
            message: first_line(message),
            request_id: None,
            retry_after: None,
            is_own: false,
            cause,
        })
    }

    /// Creates the error of a request that the pool did not send, and may send later.
    pub(crate) fn refused(kind: KmsErrorKind, message: &str, retry_after: Duration) -> Self {
        Self::from(Details {
            kind,
            code: None,
            message: first_line(message),
            request_id: None,
            retry_after: Some(retry_after),
            is_own: true,
            cause: None,
        })
    }

    /// Creates the error of a pool that has been shut down.
    pub(crate) fn shut_down() -> Self {
        Self::local(KmsErrorKind::InvalidRequest, "the pool has been shut down", None)
    }

    /// Creates the error of a forked child process, which has none of the pool's threads.
    pub(crate) fn after_fork() -> Self {
        Self::local(KmsErrorKind::AfterFork, "", None)
    }

    /// Returns the kind of the failure.
    pub fn kind(&self) -> KmsErrorKind {
        self.details.kind
    }

    /// Returns whether the same call may succeed later without any change.
    ///
    /// The SDK has already retried. Use this to decide whether to queue the work or to drop it.
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }

    /// Returns whether the pool did not send the request to KMS, because it could not start in time
    /// within its account's budget ([`OverBudget`](KmsErrorKind::OverBudget)), or because the
    /// circuit of its region is open ([`Unavailable`](KmsErrorKind::Unavailable)).
    pub fn is_held_back(&self) -> bool {
        self.details.is_own
    }

    /// Returns the error code of KMS, such as `ThrottlingException`, if KMS responded.
    pub fn code(&self) -> Option<&str> {
        self.details.code.as_deref()
    }

    /// Returns the message of KMS or of the pool: one line, shortened if it is long.
    pub fn message(&self) -> Option<&str> {
        self.details.message.as_deref()
    }

    /// Returns the request id, by which AWS can find the call, if KMS responded.
    pub fn request_id(&self) -> Option<&str> {
        self.details.request_id.as_deref()
    }

    /// Returns how long to wait before the next attempt, if KMS or the pool's budget or circuit has
    /// set a time.
    pub fn retry_after(&self) -> Option<Duration> {
        self.details.retry_after
    }
}

impl From<Details> for KmsError {
    fn from(details: Details) -> Self {
        Self { details: Arc::new(details) }
    }
}

impl<E> From<SdkError<E, HttpResponse>> for KmsError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        if let Some(own) = own(&error) {
            return own;
        }
        let response = error.raw_response();
        let header = |name| response.and_then(|response| response.headers().get(name));
        let kind = classify(&error);
        Self::from(Details {
            kind,
            code: error.code().and_then(word),
            message: error.message().and_then(first_line),
            request_id: header("x-amzn-requestid").and_then(word),
            retry_after: header("x-amz-retry-after")
                .and_then(|millis| millis.parse().ok().map(Duration::from_millis))
                .or_else(|| header("retry-after")?.parse().ok().map(Duration::from_secs)),
            is_own: false,
            // The code and the message are all that a response tells. Moreover, for a wrong
            // signature, AWS quotes the request that it expected, with its session token.
            cause: match error {
                SdkError::ServiceError(_) => None,
                _ => error.into_source().ok(),
            },
        })
    }
}

impl Error for KmsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.details.cause.as_deref().map(|cause| cause as _)
    }
}

impl fmt::Display for KmsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, advice) = if self.is_held_back() {
            self.kind().in_words_held_back()
        } else {
            self.kind().in_words()
        };
        f.write_str(what)?;
        let named = [("", self.code()), ("", self.message()), ("request id ", self.request_id())];
        let mut separator = ": ";
        for (name, value) in named {
            if let Some(value) = value {
                write!(f, "{separator}{name}{value}")?;
                separator = ", ";
            }
        }
        write!(f, "; {advice}")
    }
}

impl fmt::Debug for KmsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The cause by its `Display`: the `Debug` of other errors may show secrets.
        f.debug_struct("KmsError")
            .field("kind", &self.kind())
            .field("code", &self.code())
            .field("message", &self.message())
            .field("request_id", &self.request_id())
            .field("retry_after", &self.retry_after())
            .field("cause", &self.source().map(ToString::to_string))
            .finish()
    }
}

/// Returns the error of the pool itself among the causes: no credentials, no room in the budget, or
/// an open circuit.
fn own(error: &(dyn Error + 'static)) -> Option<KmsError> {
    std::iter::successors(error.source(), |&cause| cause.source())
        .find_map(|cause| cause.downcast_ref())
        .cloned()
}

fn classify<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> KmsErrorKind {
    match error {
        SdkError::ConstructionFailure(_) => KmsErrorKind::InvalidRequest,
        SdkError::TimeoutError(_) => KmsErrorKind::TimedOut,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => KmsErrorKind::TimedOut,
        SdkError::DispatchFailure(failure) if failure.is_user() => KmsErrorKind::InvalidRequest,
        SdkError::DispatchFailure(_) => KmsErrorKind::Unavailable,
        SdkError::ResponseError(response) => {
            KmsErrorKind::of_status(response.raw().status().as_u16())
        }
        SdkError::ServiceError(service) => service
            .err()
            .code()
            .and_then(KmsErrorKind::of_code)
            .unwrap_or_else(|| KmsErrorKind::of_status(service.raw().status().as_u16())),
        _ => KmsErrorKind::Other,
    }
}

/// Returns a word of the server with only letters, digits and a few other characters.
fn word(text: &str) -> Option<String> {
    const MAX_LENGTH: usize = 128;
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let word: String = text.chars().filter(is_plain).take(MAX_LENGTH).collect();
    (!word.is_empty()).then_some(word)
}

/// Returns the first line of a text, shortened and without control characters.
fn first_line(text: &str) -> Option<String> {
    const MAX_LENGTH: usize = 300;
    let line = text.lines().next()?.trim();
    let line: String = line.chars().filter(|c| !c.is_control()).take(MAX_LENGTH).collect();
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use aws_sdk_kms::error::ErrorMetadata;
    use aws_sdk_kms::operation::decrypt::DecryptError;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    fn response(status: u16) -> HttpResponse {
        let status = status.try_into().expect("a status code");
        HttpResponse::new(status, SdkBody::empty())
    }

    fn answered(status: u16, code: &str, message: &str) -> KmsError {
        let meta = ErrorMetadata::builder().code(code).message(message).build();
        SdkError::service_error(DecryptError::generic(meta), response(status)).into()
    }

    fn dispatch(error: ConnectorError) -> KmsError {
        SdkError::<DecryptError, _>::dispatch_failure(error).into()
    }

    /// Everything that a logger could print of an error.
    fn all_output(error: &KmsError) -> String {
        let mut output = format!("{error} {error:?} {error:#?}");
        let causes = std::iter::successors(error.source(), |&cause| cause.source());
        output.extend(causes.map(|cause| format!(" {cause} {cause:?}")));
        output
    }

    #[test]
    fn a_code_goes_before_the_status() {
        use KmsErrorKind as Kind;
        for (status, code, kind) in [
            (400, "ThrottlingException", Kind::Throttled),
            (500, "KMSInternalException", Kind::Unavailable),
            (500, "KeyUnavailableException", Kind::Unavailable),
            (503, "DependencyTimeoutException", Kind::Unavailable),
            (400, "AccessDeniedException", Kind::AccessDenied),
            (409, "DisabledException", Kind::KeyDisabled),
            (409, "KMSInvalidStateException", Kind::KeyInvalidState),
            (400, "NotFoundException", Kind::KeyNotFound),
            (400, "InvalidCiphertextException", Kind::InvalidCiphertext),
            (400, "IncorrectKeyException", Kind::IncorrectKey),
            (400, "ExpiredTokenException", Kind::CredentialsExpired),
            (400, "UnrecognizedClientException", Kind::CredentialsRejected),
            (403, "InvalidSignatureException", Kind::CredentialsRejected),
            (400, "ValidationException", Kind::InvalidRequest),
            (400, "LimitExceededException", Kind::LimitExceeded),
            (400, "SomethingNew", Kind::InvalidRequest),
            (403, "SomethingNew", Kind::AccessDenied),
            (429, "SomethingNew", Kind::Throttled),
            (502, "SomethingNew", Kind::Unavailable),
            (302, "SomethingNew", Kind::Other),
        ] {
            let error = answered(status, code, "why");
            assert_eq!(error.kind(), kind, "{status} {code}");
            assert_eq!(error.code(), Some(code));
        }
    }

    #[test]
    fn slow_and_broken_connections_differ() {
        let timeout = SdkError::<DecryptError, HttpResponse>::timeout_error("late");
        assert_eq!(KmsError::from(timeout).kind(), KmsErrorKind::TimedOut);
        let connect = dispatch(ConnectorError::timeout("late".into()));
        assert_eq!(connect.kind(), KmsErrorKind::TimedOut);
        let reset = dispatch(ConnectorError::io("reset".into()));
        assert_eq!(reset.kind(), KmsErrorKind::Unavailable);
        assert!(connect.is_retryable() && reset.is_retryable());
        assert!(reset.source().is_some_and(<dyn Error>::is::<ConnectorError>));
    }

    #[test]
    fn what_the_server_says_is_kept() {
        let mut response = response(400);
        response.headers_mut().insert("x-amzn-requestid", "7a-5b");
        response.headers_mut().insert("retry-after", "7");
        let meta = ErrorMetadata::builder().code("ThrottlingException").message("Rate exceeded");
        let error = DecryptError::generic(meta.build());
        let error = KmsError::from(SdkError::service_error(error, response));
        assert_eq!(error.request_id(), Some("7a-5b"));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert!(error.is_retryable());
        assert_eq!(
            error.to_string(),
            "KMS throttled the request: ThrottlingException, Rate exceeded, request id 7a-5b; \
             send fewer requests or ask AWS for a higher quota"
        );
        assert!(error.source().is_none(), "all of it is in the text");
    }

    #[test]
    fn a_foreign_message_becomes_one_short_line() {
        let error = answered(400, "ValidationException", "one\u{1b}[31m\r\ntwo");
        assert_eq!(error.message(), Some("one[31m"));
        let error = answered(400, "ValidationException", &"é".repeat(1000));
        assert_eq!(error.message().map(|message| message.chars().count()), Some(300));
    }

    #[test]
    fn a_foreign_code_is_a_word() {
        let error = answered(400, &format!("A\u{1b}[31m\r\nB{}", "c".repeat(1000)), "why");
        assert_eq!(error.code().map(str::len), Some(128));
        assert!(error.code().unwrap().starts_with("A31mBc"));
    }

    #[test]
    fn the_request_quoted_after_a_wrong_signature_is_dropped() {
        let message = "The request signature we calculated does not match.\n\nThe Canonical String \
            should have been\n'POST\n/\n\nx-amz-security-token:TOKENTOKENTOKEN'";
        let error = answered(400, "InvalidSignatureException", message);
        assert_eq!(error.message(), Some("The request signature we calculated does not match."));
        assert!(!all_output(&error).contains("TOKEN"));
    }

    #[test]
    fn the_body_of_an_answer_that_cannot_be_read_is_dropped() {
        let body = SdkBody::from(r#"{"Plaintext":"UExBSU5URVhU""#);
        let response = HttpResponse::new(200.try_into().expect("a status code"), body);
        let error = SdkError::<DecryptError, _>::response_error("unexpected end", response);
        let error = KmsError::from(error);
        assert_eq!(error.kind(), KmsErrorKind::Other);
        assert!(all_output(&error).contains("unexpected end"));
        assert!(!all_output(&error).contains("UExBSU5URVhU"));
    }
}
