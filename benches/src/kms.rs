//! A KMS in this process, on threads of its own, and caching clients for it.

use std::{error::Error, ops::Deref};

use envelope::{
    Envelope,
    keyring::AwsKmsKeyring,
    materials::{CachingBuilder, CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
};
use kms_local::{Counters, Faults, KmsLocal};
use kms_pool::{KmsPool, KmsPoolBuilder, Principal};
use tokio::runtime::{self, Runtime};

/// The server's only region.
pub const REGION: &str = "us-east-1";

/// An empty cache of at most `capacity` entries and at most `max_loads` requests at once.
#[must_use]
pub fn cache(capacity: usize, max_loads: usize) -> MaterialsCache {
    MaterialsCache::builder().capacity(capacity).max_loads(max_loads).build()
}

/// A running KMS with one key, and a client whose cache counts.
#[derive(Debug)]
pub struct Kms {
    /// The server.
    pub server: Server,
    /// The client.
    pub envelope: Envelope,
    /// The client's cache.
    pub cache: MaterialsCache,
    pool: KmsPool,
    principal: Principal,
    key: String,
}

impl Kms {
    /// Starts the server, and builds a client as `set` says.
    ///
    /// # Errors
    ///
    /// When the server can't start.
    pub async fn start(
        cache: MaterialsCache,
        set: impl FnOnce(CachingBuilder) -> CachingBuilder,
    ) -> Result<Self, Box<dyn Error>> {
        let principal = |server: &KmsLocal| Principal::new(server.issue_credentials());
        Self::start_with(principal, |pool| pool, cache, set).await
    }

    /// The same, for a certain principal and with a pool as `set_pool` says.
    ///
    /// # Errors
    ///
    /// If the server cannot start, or if a setting is out of range.
    pub async fn start_with(
        principal: impl FnOnce(&KmsLocal) -> Principal,
        set_pool: impl FnOnce(KmsPoolBuilder) -> KmsPoolBuilder,
        cache: MaterialsCache,
        set: impl FnOnce(CachingBuilder) -> CachingBuilder,
    ) -> Result<Self, Box<dyn Error>> {
        let server = Server::start(KmsLocal::builder().region(REGION)).await?;
        let pool = KmsPool::builder()
            .endpoint_url(server.endpoint(REGION))
            .trust_root_pem(server.ca_pem());
        let pool = set_pool(pool).build()?;
        let (principal, key) = (principal(&server), server.create_key(REGION));
        let envelope = client(&pool, &principal, &key, &cache, set)?;
        Ok(Self { server, envelope, cache, pool, principal, key })
    }

    /// A further client of the same server, over the same connections, with a cache of its own.
    ///
    /// # Errors
    ///
    /// For what `set` sets out of range.
    pub fn client(
        &self,
        cache: &MaterialsCache,
        set: impl FnOnce(CachingBuilder) -> CachingBuilder,
    ) -> Result<Envelope, Box<dyn Error>> {
        client(&self.pool, &self.principal, &self.key, cache, set)
    }

    /// The pool of the client.
    pub fn pool(&self) -> &KmsPool {
        &self.pool
    }

    /// The client's principal.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The ARN of the key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What the server counted since it started, or since they were last reset.
    pub fn counters(&self) -> Counters {
        self.server.counters(REGION)
    }

    /// Resets the counters.
    pub fn reset_counters(&self) {
        self.server.reset_counters(REGION);
    }

    /// How often the server did an operation with success.
    pub fn succeeded(&self, operation: &str) -> u64 {
        self.counters().succeeded(operation)
    }

    /// What goes wrong at the server.
    pub fn faults(&self) -> Faults {
        self.server.faults(REGION)
    }
}

fn client(
    pool: &KmsPool,
    principal: &Principal,
    key: &str,
    cache: &MaterialsCache,
    set: impl FnOnce(CachingBuilder) -> CachingBuilder,
) -> Result<Envelope, Box<dyn Error>> {
    let source =
        DefaultMaterialsManager::new(AwsKmsKeyring::new(pool.clients(principal), key.parse()?));
    let manager = set(CachingMaterialsManager::builder(source).cache(cache)).build()?;
    Ok(Envelope::builder(manager).build()?)
}

/// A running server. It has its own threads, so that it does not delay the measured tasks.
#[derive(Debug)]
pub struct Server {
    // It stops before its threads do.
    kms: KmsLocal,
    _threads: Threads,
}

impl Server {
    /// Starts what `builder` says.
    ///
    /// # Errors
    ///
    /// When it can't start.
    pub async fn start(builder: kms_local::KmsLocalBuilder) -> Result<Self, Box<dyn Error>> {
        let threads = Threads::start()?;
        let kms = threads.spawn(builder.start()).await??;
        Ok(Self { kms, _threads: threads })
    }
}

impl Deref for Server {
    type Target = KmsLocal;

    fn deref(&self) -> &KmsLocal {
        &self.kms
    }
}

#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> Result<Self, Box<dyn Error>> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kms-local")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.0.as_ref().expect("it ends only when dropped").spawn(future)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // May be dropped on another runtime, which must not wait.
            runtime.shutdown_background();
        }
    }
}
