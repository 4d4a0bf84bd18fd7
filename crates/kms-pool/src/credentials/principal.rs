//! An identity, and where its credentials come from.

use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::account::Owner;
use super::default_chain::DefaultChain;
use super::files::Stamps;
use super::profile::ProfileFile;
use super::sessions::Surroundings;
use crate::background::Lease;
use crate::error::{KmsError, KmsErrorKind};

/// An identity that calls KMS, with the provider of its credentials.
///
/// Each [`Principal::new`] is a new identity, even over the same provider or the same keys; a clone
/// is the same identity. Make a principal once, keep it, and pass it to
/// [`KmsPool::client`](crate::KmsPool::client): a new principal for each call would get a new
/// client each time. Identity never derives from the bytes of a key or token.
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
    identity: Arc<Identity>,
    label: Option<Arc<str>>,
    files: Arc<[PathBuf]>,
    account: Option<Arc<str>>,
}

/// What all clones of a principal share.
struct Identity {
    id: u64,
    /// Counts rotations and replacements. A generation of credentials belongs to one of them.
    rotation: AtomicU64,
    /// Counts the identities that have followed one another here.
    tenure: AtomicU64,
    source: Mutex<Source>,
}

struct Source {
    provider: Arc<dyn Provider>,
    /// Held while the provider is called on a separate thread. A provider that blocks its thread
    /// for ever blocks only one thread.
    thread: Arc<Semaphore>,
    /// The owner of the last credentials.
    owner: Option<Owner>,
    /// Credentials that were set by `rotate` take precedence over the provider's until they expire.
    by_hand: Option<Credentials>,
}

/// The response of a provider.
pub(super) struct Answer {
    /// The rotation that the credentials belong to.
    pub(super) rotation: u64,
    /// The metadata of the principal's files before the call.
    pub(super) stamps: Option<Stamps>,
    pub(super) outcome: Result<Credentials, KmsError>,
}

impl Source {
    fn new(provider: impl Provider + 'static) -> Self {
        Self {
            provider: Arc::new(provider),
            thread: Arc::new(Semaphore::new(1)),
            owner: None,
            by_hand: None,
        }
    }

    /// Records the owner of credentials that come into use. Returns whether it may be another
    /// identity than the last one.
    fn note_owner(&mut self, credentials: &Credentials) -> bool {
        let owner = Owner::of(credentials);
        let Some(last) = self.owner.take() else {
            self.owner = Some(owner);
            return false;
        };
        let is_other = owner.is_other_than(&last);
        self.owner = Some(owner.with_what_was_known(&last));
        is_other
    }
}

/// Supplies credentials, with the HTTP client and settings of the pool that needs them.
pub(super) trait Provider: fmt::Debug + Send + Sync {
    fn credentials<'a>(&'a self, by: &'a Surroundings) -> future::ProvideCredentials<'a>;

    /// Whether it may block its thread.
    fn may_block(&self) -> bool {
        true
    }
}

/// A provider of the caller, with its own access to the network.
#[derive(Debug)]
struct Given<P>(P);

impl<P: ProvideCredentials> Provider for Given<P> {
    fn credentials<'a>(&'a self, _: &'a Surroundings) -> future::ProvideCredentials<'a> {
        self.0.provide_credentials()
    }
}

impl Principal {
    /// Creates a new identity whose credentials come from `provider`.
    ///
    /// A pool calls the provider once for all regions, and again shortly before the credentials
    /// expire. It keeps the credentials in between, so the provider needs no cache.
    ///
    /// The provider is polled on a separate thread of the pool, inside the pool's Tokio runtime. It
    /// may use Tokio, and it may block its thread without delaying anything else. After
    /// [`provider_timeout`](crate::KmsPoolBuilder::provider_timeout) its future is dropped.
    pub fn new(provider: impl ProvideCredentials + 'static) -> Self {
        Self::of(Given(provider))
    }

    pub(super) fn of(provider: impl Provider + 'static) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let source = Source::new(provider);
        let identity = Identity {
            id: NEXT_ID.fetch_add(1, Relaxed),
            rotation: AtomicU64::new(0),
            tenure: AtomicU64::new(0),
            source: Mutex::new(source),
        };
        Self { identity: Arc::new(identity), label: None, files: Arc::default(), account: None }
    }

    /// Creates a new identity from the default chain of the AWS SDKs.
    ///
    /// The chain tries environment variables, the shared configuration files (including SSO,
    /// assumed roles and `credential_process`), a web identity token, the ECS or EKS container, and
    /// EC2 instance metadata. The first one that has credentials wins.
    ///
    /// The chain reaches STS and SSO with the pool's trust roots, proxy and connect timeout. It
    /// reaches the metadata services without a proxy. If several pools use the principal, the
    /// settings of the first one apply. The chain reads the region for STS from the same sources;
    /// the regions for KMS are independent of it.
    ///
    /// This reads nothing yet: the chain is set up when credentials are first needed, and missing
    /// credentials are reported by the first [`KmsPool::client`](crate::KmsPool::client). If no
    /// region is configured, the chain asks the EC2 metadata service for one, which takes a few
    /// seconds to fail elsewhere: set `AWS_REGION`.
    ///
    /// ```
    /// let principal = kms_pool::Principal::from_default_chain();
    /// ```
    pub fn from_default_chain() -> Self {
        Self::of(DefaultChain::default())
    }

    /// Creates a new identity from a profile of a credentials file in the format of the AWS CLI.
    /// The file is read each time credentials are due, and when it changes.
    ///
    /// A profile that names a role must also name the region of STS. The pool reaches STS as
    /// described for [`from_default_chain`](Self::from_default_chain).
    ///
    /// ```
    /// let principal = kms_pool::Principal::from_profile("/etc/payments/credentials", "default");
    /// ```
    pub fn from_profile(file: impl Into<PathBuf>, profile: impl Into<String>) -> Self {
        let (file, profile) = (file.into(), profile.into());
        Self::of(ProfileFile { file: file.clone(), profile }).with_files([file])
    }

    /// Names the principal in logs, statistics and errors. A label is not part of the identity, and
    /// not secret.
    #[must_use]
    pub fn with_label(self, label: impl Into<Arc<str>>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    /// Says that the credentials depend on these files, such as a web identity token or a
    /// credentials file: when one of them changes the provider is asked again, also long before the
    /// credentials expire.
    ///
    /// The files are checked every [`KmsPoolBuilder::watch_files_every`]. A provider that reads a
    /// file only once sees no change, such as the AWS SDK's provider for profiles: see
    /// [`from_profile`](Self::from_profile).
    ///
    /// [`KmsPoolBuilder::watch_files_every`]: crate::KmsPoolBuilder::watch_files_every
    #[must_use]
    pub fn with_files(self, files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self { files: files.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets the account in which the principal calls KMS. All principals of an account share the
    /// pool's budget for each region, as they share the account's request quota. Default: the
    /// account id of the credentials, which most of the AWS SDK's providers know; otherwise the
    /// principal has a separate budget.
    #[must_use]
    pub fn with_account(self, account: impl Into<Arc<str>>) -> Self {
        Self { account: Some(account.into()), ..self }
    }

    /// The label, if there is one.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Sets new credentials for the *same* identity. Each pool that uses this principal signs with
    /// them from the next request on.
    ///
    /// No connection is closed, and requests in flight keep their signature. These credentials take
    /// precedence over the provider's until they expire; without an expiry, they always do.
    /// Credentials of another account, or without a known account, still count as another identity:
    /// see [`tenure`](Self::tenure).
    ///
    /// ```
    /// # use aws_credential_types::Credentials;
    /// # use kms_pool::Principal;
    /// # let keys = |id: &str| Credentials::new(id, "secret", None, None, "test");
    /// let principal = Principal::new(keys("AKIDOLD"));
    /// principal.rotate(keys("AKIDNEW"));
    /// ```
    pub fn rotate(&self, credentials: Credentials) {
        let mut source = self.source();
        let is_other = source.note_owner(&credentials);
        source.by_hand = Some(credentials);
        self.identity.rotation.fetch_add(1, Release);
        // The tenure last: after reading the new tenure, a caller never signs with old credentials.
        if is_other {
            self.note_other_identity();
        }
    }

    /// Replaces this identity with *another* one. Everything that uses this principal signs as the
    /// new identity from the next request on.
    ///
    /// [`tenure`](Self::tenure) grows by one. Caches detect by it that their entries were obtained
    /// with another identity's permissions: `envelope` never uses a data key of an earlier tenure
    /// again. The same happens automatically when a provider returns credentials of another
    /// account, or credentials that do not show that the account is the same.
    ///
    /// ```
    /// # use aws_credential_types::Credentials;
    /// # use kms_pool::Principal;
    /// # let keys = |id: &str| Credentials::new(id, "secret", None, None, "test");
    /// let principal = Principal::new(keys("AKIDALICE"));
    /// principal.replace(keys("AKIDBOB"));
    /// assert_eq!(principal.tenure(), 1);
    /// ```
    pub fn replace(&self, provider: impl ProvideCredentials + 'static) {
        let mut source = self.source();
        *source = Source::new(Given(provider));
        self.identity.rotation.fetch_add(1, Release);
        // The tenure last: after reading the new one, a caller never signs with old credentials.
        self.note_other_identity();
    }

    /// Counts how often another identity has replaced this one.
    ///
    /// It grows with [`replace`](Self::replace), and when credentials come into use (from the
    /// provider or [`rotate`](Self::rotate)) that may belong to another account than the last ones.
    /// The account is the `account_id` of the credentials, or else the account that AWS encodes in
    /// access key ids that begin with `AKIA` or `ASIA`, so a refreshed session keeps its tenure. If
    /// either account is unknown, as with access keys from before 2019 and with emulators of AWS
    /// that invent ids, another access key id counts as another identity: caches then fetch their
    /// data keys again after each refresh. To avoid that, set the account id in the provider's
    /// credentials.
    pub fn tenure(&self) -> u64 {
        self.identity.tenure.load(Acquire)
    }

    /// The label, or a stand-in that says as little.
    pub(crate) fn name(&self) -> &str {
        self.label().unwrap_or("unnamed")
    }

    /// Records the owner of credentials that come into use. Another owner counts as another
    /// identity.
    pub(super) fn note_owner(&self, credentials: &Credentials) {
        if self.source().note_owner(credentials) {
            self.note_other_identity();
        }
    }

    fn note_other_identity(&self) {
        self.identity.tenure.fetch_add(1, Release);
    }

    /// The number that tells this identity from all others of the process.
    pub(crate) fn id(&self) -> u64 {
        self.identity.id
    }

    pub(super) fn rotation(&self) -> u64 {
        self.identity.rotation.load(Acquire)
    }

    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The account as it was given, if it was.
    pub(crate) fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// The current rotation, and the credentials set by `rotate` if they are still valid.
    pub(super) fn by_hand(&self, date: SystemTime) -> (u64, Option<Credentials>) {
        let source = self.source();
        let good = |it: &&Credentials| it.expiry().is_none_or(|end| date < end);
        (self.rotation(), source.by_hand.as_ref().filter(good).cloned())
    }

    /// Returns the credentials set by `rotate`, or else calls the provider; with the rotation that
    /// the credentials belong to.
    async fn ask(
        &self,
        date: SystemTime,
        by: &Surroundings,
    ) -> (u64, Result<Credentials, KmsError>) {
        let (rotation, by_hand) = self.by_hand(date);
        if let Some(credentials) = by_hand {
            return (rotation, Ok(credentials));
        }
        let provider = Arc::clone(&self.source().provider);
        // The closure keeps a panic of the provider's first, synchronous step inside the future.
        let ask = async { provider.credentials(by).await };
        let outcome = match AssertUnwindSafe(ask).catch_unwind().await {
            Ok(Ok(credentials)) => Ok(credentials),
            Ok(Err(cause)) => Err(self.unavailable("failed", Some(cause))),
            Err(_panic) => Err(self.unavailable("panicked", None)),
        };
        (rotation, outcome)
    }

    /// Like `ask`, within `limit`, and on a separate thread if the provider may block its thread.
    /// Must be called on a runtime.
    pub(super) async fn ask_within(
        &self,
        limit: Duration,
        date: SystemTime,
        by: &Surroundings,
        lease: Lease,
    ) -> Answer {
        let asked = self.rotation();
        let answer = async {
            let (may_block, thread) = {
                let source = self.source();
                (source.provider.may_block(), Arc::clone(&source.thread))
            };
            if !may_block {
                // A task of the runtime ends with it, so it needs no lease.
                drop(lease);
                let (rotation, outcome) = self.ask(date, by).await;
                return Some(Answer { rotation, stamps: None, outcome });
            }
            // Waits while an earlier call of the provider still blocks its thread.
            let permit = thread.acquire_owned().await;
            self.ask_aside(date, by.clone(), permit, lease).await
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(Some(answer)) => answer,
            late => {
                let what = match late {
                    Ok(_) => "could not be called".to_owned(),
                    Err(_elapsed) => format!("did not respond within {limit:?}"),
                };
                let outcome = Err(self.unavailable(&what, None));
                Answer { rotation: asked, stamps: None, outcome }
            }
        }
    }

    /// Calls the provider on a separate thread, which it may block.
    async fn ask_aside<P: Send + 'static>(
        &self,
        date: SystemTime,
        by: Surroundings,
        permit: P,
        mut lease: Lease,
    ) -> Option<Answer> {
        // Dropped with this future, which cancels the provider at its next `.await`.
        let (_given_up, is_given_up) = oneshot::channel::<()>();
        let principal = self.clone();
        let ask = move || {
            let _permit = permit;
            let stamps = Stamps::of(principal.files());
            // Check the ends first: afterwards the provider must not be polled.
            let end = std::pin::pin!(lease.end());
            let end = select(is_given_up, end);
            let ask = std::pin::pin!(principal.ask(date, &by));
            match Handle::current().block_on(select(end, ask)) {
                Either::Right(((rotation, outcome), _)) => {
                    Some(Answer { rotation, stamps: Some(stamps), outcome })
                }
                Either::Left(_) => None,
            }
        };
        tokio::task::spawn_blocking(ask).await.ok().flatten()
    }

    fn unavailable(&self, what: &str, cause: Option<CredentialsError>) -> KmsError {
        let whose = self.label().map(|label| format!(" of `{label}`")).unwrap_or_default();
        let reason = cause
            .as_ref()
            .and_then(Reason::of)
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        let message = format!("the credentials provider{whose} {what}{reason}");
        let cause = cause.map(|cause| Box::new(cause) as _);
        KmsError::local(KmsErrorKind::CredentialsUnavailable, &message, cause)
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        // Single assignments: a panic leaves nothing half done.
        self.identity.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why one of our own providers failed. What others say of it may be too much.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Reason(pub(super) String);

impl Reason {
    fn of(error: &CredentialsError) -> Option<&Self> {
        let error: &dyn Error = error;
        std::iter::successors(error.source(), |&cause| cause.source())
            .find_map(|cause| cause.downcast_ref())
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Principal {}

impl Hash for Principal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The provider stays out: what it prints is its author's choice.
        f.debug_struct("Principal")
            .field("id", &self.id())
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_the_identity_and_a_label_does_not_change_it() {
        let principal = Principal::new(Credentials::new("id", "secret", None, None, "test"));
        let labelled = principal.clone().with_label("tenant");
        assert_eq!(principal, labelled);
        assert_eq!(labelled.label(), Some("tenant"));
        assert_ne!(principal, Principal::new(Credentials::new("id", "secret", None, None, "test")));
    }
}
