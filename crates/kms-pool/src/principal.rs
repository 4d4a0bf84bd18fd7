//! Who calls KMS: an identity, and the provider of its credentials.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use futures_util::FutureExt as _;
use sha2::{Digest as _, Sha256};

use crate::error::{KmsError, KmsErrorKind};
use crate::http;

/// An identity that calls KMS, with the provider of its credentials.
///
/// Each [`Principal::new`] is a new identity, even over the same provider or the same keys; a clone is
/// the same identity. Make a principal once, keep it, and pass it to
/// [`KmsPool::client`](crate::KmsPool::client): a principal made anew for each call would get a client
/// of its own each time. Identity never derives from the bytes of a key or token.
///
/// # Examples
///
/// ```
/// use aws_credential_types::Credentials;
/// use kms_pool::Principal;
///
/// let keys = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
/// let tenant = Principal::new(keys.clone()).with_label("tenant-42");
/// assert_eq!(tenant, tenant.clone());
/// assert_ne!(tenant, Principal::new(keys));
/// ```
#[derive(Clone)]
pub struct Principal {
    id: u64,
    label: Option<Arc<str>>,
    provider: SharedCredentialsProvider,
}

impl Principal {
    /// A new identity whose credentials come from `provider`.
    ///
    /// The pool asks the provider for a slot's first client, and again shortly before its credentials
    /// expire; it keeps the answer in between, so the provider needs no cache of its own.
    pub fn new(provider: impl ProvideCredentials + 'static) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT_ID.fetch_add(1, Relaxed), label: None, provider: SharedCredentialsProvider::new(provider) }
    }

    /// A new identity from the default chain of the AWS SDKs: environment variables, the shared
    /// configuration files (SSO, assumed roles and `credential_process` included), web identity
    /// token, ECS or EKS container, EC2 instance metadata; the first that has credentials wins.
    ///
    /// The chain talks to STS, SSO and the metadata services through an HTTPS client of its own with
    /// the platform's certificate authorities, and reads the region it needs for that from the same
    /// places. It says nothing about the regions of KMS. Where no region is configured this asks the
    /// EC2 metadata service, which takes a few seconds to give up elsewhere: set `AWS_REGION`.
    ///
    /// No credentials are fetched yet: missing credentials show in the first
    /// [`KmsPool::client`](crate::KmsPool::client).
    pub async fn from_default_chain() -> Self {
        let http = aws_smithy_http_client::Builder::new().tls_provider(http::tls_provider()).build_https();
        let config = ProviderConfig::without_region().with_http_client(http);
        Self::new(DefaultCredentialsChain::builder().configure(config).build().await)
    }

    /// Names the principal in logs and errors. A label is not part of the identity, and not secret.
    #[must_use]
    pub fn with_label(self, label: impl Into<Arc<str>>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    /// The label, if there is one.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// The number that tells this identity from all others of the process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Asks the provider, for at most `budget`.
    pub(crate) async fn credentials(&self, budget: Duration) -> Result<Credentials, KmsError> {
        // The closure keeps a panic of the provider's first, synchronous step inside the future.
        let ask = async { self.provider.provide_credentials().await };
        match tokio::time::timeout(budget, AssertUnwindSafe(ask).catch_unwind()).await {
            Ok(Ok(Ok(credentials))) => Ok(credentials),
            Ok(Ok(Err(cause))) => Err(self.unavailable("failed", Some(cause))),
            Ok(Err(_panic)) => Err(self.unavailable("panicked", None)),
            Err(_elapsed) => Err(self.unavailable(&format!("did not answer within {budget:?}"), None)),
        }
    }

    fn unavailable(&self, what: &str, cause: Option<CredentialsError>) -> KmsError {
        let message = match self.label() {
            Some(label) => format!("the credentials provider of `{label}` {what}"),
            None => format!("the credentials provider {what}"),
        };
        let cause = cause.map(|cause| Box::new(cause) as _);
        KmsError::local(KmsErrorKind::CredentialsUnavailable, &message, cause)
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Principal {}

impl Hash for Principal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The provider stays out: what it prints is its author's choice.
        f.debug_struct("Principal").field("id", &self.id).field("label", &self.label).finish_non_exhaustive()
    }
}

/// Tells one set of credentials from the next without keeping any of it.
///
/// A SHA-256 over access key id and session token, each with its length in front, so that no two
/// pairs run together. It has no `Debug`: nothing of it is ever printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(credentials: &Credentials) -> Self {
        let mut hash = Sha256::new();
        let mut absorb = |part: &str| {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        absorb(credentials.access_key_id());
        // No token ends the input here, and so differs from an empty one.
        if let Some(token) = credentials.session_token() {
            absorb(token);
        }
        Self(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fingerprint(id: &str, token: Option<&str>) -> Fingerprint {
        Fingerprint::of(&Credentials::new(id, "secret", token.map(Into::into), None, "test"))
    }

    #[test]
    fn a_clone_keeps_the_identity_and_a_label_does_not_change_it() {
        let principal = Principal::new(Credentials::new("id", "secret", None, None, "test"));
        let labelled = principal.clone().with_label("tenant");
        assert_eq!(principal, labelled);
        assert_eq!(labelled.label(), Some("tenant"));
        assert_ne!(principal, Principal::new(Credentials::new("id", "secret", None, None, "test")));
    }

    #[test]
    fn fingerprints_do_not_run_id_and_token_together() {
        let pairs = [("ab", Some("c")), ("a", Some("bc")), ("abc", Some("")), ("abc", None), ("", Some("abc"))];
        for (i, a) in pairs.iter().enumerate() {
            for (j, b) in pairs.iter().enumerate() {
                assert!((fingerprint(a.0, a.1) == fingerprint(b.0, b.1)) == (i == j), "{a:?} {b:?}");
            }
        }
    }

    proptest! {
        // A small alphabet with the prefix's own bytes makes collisions of a sloppy encoding likely.
        #[test]
        fn fingerprints_are_equal_only_for_equal_pairs(
            a in ("[\0\u{1}a]{0,10}", proptest::option::of("[\0\u{1}a]{0,10}")),
            b in ("[\0\u{1}a]{0,10}", proptest::option::of("[\0\u{1}a]{0,10}")),
        ) {
            let same = fingerprint(&a.0, a.1.as_deref()) == fingerprint(&b.0, b.1.as_deref());
            prop_assert_eq!(same, a == b);
        }
    }
}
