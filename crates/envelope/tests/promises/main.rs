//! What the cache promises when many callers come at once, and when KMS is slow, fails or refuses.
//! The KMS is a real server, which counts its requests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "figures, for `--nocapture`")]

mod limits;
mod outages;
mod revocations;
mod stampedes;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use envelope::{
    Clock, Envelope,
    keyring::AwsKmsKeyring,
    materials::{CachingBuilder, CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
};
use kms_local::{Faults, KmsLocal};
use kms_pool::{KmsPool, Principal};

const REGION: &str = "us-east-1";
const MAX_AGE: Duration = Duration::from_mins(1);
/// The maximum number of concurrent loads, for encryption and for decryption each.
const MAX_LOADS: usize = 16;

/// A server with one key, a pool for it, and a cache whose clock the test sets.
struct Scene {
    server: KmsLocal,
    pool: KmsPool,
    principal: Principal,
    key: String,
    cache: MaterialsCache,
    clock: Clock,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|server| Principal::new(server.issue_credentials()), Duration::from_mins(1))
            .await
    }

    /// A scene in which KMS requests time out after `timeout`, and are not repeated.
    async fn with(principal: impl FnOnce(&KmsLocal) -> Principal, timeout: Duration) -> Self {
        let server = KmsLocal::builder().region(REGION).start().await.unwrap();
        let pool = KmsPool::builder()
            .endpoint_url(server.endpoint(REGION))
            .trust_root_pem(server.ca_pem())
            .connect_timeout(timeout)
            .attempt_timeout(timeout)
            .operation_timeout(timeout)
            .max_attempts(1)
            .build()
            .unwrap();
        let principal = principal(&server);
        let key = server.create_key(REGION);
        let clock = Clock::manual();
        let cache = MaterialsCache::builder().capacity(10_000).max_loads(MAX_LOADS).clock(&clock);
        // A busy machine may take longer than the default for some hundreds of loads.
        let cache = cache.max_wait(Duration::from_mins(2)).build();
        Self { server, pool, principal, key, cache, clock }
    }

    /// A client with this cache, and with other settings as `set` says.
    fn client(&self, set: impl FnOnce(CachingBuilder) -> CachingBuilder) -> Envelope {
        let key = self.key.parse().unwrap();
        let keyring = AwsKmsKeyring::new(self.pool.clients(&self.principal), key);
        let builder = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring));
        let manager = set(builder.cache(&self.cache).max_age(MAX_AGE)).build().unwrap();
        Envelope::builder(manager).build().unwrap()
    }

    fn faults(&self) -> Faults {
        self.server.faults(REGION)
    }

    fn requests(&self, operation: &str) -> u64 {
        self.server.counters(REGION).requests(operation)
    }
}
