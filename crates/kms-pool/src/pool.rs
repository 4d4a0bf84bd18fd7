//! The pool: which slot a call belongs to, and when a slot has served its time.

mod parts;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use aws_sdk_kms::Client;
use aws_sdk_kms::config;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use quick_cache::Equivalent;
use quick_cache::sync::Cache;
use tokio::task::AbortHandle;

use self::parts::{BudgetOwner, Parts};
use crate::background::Background;
use crate::builder::KmsPoolBuilder;
use crate::connection::Connections;
use crate::credentials::{Principal, Renewals, Session, Sessions};
use crate::error::{KmsError, KmsErrorKind};
use crate::request::{BudgetSettings, Circuit, CircuitSettings, Lane, retry_quota};
use crate::slot::{Purpose, Slot};
use crate::stats::{Counters, PoolStats, SlotStats};
use crate::supplier::PooledClients;
use crate::time::Clock;

/// One KMS client per region and principal, built once and shared by the whole process.
///
/// Cheap to clone; all clones are the same pool. See the [crate's documentation](crate).
#[derive(Clone)]
pub struct KmsPool {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    slots: Cache<SlotKey, Arc<Slot>>,
    sessions: Arc<Sessions>,
    parts: Mutex<Parts>,
    counters: Arc<Counters>,
    /// Advances with each round of the janitor.
    tick: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
}

/// What a pool was built with.
pub(crate) struct Settings {
    pub(crate) common: config::Builder,
    /// The runtime for background tasks.
    pub(crate) background: Background,
    pub(crate) clock: Clock,
    /// Endpoints of single regions, before the one of `common`.
    pub(crate) endpoints: HashMap<String, String>,
    pub(crate) connections: Connections,
    /// The HTTP client for credentials providers.
    pub(crate) credentials_http: SharedHttpClient,
    pub(crate) renewals: Renewals,
    pub(crate) budget: BudgetSettings,
    pub(crate) circuit: CircuitSettings,
    pub(crate) attempt_timeout: Duration,
    pub(crate) operation_timeout: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_clients: usize,
}

/// An idle slot is dropped after so many rounds of the janitor.
const ROUNDS: u32 = 4;

impl KmsPool {
    /// Starts a pool with the defaults of the [crate's table](crate#defaults).
    pub fn builder() -> KmsPoolBuilder {
        KmsPoolBuilder::new()
    }

    pub(crate) fn new(settings: Settings, counters: Arc<Counters>) -> Self {
        let sessions = Sessions::new(
            settings.renewals,
            settings.credentials_http.clone(),
            Arc::clone(&counters),
            settings.background.downgrade(),
            settings.clock.clone(),
        );
        let shared = Shared {
            sessions: Arc::new(sessions),
            slots: Cache::new(settings.max_clients),
            settings,
            parts: Mutex::default(),
            counters,
            tick: Arc::default(),
            closed: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the client for `region` that signs as `principal`.
    ///
    /// If the client exists, which is nearly always the case, this costs a lookup and allocates
    /// nothing. You can keep the client: each attempt uses the current credentials. The first call
    /// waits for the principal's provider; concurrent callers share that load, and all of them get
    /// its error if it fails.
    ///
    /// Credentials are refreshed in the background, [`refresh_lead`](KmsPoolBuilder::refresh_lead)
    /// before they expire and when KMS refuses them. No request waits for that while the current
    /// ones are valid. If the provider fails or hangs, they are used until they expire, and the
    /// provider is called again after 1, 2, 4, … up to 30 s. Refusals cause up to five refreshes in
    /// a row, and then one every 10 s. Credentials that the provider returns are used even if they
    /// look expired, because this machine's clock may be wrong: KMS decides.
    ///
    /// This works under any executor, and so does the client: the pool has its own threads for
    /// timers, connections and credential refreshes.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](KmsErrorKind::InvalidRequest) if `region` is not a valid region name or
    /// the pool has been [shut down](Self::shutdown),
    /// [`CredentialsUnavailable`](KmsErrorKind::CredentialsUnavailable) if the provider fails,
    /// panics or takes longer than [`provider_timeout`](KmsPoolBuilder::provider_timeout),
    /// [`AfterFork`](KmsErrorKind::AfterFork) in a child that was forked after the pool was first
    /// used, and [`Unavailable`](KmsErrorKind::Unavailable) if the pool's threads cannot be
    /// started. No request is sent to KMS.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use kms_pool::{KmsPool, Principal};
    ///
    /// let pool = KmsPool::builder().build()?;
    /// let principal = Principal::from_default_chain().await;
    /// let client = pool.client("eu-central-1", &principal).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn client(&self, region: &str, principal: &Principal) -> Result<Client, KmsError> {
        self.client_for(region, principal, Purpose::Foreground).await
    }

    /// Returns the client for requests with a certain purpose; [`client`](Self::client) returns the
    /// one for the foreground. These clients share everything else.
    ///
    /// # Errors
    ///
    /// The errors of [`client`](Self::client).
    ///
    /// ```no_run
    /// # async fn example(pool: kms_pool::KmsPool, principal: kms_pool::Principal) -> Result<(), kms_pool::KmsError> {
    /// let client = pool.client_for("eu-central-1", &principal, kms_pool::Purpose::Background).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn client_for(
        &self,
        region: &str,
        principal: &Principal,
        purpose: Purpose,
    ) -> Result<Client, KmsError> {
        self.shared.settings.background.check_process()?;
        let query = SlotQuery { region, principal: principal.id() };
        if let Some(slot) = self.shared.slots.get(&query)
            && slot.lane().tenure == principal.tenure()
        {
            self.shared.counters.hits.increment();
            slot.lane().note_use();
            return Ok(slot.client(purpose).clone());
        }
        Ok(self.new_slot(region, principal).await?.client(purpose).clone())
    }

    /// Clients of this pool that sign as `principal`, for code that takes a
    /// [`ClientSupplier`](crate::ClientSupplier).
    pub fn clients(&self, principal: &Principal) -> PooledClients {
        PooledClients::new(self.clone(), principal.clone())
    }

    /// Builds the clients of these regions and connects them, so that first requests do not have
    /// to. Regions are connected concurrently.
    ///
    /// A connection is opened by a request for `/ping`, to which AWS's endpoints respond without
    /// credentials: it costs nothing, and needs no permission.
    ///
    /// # Errors
    ///
    /// For each region, in order, why it has no client or no connection. Later requests try again.
    ///
    /// ```no_run
    /// # async fn example(pool: kms_pool::KmsPool, principal: kms_pool::Principal) {
    /// for warmed in pool.warm_up(&principal, ["eu-central-1", "us-east-1"]).await {
    ///     if let Err(error) = warmed {
    ///         eprintln!("{error}");
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn warm_up(
        &self,
        principal: &Principal,
        regions: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Vec<Result<(), KmsError>> {
        let regions: Vec<_> = regions.into_iter().collect();
        let warmed = regions.iter().map(|region| async {
            let slot = self.slot(region.as_ref(), principal).await?;
            crate::warm_up::connect(&slot).await
        });
        futures_util::future::join_all(warmed).await
    }

    /// Refreshes the credentials of `principal` now, whether or not a refresh is due, and waits for
    /// the result.
    ///
    /// # Errors
    ///
    /// [`CredentialsUnavailable`](KmsErrorKind::CredentialsUnavailable); the old credentials stay
    /// in use.
    pub async fn refresh(&self, principal: &Principal) -> Result<(), KmsError> {
        self.check_open()?;
        let session = self.shared.sessions.of(principal);
        session.renew_now(self.shared.settings.clock.now()).await.map(drop)
    }

    /// Returns the pool's state and its counters.
    pub fn stats(&self) -> PoolStats {
        let slots = if self.is_inherited() { 0 } else { self.shared.slots.len() };
        self.shared.counters.snapshot(slots)
    }

    /// Returns the state of each slot.
    pub fn slots(&self) -> Vec<SlotStats> {
        if self.is_inherited() {
            return vec![];
        }
        let now = self.shared.settings.clock.now();
        self.shared.slots.iter().map(|(_, slot)| slot.stats(now)).collect()
    }

    /// Drops every slot. Clients that you hold, and requests in flight, continue; when the last
    /// client of a slot is dropped, its connections close and its credentials are no longer
    /// refreshed.
    pub fn clear(&self) {
        if !self.is_inherited() {
            self.shared.slots.clear();
        }
    }

    /// Drops the slots of one principal in all regions, as [`clear`](Self::clear) does. Connections
    /// to a region stay open as long as another principal has a slot there.
    pub fn remove(&self, principal: &Principal) {
        if !self.is_inherited() {
            self.shared.slots.retain(|key, _| key.principal != principal.id());
        }
    }

    /// Shuts the pool down: it returns no more clients, existing clients start no more operations,
    /// and credentials are no longer refreshed. Waits up to `patience` for running operations,
    /// including their retries. Returns whether all of them have ended.
    ///
    /// In that case the pool's threads end as well. Otherwise they end with the client of the last
    /// operation, or when you call this again. In a child that was forked after the pool was first
    /// used, this returns `true` at once.
    ///
    /// ```no_run
    /// # async fn example(pool: kms_pool::KmsPool) {
    /// let all_answered = pool.shutdown(std::time::Duration::from_secs(5)).await;
    /// # }
    /// ```
    pub async fn shutdown(&self, patience: Duration) -> bool {
        self.shared.closed.store(true, Relaxed);
        let background = &self.shared.settings.background;
        if background.check_process().is_err() {
            // Running operations belong to the parent, and so do the locks that they may hold.
            return true;
        }
        self.clear();
        self.shared.sessions.stop();
        self.parts().stop();
        let drained = async {
            while self.shared.counters.operations.value() > 0 {
                background.sleep(Duration::from_millis(5)).await;
                // Without the runtime, the sleep returns at once: `patience` ends the loop.
                tokio::task::yield_now().await;
            }
        };
        let is_drained = background.timeout(patience, drained).await.is_some();
        if is_drained {
            background.shut_down();
        }
        is_drained
    }

    /// Whether this is a child that was forked after the pool was first used. None of the slots is
    /// usable there, and a thread that the child does not have may hold a lock of them for ever.
    fn is_inherited(&self) -> bool {
        self.shared.settings.background.check_process().is_err()
    }

    async fn slot(&self, region: &str, principal: &Principal) -> Result<Arc<Slot>, KmsError> {
        self.shared.settings.background.check_process()?;
        let query = SlotQuery { region, principal: principal.id() };
        match self.shared.slots.get(&query) {
            Some(slot) if slot.lane().tenure == principal.tenure() => Ok(slot),
            _ => self.new_slot(region, principal).await,
        }
    }

    /// The slot of a region and principal that had none. If several callers race here they get one.
    async fn new_slot(&self, region: &str, principal: &Principal) -> Result<Arc<Slot>, KmsError> {
        let shared = &self.shared;
        check_region(region)?;
        self.check_open()?;
        let session = shared.sessions.of(principal);
        // Without credentials there is no slot: the next caller gets to ask the provider again.
        session.credentials(shared.settings.clock.now()).await?;
        let key = SlotKey { region: region.into(), principal: principal.id() };
        // The previous slot had the budget of another account.
        shared.slots.remove_if(&key, |slot| slot.lane().tenure != principal.tenure());
        let slot = shared.slots.get_or_insert_with(&key, || {
            self.check_open()?;
            Ok::<_, KmsError>(Arc::new(self.build_slot(region, session)))
        })?;
        if shared.closed.load(Relaxed) {
            // The end came in between, and has not seen this one.
            self.clear();
            return Err(KmsError::shut_down());
        }
        self.ensure_janitor()?;
        Ok(slot)
    }

    fn build_slot(&self, region: &str, session: Arc<Session>) -> Slot {
        let (shared, settings) = (&self.shared, &self.shared.settings);
        // Before the account is read: if it changes in between, the next caller builds the slot
        // again.
        let tenure = session.principal.tenure();
        let mut parts = self.parts();
        let owner = BudgetOwner::of(&session);
        let lane = Lane {
            region: region.into(),
            background: settings.background.clone(),
            clock: parts.clock(region, &settings.clock),
            has_learnt: AtomicBool::new(false),
            https: parts.https(region, &settings.connections),
            budget: parts.budget(owner, region, settings.budget),
            circuit: Arc::new(Circuit::new(settings.circuit)),
            session,
            counters: Arc::clone(&shared.counters),
            attempt_timeout: settings.attempt_timeout,
            operation_timeout: settings.operation_timeout,
            max_attempts: settings.max_attempts,
            closed: Arc::clone(&shared.closed),
            tick: Arc::clone(&shared.tick),
            used: AtomicU64::new(shared.tick.load(Relaxed)),
            has_accepted: AtomicBool::new(false),
            tenure,
        };
        let mut common =
            settings.common.clone().retry_partition(retry_quota()).time_source(lane.clock.clone());
        drop(parts);
        if let Some(endpoint) = settings.endpoints.get(region) {
            common.set_endpoint_url(Some(endpoint.clone()));
        }
        shared.counters.builds.increment();
        Slot::new(common, lane)
    }

    /// Whether the pool supplies clients: it was not used before a fork, and is not shut down.
    fn check_open(&self) -> Result<(), KmsError> {
        self.shared.settings.background.check_process()?;
        if self.shared.closed.load(Relaxed) {
            return Err(KmsError::shut_down());
        }
        Ok(())
    }

    fn ensure_janitor(&self) -> Result<(), KmsError> {
        let settings = &self.shared.settings;
        let handle = settings.background.handle()?;
        let mut parts = self.parts();
        if parts.janitor.as_ref().is_none_or(AbortHandle::is_finished) {
            let pause = settings.idle_timeout / ROUNDS;
            let janitor = handle.spawn(sweep(Arc::downgrade(&self.shared), pause));
            parts.janitor = Some(janitor.abort_handle());
        }
        Ok(())
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.shared.parts()
    }
}

/// Drops idle slots, round after round, as long as the pool lives.
async fn sweep(pool: Weak<Shared>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(pool) = pool.upgrade() else { return };
        let tick = pool.tick.fetch_add(1, Relaxed) + 1;
        pool.slots.retain(|_, slot| {
            let idle = tick.saturating_sub(slot.lane().last_used()) > u64::from(ROUNDS);
            if idle {
                pool.counters.idle_evictions.increment();
            }
            !idle
        });
        pool.sessions.forget_the_unused();
        pool.parts().forget_the_unused();
    }
}

impl Shared {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        // Maps of weak references, which a panic cannot leave in a harmful state.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let janitor = self.parts.get_mut().unwrap_or_else(PoisonError::into_inner).janitor.take();
        if self.settings.background.check_process().is_err() {
            // Its connections belong to the parent, as those of a lane do.
            std::mem::forget(self.settings.credentials_http.clone());
        } else if let Some(janitor) = janitor {
            janitor.abort();
        }
    }
}

impl fmt::Debug for KmsPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmsPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct SlotKey {
    region: Box<str>,
    principal: u64,
}

/// A [`SlotKey`] that borrows its region. Fields in the same order, for the same hash.
#[derive(Hash)]
struct SlotQuery<'a> {
    region: &'a str,
    principal: u64,
}

impl Equivalent<SlotKey> for SlotQuery<'_> {
    fn equivalent(&self, key: &SlotKey) -> bool {
        self.principal == key.principal && *self.region == *key.region
    }
}

/// A region becomes part of a host name, and may come out of a foreign message.
pub(crate) fn check_region(region: &str) -> Result<(), KmsError> {
    const LONGEST: usize = 32;
    let fits = (1..=LONGEST).contains(&region.len())
        && !region.starts_with('-')
        && !region.ends_with('-')
        && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        return Ok(());
    }
    let message = "a region is named by up to 32 lower-case letters, digits and inner hyphens";
    Err(KmsError::local(KmsErrorKind::InvalidRequest, message, None))
}
#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, RandomState};

    use aws_credential_types::Credentials;

    use super::*;

    fn builder() -> KmsPoolBuilder {
        KmsPool::builder().trust_root_pem(include_bytes!("../tests/data/root.pem"))
    }

    fn principal() -> Principal {
        Principal::new(Credentials::new("id", "secret", None, None, "test"))
    }

    #[tokio::test]
    async fn a_slot_for_each_region_and_principal() {
        let pool = builder().build().unwrap();
        let (one, two) = (principal(), principal());
        for region in ["eu-west-1", "us-east-1", "eu-west-1"] {
            for who in [&one, &two, &one.clone().with_label("same")] {
                pool.clone().client(region, who).await.unwrap();
            }
        }
        let stats = pool.stats();
        assert_eq!((stats.slots, stats.builds, stats.hits), (4, 4, 5));

        pool.remove(&one);
        assert_eq!(pool.stats().slots, 2);
        pool.client("eu-west-1", &two).await.unwrap();
        assert_eq!(pool.stats().builds, 4);
        pool.clear();
        assert_eq!(pool.stats().slots, 0);
        pool.client("eu-west-1", &two).await.unwrap();
        assert_eq!(pool.stats().builds, 5);
    }

    #[test]
    fn a_slot_is_found_by_region_and_principal_together() {
        let key = SlotKey { region: "eu-west-1".into(), principal: 7 };
        let finds = |region, principal| SlotQuery { region, principal }.equivalent(&key);
        assert!(finds("eu-west-1", 7));
        let (hasher, query) = (RandomState::new(), SlotQuery { region: "eu-west-1", principal: 7 });
        assert_eq!(hasher.hash_one(&query), hasher.hash_one(&key));
        assert!(!finds("eu-west-1", 8) && !finds("eu-west-2", 7));
    }

    #[tokio::test]
    async fn an_endpoint_of_a_region_wins_over_the_general_one() {
        let pool = builder()
            .endpoint_url("https://127.0.0.1:1")
            .endpoint_url_for("eu-west-1", "https://127.0.0.1:2")
            .build()
            .unwrap();
        let who = principal();
        for (region, port) in [("eu-west-1", ":2"), ("us-east-1", ":1")] {
            let client = pool.client(region, &who).await.unwrap();
            let config = format!("{:?}", client.config());
            assert!(config.contains(&format!("https://127.0.0.1{port}")), "{config}");
        }
    }

    #[tokio::test]
    async fn the_number_of_clients_is_bounded() {
        for most in [1, 2, 3, 10, 100] {
            let pool = builder().max_clients(most).build().unwrap();
            let favourite = principal();
            for _ in 0..2 * most + 5 {
                pool.client("us-east-1", &principal()).await.unwrap();
                pool.client("us-east-1", &favourite).await.unwrap();
                assert!(pool.stats().slots <= most, "{most}: {:?}", pool.stats());
            }
        }
    }

    #[tokio::test]
    async fn a_region_cannot_name_another_host() {
        let pool = builder().build().unwrap();
        let who = principal();
        let long = "a".repeat(33);
        for region in ["", "-", "us-east-1.example.com", "US-EAST-1", "a/b", "a@b", "a-", &long] {
            let error = pool.client(region, &who).await.unwrap_err();
            assert_eq!(error.kind(), KmsErrorKind::InvalidRequest, "{region}");
        }
        assert_eq!(pool.stats(), PoolStats::default());
    }
}
