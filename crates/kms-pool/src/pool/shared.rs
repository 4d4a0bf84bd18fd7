//! The state that all clones of a pool share: its clients, and when they are dropped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use aws_sdk_kms::config;
use quick_cache::Equivalent;
use quick_cache::sync::Cache;
use tokio::task::AbortHandle;

use super::parts::{BudgetOwner, Parts, Site};
use super::settings::Settings;
use crate::client::PooledClient;
use crate::credentials::{Principal, Session, Sessions};
use crate::error::KmsError;
use crate::region::check_region;
use crate::request::{BudgetSettings, Circuit, Lane, retry_quota};
use crate::stats::Counters;

/// An unused client is dropped after this many rounds of the janitor.
const ROUNDS: u32 = 4;

/// The name of KMS among the services.
const KMS: &str = "kms";

/// The maximum length of a response body of KMS. Its responses are shorter.
const MAX_KMS_RESPONSE: usize = 256 * 1024;

/// The maximum length of a response body of another service. DynamoDB returns pages of up to 1 MB,
/// which JSON makes longer.
const MAX_SERVICE_RESPONSE: usize = 8 * 1024 * 1024;

pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) clients: Cache<ClientKey, Arc<PooledClient>>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) counters: Arc<Counters>,
    parts: Mutex<Parts>,
    /// Counts the rounds of the janitor.
    tick: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ClientKey {
    pub(super) region: Box<str>,
    pub(super) principal: u64,
}

/// A [`ClientKey`] that borrows its region. The fields have the same order, for the same hash.
#[derive(Hash)]
pub(super) struct ClientQuery<'a> {
    pub(super) region: &'a str,
    pub(super) principal: u64,
}

impl Equivalent<ClientKey> for ClientQuery<'_> {
    fn equivalent(&self, key: &ClientKey) -> bool {
        self.principal == key.principal && *self.region == *key.region
    }
}

impl Shared {
    pub(super) fn new(settings: Settings, counters: Arc<Counters>) -> Self {
        let sessions = Sessions::new(
            settings.refresh,
            settings.credentials_http.clone(),
            Arc::clone(&counters),
            settings.background.downgrade(),
            settings.clock.clone(),
        );
        Self {
            sessions: Arc::new(sessions),
            clients: Cache::new(settings.max_clients),
            settings,
            parts: Mutex::default(),
            counters,
            tick: Arc::default(),
            closed: Arc::default(),
        }
    }

    /// The client of a region and principal, if the pool has it and its budget belongs to the
    /// principal's current identity.
    pub(super) fn find(&self, region: &str, principal: &Principal) -> Option<Arc<PooledClient>> {
        let query = ClientQuery { region, principal: principal.id() };
        self.clients.get(&query).filter(|client| client.lane().tenure == principal.tenure())
    }

    /// Creates the client of a region and principal. If several callers do so at once, all of them
    /// get the same client.
    pub(super) async fn create(
        self: &Arc<Self>,
        region: &str,
        principal: &Principal,
    ) -> Result<Arc<PooledClient>, KmsError> {
        check_region(region)?;
        self.check_open()?;
        let session = self.sessions.of(principal);
        // Without credentials there is no client: the next caller calls the provider again.
        session.credentials(self.settings.clock.now()).await?;
        let key = ClientKey { region: region.into(), principal: principal.id() };
        // A client of an earlier identity has the budget of another account.
        self.clients.remove_if(&key, |client| client.lane().tenure != principal.tenure());
        let client = self.clients.get_or_insert_with(&key, || {
            self.check_open()?;
            Ok::<_, KmsError>(Arc::new(self.build(region, session)))
        })?;
        if self.closed.load(Relaxed) {
            // The shutdown came in between, and has not removed this client.
            self.clients.clear();
            return Err(KmsError::shut_down());
        }
        self.ensure_janitor()?;
        Ok(client)
    }

    fn build(&self, region: &str, session: Arc<Session>) -> PooledClient {
        let settings = &self.settings;
        let site = Site { service: KMS.into(), region: region.into() };
        let lane = self.lane(&site, session, settings.budget, MAX_KMS_RESPONSE);
        let mut common = config::Builder::from(&settings.common)
            .retry_partition(retry_quota())
            .time_source(lane.clock.clone());
        let endpoint = settings.endpoints.get(region).or(settings.endpoint.as_ref());
        common.set_endpoint_url(endpoint.cloned());
        self.counters.builds.increment();
        PooledClient::new(common, lane)
    }

    /// Builds the route to another service, once the principal has credentials.
    pub(super) async fn service_lane(
        &self,
        service: &str,
        region: &str,
        principal: &Principal,
    ) -> Result<Lane, KmsError> {
        check_region(region)?;
        self.check_open()?;
        let session = self.sessions.of(principal);
        session.credentials(self.settings.clock.now()).await?;
        // The limits on rate and shares are those of KMS's quotas.
        let budget = BudgetSettings {
            max_per_second: None,
            decrypt_share: 1.0,
            encrypt_share: 1.0,
            ..self.settings.budget
        };
        let site = Site { service: service.into(), region: region.into() };
        Ok(self.lane(&site, session, budget, MAX_SERVICE_RESPONSE))
    }

    fn lane(
        &self,
        site: &Site,
        session: Arc<Session>,
        budget: BudgetSettings,
        max_response: usize,
    ) -> Lane {
        let settings = &self.settings;
        // Before the account is read: if it changes in between, the next caller builds the client
        // again.
        let tenure = session.principal.tenure();
        let mut parts = self.parts();
        let owner = BudgetOwner::of(&session);
        Lane {
            region: (*site.region).into(),
            background: settings.background.clone(),
            clock: parts.clock(site, &settings.clock),
            has_learned: AtomicBool::new(false),
            https: parts.https(site, &settings.connections),
            budget: parts.budget(owner, site, budget),
            circuit: Arc::new(Circuit::new(settings.circuit)),
            session,
            counters: Arc::clone(&self.counters),
            attempt_timeout: settings.attempt_timeout,
            operation_timeout: settings.operation_timeout,
            max_attempts: settings.max_attempts,
            max_response,
            closed: Arc::clone(&self.closed),
            tick: Arc::clone(&self.tick),
            used: AtomicU64::new(self.tick.load(Relaxed)),
            has_accepted: AtomicBool::new(false),
            tenure,
        }
    }

    /// Checks that the pool supplies clients: it was not used before a fork, and is not shut down.
    pub(super) fn check_open(&self) -> Result<(), KmsError> {
        self.settings.background.check_process()?;
        if self.closed.load(Relaxed) {
            return Err(KmsError::shut_down());
        }
        Ok(())
    }

    /// Whether this is a child that was forked after the pool was first used. None of the clients
    /// works there, and a thread that the child does not have may hold a lock for ever.
    pub(super) fn is_inherited(&self) -> bool {
        self.settings.background.check_process().is_err()
    }

    /// From now on, supplies no clients and starts no operations.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Drops all clients and stops all background tasks. Clients that callers hold keep their
    /// sessions.
    pub(super) fn stop(&self) {
        self.clients.clear();
        self.sessions.stop();
        if let Some(janitor) = self.parts().janitor.take() {
            janitor.abort();
        }
    }

    fn ensure_janitor(self: &Arc<Self>) -> Result<(), KmsError> {
        let handle = self.settings.background.handle()?;
        let mut parts = self.parts();
        if parts.janitor.as_ref().is_none_or(AbortHandle::is_finished) {
            let pause = self.settings.idle_timeout / ROUNDS;
            let janitor = handle.spawn(sweep(Arc::downgrade(self), pause));
            parts.janitor = Some(janitor.abort_handle());
        }
        Ok(())
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // A panic leaves maps of weak references in a harmless state.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops unused clients, round after round, for as long as the pool lives.
async fn sweep(pool: Weak<Shared>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(pool) = pool.upgrade() else { return };
        let tick = pool.tick.fetch_add(1, Relaxed) + 1;
        pool.clients.retain(|_, client| {
            let is_idle = tick.saturating_sub(client.lane().last_used()) > u64::from(ROUNDS);
            if is_idle {
                pool.counters.idle_evictions.increment();
            }
            !is_idle
        });
        pool.sessions.remove_unused();
        pool.parts().remove_unused();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let janitor = self.parts.get_mut().unwrap_or_else(PoisonError::into_inner).janitor.take();
        if self.is_inherited() {
            // The connections belong to the parent, as those of a lane do.
            std::mem::forget(self.settings.credentials_http.clone());
        } else if let Some(janitor) = janitor {
            janitor.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, RandomState};

    use super::*;

    #[test]
    fn a_client_is_found_by_region_and_principal_together() {
        let key = ClientKey { region: "eu-west-1".into(), principal: 7 };
        let finds = |region, principal| ClientQuery { region, principal }.equivalent(&key);
        assert!(finds("eu-west-1", 7));
        let hasher = RandomState::new();
        let query = ClientQuery { region: "eu-west-1", principal: 7 };
        assert_eq!(hasher.hash_one(&query), hasher.hash_one(&key));
        assert!(!finds("eu-west-1", 8) && !finds("eu-west-2", 7));
    }
}
