//! The pool of KMS clients.

mod parts;
mod settings;
mod shared;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kms::Client;

pub(crate) use self::settings::Settings;
use self::shared::Shared;
use crate::client::{ClientStats, PooledClient, Purpose};
use crate::credentials::Principal;
use crate::error::KmsError;
use crate::service::ServiceConfig;
use crate::stats::{Counters, PoolStats};

/// A process-wide pool of AWS KMS clients, one per region and principal.
///
/// A pool is cheap to clone; all clones are the same pool. See the [crate's documentation](crate).
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use kms_pool::{KmsPool, Principal};
///
/// let pool = KmsPool::builder().build()?;
/// let principal = Principal::from_default_chain();
/// let client = pool.client("eu-central-1", &principal).await?;
/// let keys = client.list_keys().send().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KmsPool {
    shared: Arc<Shared>,
}

impl KmsPool {
    pub(crate) fn new(settings: Settings, counters: Arc<Counters>) -> Self {
        Self { shared: Arc::new(Shared::new(settings, counters)) }
    }

    /// Returns the client for `region` that signs as `principal`.
    ///
    /// If the client exists, which is nearly always the case, this is a lookup without allocation.
    /// You can keep the client: each attempt uses the current credentials. The first call waits for
    /// the principal's provider. Concurrent callers share that load and its error.
    ///
    /// Credentials are refreshed in the background, [`refresh_lead`] before they expire and when
    /// KMS rejects them. Requests do not wait for a refresh while the old credentials are valid. If
    /// the provider fails or hangs, the old credentials are used until they expire, and the
    /// provider is called again after 1, 2, 4, … up to 30 s. Rejections cause up to five refreshes
    /// in a row, and then one every 10 s. Credentials that look expired when the provider returns
    /// them are still used, because this machine's clock may be wrong: KMS decides.
    ///
    /// This works under any executor, and so does the client: the pool has its own threads for
    /// timers, connections and refreshes.
    ///
    /// # Errors
    ///
    /// No request is sent to KMS.
    ///
    /// - [`KmsErrorKind::InvalidRequest`] if `region` is not a valid region name, or if the pool
    ///   has been [shut down](Self::shutdown).
    /// - [`KmsErrorKind::CredentialsUnavailable`] if the provider fails, panics or takes longer
    ///   than [`provider_timeout`].
    /// - [`KmsErrorKind::AfterFork`] in a child that was forked after the pool was first used.
    /// - [`KmsErrorKind::Unavailable`] if the pool's threads cannot be started.
    ///
    /// [`KmsErrorKind::AfterFork`]: crate::KmsErrorKind::AfterFork
    /// [`KmsErrorKind::CredentialsUnavailable`]: crate::KmsErrorKind::CredentialsUnavailable
    /// [`KmsErrorKind::InvalidRequest`]: crate::KmsErrorKind::InvalidRequest
    /// [`KmsErrorKind::Unavailable`]: crate::KmsErrorKind::Unavailable
    /// [`refresh_lead`]: crate::KmsPoolBuilder::refresh_lead
    /// [`provider_timeout`]: crate::KmsPoolBuilder::provider_timeout
    pub async fn client(&self, region: &str, principal: &Principal) -> Result<Client, KmsError> {
        self.client_for(region, principal, Purpose::Foreground).await
    }

    /// Returns the client for requests with a certain purpose.
    ///
    /// [`client`](Self::client) returns the one for [`Purpose::Foreground`]. The clients of a
    /// region and principal share everything else.
    ///
    /// # Errors
    ///
    /// The errors of [`client`](Self::client).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(pool: kms_pool::KmsPool, principal: kms_pool::Principal)
    /// # -> Result<(), kms_pool::KmsError> {
    /// use kms_pool::Purpose;
    ///
    /// let client = pool.client_for("eu-central-1", &principal, Purpose::Background).await?;
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
        if let Some(client) = self.shared.find(region, principal) {
            self.shared.counters.hits.increment();
            client.lane().note_use();
            return Ok(client.sdk_client(purpose).clone());
        }
        Ok(self.shared.create(region, principal).await?.sdk_client(purpose).clone())
    }

    /// Returns the configuration of a client for another AWS service, such as `dynamodb`.
    ///
    /// The service gets its own connections, budget and circuit, so its failures do not affect KMS:
    /// see [`ServiceConfig`]. Build a client from it once, and keep the client. Like this method,
    /// it works under any executor.
    ///
    /// # Errors
    ///
    /// The errors of [`client`](Self::client).
    ///
    /// # Examples
    ///
    /// See [`ServiceConfig`].
    pub async fn service_config(
        &self,
        service: &str,
        region: &str,
        principal: &Principal,
    ) -> Result<ServiceConfig, KmsError> {
        let lane = self.shared.service_lane(service, region, principal).await?;
        let settings = &self.shared.settings;
        let endpoint = settings.service_endpoints.get(service);
        Ok(ServiceConfig::new(&settings.common, endpoint, lane))
    }

    /// Creates the clients for these regions and opens a connection for each, so that first
    /// requests do not have to.
    ///
    /// Regions are warmed concurrently. A connection is opened by a request for `/ping`, which
    /// needs no permission and costs nothing: AWS endpoints answer it without credentials.
    ///
    /// # Errors
    ///
    /// One result per region, in order: the errors of [`client`](Self::client), or why no
    /// connection could be opened. The next request to that region tries again.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(pool: kms_pool::KmsPool, principal: kms_pool::Principal) {
    /// for warmed in pool.warm(&principal, ["eu-central-1", "us-east-1"]).await {
    ///     if let Err(error) = warmed {
    ///         eprintln!("{error}");
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn warm(
        &self,
        principal: &Principal,
        regions: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Vec<Result<(), KmsError>> {
        let regions: Vec<_> = regions.into_iter().collect();
        let warmed = regions.iter().map(|region| async {
            self.find_or_create(region.as_ref(), principal).await?.connect().await
        });
        futures_util::future::join_all(warmed).await
    }

    /// Refreshes the credentials of `principal` now, even if they are not due, and waits for the
    /// result.
    ///
    /// # Errors
    ///
    /// - [`KmsErrorKind::CredentialsUnavailable`] if the provider fails. The old credentials stay
    ///   in use.
    /// - [`KmsErrorKind::InvalidRequest`] if the pool has been [shut down](Self::shutdown).
    /// - [`KmsErrorKind::AfterFork`] in a child that was forked after the pool was first used.
    ///
    /// [`KmsErrorKind::AfterFork`]: crate::KmsErrorKind::AfterFork
    /// [`KmsErrorKind::CredentialsUnavailable`]: crate::KmsErrorKind::CredentialsUnavailable
    /// [`KmsErrorKind::InvalidRequest`]: crate::KmsErrorKind::InvalidRequest
    pub async fn refresh(&self, principal: &Principal) -> Result<(), KmsError> {
        self.shared.check_open()?;
        let session = self.shared.sessions.of(principal);
        session.refresh_now(self.shared.settings.clock.now()).await.map(drop)
    }

    /// Returns the pool's counters.
    pub fn stats(&self) -> PoolStats {
        let clients = if self.shared.is_inherited() { 0 } else { self.shared.clients.len() };
        self.shared.counters.snapshot(clients)
    }

    /// Returns the state of each client.
    pub fn client_stats(&self) -> Vec<ClientStats> {
        if self.shared.is_inherited() {
            return vec![];
        }
        let now = self.shared.settings.clock.now();
        self.shared.clients.iter().map(|(_, client)| client.stats(now)).collect()
    }

    /// Removes all clients from the pool.
    ///
    /// Clients that you hold, and requests in flight, still work. When the last of them is dropped,
    /// its connections close and its credentials are no longer refreshed.
    pub fn clear(&self) {
        if !self.shared.is_inherited() {
            self.shared.clients.clear();
        }
    }

    /// Removes the clients of one principal in all regions, as [`clear`](Self::clear) does.
    ///
    /// Connections to a region stay open as long as another principal has a client there.
    pub fn remove(&self, principal: &Principal) {
        if !self.shared.is_inherited() {
            self.shared.clients.retain(|key, _| key.principal != principal.id());
        }
    }

    /// Shuts the pool down, and waits up to `patience` for running operations and their retries.
    ///
    /// From now on the pool returns no clients, existing clients start no operations, and
    /// credentials are no longer refreshed. Returns whether all running operations have ended. In
    /// that case the pool's threads end as well. Otherwise they end with the client of the last
    /// operation, or when you call this again.
    ///
    /// In a child that was forked after the pool was first used, this returns `true` at once.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(pool: kms_pool::KmsPool) {
    /// let have_all_ended = pool.shutdown(std::time::Duration::from_secs(5)).await;
    /// # }
    /// ```
    pub async fn shutdown(&self, patience: Duration) -> bool {
        self.shared.close();
        if self.shared.is_inherited() {
            // Running operations belong to the parent, and so do the locks that they may hold.
            return true;
        }
        self.shared.stop();
        let background = &self.shared.settings.background;
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

    async fn find_or_create(
        &self,
        region: &str,
        principal: &Principal,
    ) -> Result<Arc<PooledClient>, KmsError> {
        self.shared.settings.background.check_process()?;
        match self.shared.find(region, principal) {
            Some(client) => Ok(client),
            None => self.shared.create(region, principal).await,
        }
    }
}

impl fmt::Debug for KmsPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmsPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;

    use super::*;
    use crate::builder::KmsPoolBuilder;
    use crate::error::KmsErrorKind;

    fn builder() -> KmsPoolBuilder {
        KmsPool::builder().trust_root_pem(include_bytes!("../../tests/data/root.pem"))
    }

    fn principal() -> Principal {
        Principal::new(Credentials::new("id", "secret", None, None, "test"))
    }

    #[tokio::test]
    async fn there_is_one_client_for_each_region_and_principal() {
        let pool = builder().build().unwrap();
        let (one, two) = (principal(), principal());
        for region in ["eu-west-1", "us-east-1", "eu-west-1"] {
            for who in [&one, &two, &one.clone().with_label("same")] {
                pool.clone().client(region, who).await.unwrap();
            }
        }
        let stats = pool.stats();
        assert_eq!((stats.clients, stats.builds, stats.hits), (4, 4, 5));

        pool.remove(&one);
        assert_eq!(pool.stats().clients, 2);
        pool.client("eu-west-1", &two).await.unwrap();
        assert_eq!(pool.stats().builds, 4);
        pool.clear();
        assert_eq!(pool.stats().clients, 0);
        pool.client("eu-west-1", &two).await.unwrap();
        assert_eq!(pool.stats().builds, 5);
    }

    #[tokio::test]
    async fn the_endpoint_of_a_region_takes_precedence_over_the_general_one() {
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
        for max in [1, 2, 3, 10, 100] {
            let pool = builder().max_clients(max).build().unwrap();
            let favorite = principal();
            for _ in 0..2 * max + 5 {
                pool.client("us-east-1", &principal()).await.unwrap();
                pool.client("us-east-1", &favorite).await.unwrap();
                assert!(pool.stats().clients <= max, "{max}: {:?}", pool.stats());
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
