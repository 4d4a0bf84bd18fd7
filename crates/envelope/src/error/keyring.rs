//! Errors of keyrings.

use std::{error::Error, fmt, sync::Arc};

/// The error of one keyring that could not generate, wrap or unwrap a data key.
///
/// `Display` names the wrapping key. The reason is the [`source`](Error::source).
#[derive(Debug, Clone)]
pub struct KeyringError {
    wrapping_key: Arc<str>,
    /// The wrapping key that messages name, if it is not the one that was called.
    name_in_messages: Option<Arc<str>>,
    kind: KeyringErrorKind,
    cause: Arc<dyn Error + Send + Sync>,
}

/// The kind of a keyring error. It decides how the cache handles the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyringErrorKind {
    /// The key provider throttled the request. Retryable.
    Throttled,
    /// No request was sent, because the caller's own budget of requests is used up. Retryable.
    ///
    /// This is not an outage: it neither starts nor ends the time in which
    /// [`serve_stale_for`](crate::materials::CachingBuilder::serve_stale_for) lets a data key be
    /// used past its age.
    OverBudget,
    /// The key provider did not respond in time. Retryable.
    TimedOut,
    /// The key provider was unreachable, or failed internally. Retryable.
    Unavailable,
    /// The caller may not use the wrapping key, or not with this encryption context. The cached
    /// data key is dropped. Others under the same wrapping key are dropped if other encryption
    /// contexts are denied, too.
    Denied,
    /// Nobody can use the wrapping key: it is disabled, pending deletion, or does not exist. Data
    /// keys that are cached under it are dropped.
    Unusable,
    /// The caller's credentials have expired, were rejected, or could not be loaded.
    Credentials,
    /// The wrapped data key cannot be unwrapped: it is damaged, or bound to another encryption
    /// context.
    InvalidCiphertext,
    /// The key provider broke its contract: it responded for another key than the requested one, or
    /// with an incomplete response. No part of the response is used.
    InvalidResponse,
    /// Another failure.
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
        Self::InvalidResponse,
        Self::Other,
    ];

    /// Returns whether the same request may succeed later without any change.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        self.is_outage() || self == Self::OverBudget
    }

    /// Returns whether the key provider seems to be failing or unreachable.
    pub(crate) fn is_outage(self) -> bool {
        matches!(self, Self::Throttled | Self::TimedOut | Self::Unavailable)
    }

    /// Returns the name of the kind in `snake_case`, for metrics and logs.
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
            Self::InvalidResponse => "invalid_response",
            Self::Other => "other",
        }
    }
}

impl KeyringError {
    /// Creates an error of `wrapping_key`: a name or an ARN, never key material.
    ///
    /// The name must be the key provider information of the data keys that it wraps, or the
    /// [`wrapping_key`](crate::materials::EncryptedDataKey::wrapping_key) of those. Otherwise a
    /// refusal does not drop these data keys from the cache.
    ///
    /// ```
    /// use envelope::keyring::{KeyringError, KeyringErrorKind};
    ///
    /// let error = KeyringError::new("tenant-42", KeyringErrorKind::Unusable, "the key is locked");
    /// assert!(!error.kind().is_retryable());
    /// ```
    pub fn new(
        wrapping_key: impl Into<Arc<str>>,
        kind: KeyringErrorKind,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            wrapping_key: wrapping_key.into(),
            name_in_messages: None,
            kind,
            cause: Arc::from(cause.into()),
        }
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> KeyringErrorKind {
        self.kind
    }

    /// Returns the name or ARN of the wrapping key that was called.
    #[must_use]
    pub fn wrapping_key(&self) -> &str {
        &self.wrapping_key
    }

    /// Sets the wrapping key that the message names, if it is not the one that was called.
    ///
    /// Related multi-Region keys decrypt each other's messages. The cache remembers a failure to
    /// unwrap under this name, and after a refusal drops the entries under both names.
    ///
    /// ```
    /// use envelope::keyring::{KeyringError, KeyringErrorKind};
    ///
    /// let kind = KeyringErrorKind::Unusable;
    /// let error = KeyringError::new("key in Ireland", kind, "the key is locked");
    /// assert_eq!(error.name_in_messages(), "key in Ireland");
    /// let error = error.with_name_in_messages("key in Virginia");
    /// assert_eq!(error.name_in_messages(), "key in Virginia");
    /// ```
    #[must_use]
    pub fn with_name_in_messages(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name_in_messages = Some(name.into()).filter(|name| *name != self.wrapping_key);
        self
    }

    /// Returns the wrapping key that the message names: the one that was called, unless
    /// [`with_name_in_messages`](Self::with_name_in_messages) has set another one.
    #[must_use]
    pub fn name_in_messages(&self) -> &str {
        self.name_in_messages.as_ref().unwrap_or(&self.wrapping_key)
    }

    /// Returns whether the request with these `failures` may succeed later for this wrapping key or
    /// a related one.
    pub(crate) fn may_pass_among(&self, failures: &[Self]) -> bool {
        self.or_a_related_one(failures, KeyringErrorKind::is_retryable)
    }

    /// Returns whether the failures of one request indicate an outage (`true`) or the absence of
    /// one (`false`). Returns `None` if they indicate neither, because the caller's own budget
    /// prevented the request.
    pub(crate) fn tell_of_outage(failures: &[Self]) -> Option<bool> {
        let all = |is_so: fn(KeyringErrorKind) -> bool| {
            failures.iter().all(|failure| failure.or_a_related_one(failures, is_so))
        };
        if failures.is_empty() || !all(KeyringErrorKind::is_retryable) {
            return Some(false);
        }
        all(KeyringErrorKind::is_outage).then_some(true)
    }

    /// Returns whether `is_so` is true for this failure, or for the failure of a related key that
    /// was called for the same data key.
    fn or_a_related_one(&self, failures: &[Self], is_so: fn(KeyringErrorKind) -> bool) -> bool {
        let is_related = |other: &Self| {
            other.name_in_messages() == self.name_in_messages()
                && other.wrapping_key() != self.wrapping_key()
        };
        is_so(self.kind) || failures.iter().any(|other| is_so(other.kind) && is_related(other))
    }

    /// Returns the cause. Downcast it to the error type of the key provider.
    #[must_use]
    pub fn cause(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.cause
    }
}

impl fmt::Display for KeyringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.wrapping_key)?;
        match &self.name_in_messages {
            Some(name) => write!(f, " for {name}, which the message names"),
            None => Ok(()),
        }
    }
}

impl Error for KeyringError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_in_the_message_is_shown() {
        let error = KeyringError::new("here", KeyringErrorKind::Denied, "denied");
        assert_eq!(error.clone().with_name_in_messages("here").to_string(), "here failed");
        assert_eq!(
            error.with_name_in_messages("there").to_string(),
            "here failed for there, which the message names"
        );
    }

    #[test]
    fn a_related_key_may_respond_later_for_one_that_refuses() {
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
        let outage = |kinds: &[KeyringErrorKind]| {
            let failures: Vec<_> = (1..)
                .zip(kinds)
                .map(|(key, kind)| KeyringError::new(format!("key {key}"), *kind, "x"))
                .collect();
            KeyringError::tell_of_outage(&failures)
        };
        assert_eq!(outage(&[]), Some(false));
        assert_eq!(outage(&[TimedOut, TimedOut]), Some(true));
        assert_eq!(outage(&[OverBudget]), None);
        assert_eq!(outage(&[TimedOut, OverBudget]), None);
        assert_eq!(outage(&[TimedOut, OverBudget, Credentials]), Some(false));
    }
}
