//! A KMS in this process, and clients for it.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use aws_sdk_kms::{
    Client,
    config::{BehaviorVersion, Config, Region, SharedHttpClient, retry::RetryConfig},
    types::DataKeySpec,
};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use benches::Result;
use envelope::{
    Envelope,
    keyring::AwsKmsKeyring,
    materials::{CachingBuilder, CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
};
use futures_util::future::try_join_all;
use kms_local::{Counters, Faults, KmsLocal, KmsLocalBuilder};
use kms_pool::{Credentials, KmsError, KmsErrorKind, KmsPool, KmsPoolBuilder, Principal};
use tokio::runtime::{Builder, Runtime};

use crate::load::{self, Crowd, until};

pub(crate) const REGION: &str = "us-east-1";
/// The maximum number of concurrent requests of one principal, in benchmarks of the pool.
pub(crate) const MAX_IN_FLIGHT: usize = 32;
/// The wanted load, in requests a second.
const WANTED: f64 = 2_000.0;

/// A server with its own threads, which do not delay the measured tasks.
pub(crate) struct Server {
    // It stops before its threads do.
    kms: KmsLocal,
    _threads: Threads,
}

struct Threads(Option<Runtime>);

impl Server {
    pub(crate) fn start(builder: KmsLocalBuilder) -> Result<Arc<Self>> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let kms = futures_executor::block_on(runtime.spawn(builder.start()))??;
        Ok(Arc::new(Self { kms, _threads: Threads(Some(runtime)) }))
    }

    /// A builder of pools for this server.
    pub(crate) fn pool(&self) -> KmsPoolBuilder {
        let builder = KmsPool::builder().trust_root_pem(self.ca_pem());
        self.regions().fold(builder, |builder, region| {
            builder.endpoint_url_for(region, self.endpoint(region))
        })
    }
}

impl Deref for Server {
    type Target = KmsLocal;

    fn deref(&self) -> &KmsLocal {
        &self.kms
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // It may be dropped inside another runtime, which must not block.
            runtime.shutdown_background();
        }
    }
}

/// A server with one key, a pool for it, and a principal whose credentials stay.
pub(crate) struct Kms {
    pub(crate) server: Arc<Server>,
    pub(crate) pool: KmsPool,
    pub(crate) principal: Principal,
    pub(crate) key: Arc<str>,
}

impl Kms {
    pub(crate) fn start() -> Result<Self> {
        Self::with(|pool| pool)
    }

    /// The same with another pool.
    pub(crate) fn with(set: impl FnOnce(KmsPoolBuilder) -> KmsPoolBuilder) -> Result<Self> {
        let server = Server::start(KmsLocal::builder().region(REGION))?;
        let pool = set(server.pool()).build()?;
        let principal = Principal::new(server.issue_credentials());
        let key = server.create_key(REGION).into();
        Ok(Self { server, pool, principal, key })
    }

    /// A client with this cache.
    pub(crate) fn envelope(
        &self,
        cache: &MaterialsCache,
        set: impl FnOnce(CachingBuilder) -> CachingBuilder,
    ) -> Result<Envelope> {
        let keyring = keyring(&self.pool, &self.principal, &self.key)?;
        let builder = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring));
        Ok(Envelope::builder(set(builder.cache(cache)).build()?).build()?)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.server.counters(REGION)
    }

    pub(crate) fn faults(&self) -> Faults {
        self.server.faults(REGION)
    }

    pub(crate) fn caller(&self, principal: Principal) -> Caller {
        Caller { pool: self.pool.clone(), principal, key: Arc::clone(&self.key) }
    }

    /// Opens more connections than the load needs: each caller sends [`MAX_IN_FLIGHT`] requests,
    /// and the server answers none before the last one has arrived.
    pub(crate) async fn connect(&self, callers: &[&Caller]) -> Result<()> {
        self.faults().hang(true);
        let requests =
            callers.iter().flat_map(|caller| (0..MAX_IN_FLIGHT).map(|_| caller.data_key()));
        let wanted = (callers.len() * MAX_IN_FLIGHT) as u64;
        let all_there = async {
            until(Duration::from_secs(2), || self.counters().in_flight >= wanted).await;
            self.faults().hang(false);
            Ok(())
        };
        let answered = async { try_join_all(requests).await.map(drop) };
        Ok(tokio::try_join!(answered, all_there).map(drop)?)
    }

    /// The load for this machine: the wanted one, or half of what the machine can do.
    pub(crate) async fn pace(&self, caller: &Caller) -> Result<Pace> {
        let caller = caller.clone();
        let request = move || {
            let caller = caller.clone();
            async move { Ok(caller.data_key().await?) }
        };
        let max = load::capacity(MAX_IN_FLIGHT, Duration::from_secs(3), request).await?;
        Ok(Pace { max, per_second: WANTED.min(max / 2.0) })
    }
}

/// A keyring for one key.
pub(crate) fn keyring(pool: &KmsPool, principal: &Principal, key: &str) -> Result<AwsKmsKeyring> {
    Ok(AwsKmsKeyring::new(pool.clients(principal), key.parse()?))
}

/// A load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// What the machine can do, with the server, in requests a second.
    max: f64,
    pub(crate) per_second: f64,
}

impl Pace {
    /// The time from the start of one request to the start of the next one.
    pub(crate) fn interval(self) -> Duration {
        Duration::from_secs(1).div_f64(self.per_second)
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max, per_second } = self;
        write!(f, "{per_second:.0} requests a second; the machine can do {max:.0}")
    }
}

/// A principal with a pool.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) pool: KmsPool,
    pub(crate) principal: Principal,
    key: Arc<str>,
}

impl Caller {
    /// Generates a data key, with the client that the pool returns for it.
    pub(crate) async fn data_key(&self) -> std::result::Result<(), KmsError> {
        let client = self.pool.client(REGION, &self.principal).await?;
        client.generate_data_key().key_id(&*self.key).key_spec(DataKeySpec::Aes256).send().await?;
        Ok(())
    }

    /// Sends such requests at a steady pace, however many are in flight.
    pub(crate) async fn crowd(&self, interval: Duration, length: Duration) -> Crowd {
        let caller = self.clone();
        let request = move || {
            let caller = caller.clone();
            async move { caller.data_key().await.map_err(|error| Kind(error.kind())) }
        };
        load::crowd(interval, length, request).await
    }
}

/// The kind of a failure, to count failures by.
pub(crate) struct Kind(pub(crate) KmsErrorKind);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The settings of clients of the AWS SDK without a pool, which the pool is compared with.
pub(crate) struct Sdk {
    tls: TlsContext,
    credentials: Credentials,
}

impl Sdk {
    /// Reads the certificate of the server, and those of the platform if `native_roots`.
    pub(crate) fn new(server: &KmsLocal, native_roots: bool) -> Result<Self> {
        let roots = TrustStore::empty()
            .with_native_roots(native_roots)
            .with_pem_certificate(server.ca_pem());
        let tls = TlsContext::builder().with_trust_store(roots).build()?;
        Ok(Self { tls, credentials: server.issue_credentials() })
    }

    /// A new HTTPS client with its own connections.
    pub(crate) fn https(&self) -> SharedHttpClient {
        aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(self.tls.clone())
            .build_https()
    }

    pub(crate) fn config(
        &self,
        server: &KmsLocal,
        region: &str,
        https: SharedHttpClient,
    ) -> Config {
        Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .endpoint_url(server.endpoint(region))
            .credentials_provider(self.credentials.clone())
            .retry_config(RetryConfig::standard())
            .http_client(https)
            .build()
    }

    /// A new client with its own HTTPS client, and the SDK's standard retries: three attempts.
    pub(crate) fn client(&self, server: &KmsLocal, region: &str) -> Client {
        Client::from_conf(self.config(server, region, self.https()))
    }
}
