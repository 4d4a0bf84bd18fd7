//! Errors.

mod chain;
mod keyring;

use std::{fmt, future::Future, io, pin::Pin, sync::Arc, time::Duration};

pub(crate) use self::chain::Chain;
pub use self::keyring::{KeyringError, KeyringErrorKind};
use crate::suite::{AlgorithmSuite, CommitmentPolicy};

/// The boxed future that the methods of this crate's traits return.
pub type ResultFuture<'a, T, E = Error> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// The reason why an operation failed.
///
/// A parse error names the field of the message and its byte offset. A cryptographic failure never
/// says which check failed. No variant contains a secret. `Error::kms` returns the typed error of
/// AWS KMS (feature `aws-kms`).
///
/// `Display` does not include the causes. To show all of them, print the chain of
/// [`source`](std::error::Error::source)s, as `anyhow` and `eyre` do.
///
/// Cloning is cheap: callers that waited for the same data key share one cause.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The message ends inside a field.
    #[error("message truncated in {field} at byte {offset}: at least {missing} more bytes needed")]
    Truncated {
        /// The name of the field in the specification.
        field: &'static str,
        /// Where the field starts in the message, in bytes.
        offset: u64,
        /// How many more bytes the message needs at least.
        missing: usize,
    },

    /// A field has a value that the specification forbids.
    #[error("malformed {field} at byte {offset}: {problem}")]
    Malformed {
        /// The name of the field in the specification.
        field: &'static str,
        /// Where the invalid bytes start in the message.
        offset: u64,
        /// Why it is invalid.
        problem: &'static str,
    },

    /// A field has a value that this library does not support.
    #[error("unsupported {field} {value:#06x} at byte {offset}")]
    Unsupported {
        /// The name of the field in the specification.
        field: &'static str,
        /// Where the field starts in the message.
        offset: u64,
        /// The value of the field.
        value: u16,
    },

    /// There are bytes after the end of the message.
    #[error(
        "trailing bytes after the message, which ends at byte {offset}: pass exactly one message"
    )]
    TrailingBytes {
        /// Where the message ends.
        offset: u64,
    },

    /// The message, or the keyring on encryption, has more encrypted data keys than the limit
    /// allows.
    #[error(
        "too many encrypted data keys: {count} (limit {limit}); raise `max_encrypted_data_keys` if \
         you expect that many"
    )]
    TooManyEncryptedDataKeys {
        /// The number of encrypted data keys.
        count: usize,
        /// The limit.
        limit: usize,
    },

    /// An encryption context is invalid.
    #[error("invalid encryption context: {problem}")]
    InvalidEncryptionContext {
        /// Why it is invalid.
        problem: &'static str,
    },

    /// The message has a different value for a key of the supplied encryption context.
    #[error("encryption context mismatch: the message has a different value for key {key:?}")]
    EncryptionContextMismatch {
        /// The first key that does not match.
        key: String,
    },

    /// A required key is not in the supplied encryption context.
    #[error("missing required encryption context key {key:?}: pass it with its value")]
    RequiredContextMissing {
        /// The first key that is missing.
        key: String,
    },

    /// The commitment policy does not allow the algorithm suite.
    #[error("commitment policy {policy} does not allow algorithm suite {suite}")]
    CommitmentPolicy {
        /// The message's suite on decryption, or the requested suite on encryption.
        suite: AlgorithmSuite,
        /// The policy.
        policy: CommitmentPolicy,
    },

    /// The plaintext does not fit the format: 2^32 - 1 frames of the frame length, or 64 GiB in a
    /// non-framed body.
    #[error(
        "plaintext longer than the maximum of {limit} bytes: raise `frame_length`, or use a framed \
         body"
    )]
    PlaintextTooLong {
        /// The maximum plaintext length with these settings, in bytes.
        limit: u64,
    },

    /// A stream received more plaintext than its `plaintext_bound`.
    #[error("plaintext longer than the stream's bound of {bound} bytes")]
    PlaintextBoundExceeded {
        /// The bound of the stream, in bytes.
        bound: u64,
    },

    /// A signed message was passed to a stream that accepts only unsigned messages.
    #[error(
        "signed message (suite {suite}) in a stream for unsigned messages: use \
         `Envelope::decrypt`, or `Envelope::decryptor_before_signature`"
    )]
    SignedMessage {
        /// The suite of the message.
        suite: AlgorithmSuite,
    },

    /// The message is not authentic under its data key. The error deliberately says no more.
    #[error(
        "message authentication failed: the message was changed or truncated, or encrypted under \
         another key"
    )]
    Authentication,

    /// A keyring could not generate or wrap a data key.
    #[error("could not obtain a data key")]
    DataKeyUnavailable(#[source] KeyringError),

    /// No keyring could unwrap an encrypted data key of the message.
    ///
    /// `Display` includes all `failures` with their causes, because [`source`] returns none.
    ///
    /// [`source`]: std::error::Error::source
    #[error(
        "could not unwrap a data key: {}{}",
        Attempts { failures, wrapping_keys, keyring: keyring.as_deref() },
        NotStored(not_stored)
    )]
    DataKeyNotUnwrapped {
        /// One failure per attempt. Empty if no encrypted data key matches the keyring.
        failures: Vec<KeyringError>,
        /// The wrapping keys that the message names, as
        /// [`EncryptedDataKey::wrapping_key`](crate::materials::EncryptedDataKey::wrapping_key)
        /// returns them. Long names and long lists are shortened.
        wrapping_keys: Vec<String>,
        /// The [identity](crate::keyring::Keyring::identity) of the keyring, if it has one.
        keyring: Option<String>,
        /// Supplied encryption context keys that the message does not store. Unwrapping succeeds
        /// only if these are exactly the keys that were required on encryption.
        not_stored: Vec<String>,
    },

    /// A keyring or materials manager panicked when it was called for a data key.
    #[error("keyring or materials manager panicked: see the panic message")]
    Panicked,

    /// The data key was not loaded, because too many others are being loaded. This failure is not
    /// remembered: the next call tries again.
    #[error(
        "too many data keys are being loaded: refused after {} ms by `{setting}`; try again later, \
         or raise `max_loads` if the key provider can handle more requests",
        waited.as_millis()
    )]
    Overloaded {
        /// The setting of [`MaterialsCacheBuilder`](crate::materials::MaterialsCacheBuilder) whose
        /// limit was reached: `max_wait` or `max_waiting`.
        setting: &'static str,
        /// How long the load waited; zero if the queue was full.
        waited: Duration,
    },

    /// This process was forked from one that had started the cache's threads. They do not exist in
    /// this process, so no data key can be loaded. Cached data keys still work.
    #[error(
        "this process was forked after the cache's threads had started: make a new client after \
         the fork"
    )]
    Forked,

    /// A [`BlockingEnvelope`](crate::BlockingEnvelope) needed a data key on a thread of its own
    /// cache, for example in a keyring: it would wait for a load that needs this thread.
    #[error(
        "a BlockingEnvelope would wait for its own cache on a thread of that cache: use the async \
         methods there"
    )]
    WaitsForItself,

    /// The threads that load data keys could not be started.
    #[error("could not start the cache's threads")]
    ThreadsNotStarted(#[source] Arc<io::Error>),

    /// No usable data key is cached. Only the `try_` methods return this: they never wait and never
    /// fetch a data key. Call the async method to fetch one.
    #[error("no usable data key is cached: call the async method to fetch one")]
    NotCached,

    /// A recent request failed, and its failure is still cached: the keyring was not called again.
    #[error("a recent request failed: the next one is possible in {} ms", retry_after.as_millis())]
    Remembered {
        /// The failure of the earlier request.
        #[source]
        cause: Arc<Self>,
        /// How long further calls fail with this error.
        retry_after: Duration,
    },

    /// Some of the warmed encryption contexts have no usable data key. Only
    /// [`Envelope::ready`](crate::Envelope::ready) returns this.
    #[error("{missing} of {warmed} warmed encryption contexts have no usable data key")]
    NotReady {
        /// The number of encryption contexts without a usable data key.
        missing: usize,
        /// The number of warmed encryption contexts.
        warmed: usize,
        /// The failure of the first of them.
        #[source]
        cause: Arc<Self>,
    },

    /// A setting, or a value from a keyring or materials manager, is invalid.
    #[error("invalid {setting}: {problem}")]
    InvalidSetting {
        /// The name of the setting.
        setting: &'static str,
        /// Why it is invalid, and which values are allowed.
        problem: String,
    },

    /// The system's random number generator failed.
    #[error("random number generator failed")]
    Random(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Returns whether the same call may succeed later without any change.
    ///
    /// True for throttling, timeouts and outages of a key provider. False for invalid messages,
    /// wrong keys and denied access.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::DataKeyUnavailable(_) | Self::DataKeyNotUnwrapped { .. } => {
                self.keyring_errors().iter().any(|failure| failure.kind().is_retryable())
            }
            Self::Remembered { cause, .. } | Self::NotReady { cause, .. } => cause.is_retryable(),
            Self::NotCached
            | Self::Random(_)
            | Self::Overloaded { .. }
            | Self::ThreadsNotStarted(_) => true,
            _ => false,
        }
    }

    /// Returns the errors of the keyrings, if a keyring failed.
    #[must_use]
    pub fn keyring_errors(&self) -> &[KeyringError] {
        match self {
            Self::DataKeyUnavailable(cause) => std::slice::from_ref(cause),
            Self::DataKeyNotUnwrapped { failures, .. } => failures,
            Self::Remembered { cause, .. } | Self::NotReady { cause, .. } => cause.keyring_errors(),
            _ => &[],
        }
    }

    /// Returns the [`Error`] inside an [`io::Error`], if there is one. Streams return
    /// [`io::Error`]s.
    ///
    /// ```
    /// use envelope::{Error, stream::UnverifiedHeader};
    ///
    /// let failed = UnverifiedHeader::read(&mut &b"\x02"[..], 16).unwrap_err();
    /// let truncated = Error::in_io(&failed);
    /// assert!(matches!(truncated, Some(Error::Truncated { field: "algorithm suite id", .. })));
    /// ```
    #[must_use]
    pub fn in_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Returns the error for later callers, which are refused because this error is remembered.
    pub(crate) fn remembered(self, retry_after: Duration) -> Self {
        Self::Remembered { cause: Arc::new(self), retry_after }
    }

    /// Returns the error of an invalid setting, or of an invalid value from a component.
    pub(crate) fn invalid_setting(setting: &'static str, problem: impl Into<String>) -> Self {
        Self::InvalidSetting { setting, problem: problem.into() }
    }

    /// Returns the error of a keyring that could not unwrap an encrypted data key.
    ///
    /// The names of `wrapping_keys` may come from an untrusted message.
    pub(crate) fn data_key_not_unwrapped(
        failures: Vec<KeyringError>,
        wrapping_keys: impl IntoIterator<Item = String>,
        keyring: Option<String>,
        not_stored: Vec<String>,
    ) -> Self {
        let mut wrapping_keys: Vec<_> =
            wrapping_keys.into_iter().take(MAX_NAMES + 1).map(shortened).collect();
        if wrapping_keys.len() > MAX_NAMES {
            wrapping_keys.truncate(MAX_NAMES);
            wrapping_keys.push("…".to_owned());
        }
        let keyring = keyring.map(shortened);
        Self::DataKeyNotUnwrapped { failures, wrapping_keys, keyring, not_stored }
    }
}

/// The maximum number of names of wrapping keys in an error.
const MAX_NAMES: usize = 4;

/// Returns the start of a long text.
fn shortened(mut text: String) -> String {
    const MAX_LENGTH: usize = 200;
    if let Some((end, _)) = text.char_indices().nth(MAX_LENGTH) {
        text.truncate(end);
        text.push('…');
    }
    text.shrink_to_fit();
    text
}

/// Maps a truncated message to [`UnexpectedEof`](io::ErrorKind::UnexpectedEof), an invalid message
/// to [`InvalidData`](io::ErrorKind::InvalidData), plaintext that is too long to
/// [`InvalidInput`](io::ErrorKind::InvalidInput), and every other error to
/// [`Other`](io::ErrorKind::Other). [`Error::in_io`] returns the inner error.
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

/// The failures of all attempts, or why there was no attempt.
struct Attempts<'a> {
    failures: &'a [KeyringError],
    wrapping_keys: &'a [String],
    keyring: Option<&'a str>,
}

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.failures.split_first() else {
            f.write_str("no encrypted data key in the message matches the keyring")?;
            if let Some(keyring) = self.keyring {
                write!(f, " ({keyring})")?;
            }
            return match self.wrapping_keys {
                [] => Ok(()),
                names => write!(f, "; the message names {names:?}"),
            };
        };
        write!(f, "{}", Chain(first))?;
        rest.iter().try_for_each(|failure| write!(f, "; {}", Chain(failure)))
    }
}

struct NotStored<'a>(&'a [String]);

impl fmt::Display for NotStored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            keys => write!(
                f,
                " (supplied encryption context keys that the message does not store: {keys:?})"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn not_unwrapped(failures: Vec<KeyringError>, names: &[&str], not_stored: &[&str]) -> Error {
        let names = names.iter().map(ToString::to_string);
        let not_stored = not_stored.iter().map(ToString::to_string).collect();
        Error::data_key_not_unwrapped(failures, names, Some("raw AES \"b\"".to_owned()), not_stored)
    }

    #[test]
    fn no_text_repeats_that_of_its_source() {
        const CAUSE: &str = "the cause";
        let failure = || KeyringError::new("key", KeyringErrorKind::Denied, CAUSE);
        let unavailable = || Error::DataKeyUnavailable(failure());
        let io = || Arc::new(io::Error::other(CAUSE));
        let sources: [&(dyn std::error::Error + 'static); 6] = [
            &unavailable(),
            &Error::ThreadsNotStarted(io()),
            &unavailable().remembered(Duration::from_secs(1)),
            &Error::NotReady { missing: 1, warmed: 1, cause: Arc::new(Error::Random(io())) },
            &Error::Random(io()),
            &failure(),
        ];
        for mut error in sources {
            let chain = Chain(error).to_string();
            assert_eq!(chain.matches(CAUSE).count(), 1, "{chain}");
            while let Some(source) = error.source() {
                let text = error.to_string();
                assert!(!text.contains(&source.to_string()), "{text} repeats {source}");
                error = source;
            }
            assert_eq!(error.to_string(), CAUSE);
        }
        // All failures are in the text, so there is no source.
        let error = not_unwrapped(vec![failure()], &["key"], &[]);
        assert!(error.source().is_none() && error.to_string().contains(CAUSE), "{error}");
    }

    /// The cause of a cause may come from a credentials provider.
    #[derive(Debug, thiserror::Error)]
    #[error("no credentials")]
    struct NoCredentials(#[source] io::Error);

    #[test]
    fn messages_of_credentials_providers_are_not_listed() {
        let cause = NoCredentials(io::Error::other("SECRET"));
        let failure = KeyringError::new("key", KeyringErrorKind::Credentials, cause);
        let unwrapped = not_unwrapped(vec![failure.clone()], &[], &[]);
        assert_eq!(
            unwrapped.to_string(),
            "could not unwrap a data key: key failed: no credentials"
        );
        let error = Error::DataKeyUnavailable(failure).remembered(Duration::from_secs(1));
        let chain = Chain(&error).to_string();
        assert!(chain.ends_with("a data key: key failed: no credentials"), "{chain}");
    }

    #[test]
    fn every_failure_is_listed() {
        let failures = [
            ("a", KeyringErrorKind::Denied, "denied"),
            ("b", KeyringErrorKind::Throttled, "throttled"),
        ];
        let failures =
            failures.map(|(key, kind, cause)| KeyringError::new(key, kind, cause)).to_vec();
        let error = not_unwrapped(failures, &["a", "b"], &[]);
        let expected = "could not unwrap a data key: a failed: denied; b failed: throttled";
        assert_eq!(error.to_string(), expected);
        assert!(error.is_retryable());
    }

    #[test]
    fn a_message_for_another_keyring_shows_both() {
        let error = not_unwrapped(vec![], &["a/\u{1b}[1m"], &["tenant"]);
        assert_eq!(
            error.to_string(),
            "could not unwrap a data key: no encrypted data key in the message matches the keyring \
             (raw AES \"b\"); the message names [\"a/\\u{1b}[1m\"] (supplied encryption context \
             keys that the message does not store: [\"tenant\"])"
        );
        assert!(!error.is_retryable());
    }

    #[test]
    fn names_from_messages_are_limited() {
        let error = not_unwrapped(vec![], &["é".repeat(1_000).as_str(); 100], &[]);
        let Error::DataKeyNotUnwrapped { wrapping_keys, .. } = error else { panic!("{error}") };
        assert_eq!(wrapping_keys.len(), MAX_NAMES + 1);
        assert!(wrapping_keys.iter().all(|name| name.chars().count() <= 201), "{wrapping_keys:?}");
    }
}
