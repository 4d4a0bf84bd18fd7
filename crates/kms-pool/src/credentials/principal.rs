//! An identity, and where its credentials come from.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use tokio::sync::Semaphore;

use super::account::Owner;
use super::default_chain::DefaultChain;
use super::profile::ProfileFile;
use super::sts::RoleSessions;

/// An identity that calls KMS, with the provider of its credentials.
///
/// Each [`Principal::new`] is a new identity, even over the same provider or the same keys; a clone
/// is the same identity. Create a principal once, keep it, and pass it to
/// [`KmsPool::client`](crate::KmsPool::client): a new principal for each call would get a new
/// client each time.
///
/// # Examples
///
/// ```
/// use kms_pool::{Credentials, Principal};
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

/// The state that all clones of a principal share.
struct Identity {
    id: u64,
    /// Counts rotations and replacements. Each credential generation belongs to one of them.
    rotation: AtomicU64,
    /// Counts how often another identity replaced this one.
    tenure: AtomicU64,
    source: Mutex<Source>,
}

struct Source {
    provider: Arc<Provider>,
    /// Held while the provider is called on a separate thread. A provider that blocks its thread
    /// for ever blocks only one thread.
    thread: Arc<Semaphore>,
    /// The owner of the last credentials.
    owner: Option<Owner>,
    /// Credentials that were set by `rotate` take precedence over the provider's until they expire.
    rotated: Option<Credentials>,
}

/// Where a principal's credentials come from.
pub(super) enum Provider {
    /// A provider of the caller, with its own access to the network.
    Custom(SharedCredentialsProvider),
    DefaultChain(DefaultChain),
    Profile(ProfileFile),
    /// A role that another principal assumes.
    Role {
        role: RoleSessions,
        base: Principal,
    },
    /// A role that the bearer of the web identity token in a file assumes.
    WebIdentity {
        role: RoleSessions,
        token_file: PathBuf,
    },
}

impl Provider {
    fn custom(provider: impl ProvideCredentials + 'static) -> Self {
        Self::Custom(SharedCredentialsProvider::new(provider))
    }

    /// Whether a call may block its thread.
    fn may_block(&self) -> bool {
        // If each role held a thread while it waits for its base's provider, no thread would be
        // left for that provider.
        !matches!(self, Self::Role { .. })
    }
}

impl Source {
    fn new(provider: Provider) -> Self {
        Self {
            provider: Arc::new(provider),
            thread: Arc::new(Semaphore::new(1)),
            owner: None,
            rotated: None,
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

impl Principal {
    /// Creates a new identity whose credentials come from `provider`.
    ///
    /// A pool calls the provider once for all regions, and again shortly before the credentials
    /// expire. It keeps the credentials in between, so the provider needs no cache.
    ///
    /// The provider is polled on a separate thread of the pool, inside the pool's Tokio runtime. It
    /// may use Tokio, and it may block its thread without delaying anything else. After
    /// [`provider_timeout`](crate::KmsPoolBuilder::provider_timeout) its future is dropped.
    #[must_use]
    pub fn new(provider: impl ProvideCredentials + 'static) -> Self {
        Self::of(Provider::custom(provider))
    }

    pub(super) fn of(provider: Provider) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let identity = Identity {
            id: NEXT_ID.fetch_add(1, Relaxed),
            rotation: AtomicU64::new(0),
            tenure: AtomicU64::new(0),
            source: Mutex::new(Source::new(provider)),
        };
        Self { identity: Arc::new(identity), label: None, files: Arc::default(), account: None }
    }

    /// Creates a new identity from the default chain of the AWS SDKs.
    ///
    /// The chain tries environment variables, the shared configuration files, a web identity token,
    /// the ECS or EKS container, and EC2 instance metadata. The first one that has credentials is
    /// used. Profiles with assumed roles always work. Profiles with SSO need the cargo feature
    /// `sso`, and profiles with `credential_process` the feature `credentials-process`, which is on
    /// by default.
    ///
    /// The chain reaches STS and SSO with the pool's trusted certificate authorities, proxy and
    /// connect timeout. It reaches the metadata services without a proxy. If several pools use the
    /// principal, the settings of the first one apply. The chain reads the region for STS from the
    /// same sources; it does not affect the regions for KMS.
    ///
    /// This loads no credentials: missing credentials are reported by the first
    /// [`KmsPool::client`](crate::KmsPool::client). If no region is configured, the chain asks the
    /// EC2 metadata service for one. Outside EC2 that fails only after a few seconds: set
    /// `AWS_REGION`.
    ///
    /// # Examples
    ///
    /// ```
    /// let principal = kms_pool::Principal::from_default_chain();
    /// ```
    #[must_use]
    pub fn from_default_chain() -> Self {
        Self::of(Provider::DefaultChain(DefaultChain::default()))
    }

    /// Creates a new identity from a profile of a credentials file in the format of the AWS CLI.
    ///
    /// The file is read each time credentials are due, and when it changes. A profile that names a
    /// role must also name the region of STS. The pool reaches STS as described for
    /// [`from_default_chain`](Self::from_default_chain).
    ///
    /// # Examples
    ///
    /// ```
    /// let principal = kms_pool::Principal::from_profile("/etc/payments/credentials", "default");
    /// ```
    #[must_use]
    pub fn from_profile(file: impl Into<PathBuf>, profile: impl Into<String>) -> Self {
        let file = file.into();
        let profile = ProfileFile { file: file.clone(), profile: profile.into() };
        Self::of(Provider::Profile(profile)).with_files([file])
    }

    /// Sets the name of the principal in logs, statistics and errors.
    ///
    /// A label is not part of the identity, and is not secret.
    #[must_use]
    pub fn with_label(self, label: impl Into<Arc<str>>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    /// Watches files that the credentials depend on, such as a web identity token.
    ///
    /// When one of them changes, the provider is called again, even if the credentials are still
    /// valid. The files are checked every [`watch_files_every`]. This has no effect on a provider
    /// that reads its file only once, such as the AWS SDK's profile provider: use
    /// [`from_profile`](Self::from_profile) instead.
    ///
    /// [`watch_files_every`]: crate::KmsPoolBuilder::watch_files_every
    #[must_use]
    pub fn with_files(self, files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self { files: files.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets the principal's AWS account.
    ///
    /// All principals of an account share one budget per region, because they share the account's
    /// KMS request quota. Default: the account id of the credentials, which most providers of the
    /// AWS SDK supply. Without an account, the principal has its own budget.
    #[must_use]
    pub fn with_account(self, account: impl Into<Arc<str>>) -> Self {
        Self { account: Some(account.into()), ..self }
    }

    /// Returns the label, if there is one.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Sets new credentials for the *same* identity. Each pool that uses this principal signs with
    /// them from the next request on.
    ///
    /// No connection is closed, and requests in flight keep their signature. The new credentials
    /// take precedence over the provider's until they expire, or for ever if they have no expiry.
    /// Credentials of another account, or without a known account, count as another identity: see
    /// [`tenure`](Self::tenure).
    ///
    /// # Examples
    ///
    /// ```
    /// use kms_pool::{Credentials, Principal};
    ///
    /// let keys = |id: &str| Credentials::new(id, "secret", None, None, "test");
    /// let principal = Principal::new(keys("AKIDOLD"));
    /// principal.rotate(keys("AKIDNEW"));
    /// ```
    pub fn rotate(&self, credentials: Credentials) {
        let mut source = self.source();
        let is_other = source.note_owner(&credentials);
        source.rotated = Some(credentials);
        self.identity.rotation.fetch_add(1, Release);
        // The tenure last: after reading the new tenure, a caller never signs with old credentials.
        if is_other {
            self.note_other_identity();
        }
    }

    /// Replaces this identity with *another* one. From the next request on, every clone of this
    /// principal signs as the new identity.
    ///
    /// This increases [`tenure`](Self::tenure) by one, by which caches detect that their entries
    /// were obtained with another identity's permissions. `envelope` never uses a data key of an
    /// earlier tenure again. The same happens if a provider returns credentials of another account,
    /// or credentials that do not show that the account is the same.
    ///
    /// # Examples
    ///
    /// ```
    /// use kms_pool::{Credentials, Principal};
    ///
    /// let keys = |id: &str| Credentials::new(id, "secret", None, None, "test");
    /// let principal = Principal::new(keys("AKIDALICE"));
    /// principal.replace(keys("AKIDBOB"));
    /// assert_eq!(principal.tenure(), 1);
    /// ```
    pub fn replace(&self, provider: impl ProvideCredentials + 'static) {
        let mut source = self.source();
        *source = Source::new(Provider::custom(provider));
        self.identity.rotation.fetch_add(1, Release);
        // The tenure last: after reading the new tenure, a caller never signs with old credentials.
        self.note_other_identity();
    }

    /// Returns the principal's tenure: how often another identity has replaced this one.
    ///
    /// It grows with [`replace`](Self::replace), and when credentials come into use (from the
    /// provider or [`rotate`](Self::rotate)) that may belong to another account than the last ones.
    /// The account is the `account_id` of the credentials, or else the account that AWS encodes in
    /// access key ids that begin with `AKIA` or `ASIA`, so a refreshed session keeps its tenure.
    ///
    /// If either account is unknown, another access key id counts as another identity, and caches
    /// fetch their data keys again after each refresh. This concerns access keys from before 2019,
    /// and emulators of AWS that invent ids. To avoid it, set the account id in the provider's
    /// credentials.
    #[must_use]
    pub fn tenure(&self) -> u64 {
        self.identity.tenure.load(Acquire)
    }

    /// The label, or a placeholder for logs.
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

    /// The number that distinguishes this identity from all others of the process.
    pub(crate) fn id(&self) -> u64 {
        self.identity.id
    }

    pub(super) fn rotation(&self) -> u64 {
        self.identity.rotation.load(Acquire)
    }

    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The account that was set by `with_account`.
    pub(crate) fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// The current rotation, and the credentials set by `rotate` if they are still valid.
    pub(super) fn rotated(&self, date: SystemTime) -> (u64, Option<Credentials>) {
        let source = self.source();
        let is_valid = |it: &&Credentials| it.expiry().is_none_or(|end| date < end);
        (self.rotation(), source.rotated.as_ref().filter(is_valid).cloned())
    }

    pub(super) fn provider(&self) -> Arc<Provider> {
        Arc::clone(&self.source().provider)
    }

    /// The semaphore to hold while the provider is called on a separate thread; `None` if the
    /// provider does not block its thread.
    pub(super) fn provider_thread(&self) -> Option<Arc<Semaphore>> {
        let source = self.source();
        source.provider.may_block().then(|| Arc::clone(&source.thread))
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        // Single assignments: a panic leaves nothing half done.
        self.identity.source.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Without the provider, whose `Debug` may print secrets.
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
        let labeled = principal.clone().with_label("tenant");
        assert_eq!(principal, labeled);
        assert_eq!(labeled.label(), Some("tenant"));
        assert_ne!(principal, Principal::new(Credentials::new("id", "secret", None, None, "test")));
    }
}
