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
/// [`KmsPool::client`](crate::KmsPool::client): a principal made anew for each call would get a
/// client of its own each time. Identity never derives from the bytes of a key or token.
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
    /// Counts what changed by hand: rotations and replacements. A generation of credentials belongs
    /// to one.
    rotation: AtomicU64,
    /// Counts the identities that have followed one another here.
    tenure: AtomicU64,
    source: Mutex<Source>,
}

struct Source {
    provider: Arc<dyn Provider>,
    /// Whoever asks the provider holds it. A provider that blocks its thread for ever blocks one.
    thread: Arc<Semaphore>,
    /// Whose the last credentials were.
    owner: Option<Owner>,
    /// Credentials that were given by hand go before the provider's until they expire.
    by_hand: Option<Credentials>,
}

/// What a provider answered.
pub(super) struct Answer {
    /// The rotation that the credentials belong to.
    pub(super) rotation: u64,
    /// How the principal's files looked before.
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

    /// Notes whose credentials come into use, and tells whether they may be another's than the
    /// last.
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

/// Supplies credentials, and asks for them by the means of the pool that wants them.
pub(super) trait Provider: fmt::Debug + Send + Sync {
    fn credentials<'a>(&'a self, by: &'a Surroundings) -> future::ProvideCredentials<'a>;

    /// Whether it may block its thread.
    fn may_block(&self) -> bool {
        true
    }
}

/// A caller's provider, which has its own way to the network.
#[derive(Debug)]
struct Given<P>(P);

impl<P: ProvideCredentials> Provider for Given<P> {
    fn credentials<'a>(&'a self, _: &'a Surroundings) -> future::ProvideCredentials<'a> {
        self.0.provide_credentials()
    }
}

impl Principal {
    /// A new identity whose credentials come from `provider`.
    ///
    /// A pool asks the provider once for all regions, and again shortly before the credentials
    /// expire; it keeps the answer in between, so the provider needs no cache of its own.
    ///
    /// The provider is polled on a thread of the pool that is for this alone, within the pool's own
    /// Tokio runtime: it may use Tokio, and it may block its thread without holding up anything
    /// else. It is dropped unfinished after
    /// [`provider_timeout`](crate::KmsPoolBuilder::provider_timeout).
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

    /// A new identity from the default chain of the AWS SDKs: environment variables, the shared
    /// configuration files (SSO, assumed roles and `credential_process` included), web identity
    /// token, ECS or EKS container, EC2 instance metadata; the first that has credentials wins.
    ///
    /// The chain reaches STS and SSO as the pool reaches KMS: with its trust roots, proxy and
    /// connect timeout. The metadata services are reached without a proxy. If several pools use the
    /// principal, the settings are those of the first that asks. The chain reads the region that it
    /// needs for STS from the same places. It says nothing about the regions of KMS.
    ///
    /// Nothing is read yet: the chain is set up when credentials are first asked for, and missing
    /// ones show in the first [`KmsPool::client`](crate::KmsPool::client). Where no region is
    /// configured the chain then asks the EC2 metadata service for one, which takes a few seconds
    /// to give up elsewhere: set `AWS_REGION`.
    #[expect(clippy::unused_async, reason = "it is part of the signature that callers know")]
    pub async fn from_default_chain() -> Self {
        Self::of(DefaultChain::default())
    }

    /// A new identity from a profile of a credentials file in the format of the AWS CLI. The file
    /// is read each time credentials are due, and when it changes.
    ///
    /// A profile that names a role has to name the region of STS as well. STS is reached as
    /// [`from_default_chain`](Self::from_default_chain) says.
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
    /// The files are looked at as often as [`KmsPoolBuilder::watch_files_every`] says. A provider
    /// that reads a file only once sees no change, as the AWS SDK's for profiles: see
    /// [`from_profile`](Self::from_profile).
    ///
    /// [`KmsPoolBuilder::watch_files_every`]: crate::KmsPoolBuilder::watch_files_every
    #[must_use]
    pub fn with_files(self, files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self { files: files.into_iter().map(Into::into).collect(), ..self }
    }

    /// Says in which account the principal calls KMS. All principals of an account share the pool's
    /// budget for each region, as they share the account's request quota. Default: the account that
    /// comes with the credentials, which the AWS SDK's providers mostly know; else the principal
    /// has a budget of its own.
    #[must_use]
    pub fn with_account(self, account: impl Into<Arc<str>>) -> Self {
        Self { account: Some(account.into()), ..self }
    }

    /// The label, if there is one.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Gives the *same* identity other credentials, from the next request on, in each pool that it
    /// is used with.
    ///
    /// No connection is closed, and requests under way end with what they were signed with. The
    /// credentials go before the provider's until they expire, and for good if they have no expiry.
    /// Credentials of another account, or that do not show theirs, are another identity all the
    /// same: see [`tenure`](Self::tenure).
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
        // The tenure last: whoever reads the new one signs with nothing older.
        if is_other {
            self.note_other_identity();
        }
    }

    /// Puts *another* identity in this one's place: whoever holds this principal acts as the new
    /// one from the next request on.
    ///
    /// [`tenure`](Self::tenure) grows by one, by which caches learn that what they hold was
    /// obtained under somebody else's permissions: `envelope` uses no data key of an earlier tenure
    /// again. The same happens by itself when a provider hands out credentials of another account
    /// than before, or such as do not show that they are of the same.
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
        // The tenure last: whoever reads the new one signs with nothing older.
        self.note_other_identity();
    }

    /// How often another identity has taken this one's place.
    ///
    /// It grows with [`replace`](Self::replace), and when credentials come into use, from the
    /// provider or by [`rotate`](Self::rotate), that may be another account's than the last. The
    /// account is the one that the provider names (`account_id` of the credentials), or else the
    /// one that AWS encodes in access key ids that begin with `AKIA` or `ASIA`, so the renewal of a
    /// session keeps its tenure. Where either account is not known, as with access keys from before
    /// 2019 and with emulators of AWS that make ids up, another access key id counts as another
    /// identity: caches then fetch their data keys again after a renewal. Name the account in the
    /// provider's credentials to avoid that.
    pub fn tenure(&self) -> u64 {
        self.identity.tenure.load(Acquire)
    }

    /// The label, or a stand-in that says as little.
    pub(crate) fn name(&self) -> &str {
        self.label().unwrap_or("unnamed")
    }

    /// Notes whose credentials come into use. Another owner than before is another identity.
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

    /// The rotation at this moment, and the credentials given by hand that are still good.
    pub(super) fn by_hand(&self, date: SystemTime) -> (u64, Option<Credentials>) {
        let source = self.source();
        let good = |it: &&Credentials| it.expiry().is_none_or(|end| date < end);
        (self.rotation(), source.by_hand.as_ref().filter(good).cloned())
    }

    /// What was given by hand, or else what the provider answers; with the rotation it belongs to.
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

    /// The same within `limit`, on a thread of its own if the provider may block that. Has to be
    /// called on a runtime.
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
                // A task ends with its runtime by itself.
                drop(lease);
                let (rotation, outcome) = self.ask(date, by).await;
                return Some(Answer { rotation, stamps: None, outcome });
            }
            // It waits for a provider that still blocks its thread since it was last asked.
            let permit = thread.acquire_owned().await;
            self.ask_aside(date, by.clone(), permit, lease).await
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(Some(answer)) => answer,
            late => {
                let what = match late {
                    Ok(_) => "could not be asked".to_owned(),
                    Err(_elapsed) => format!("did not answer within {limit:?}"),
                };
                let outcome = Err(self.unavailable(&what, None));
                Answer { rotation: asked, stamps: None, outcome }
            }
        }
    }

    /// Asks on a thread that the provider may block.
    async fn ask_aside<P: Send + 'static>(
        &self,
        date: SystemTime,
        by: Surroundings,
        permit: P,
        mut lease: Lease,
    ) -> Option<Answer> {
        // Dropped with this future, which ends the provider's where that can be ended.
        let (_given_up, is_given_up) = oneshot::channel::<()>();
        let principal = self.clone();
        let ask = move || {
            let _permit = permit;
            let stamps = Stamps::of(principal.files());
            // The ends first: then the provider is not polled any more.
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
