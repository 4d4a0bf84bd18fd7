//! The sessions of a pool, and the parts that they share.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use aws_smithy_runtime_api::client::http::SharedHttpClient;

use super::principal::Principal;
use super::session::{RefreshSettings, Session};
use crate::background::WeakBackground;
use crate::stats::Counters;
use crate::time::Clock;

/// The sessions of a pool, one for each principal in use. A session lives as long as its users keep
/// it; this map only finds it.
pub(crate) struct Sessions {
    pub(super) refresh: RefreshSettings,
    /// The HTTP client of this crate's own providers.
    pub(super) http: SharedHttpClient,
    pub(super) counters: Arc<Counters>,
    /// The runtime of the pool. A load keeps its session alive, so a session must not keep the
    /// runtime alive: the runtime ends with the pool and its clients, and the load ends with the
    /// runtime.
    pub(super) background: WeakBackground,
    pub(super) clock: Clock,
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
        // A map of weak references, which a panic cannot leave in a harmful state.
        self.by_principal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a session passes to its provider.
#[derive(Clone)]
pub(super) struct Surroundings {
    sessions: Arc<Sessions>,
    /// The session of the principal that assumes the role. The role's session keeps it alive, so
    /// that all roles with the same base share one load of its credentials.
    base: Arc<OnceLock<Arc<Session>>>,
}

impl Surroundings {
    pub(super) fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions, base: Arc::default() }
    }

    pub(super) fn http(&self) -> &SharedHttpClient {
        &self.sessions.http
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.sessions.clock
    }

    /// The session of the principal on whose behalf this one acts.
    pub(super) fn base(&self, principal: &Principal) -> &Arc<Session> {
        self.base.get_or_init(|| self.sessions.of(principal))
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}
