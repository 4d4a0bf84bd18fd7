//! Bounds the requests for versions of branch keys that do not exist.
//!
//! Anybody can write messages that name random versions. The first one costs a request to the
//! source. After that, the branch key is *suspect* for a while: requests for versions that are not
//! cached first look at the list of its versions. One read of the list serves every request that
//! began before it, and reads begin at most once a second.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use quick_cache::sync::Cache;

use super::{MissingBranchKey, key::Uuid};
use crate::{
    error::{Error, KeyringError, KeyringErrorKind},
    time::Moment,
};

/// How long a branch key is suspect after a request for a version that does not exist.
const SUSPICION: Duration = Duration::from_secs(10);
/// The minimum time between two reads of one branch key's list, or of unlisted versions.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads the list of versions of one branch key.
pub(super) trait VersionList: Clone + Send + Sync + 'static {
    /// Returns the id of the branch key.
    fn id(&self) -> &Arc<str>;

    /// Returns the current time.
    fn now(&self) -> Moment;

    /// Returns whether reads run in the background, where there is a timer.
    ///
    /// # Errors
    ///
    /// Why they cannot run at all.
    fn in_background(&self) -> Result<bool, Error>;

    /// Reads the list at its turn, `pause` from now, and calls `begun` when the read begins.
    /// Returns `None` if the source cannot list versions.
    fn read(
        self,
        pause: Duration,
        begun: impl FnOnce() + Send + 'static,
    ) -> impl Future<Output = Result<Option<Vec<[u8; 16]>>, Error>> + Send + 'static;
}

/// The suspect branch keys, by id. Bounded: the least recently used are forgotten first.
pub(super) struct UnknownVersions(Cache<Arc<str>, Arc<Mutex<Suspect>>>);

/// A suspect branch key.
#[derive(Default)]
struct Suspect {
    until: Moment,
    /// The last read of the list.
    listing: Option<Listing>,
    /// Whether the source cannot or may not list versions.
    unlistable: bool,
    /// When a version was last requested without a list.
    last_request: Option<Moment>,
}

/// A read of the list of versions.
struct Listing {
    /// When it began; zero while it waits for its turn.
    begun: Arc<AtomicU64>,
    read: WeakShared<BoxFuture<'static, Listed>>,
}

/// The outcome of a read; `None` if the source cannot list versions.
type Listed = Result<Option<Arc<HashSet<[u8; 16]>>>, Error>;

/// How to find out whether a version exists.
enum Step {
    Request,
    Refuse,
    List(Shared<BoxFuture<'static, Listed>>),
}

impl UnknownVersions {
    /// Remembers at most `capacity` branch keys.
    pub(super) fn new(capacity: usize) -> Self {
        Self(Cache::new(capacity))
    }

    /// Forgets all suspicion.
    pub(super) fn clear(&self) {
        self.0.clear();
    }

    /// Makes a branch key suspect, because a version of it was not found.
    pub(super) fn suspect(&self, id: &Arc<str>, now: Moment) {
        let suspect = self.0.get_or_insert_with(id, || Ok::<_, ()>(Arc::default()));
        let Ok(suspect) = suspect else { return };
        let mut suspect = lock(&suspect);
        if now >= suspect.until {
            *suspect = Suspect::default();
        }
        suspect.until = now + SUSPICION;
    }

    /// Returns when `version` may be requested from the source: at once unless the branch key is
    /// suspect.
    ///
    /// # Errors
    ///
    /// The version does not exist, which is final, or it may not be requested now.
    pub(super) async fn check(
        &self,
        list: &impl VersionList,
        version: [u8; 16],
    ) -> Result<(), Error> {
        let id = list.id();
        let Some(suspect) = self.0.get(id) else { return Ok(()) };
        let in_background = list.in_background()?;
        let step = lock(&suspect).step(list, in_background);
        let read = match step {
            Step::Request => return Ok(()),
            Step::Refuse => return Err(refused(id, version)),
            Step::List(read) => read,
        };
        match read.await {
            Ok(Some(versions)) if versions.contains(&version) => Ok(()),
            Ok(Some(_)) => {
                self.suspect(id, list.now());
                let missing = MissingBranchKey::VersionNotFound { version };
                Err(Error::DataKeyUnavailable(missing.of(id)))
            }
            Err(error) if !is_final(&error) => Err(error),
            Ok(None) | Err(_) => {
                let mut suspect = lock(&suspect);
                suspect.unlistable = true;
                match suspect.step(list, in_background) {
                    Step::Refuse => Err(refused(id, version)),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl Suspect {
    fn step(&mut self, list: &impl VersionList, in_background: bool) -> Step {
        let now = list.now();
        if now >= self.until {
            return Step::Request;
        }
        if self.unlistable {
            if self.last_request.is_some_and(|at| now < at + PAUSE) {
                return Step::Refuse;
            }
            self.last_request = Some(now);
            return Step::Request;
        }
        let mut pause = Duration::ZERO;
        if let Some(listing) = &self.listing {
            let begun = listing.begun.load(Relaxed);
            // It has not begun, so it sees every version that exists now.
            if begun == 0
                && let Some(read) = listing.read.upgrade()
            {
                return Step::List(read);
            }
            if begun != 0 {
                pause = (Moment::from_nanos(begun) + PAUSE).since(now);
            }
        }
        // Without threads there is no timer.
        if !pause.is_zero() && !in_background {
            return Step::Refuse;
        }
        let begun = Arc::new(AtomicU64::new(0));
        let flag = Arc::clone(&begun);
        let clock = list.clone();
        let mark = move || flag.store(clock.now().to_nanos().max(1), Relaxed);
        let read = list.clone().read(pause, mark);
        let read = read.map(|versions| versions.map(|it| it.map(|it| Arc::new(set(it)))));
        let read = read.boxed().shared();
        self.listing = read.downgrade().map(|read| Listing { begun, read });
        Step::List(read)
    }
}

fn set(versions: Vec<[u8; 16]>) -> HashSet<[u8; 16]> {
    versions.into_iter().collect()
}

/// Returns whether the list cannot be read: the caller may not, or the store has an invalid item.
fn is_final(error: &Error) -> bool {
    error.keyring_errors().iter().any(|failure| {
        matches!(failure.kind(), KeyringErrorKind::Denied | KeyringErrorKind::InvalidCiphertext)
    })
}

/// Returns the error for a version that may exist, but is not requested now.
///
/// It has a name of its own, so that it does not count as a failure of the branch key.
fn refused(id: &str, version: [u8; 16]) -> Error {
    let name = format!("{id} version {}", Uuid(version));
    let cause = "too many unknown versions of this branch key were requested: try again later, or \
        let the caller list its versions";
    Error::DataKeyUnavailable(KeyringError::new(name, KeyringErrorKind::OverBudget, cause))
}

/// Valid between any two statements, so a panic of another thread does no harm.
fn lock(suspect: &Mutex<Suspect>) -> MutexGuard<'_, Suspect> {
    suspect.lock().unwrap_or_else(PoisonError::into_inner)
}
