//! The sessions of a pool, and what they have in common.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use aws_smithy_runtime_api::client::http::SharedHttpClient;

use super::principal::Principal;
use super::session::{Renewals, Session};
use crate::background::WeakBackground;
use crate::stats::Counters;
use crate::time::Clock;

/// The sessions of a pool, one for each principal in use. They live as long as what uses them, and
/// are found here meanwhile.
pub(crate) struct Sessions {
    pub(super) renewals: Renewals,
    /// What our own providers ask over.
    pub(super) http: SharedHttpClient,
    pub(super) counters: Arc<Counters>,
    /// The runtime of the pool. A load keeps its session, so a session must not keep the runtime:
    /// with the pool and its clients ends the runtime, with it the load.
    pub(super) background: WeakBackground,
    pub(super) clock: Clock,
    by_principal: Mutex<HashMap<u64, Weak<Session>>>,
}

impl Sessions {
    pub(crate) fn new(
        renewals: Renewals,
        http: SharedHttpClient,
        counters: Arc<Counters>,
        background: WeakBackground,
        clock: Clock,
    ) -> Self {
        Self { renewals, http, counters, background, clock, by_principal: Mutex::default() }
    }

    /// The session of a principal, made if there is none.
    pub(crate) fn of(self: &Arc<Self>, principal: &Principal) -> Arc<Session> {
        let mut known = self.lock();
        if let Some(session) = known.get(&principal.id()).and_then(Weak::upgrade) {
            return session;
        }
        let session = Arc::new(Session::new(principal.clone(), Arc::clone(self)));
        known.insert(principal.id(), Arc::downgrade(&session));
        session
    }

    /// Ends all watchers for good.
    pub(crate) fn stop(&self) {
        let sessions: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        for session in sessions {
            session.stop();
        }
    }

    pub(crate) fn forget_the_unused(&self) {
        self.lock().retain(|_, session| session.strong_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<Session>>> {
        // Of weak references: what a panic left of them serves.
        self.by_principal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a provider is given by the session that asks it.
#[derive(Clone)]
pub(super) struct Surroundings {
    sessions: Arc<Sessions>,
    /// The session of the principal that a role is assumed by. The role's keeps it, so that all
    /// roles of one base ask its provider once.
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

    /// The session of the principal that this one acts by.
    pub(super) fn base(&self, principal: &Principal) -> &Arc<Session> {
        self.base.get_or_init(|| self.sessions.of(principal))
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}
