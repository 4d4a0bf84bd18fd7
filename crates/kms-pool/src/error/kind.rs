//! The kinds of failures, and which error codes of KMS belong to them.

/// The kind of a [`KmsError`](super::KmsError).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KmsErrorKind {
    /// KMS throttled the request, and all retries failed.
    Throttled,
    /// The pool did not send the request, because it could not start in time within the budget of
    /// its account and region. KMS itself may be healthy.
    OverBudget,
    /// KMS did not respond within the connect, attempt or operation timeout.
    TimedOut,
    /// KMS could not be reached, closed the connection, or failed internally; or the circuit is
    /// open after such failures, so no request was sent.
    Unavailable,
    /// The principal may not use the key in this way.
    AccessDenied,
    /// The key is disabled.
    KeyDisabled,
    /// The state of the key does not allow the operation, for example because it is pending
    /// deletion or import.
    KeyInvalidState,
    /// The key does not exist in this account and region.
    KeyNotFound,
    /// The ciphertext is damaged, or its encryption context differs.
    InvalidCiphertext,
    /// The ciphertext belongs to another key than the requested one.
    IncorrectKey,
    /// The credentials have expired.
    CredentialsExpired,
    /// KMS does not know the access key, or the signature does not match.
    CredentialsRejected,
    /// The credentials provider failed, panicked or timed out.
    CredentialsUnavailable,
    /// The process was forked after the pool was first used, and this is the child.
    ///
    /// A child has none of the pool's threads. Build a new pool after the fork.
    AfterFork,
    /// The request is invalid. A retry cannot succeed.
    InvalidRequest,
    /// A quota of keys, grants or aliases is used up. (The rate quota is
    /// [`Throttled`](Self::Throttled).)
    LimitExceeded,
    /// Anything else: see [`KmsError::code`](super::KmsError::code) and the error's source.
    Other,
}

impl KmsErrorKind {
    /// Returns whether the same call may succeed later without any change.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::OverBudget | Self::TimedOut | Self::Unavailable)
    }

    /// Returns what failed, and what to do about it.
    pub(super) fn in_words(self) -> (&'static str, &'static str) {
        match self {
            Self::Throttled => {
                ("KMS throttled the request", "send fewer requests or ask AWS for a higher quota")
            }
            Self::OverBudget => (
                "the pool did not send the request: the budget is used up",
                "send fewer requests, or raise max_in_flight or max_requests_per_second",
            ),
            Self::TimedOut => {
                ("KMS did not respond in time", "try again, or raise the timeouts of the pool")
            }
            Self::Unavailable => (
                "KMS could not be reached or failed internally",
                "try again; if it persists, check the endpoint, its certificate and the network",
            ),
            Self::AccessDenied => (
                "KMS denied access",
                "check the key policy, the grants and the IAM policy of the principal",
            ),
            Self::KeyDisabled => ("the KMS key is disabled", "enable the key"),
            Self::KeyInvalidState => (
                "the state of the KMS key does not allow this",
                "check whether the key is pending deletion or import",
            ),
            Self::KeyNotFound => {
                ("KMS has no such key", "check the key id, its region and its account")
            }
            Self::InvalidCiphertext => (
                "KMS could not decrypt the ciphertext",
                "check the ciphertext and the encryption context",
            ),
            Self::IncorrectKey => {
                ("the ciphertext belongs to another KMS key", "request the key that encrypted it")
            }
            Self::CredentialsExpired => {
                ("the AWS credentials have expired", "check that their provider refreshes them")
            }
            Self::CredentialsRejected => (
                "KMS does not accept the AWS credentials",
                "check the access key, its secret and the clock",
            ),
            Self::CredentialsUnavailable => (
                "could not load AWS credentials",
                "check the credentials provider of the principal",
            ),
            Self::AfterFork => (
                "the process was forked after the pool was first used",
                "build a new pool in the child",
            ),
            Self::InvalidRequest => ("invalid request", "fix the request: a retry cannot succeed"),
            Self::LimitExceeded => {
                ("a KMS quota is used up", "delete unused resources or ask AWS for a higher quota")
            }
            Self::Other => ("the KMS request failed", "see the cause of this error"),
        }
    }

    /// Like [`in_words`](Self::in_words), for requests that the pool did not send.
    pub(super) fn in_words_held_back(self) -> (&'static str, &'static str) {
        match self {
            Self::OverBudget => self.in_words(),
            _ => (
                "the pool did not send the request: the circuit is open",
                "try again later: the pool probes the region with one request at a time",
            ),
        }
    }

    /// Returns the kind of an error code: see "Common Errors" and the "Errors" of each operation in
    /// the KMS API reference.
    pub(crate) fn of_code(code: &str) -> Option<Self> {
        Some(match code {
            "ThrottlingException"
            | "Throttling"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "ProvisionedThroughputExceededException"
            | "SlowDown" => Self::Throttled,
            "KMSInternalException"
            | "KeyUnavailableException"
            | "DependencyTimeoutException"
            | "InternalFailure"
            | "InternalServerError"
            | "ServiceUnavailable"
            | "ServiceUnavailableException" => Self::Unavailable,
            "AccessDeniedException" | "AccessDenied" | "NotAuthorized" | "OptInRequired" => {
                Self::AccessDenied
            }
            "DisabledException" => Self::KeyDisabled,
            "KMSInvalidStateException" => Self::KeyInvalidState,
            "NotFoundException" => Self::KeyNotFound,
            "InvalidCiphertextException" => Self::InvalidCiphertext,
            "IncorrectKeyException" => Self::IncorrectKey,
            "ExpiredTokenException" | "ExpiredToken" => Self::CredentialsExpired,
            "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "RequestExpired" => Self::CredentialsRejected,
            "ValidationException"
            | "ValidationError"
            | "SerializationException"
            | "UnknownOperationException"
            | "UnsupportedOperationException"
            | "InvalidArnException"
            | "InvalidKeyUsageException"
            | "InvalidGrantTokenException"
            | "InvalidParameterValue" => Self::InvalidRequest,
            "LimitExceededException" => Self::LimitExceeded,
            _ => return None,
        })
    }

    /// Returns the kind of an HTTP status, for responses without a known code, e.g. of a proxy.
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::AccessDenied,
            408 => Self::TimedOut,
            429 => Self::Throttled,
            400 | 404 | 405 | 413 => Self::InvalidRequest,
            500..=599 => Self::Unavailable,
            _ => Self::Other,
        }
    }
}
