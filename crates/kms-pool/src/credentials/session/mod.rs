//! The session of a principal in a pool: its current credentials, and the load in progress.

mod load;
mod refresh;
mod signer;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, ready};
use tokio::task::AbortHandle;

use self::refresh::{Refresh, Step};
pub(crate) use self::signer::SessionCredentials;
use super::files::Stamps;
use super::fingerprint::Fingerprint;
use super::generation::Generation;
use super::principal::Principal;
use crate::background::WeakBackground;
use crate::error::KmsError;
use crate::stats::Counters;
use crate::telemetry;
use crate::time::{Clock, Now};

/// The settings of refreshes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefreshSettings {
    /// How long before their expiry a refresh is due.
    pub(crate) lead: Duration,
    /// The maximum random time by which a refresh is due earlier.
    pub(crate) jitter: Duration,
    /// The timeout for a call of the provider.
    pub(crate) provider_timeout: Duration,
    /// How often a principal's files are checked.
    pub(crate) files_every: Duration,
}

/// The sessions of a pool, one for each principal in use.
///
/// The map does not keep sessions alive: a session lives as long as its users.
pub(crate) struct Sessions {
    refresh: RefreshSettings,
    /// The HTTP client of this crate's own providers.
    http: SharedHttpClient,
    counters: Arc<Counters>,
    /// The runtime of the pool. A session must not keep it alive, because a load on the runtime
    /// keeps its session alive: then neither would end.
    background: WeakBackground,
    clock: Clock,
    by_principal: Mutex<HashMap<u64, Weak<Session>>>,
}

impl Sessions {
    pub(crate) fn new(
        refresh: RefreshSettings,
        http: SharedHttpClient,
        counters: Arc<Counters>,
        background: WeakBackground,
        clock: Clock,
    ) -> Self {
        Self { refresh, http, counters, background, clock, by_principal: Mutex::default() }
    }

    /// The session of a principal, created if necessary.
    pub(crate) fn of(self: &Arc<Self>, principal: &Principal) -> Arc<Session> {
        let mut known = self.lock();
        if let Some(session) = known.get(&principal.id()).and_then(Weak::upgrade) {
            return session;
        }
        let session = Arc::new(Session::new(principal.clone(), Arc::clone(self)));
        known.insert(principal.id(), Arc::downgrade(&session));
        session
    }

    /// Stops all watchers for good.
    pub(crate) fn stop(&self) {
        let sessions: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        for session in sessions {
            session.stop();
        }
    }

    pub(crate) fn remove_unused(&self) {
        self.lock().retain(|_, session| session.strong_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<Session>>> {
        // A panic leaves a map of weak references in a harmless state.
        self.by_principal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The credentials of one principal in one pool.
///
/// Fresh credentials cost one atomic load. All other cases go through [`Refresh::step`], which
/// decides under a lock who calls the provider; the lock is never held while waiting. A task on the
/// pool's runtime calls the provider, so its outcome does not depend on any request.
pub(crate) struct Session {
    pub(crate) principal: Principal,
    pub(crate) clock: Clock,
    sessions: Arc<Sessions>,
    /// The session of the principal that assumes this role. The role's session keeps it alive, so
    /// that all roles with the same base share one load of its credentials.
    base: Arc<OnceLock<Arc<Session>>>,
    current: ArcSwapOption<Generation>,
    /// The number of the generation that KMS last accepted, in any region.
    accepted: AtomicU64,
    state: Mutex<State>,
}

/// A load: a call of the provider, until its result becomes the current generation.
#[derive(Clone)]
struct Load {
    outcome: Shared<BoxFuture<'static, Result<Arc<Generation>, KmsError>>>,
    /// `None` if the load could not start.
    task: Option<AbortHandle>,
    /// The rotation at the start. After another rotation, the result is not used.
    rotation: u64,
}

#[derive(Default)]
struct State {
    refresh: Refresh,
    load: Option<Load>,
    generations: u64,
    /// The metadata of the principal's files before the provider's last response.
    stamps: Option<Stamps>,
    watcher: Option<AbortHandle>,
    is_stopped: bool,
}

impl Session {
    fn new(principal: Principal, sessions: Arc<Sessions>) -> Self {
        Self {
            principal,
            clock: sessions.clock.clone(),
            sessions,
            base: Arc::default(),
            current: ArcSwapOption::empty(),
            accepted: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// The credentials to sign with. Waits for the provider only if there are no valid credentials.
    ///
    /// # Errors
    ///
    /// [`KmsErrorKind::CredentialsUnavailable`](crate::KmsErrorKind::CredentialsUnavailable), and
    /// [`KmsErrorKind::AfterFork`](crate::KmsErrorKind::AfterFork) in a forked child.
    pub(crate) async fn credentials(self: &Arc<Self>, now: Now) -> Result<Credentials, KmsError> {
        // Before any lock: in a child, a lock may be held for ever.
        self.sessions
            .background
            .upgrade()
            .map_or(Ok(()), |background| background.check_process())?;
        if let Some(current) = &*self.current.load()
            && self.is_fresh(current, now)
        {
            return Ok(current.credentials.clone());
        }
        Ok(self.generation(now).await?.credentials.clone())
    }

    /// The generation to sign with: the slow path.
    async fn generation(self: &Arc<Self>, now: Now) -> Result<Arc<Generation>, KmsError> {
        loop {
            let (load, fallback) = match self.next_step(now) {
                Next::Use(generation) => return Ok(generation),
                Next::Fail(error) => return Err(error),
                Next::Await { load, fallback } => (load, fallback),
            };
            let outcome = load.outcome.await;
            if load.rotation != self.principal.rotation() {
                // The identity was replaced meanwhile: neither the loaded nor the previous
                // credentials are valid.
                continue;
            }
            return match (outcome, fallback) {
                (Err(_), Some(old)) => Ok(old),
                (outcome, _) => outcome,
            };
        }
    }

    /// Records that KMS has accepted credentials, in any region.
    pub(crate) fn accepted(&self, fingerprint: Fingerprint) {
        if let Some(current) = &*self.current.load()
            && current.is_of(fingerprint)
        {
            current.accept();
            if self.accepted.load(Relaxed) != current.number {
                self.accepted.store(current.number, Relaxed);
            }
        }
    }

    /// Whether KMS has accepted the current credentials, in any region.
    pub(crate) fn is_accepted(&self) -> bool {
        self.current
            .load()
            .as_ref()
            .is_some_and(|current| self.accepted.load(Relaxed) == current.number)
    }

    /// Stops the watcher for good.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.is_stopped = true;
        if let Some(watcher) = state.watcher.take() {
            watcher.abort();
        }
    }

    /// The current generation, if any.
    pub(crate) fn current(&self) -> Option<Arc<Generation>> {
        self.current.load_full()
    }

    /// Records that KMS rejected the credentials of a request, and waits for the refresh that
    /// follows. Returns whether there are new credentials, so that the request should be signed
    /// again.
    pub(crate) async fn rejected(self: &Arc<Self>, fingerprint: Fingerprint, now: Now) -> bool {
        let load = {
            let mut state = self.lock();
            let Some(current) = self.current.load_full() else { return false };
            if !current.is_of(fingerprint) || !self.is_of_this_rotation(&current) {
                return true;
            }
            match self.running(&state) {
                Some(load) => {
                    current.reject();
                    load
                }
                None if !state.refresh.take_rejection(now) => return false,
                None => {
                    current.reject();
                    self.begin_load(&mut state, now)
                }
            }
        };
        load.outcome.await.is_ok_and(|generation| !generation.is_of(fingerprint))
    }

    /// Calls the provider now, or joins the load in progress.
    pub(crate) async fn refresh_now(
        self: &Arc<Self>,
        now: Now,
    ) -> Result<Arc<Generation>, KmsError> {
        let load = {
            let mut state = self.lock();
            self.running(&state).unwrap_or_else(|| self.begin_load(&mut state, now))
        };
        load.outcome.await
    }

    /// When the watcher must check again; `None` if there is nothing to watch.
    pub(super) fn next_check(&self, now: Now) -> Option<Duration> {
        let state = self.lock();
        let due = self.current.load().as_ref().and_then(|current| current.refresh_at());
        let due = due.map(|at| {
            let until_due = at.duration_since(now.date).unwrap_or_default();
            until_due.max(state.refresh.pause(now))
        });
        let files =
            (!self.principal.files().is_empty()).then_some(self.sessions.refresh.files_every);
        due.into_iter().chain(files).min()
    }

    /// Whether a refresh is due and may start.
    pub(super) fn is_due(&self, now: Now) -> bool {
        self.lock().refresh.pause(now).is_zero()
            && self.current.load().as_ref().is_some_and(|current| current.is_due(now.date))
    }

    /// Whether the files have changed since before the provider's last response.
    pub(super) fn have_changed(&self, stamps: &Stamps) -> bool {
        *self.lock().stamps.get_or_insert_with(|| stamps.clone()) != *stamps
    }

    /// Decides between the current credentials, the load in progress, and a new load.
    fn next_step(self: &Arc<Self>, now: Now) -> Next {
        let mut state = self.lock();
        self.take_rotation(&mut state, now);
        // Loaded under the lock: if a load has just ended, no other one starts.
        let current = self.current.load_full().filter(|current| self.is_of_this_rotation(current));
        let running = self.running(&state);
        match (state.refresh.step(current.as_deref(), running.is_some(), now), current) {
            (Step::Use, Some(current)) => Next::Use(current),
            (Step::UseAndLoad, Some(current)) => {
                drop(self.begin_load(&mut state, now));
                Next::Use(current)
            }
            (Step::Fail(error), _) => Next::Fail(error),
            (Step::AwaitOrUse, fallback) => {
                Next::Await { load: self.load(&mut state, running, now), fallback }
            }
            (Step::Await | Step::Use | Step::UseAndLoad, _) => {
                Next::Await { load: self.load(&mut state, running, now), fallback: None }
            }
        }
    }

    /// Installs the credentials that `rotate` set, if they are new.
    fn take_rotation(self: &Arc<Self>, state: &mut State, now: Now) {
        let (rotation, rotated) = self.principal.rotated(now.date);
        let known =
            self.current.load().as_ref().is_some_and(|current| current.rotation == rotation);
        if let (false, Some(credentials)) = (known, rotated) {
            self.install(state, rotation, credentials, now);
        }
    }

    fn load(self: &Arc<Self>, state: &mut State, running: Option<Load>, now: Now) -> Load {
        running.unwrap_or_else(|| self.begin_load(state, now))
    }

    /// Starts a load, in a separate task.
    fn begin_load(self: &Arc<Self>, state: &mut State, now: Now) -> Load {
        state.refresh.began(now);
        let rotation = self.principal.rotation();
        // Without the span and subscriber of this caller: the load is shared by all callers.
        let renew = Arc::clone(self).call_provider(now);
        let spawned = match self.sessions.background.upgrade() {
            Some(background) => background.handle().map(|handle| handle.spawn(renew)),
            None => Err(KmsError::shut_down()),
        };
        let task = spawned.as_ref().ok().map(tokio::task::JoinHandle::abort_handle);
        let outcome = match spawned {
            Ok(task) => task
                .map(|ended| ended.unwrap_or_else(|_| Err(KmsError::shut_down())))
                .boxed()
                .shared(),
            Err(error) => ready(Err(error)).boxed().shared(),
        };
        let load = Load { outcome, task, rotation };
        state.load = Some(load.clone());
        load
    }

    /// The load in progress, if its result can still be used.
    fn running(&self, state: &State) -> Option<Load> {
        // Asks the task and not the shared future, which may never have been polled.
        let is_of_use = |load: &&Load| {
            load.task.as_ref().is_some_and(|task| !task.is_finished())
                && load.rotation == self.principal.rotation()
        };
        state.load.as_ref().filter(is_of_use).cloned()
    }

    /// Calls the provider, and installs a new generation if the credentials have changed.
    async fn call_provider(self: Arc<Self>, now: Now) -> Result<Arc<Generation>, KmsError> {
        self.sessions.counters.refreshes.increment();
        loop {
            let lease =
                self.sessions.background.upgrade().and_then(|background| background.lease());
            let limit = self.sessions.refresh.provider_timeout;
            let loaded = match lease {
                Some(lease) => self.load_within(limit, now.date, lease).await,
                None => return Err(KmsError::shut_down()),
            };
            let mut state = self.lock();
            if loaded.rotation != self.principal.rotation() {
                // Another rotation happened meanwhile: this response belongs to the previous one.
                continue;
            }
            let credentials = match loaded.outcome {
                Ok(credentials) => credentials,
                Err(error) => {
                    self.sessions.counters.failures.increment();
                    telemetry::refresh_failed(self.principal.name(), &error);
                    state.refresh.failed(&error, now);
                    return Err(error);
                }
            };
            state.stamps = loaded.stamps;
            let current = self.current.load_full();
            if let Some(current) = current.filter(|current| {
                current.rotation == loaded.rotation && current.is_of_credentials(&credentials)
            }) {
                state.refresh.returned_nothing_new(now);
                return Ok(current);
            }
            let generation = self.install(&mut state, loaded.rotation, credentials, now);
            state.refresh.returned_new(&generation, now);
            return Ok(generation);
        }
    }

    /// Makes these credentials the current generation. Requests that are already signed are not
    /// affected.
    fn install(
        self: &Arc<Self>,
        state: &mut State,
        rotation: u64,
        credentials: Credentials,
        now: Now,
    ) -> Arc<Generation> {
        state.generations += 1;
        let lead =
            self.sessions.refresh.lead + self.sessions.refresh.jitter.mul_f64(fastrand::f64());
        let generation =
            Arc::new(Generation::new(state.generations, rotation, credentials, lead, now));
        let last = self.current.swap(Some(Arc::clone(&generation)));
        if last.is_some() {
            self.sessions.counters.rotations.increment();
        }
        // After the swap: a caller that reads the new tenure never signs with old credentials.
        self.principal.note_owner(&generation.credentials);
        telemetry::rotated(self.principal.name(), generation.number);
        self.ensure_watcher(state);
        generation
    }

    fn ensure_watcher(self: &Arc<Self>, state: &mut State) {
        let watched = state.watcher.as_ref().is_some_and(|watcher| !watcher.is_finished());
        let expires =
            self.current.load().as_ref().is_some_and(|current| current.refresh_at().is_some());
        let wanted = expires || !self.principal.files().is_empty();
        if !watched
            && !state.is_stopped
            && wanted
            && let Some(background) = self.sessions.background.upgrade()
            && let Ok(handle) = background.handle()
        {
            state.watcher = Some(handle.spawn(Self::watch(Arc::downgrade(self))).abort_handle());
        }
    }

    fn is_fresh(&self, generation: &Generation, now: Now) -> bool {
        self.is_of_this_rotation(generation) && generation.is_fresh(now.date)
    }

    fn is_of_this_rotation(&self, generation: &Generation) -> bool {
        generation.rotation == self.principal.rotation()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Changes under the lock are a few assignments, which do not panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next action of a caller.
enum Next {
    Use(Arc<Generation>),
    Fail(KmsError),
    Await { load: Load, fallback: Option<Arc<Generation>> },
}

impl Drop for Session {
    fn drop(&mut self) {
        // Without the runtime there is no watcher; a forked child never has one.
        let here = self.sessions.background.upgrade().is_some_and(|it| it.check_process().is_ok());
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = state.watcher.take().filter(|_| here) {
            watcher.abort();
        }
    }
}
