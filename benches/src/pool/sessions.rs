//! A provider of sessions, which can hang or fail.

use std::{
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use kms_pool::provider::{ProvideCredentials, Result, error::CredentialsError, future};

use crate::kms::Server;

/// What the provider does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Works,
    Fails,
    Hangs,
}

/// Sessions that the server refuses once they have expired.
#[derive(Clone)]
pub(super) struct Sessions(Arc<Provider>);

struct Provider {
    server: Arc<Server>,
    lifetime: Duration,
    health: Mutex<Health>,
    unanswered: AtomicU64,
}

impl Sessions {
    pub(super) fn new(server: &Arc<Server>, lifetime: Duration) -> Self {
        let server = Arc::clone(server);
        let health = Mutex::new(Health::Works);
        Self(Arc::new(Provider { server, lifetime, health, unanswered: AtomicU64::new(0) }))
    }

    pub(super) fn set(&self, health: Health) {
        *self.0.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// How many calls hung or failed.
    pub(super) fn unanswered(&self) -> u64 {
        self.0.unanswered.load(Relaxed)
    }

    async fn answer(&self) -> Result {
        let health = *self.0.health.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.unanswered.fetch_add(u64::from(health != Health::Works), Relaxed);
        match health {
            Health::Works => Ok(self.0.server.issue_session(self.0.lifetime)),
            Health::Fails => Err(CredentialsError::provider_error("out of order")),
            Health::Hangs => pending().await,
        }
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

impl ProvideCredentials for Sessions {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.answer())
    }
}
