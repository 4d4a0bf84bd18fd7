//! A cache of branch keys.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    BranchKey, BranchKeySource, MissingBranchKey,
    unknown_versions::{UnknownVersions, VersionList},
};
use crate::{
    background::Background,
    cache::{
        Cache, Counts, Key, OwnedKey,
        failures::Failures,
        policy::Policy,
        source::{Settings, Source, Task},
        tenure::Tenure,
    },
    error::{Error, KeyringError, KeyringErrorKind},
    observer::{Operation, traced_branch_key},
    time::{Clock, Moment},
};

/// Branch keys, cached. Cloning is cheap and shares the entries.
///
/// - Callers that miss the same branch key at the same time share one request and its outcome.
/// - While a branch key is in use, it is requested again in the background before it expires, so
///   that callers do not wait. This requires the feature `tokio`.
/// - Failures are remembered for a while. If a branch key is denied, damaged or missing, it is
///   dropped; others are not. If nobody may use a KMS key, every branch key under it is dropped.
/// - Loading the active version also provides it for unwrapping.
/// - Messages may name versions that do not exist. After the first such version of a branch key,
///   one read of its list of versions a second answers all further ones for ten seconds; other
///   branch keys are not affected. If the source cannot list versions, one unknown version a second
///   is requested, and calls for others fail with
///   [`OverBudget`](crate::keyring::KeyringErrorKind::OverBudget), which is retryable.
/// - If the identity that calls the source [changes](BranchKeySource::tenure), all entries are
///   dropped.
///
/// A branch key is wiped when its entry was dropped and the last operation under it has ended,
/// never while it is in use.
///
/// After you have rotated, created or shredded a branch key, call [`invalidate`](Self::invalidate)
/// in this process. Other processes notice within their `max_age` or `check_every`.
///
/// # Examples
///
/// ```
/// use envelope::{DataKey, branch_key::{BranchKeys, StaticBranchKeys}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
/// let source = StaticBranchKeys::new()
///     .with_active("tenant-42", [1; 16], DataKey::generate(32)?)?;
/// let keys = BranchKeys::new(source);
/// assert_eq!(keys.active("tenant-42").await?.version(), [1; 16]);
/// assert_eq!(keys.stats().requests(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct BranchKeys(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) source: Arc<dyn BranchKeySource>,
    pub(super) active: Arc<Cache<BranchKey>>,
    pub(super) versions: Arc<Cache<BranchKey>>,
    pub(super) policy: Policy,
    /// Failures by branch key id.
    pub(super) backoffs: Failures<Arc<str>>,
    pub(super) unknown: UnknownVersions,
    pub(super) tenure: Tenure,
    pub(super) clock: Clock,
    pub(super) background: Background,
}

/// Counts of [`BranchKeys`] since they were created. With the feature `serde`, they can be
/// serialized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BranchKeyStats {
    /// Counts of active versions, which wrap data keys.
    pub active: Counts,
    /// Counts of versions that are loaded to unwrap data keys.
    pub versions: Counts,
}

impl BranchKeyStats {
    /// Returns the number of requests to the source for a branch key.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.active.requests() + self.versions.requests()
    }
}

impl BranchKeys {
    /// Returns the active version of a branch key, from the cache or from its source.
    ///
    /// # Errors
    ///
    /// [`Error::DataKeyUnavailable`] with the error of the source, [`Error::Remembered`] if that
    /// failed a moment ago, and [`Error::Overloaded`], [`Error::Forked`],
    /// [`Error::ThreadsNotStarted`] or [`Error::Panicked`] as for data keys.
    pub async fn active(&self, id: &str) -> Result<Arc<BranchKey>, Error> {
        match self.with_active(id, Arc::clone) {
            Some(key) => Ok(key),
            None => self.0.active.obtain(active_key(id), self.load(id, Role::Active)).await,
        }
    }

    /// Returns one version of a branch key, from the cache or from its source.
    ///
    /// # Errors
    ///
    /// The errors of [`active`](Self::active). [`MissingBranchKey::VersionNotFound`] is final.
    pub async fn version(&self, id: &str, version: [u8; 16]) -> Result<Arc<BranchKey>, Error> {
        if let Some(key) = self.with_version(id, version, Arc::clone) {
            return Ok(key);
        }
        let load = self.load(id, Role::Version(version));
        self.0.unknown.check(&load, version).await?;
        self.0.versions.obtain(version_key(id, &version), load).await
    }

    /// Drops a branch key with all its versions, and returns the number of entries. Scans all
    /// entries.
    ///
    /// An operation that starts after this has returned uses no branch key of this id that was
    /// cached, or requested, before.
    pub fn invalidate(&self, id: &str) -> u64 {
        let is_it = |key: &OwnedKey, _: &BranchKey| key.borrow().partition == id;
        self.0.backoffs.forget(id);
        // Active keys first: their loads prime versions, and must have ended when those are
        // dropped.
        self.0.active.invalidate(is_it) + self.0.versions.invalidate(is_it)
    }

    /// Drops all branch keys, with the guarantee of [`invalidate`](Self::invalidate), and returns
    /// the number of entries.
    pub fn clear(&self) -> u64 {
        self.0.backoffs.clear();
        self.0.active.clear() + self.0.versions.clear()
    }

    /// Returns the counts so far. Cheap: this does not scan the entries.
    #[must_use]
    pub fn stats(&self) -> BranchKeyStats {
        BranchKeyStats { active: self.0.active.counts(), versions: self.0.versions.counts() }
    }

    /// Returns the age of the oldest branch key in the cache. Scans all entries.
    #[must_use]
    pub fn oldest_age(&self) -> Option<Duration> {
        let now = self.now();
        self.0.active.oldest(now).max(self.0.versions.oldest(now))
    }

    /// Returns the source.
    pub(crate) fn source(&self) -> &dyn BranchKeySource {
        &*self.0.source
    }

    /// Lends the active version of a branch key, if it is cached. Never waits.
    #[inline]
    pub(crate) fn with_active<R>(
        &self,
        id: &str,
        borrow: impl FnMut(&Arc<BranchKey>) -> R,
    ) -> Option<R> {
        self.find(&self.0.active, &active_key(id), Role::Active, borrow)
    }

    /// Lends one version of a branch key, if it is cached. Never waits.
    #[inline]
    pub(crate) fn with_version<R>(
        &self,
        id: &str,
        version: [u8; 16],
        borrow: impl FnMut(&Arc<BranchKey>) -> R,
    ) -> Option<R> {
        let role = Role::Version(version);
        self.find(&self.0.versions, &version_key(id, &version), role, borrow)
    }

    #[inline]
    fn find<R>(
        &self,
        cache: &Arc<Cache<BranchKey>>,
        key: &Key<'_>,
        role: Role,
        borrow: impl FnMut(&Arc<BranchKey>) -> R,
    ) -> Option<R> {
        self.drop_what_others_obtained();
        let taken = cache.find(key, self.now(), &self.0.policy, None, borrow).ok()?;
        if taken.wants_refresh {
            cache.refresh(key, &self.load(key.partition, role));
        }
        Some(taken.outcome)
    }

    fn load(&self, id: &str, role: Role) -> Load {
        Load { keys: self.clone(), id: id.into(), role }
    }

    /// Drops everything if another identity has replaced the one that obtained the entries.
    #[inline]
    fn drop_what_others_obtained(&self) {
        let inner = &*self.0;
        inner.tenure.change(inner.source.tenure(), || {
            let active = inner.active.invalidate_quietly(|_, _| true);
            let versions = inner.versions.invalidate_quietly(|_, _| true);
            inner.backoffs.clear();
            inner.unknown.clear();
            move || {
                inner.active.report_invalidated(active);
                inner.versions.report_invalidated(versions);
            }
        });
    }

    /// Drops the entries that `doomed` selects, in both roles.
    fn drop_refused(&self, doomed: impl Fn(&OwnedKey, &BranchKey) -> bool) {
        self.0.active.drop_refused(&doomed);
        self.0.versions.drop_refused(&doomed);
    }
}

fn active_key(id: &str) -> Key<'_> {
    version_key(id, &[])
}

/// Returns the key of an entry. The branch key id is the partition, so that branch keys take turns.
fn version_key<'a>(id: &'a str, version: &'a [u8]) -> Key<'a> {
    Key {
        partition: id,
        suite_id: 0,
        encryption_context: &[],
        required_context: &[],
        encrypted_data_keys: version,
    }
}

impl Settings for BranchKeys {
    fn now(&self) -> Moment {
        self.0.clock.now()
    }

    fn chance(&self) -> f64 {
        fastrand::f64()
    }

    fn policy(&self) -> &Policy {
        &self.0.policy
    }

    fn backoffs(&self) -> &Failures<Arc<str>> {
        &self.0.backoffs
    }

    fn loads_in_background(&self) -> Result<bool, Error> {
        self.0.background.start()
    }

    fn run(&self, load: Task) {
        self.0.background.spawn(load);
    }

    fn spawn(&self, task: Task) {
        self.0.background.spawn(task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        Background::sleep(duration)
    }
}

/// The role in which a branch key is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Active,
    Version([u8; 16]),
}

/// Loads one branch key.
#[derive(Clone)]
struct Load {
    keys: BranchKeys,
    id: Arc<str>,
    role: Role,
}

impl Load {
    /// Returns the error of the source, under the branch key's name too.
    fn failure(&self, error: KeyringError) -> Error {
        Error::DataKeyUnavailable(error.with_name_in_messages(Arc::clone(&self.id)))
    }

    async fn request(&self, background: bool) -> Result<Arc<BranchKey>, KeyringError> {
        let source = &self.keys.0.source;
        let key = match self.role {
            Role::Active => source.active(&self.id, background).await?,
            Role::Version(version) => source.version(&self.id, version, background).await?,
        };
        let is_version = match self.role {
            Role::Active => true,
            Role::Version(version) => key.version() == version,
        };
        if key.id() != &*self.id || !is_version {
            let cause = "the source returned another branch key than the requested one";
            let kind = KeyringErrorKind::InvalidResponse;
            return Err(KeyringError::new(Arc::clone(&self.id), kind, cause));
        }
        Ok(Arc::new(key))
    }
}

impl VersionList for Load {
    fn id(&self) -> &Arc<str> {
        &self.id
    }

    fn now(&self) -> Moment {
        self.keys.now()
    }

    fn in_background(&self) -> Result<bool, Error> {
        self.keys.loads_in_background()
    }

    async fn read(
        self,
        pause: Duration,
        begun: impl FnOnce() + Send + 'static,
    ) -> Result<Option<Vec<[u8; 16]>>, Error> {
        let cache = Arc::clone(&self.keys.0.versions);
        let key = version_key(&self.id, &[]).to_owned();
        let load = self.clone();
        let read = async move {
            begun();
            let versions = load.keys.0.source.versions(&load.id).await;
            versions.map_err(|error| load.failure(error))
        };
        cache.load_apart(key, self, pause, read).await
    }
}

impl Source for Load {
    type Value = BranchKey;
    const IN_PLACE: bool = true;

    fn is_ours(&self) -> bool {
        self.role == Role::Active
    }

    fn settings(&self) -> &impl Settings {
        &self.keys
    }

    fn bytes(&self) -> Option<u64> {
        None
    }

    fn supplied_context(&self) -> &[u8] {
        &[]
    }

    fn wrapping_keys(&self) -> Vec<Arc<str>> {
        vec![Arc::clone(&self.id)]
    }

    async fn load(self, ahead: bool) -> Result<Arc<BranchKey>, Error> {
        let operation = match self.role {
            Role::Active => Operation::ActiveBranchKey,
            Role::Version(_) => Operation::BranchKeyVersion,
        };
        let request = traced_branch_key(operation, &self.id, self.request(ahead));
        request.await.map_err(|error| self.failure(error))
    }

    fn failed(&self, error: &Error, is_ours: bool) {
        for failure in error.keyring_errors() {
            let missing = MissingBranchKey::in_error(failure);
            if let Some(MissingBranchKey::VersionNotFound { .. }) = missing {
                self.keys.0.unknown.suspect(&self.id, self.keys.now());
            }
            // The id of a missing branch key may spell the ARN of a KMS key.
            if failure.kind() == KeyringErrorKind::Unusable && missing.is_none() {
                self.keys.drop_refused(|_, key| key.kms_key() == Some(failure.wrapping_key()));
            }
            let is_refused = matches!(
                failure.kind(),
                KeyringErrorKind::Denied | KeyringErrorKind::InvalidCiphertext
            );
            // The sender of a message may have chosen a version that is not usable.
            if missing == Some(MissingBranchKey::Shredded)
                || is_ours && (is_refused || missing.is_some())
            {
                self.keys.drop_refused(|key, _| key.borrow().partition == &*self.id);
            }
        }
    }

    fn loaded(&self, key: &Arc<BranchKey>, asked: Moment) -> impl FnOnce() + use<> {
        let prime = (self.role == Role::Active).then(|| {
            let version = key.version();
            let source = Self { role: Role::Version(version), ..self.clone() };
            let entry = version_key(&self.id, &version);
            let report = self.keys.0.versions.prime(&entry, Arc::clone(key), asked, &source);
            // Boxed, because its type would contain itself.
            Box::new(report) as Box<dyn FnOnce()>
        });
        move || {
            if let Some(report) = prime {
                report();
            }
        }
    }
}

impl fmt::Debug for BranchKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { source, policy, .. } = &*self.0;
        f.debug_struct("BranchKeys")
            .field("source", source)
            .field("policy", policy)
            .finish_non_exhaustive()
    }
}
