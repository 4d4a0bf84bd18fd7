//! A source of branch keys that counts what it is asked for, and fails as it is told to.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use envelope::{
    DataKey, ResultFuture,
    branch_key::{BranchKey, BranchKeySource, MissingBranchKey},
    keyring::{KeyringError, KeyringErrorKind},
};
use tokio::sync::Semaphore;

/// The version that is active until another one is set.
pub(crate) const VERSION: [u8; 16] = [1; 16];

/// Every branch key exists, under the KMS key of its id's first letter.
#[derive(Debug, Clone)]
pub(crate) struct Source(Arc<State>);

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) active: AtomicU64,
    pub(crate) version: AtomicU64,
    pub(crate) lists: AtomicU64,
    /// How many requests ran at once at most.
    pub(crate) most: AtomicUsize,
    running: AtomicUsize,
    /// Each request waits for a permit.
    pub(crate) gate: Semaphore,
    /// The failures of ids.
    failures: Mutex<BTreeMap<String, KeyringError>>,
    /// The versions that exist; the last one is active.
    pub(crate) versions: Mutex<Vec<[u8; 16]>>,
    pub(crate) lists_versions: AtomicBool,
    pub(crate) list_fails: Mutex<Option<KeyringErrorKind>>,
    pub(crate) tenure: AtomicU64,
}

impl Source {
    /// A source that may be asked this often before it waits.
    pub(crate) fn new(permits: usize) -> Self {
        Self(Arc::new(State {
            active: AtomicU64::new(0),
            version: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            most: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            gate: Semaphore::new(permits),
            failures: Mutex::default(),
            versions: Mutex::new(vec![VERSION]),
            lists_versions: AtomicBool::new(true),
            list_fails: Mutex::default(),
            tenure: AtomicU64::new(0),
        }))
    }

    /// A source that never waits.
    pub(crate) fn open() -> Self {
        Self::new(Semaphore::MAX_PERMITS)
    }

    /// From now on requests for this id fail like this, under the id's name.
    pub(crate) fn fail(&self, id: &str, kind: KeyringErrorKind) {
        self.fail_with(id, KeyringError::new(id, kind, "told to fail"));
    }

    pub(crate) fn fail_with(&self, id: &str, error: KeyringError) {
        self.0.failures.lock().unwrap().insert(id.to_owned(), error);
    }

    pub(crate) fn work(&self) {
        self.0.failures.lock().unwrap().clear();
    }

    /// The numbers of requests: for active keys, versions and lists.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        (self.active.load(SeqCst), self.version.load(SeqCst), self.lists.load(SeqCst))
    }

    async fn pass(&self, id: &str, count: &AtomicU64) -> Result<(), KeyringError> {
        count.fetch_add(1, SeqCst);
        let _running = Running::start(&self.0);
        self.gate.acquire().await.expect("is never closed").forget();
        self.0.failures.lock().unwrap().get(id).cloned().map_or(Ok(()), Err)
    }
}

struct Running<'a>(&'a State);

impl<'a> Running<'a> {
    fn start(state: &'a State) -> Self {
        let running = state.running.fetch_add(1, SeqCst) + 1;
        state.most.fetch_max(running, SeqCst);
        Self(state)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl std::ops::Deref for Source {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

/// The KMS key of a branch key.
pub(crate) fn kms_key(id: &str) -> String {
    format!("KMS key {}", &id[..1])
}

fn branch_key(id: &str, version: [u8; 16]) -> BranchKey {
    let secret = DataKey::from_vec(vec![id.as_bytes()[0] ^ version[0]; 32]);
    BranchKey::new(id, version, &secret).unwrap().under_kms_key(kms_key(id))
}

impl BranchKeySource for Source {
    fn active<'a>(&'a self, id: &'a str, _: bool) -> ResultFuture<'a, BranchKey, KeyringError> {
        Box::pin(async move {
            self.pass(id, &self.active).await?;
            Ok(branch_key(id, *self.versions.lock().unwrap().last().unwrap()))
        })
    }

    fn version<'a>(
        &'a self,
        id: &'a str,
        version: [u8; 16],
        _: bool,
    ) -> ResultFuture<'a, BranchKey, KeyringError> {
        Box::pin(async move {
            self.pass(id, &self.version).await?;
            if !self.versions.lock().unwrap().contains(&version) {
                return Err(MissingBranchKey::VersionNotFound { version }.of(id));
            }
            Ok(branch_key(id, version))
        })
    }

    fn versions<'a>(
        &'a self,
        id: &'a str,
    ) -> ResultFuture<'a, Option<Vec<[u8; 16]>>, KeyringError> {
        Box::pin(async move {
            let versions = self.versions.lock().unwrap().clone();
            self.pass(id, &self.lists).await?;
            if let Some(kind) = *self.list_fails.lock().unwrap() {
                return Err(KeyringError::new(id, kind, "told to fail"));
            }
            Ok(self.lists_versions.load(SeqCst).then_some(versions))
        })
    }

    fn identity(&self) -> String {
        "a source for tests".to_owned()
    }

    fn tenure(&self) -> u64 {
        self.tenure.load(SeqCst)
    }
}
