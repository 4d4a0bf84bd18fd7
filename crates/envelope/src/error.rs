//! Everything that can go wrong, as one enum.

use std::{fmt, io, sync::Arc, time::Duration};

use crate::suite::{AlgorithmSuite, CommitmentPolicy};

/// Why an operation failed.
///
/// A parse error names the field of the message and its byte offset. A cryptographic failure is
/// opaque: it never tells which check failed. Nothing secret is in any variant. What AWS KMS
/// answered is behind `Error::kms`, typed (feature `aws-kms`).
///
/// Cloning is cheap: callers who waited for the same data key share one cause.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The message ends inside a field.
    #[error(
        "the message ends inside {field}, which starts at byte {offset}: {missing} more bytes are needed"
    )]
    Truncated {
        /// The field, by its name in the specification.
        field: &'static str,
        /// Where the field starts in the message, in bytes.
        offset: u64,
        /// How many more bytes the message needs, at the least.
        missing: usize,
    },

    /// A field holds a value that the specification forbids.
    #[error("{field} at byte {offset} is malformed: {problem}")]
    Malformed {
        /// The field, by its name in the specification.
        field: &'static str,
        /// Where the offending bytes start in the message.
        offset: u64,
        /// Why it is invalid.
        problem: &'static str,
    },

    /// A field holds a value that exists, or may exist one day, but that this library does not
    /// open.
    #[error("{field} {value:#06x} at byte {offset} is not supported")]
    Unsupported {
        /// The field, by its name in the specification.
        field: &'static str,
        /// Where the field starts in the message.
        offset: u64,
        /// The value found there.
        value: u16,
    },

    /// There are bytes after the end of the message.
    #[error(
        "the message ends at byte {offset}, but more bytes follow: pass one message, whole and alone"
    )]
    TrailingBytes {
        /// Where the message ends.
        offset: u64,
    },

    /// The message, or the keyring on encryption, has more encrypted data keys than the limit
    /// allows.
    #[error(
        "{count} encrypted data keys exceed the limit of {limit}: raise `max_encrypted_data_keys` if you expect that many"
    )]
    TooManyEncryptedDataKeys {
        /// How many there are.
        count: usize,
        /// The limit in force.
        limit: usize,
    },

    /// An encryption context can't be built from these pairs.
    #[error("invalid encryption context: {problem}")]
    InvalidEncryptionContext {
        /// Why it is invalid.
        problem: &'static str,
    },

    /// A pair of the encryption context supplied on decryption contradicts the message.
    #[error(
        "the message contradicts the supplied encryption context: key {key:?} has another value"
    )]
    EncryptionContextMismatch {
        /// The first key that does not match.
        key: String,
    },

    /// A key that must be in the encryption context, but not in the message, was not supplied.
    #[error("the encryption context lacks {key:?}, which is required: supply it with its value")]
    RequiredContextMissing {
        /// The first key that is missing.
        key: String,
    },

    /// The commitment policy does not allow the message's algorithm suite.
    #[error("the commitment policy {policy} does not allow algorithm suite {suite} here")]
    CommitmentPolicy {
        /// The suite, of the message or to be used.
        suite: AlgorithmSuite,
        /// The policy in force.
        policy: CommitmentPolicy,
    },

    /// The plaintext does not fit the format: 2^32 - 1 frames of the frame length, or 64 GiB in one
    /// piece.
    #[error(
        "the plaintext has over {limit} bytes, which is all that this message can hold: raise `frame_length`, or cut the body into frames"
    )]
    PlaintextTooLong {
        /// The most bytes that a message with these settings holds.
        limit: u64,
    },

    /// A stream was given more plaintext than was announced, and so reserved under its data key.
    #[error("the plaintext has over {bound} bytes, which is what was announced for this stream")]
    PlaintextBoundExceeded {
        /// The bound that was announced, in bytes.
        bound: u64,
    },

    /// A signed message was to be opened as a stream that takes unsigned ones only.
    #[error(
        "the message is signed (suite {suite}), and a stream would release its frames before the signature is verified: decrypt it in one piece, or allow that by `DecryptionMode::ReleaseBeforeSignatureIsVerified`"
    )]
    SignedMessage {
        /// The message's suite.
        suite: AlgorithmSuite,
    },

    /// The message is not authentic under its data key, or was changed. Deliberately says no more.
    #[error("the message failed authentication: it was changed, cut, or sealed under another key")]
    Authentication,

    /// A keyring could not produce or wrap a data key.
    #[error("could not obtain a data key: {0}")]
    DataKeyUnavailable(#[source] KeyringError),

    /// No keyring could unwrap any of the message's encrypted data keys.
    #[error("could not unwrap a data key: {}{}", Failures(.failures), NotStored(.not_stored))]
    DataKeyNotUnwrapped {
        /// What each attempt failed with; empty when no encrypted data key matches the keyring.
        failures: Vec<KeyringError>,
        /// Keys of the supplied encryption context that do not stand in the message. Unwrapping
        /// succeeds only if they are just those that were required, and so not stored, on
        /// encryption.
        not_stored: Vec<String>,
    },

    /// A keyring or materials manager panicked while it was asked for a data key.
    #[error("the keyring or materials manager panicked: see the panic's own message")]
    Panicked,

    /// The data key was not loaded, because too many others are being loaded. This failure is not
    /// remembered: the next call tries again.
    #[error(
        "too many data keys are being loaded: refused after {} ms by `{setting}`; try again later, or raise `max_loads` if the key provider can handle more requests",
        waited.as_millis()
    )]
    Overloaded {
        /// The setting of [`MaterialsCacheBuilder`](crate::materials::MaterialsCacheBuilder) whose
        /// limit was reached: `max_wait` or `max_waiting`.
        setting: &'static str,
        /// How long the load waited; zero if there was no room to wait.
        waited: Duration,
    },

    /// This process was forked from one that had started the cache's threads. They do not exist in
    /// this process, so no data key can be loaded. Cached data keys still work.
    #[error(
        "this process was forked after the cache's threads had started: make a new client after the fork"
    )]
    Forked,

    /// A [`BlockingEnvelope`](crate::BlockingEnvelope) needed a data key on a thread of its own
    /// cache, for example in a keyring: it would wait for a load that needs this thread.
    #[error(
        "a BlockingEnvelope would wait for its own cache on a thread of that cache: use the async methods there"
    )]
    WaitsForItself,

    /// The threads that load data keys could not be started.
    #[error("could not start the cache's threads")]
    ThreadsNotStarted(#[source] Arc<io::Error>),

    /// No usable data key is cached; only returned by the `try_` operations, which never wait, and
    /// fetch nothing: the same call succeeds once another has fetched one.
    #[error("no usable data key is cached: call the async operation, which fetches one")]
    NotCached,

    /// A failure that is remembered: the keyring was not asked again.
    #[error("{cause} (remembered from an earlier request: asked again in {} ms)", retry_after.as_millis())]
    Remembered {
        /// The failure of the earlier request.
        #[source]
        cause: Arc<Self>,
        /// How long requests are still refused.
        retry_after: Duration,
    },

    /// Some of the encryption contexts that were warmed have no usable data key; only returned by
    /// [`Envelope::ready`](crate::Envelope::ready).
    #[error(
        "{missing} of {warmed} warmed encryption contexts have no usable data key; the first: {cause}"
    )]
    NotReady {
        /// How many have none.
        missing: usize,
        /// How many were warmed.
        warmed: usize,
        /// What the first of them failed with.
        #[source]
        cause: Arc<Self>,
    },

    /// A setting, or a component's answer, is out of its allowed range.
    #[error("invalid {setting}: {problem}")]
    InvalidSetting {
        /// The setting's name.
        setting: &'static str,
        /// Why it is invalid, and which values are allowed.
        problem: String,
    },

    /// The system's random number generator failed.
    #[error("the system's random number generator failed: {0}")]
    Random(Arc<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the same call may succeed later without anything being changed.
    ///
    /// True for throttling, time-outs and outages of a key provider; false for bad messages, wrong
    /// keys and denied access.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::DataKeyUnavailable(cause) => cause.is_retryable(),
            Self::DataKeyNotUnwrapped { failures, .. } => {
                failures.iter().any(KeyringError::is_retryable)
            }
            Self::Remembered { cause, .. } | Self::NotReady { cause, .. } => cause.is_retryable(),
            Self::NotCached
            | Self::Random(_)
            | Self::Overloaded { .. }
            | Self::ThreadsNotStarted(_) => true,
            _ => false,
        }
    }

    /// What the keyrings said, when a keyring is what failed.
    #[must_use]
    pub fn keyring_errors(&self) -> &[KeyringError] {
        match self {
            Self::DataKeyUnavailable(cause) => std::slice::from_ref(cause),
            Self::DataKeyNotUnwrapped { failures, .. } => failures,
            Self::Remembered { cause, .. } | Self::NotReady { cause, .. } => cause.keyring_errors(),
            _ => &[],
        }
    }

    /// The error of this library inside `error`, when there is one: streams fail with
    /// [`io::Error`].
    ///
    /// ```
    /// use envelope::{Error, stream::UnverifiedHeader};
    ///
    /// let failed = UnverifiedHeader::read(&mut &b"\x02"[..], 16).unwrap_err();
    /// assert!(matches!(Error::in_io(&failed), Some(Error::Truncated { field: "algorithm suite id", .. })));
    /// ```
    #[must_use]
    pub fn in_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// The same failure, for callers that are refused because of it.
    pub(crate) fn remembered(self, retry_after: Duration) -> Self {
        Self::Remembered { cause: Arc::new(self), retry_after }
    }

    /// A setting, or what a component answered, is out of range.
    pub(crate) fn invalid_setting(setting: &'static str, problem: impl Into<String>) -> Self {
        Self::InvalidSetting { setting, problem: problem.into() }
    }
}

/// A message that ends too early is [`UnexpectedEof`](io::ErrorKind::UnexpectedEof), one that holds
/// what it must not is [`InvalidData`](io::ErrorKind::InvalidData), more plaintext than fits or was
/// announced is [`InvalidInput`](io::ErrorKind::InvalidInput), and all else
/// [`Other`](io::ErrorKind::Other). The error itself is inside, see [`Error::in_io`].
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            Error::Malformed { .. }
            | Error::Unsupported { .. }
            | Error::TrailingBytes { .. }
            | Error::TooManyEncryptedDataKeys { .. }
            | Error::Authentication => io::ErrorKind::InvalidData,
            Error::PlaintextTooLong { .. } | Error::PlaintextBoundExceeded { .. } => {
                io::ErrorKind::InvalidInput
            }
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Why one keyring could not generate, wrap or unwrap a data key.
#[derive(Debug, Clone)]
pub struct KeyringError {
    wrapping_key: Arc<str>,
    /// Where messages name another one.
    name_in_messages: Option<Arc<str>>,
    kind: KeyringErrorKind,
    cause: Arc<dyn std::error::Error + Send + Sync>,
}

/// The kind of a keyring's failure. It decides how the cache handles it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyringErrorKind {
    /// The key provider throttled the request. May pass by itself.
    Throttled,
    /// No request was sent: the caller's own budget of requests is used up.
    ///
    /// It may pass by itself, and is no outage: it neither starts nor ends the time in which
    /// [`serve_stale_for`](crate::materials::CachingBuilder::serve_stale_for) lets a data key be
    /// used past its age.
    OverBudget,
    /// The key provider did not respond in time. May pass by itself.
    TimedOut,
    /// The key provider was unreachable, or failed internally. May pass by itself.
    Unavailable,
    /// This caller may not use the wrapping key, at least not with this encryption context. The
    /// cached data key is dropped. Others under the same wrapping key are dropped if other
    /// encryption contexts are denied, too.
    Denied,
    /// Nobody may use the wrapping key: it is disabled, about to be deleted, or gone. Data keys
    /// that are cached under it are dropped.
    Unusable,
    /// The caller's credentials have expired, were not accepted, or could not be loaded.
    Credentials,
    /// The wrapped data key does not unwrap: it is damaged, or bound to another encryption context.
    InvalidCiphertext,
    /// The key provider broke its contract: it responded for another key than the requested one, or
    /// with an incomplete response. No part of the response is used.
    InvalidAnswer,
    /// Anything else.
    Other,
}

impl KeyringErrorKind {
    /// Every kind, in the order of declaration.
    pub(crate) const ALL: [Self; 10] = [
        Self::Throttled,
        Self::OverBudget,
        Self::TimedOut,
        Self::Unavailable,
        Self::Denied,
        Self::Unusable,
        Self::Credentials,
        Self::InvalidCiphertext,
        Self::InvalidAnswer,
        Self::Other,
    ];

    /// Whether the same request may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        self.is_outage() || self == Self::OverBudget
    }

    /// Whether the key provider seems to be failing or unreachable.
    pub(crate) fn is_outage(self) -> bool {
        matches!(self, Self::Throttled | Self::TimedOut | Self::Unavailable)
    }

    /// The kind's name, in `snake_case`: for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::OverBudget => "over_budget",
            Self::TimedOut => "timed_out",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Unusable => "unusable",
            Self::Credentials => "credentials",
            Self::InvalidCiphertext => "invalid_ciphertext",
            Self::InvalidAnswer => "invalid_answer",
            Self::Other => "other",
        }
    }
}

impl KeyringError {
    /// An error of the keyring that uses `wrapping_key` (a name or an ARN, never key material): as
    /// it begins the provider information of the data keys that it wraps, or else a refusal does
    /// not drop those from a cache.
    ///
    /// ```
    /// use envelope::keyring::{KeyringError, KeyringErrorKind};
    ///
    /// let error = KeyringError::new("tenant-42", KeyringErrorKind::Unusable, "the key is locked");
    /// assert!(!error.is_retryable());
    /// ```
    pub fn new(
        wrapping_key: impl Into<Arc<str>>,
        kind: KeyringErrorKind,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            wrapping_key: wrapping_key.into(),
            name_in_messages: None,
            kind,
            cause: Arc::from(cause.into()),
        }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> KeyringErrorKind {
        self.kind
    }

    /// The wrapping key that was asked: its name or ARN.
    #[must_use]
    pub fn wrapping_key(&self) -> &str {
        &self.wrapping_key
    }

    /// Says that messages name another wrapping key than the one that was asked: of related keys,
    /// any one opens what the others sealed. What a cache remembers of a failure to unwrap, it
    /// remembers by that name; what it drops after a refusal, by both.
    ///
    /// ```
    /// use envelope::keyring::{KeyringError, KeyringErrorKind};
    ///
    /// let error = KeyringError::new("key in Ireland", KeyringErrorKind::Unusable, "the key is locked");
    /// assert_eq!(error.name_in_messages(), "key in Ireland");
    /// assert_eq!(error.with_name_in_messages("key in Virginia").name_in_messages(), "key in Virginia");
    /// ```
    #[must_use]
    pub fn with_name_in_messages(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name_in_messages = Some(name.into()).filter(|name| *name != self.wrapping_key);
        self
    }

    /// The wrapping key as messages name it: the one that was asked, unless told by
    /// [`with_name_in_messages`](Self::with_name_in_messages).
    #[must_use]
    pub fn name_in_messages(&self) -> &str {
        self.name_in_messages.as_ref().unwrap_or(&self.wrapping_key)
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }

    /// Whether the same request may succeed later, these being all that it failed with: by this
    /// key, or by a related one that was asked for the same data key.
    pub(crate) fn may_pass_among(&self, failures: &[Self]) -> bool {
        self.or_a_related_one(failures, KeyringErrorKind::is_retryable)
    }

    /// Whether the failures of one request indicate an outage (`true`) or the absence of one
    /// (`false`). `None` if they indicate neither, because the caller's own budget prevented the
    /// request.
    pub(crate) fn tell_of_outage(failures: &[Self]) -> Option<bool> {
        let all = |is_so: fn(KeyringErrorKind) -> bool| {
            failures.iter().all(|failure| failure.or_a_related_one(failures, is_so))
        };
        if failures.is_empty() || !all(KeyringErrorKind::is_retryable) {
            return Some(false);
        }
        all(KeyringErrorKind::is_outage).then_some(true)
    }

    /// Whether this failure, or that of a related key for the same data key, is of such a kind.
    fn or_a_related_one(&self, failures: &[Self], is_so: fn(KeyringErrorKind) -> bool) -> bool {
        let is_related = |other: &Self| {
            other.name_in_messages() == self.name_in_messages()
                && other.wrapping_key() != self.wrapping_key()
        };
        is_so(self.kind) || failures.iter().any(|other| is_so(other.kind) && is_related(other))
    }

    /// The cause, to be downcast to the provider's own error type.
    #[must_use]
    pub fn cause(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.cause
    }
}

impl fmt::Display for KeyringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wrapping_key)?;
        if let Some(name) = &self.name_in_messages {
            write!(f, " (asked for {name})")?;
        }
        write!(f, ": {}", self.cause)
    }
}

impl std::error::Error for KeyringError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}

/// An error and its causes, as one line.
#[cfg(feature = "aws-kms")]
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

#[cfg(feature = "aws-kms")]
impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        std::iter::successors(self.0.source(), |&cause| cause.source())
            .try_for_each(|cause| write!(f, ": {cause}"))
    }
}

struct Failures<'a>(&'a [KeyringError]);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.0.split_first() else {
            return f.write_str(
                "none of the message's encrypted data keys matches the keyring's wrapping key",
            );
        };
        write!(f, "{first}")?;
        rest.iter().try_for_each(|failure| write!(f, "; {failure}"))
    }
}

struct NotStored<'a>(&'a [String]);

impl fmt::Display for NotStored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            keys => write!(
                f,
                " (the message does not store these keys of the supplied encryption context: {keys:?})"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_listed() {
        let failures = [
            ("a", KeyringErrorKind::Denied, "denied"),
            ("b", KeyringErrorKind::Throttled, "throttled"),
        ];
        let failures =
            failures.map(|(key, kind, cause)| KeyringError::new(key, kind, cause)).to_vec();
        let error = Error::DataKeyNotUnwrapped { failures, not_stored: vec![] };
        assert_eq!(error.to_string(), "could not unwrap a data key: a: denied; b: throttled");
        assert!(error.is_retryable());
    }

    #[test]
    fn another_name_in_the_message_is_told() {
        let error = KeyringError::new("here", KeyringErrorKind::Denied, "denied");
        assert_eq!(error.clone().with_name_in_messages("here").to_string(), "here: denied");
        assert_eq!(
            error.with_name_in_messages("there").to_string(),
            "here (asked for there): denied"
        );
    }

    #[test]
    fn a_related_key_may_answer_later_for_one_that_refuses() {
        let failure = |key: &str, kind, name: &str| {
            KeyringError::new(key, kind, "x").with_name_in_messages(name)
        };
        let refused = failure("here", KeyringErrorKind::Unusable, "key");
        let passing = |key, name| failure(key, KeyringErrorKind::TimedOut, name);
        assert!(refused.may_pass_among(&[refused.clone(), passing("there", "key")]));
        assert!(passing("there", "key").may_pass_among(&[]));
        for other in [passing("here", "key"), passing("there", "other"), refused.clone()] {
            assert!(!refused.may_pass_among(&[refused.clone(), other.clone()]), "{other}");
        }
    }

    #[test]
    fn the_callers_own_budget_does_not_indicate_an_outage() {
        use KeyringErrorKind::{Credentials, OverBudget, TimedOut};
        let told = |kinds: &[KeyringErrorKind]| {
            let failures: Vec<_> = (1..)
                .zip(kinds)
                .map(|(key, kind)| KeyringError::new(format!("key {key}"), *kind, "x"))
                .collect();
            KeyringError::tell_of_outage(&failures)
        };
        assert_eq!(told(&[]), Some(false));
        assert_eq!(told(&[TimedOut, TimedOut]), Some(true));
        assert_eq!(told(&[OverBudget]), None);
        assert_eq!(told(&[TimedOut, OverBudget]), None);
        assert_eq!(told(&[TimedOut, OverBudget, Credentials]), Some(false));
    }

    #[test]
    fn no_match_says_so() {
        let error =
            Error::DataKeyNotUnwrapped { failures: vec![], not_stored: vec!["tenant".to_owned()] };
        assert!(error.to_string().contains("none of the message's encrypted data keys"));
        assert!(error.to_string().contains("\"tenant\""));
        assert!(!error.is_retryable());
    }
}
