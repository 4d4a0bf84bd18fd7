//! A pool of clients against a KMS in this process, and who signs its requests.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt, fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, error::CredentialsError, future},
};
use aws_sdk_kms::types::DataKeySpec;
use futures_util::future::try_join_all;
use kms_local::{Counters, KmsLocal};
use kms_pool::{KmsError, KmsErrorKind, KmsPool, KmsPoolBuilder, Principal};
use tokio::time::{Instant, sleep};

use crate::{
    kms::{REGION, Server},
    load,
};

/// The load that is wanted, in requests a second.
pub const WANTED: f64 = 2_000.0;
/// As many requests of one principal as are under way at most, in the pools of [`PooledKms`].
pub const MAX_IN_FLIGHT: usize = 32;

/// A running KMS with one key, and a pool for it.
#[derive(Debug)]
pub struct PooledKms {
    /// The server, on threads of its own.
    pub server: Arc<Server>,
    /// The pool.
    pub pool: KmsPool,
    key: Arc<str>,
}

impl PooledKms {
    /// Starts the server, and builds a pool as `set` says.
    ///
    /// # Errors
    ///
    /// If the server cannot start, or if a setting is out of range.
    pub async fn start(
        set: impl FnOnce(KmsPoolBuilder) -> KmsPoolBuilder,
    ) -> Result<Self, Box<dyn Error>> {
        let server = Arc::new(Server::start(KmsLocal::builder().region(REGION)).await?);
        let pool = KmsPool::builder()
            .endpoint_url(server.endpoint(REGION))
            .trust_root_pem(server.ca_pem())
            .max_in_flight(MAX_IN_FLIGHT);
        let (pool, key) = (set(pool).build()?, server.create_key(REGION).into());
        Ok(Self { server, pool, key })
    }

    /// Somebody who uses the pool as `principal`.
    pub fn caller(&self, principal: Principal) -> Caller {
        Caller { pool: self.pool.clone(), principal, key: Arc::clone(&self.key) }
    }

    /// Somebody with an access key that stays.
    pub fn steady_caller(&self) -> Caller {
        self.caller(Principal::new(self.server.issue_credentials()))
    }

    /// What the server counted since it started, or since they were last reset.
    pub fn counters(&self) -> Counters {
        self.server.counters(REGION)
    }

    /// Has as many connections open as requests can be under way, and more: each of `callers` sends
    /// [`MAX_IN_FLIGHT`] requests at once, and the server answers none before the last of them is
    /// there.
    ///
    /// # Errors
    ///
    /// The first of a request.
    pub async fn connect(&self, callers: &[&Caller]) -> Result<(), KmsError> {
        self.server.faults(REGION).hang(true);
        let requests =
            callers.iter().flat_map(|caller| (0..MAX_IN_FLIGHT).map(|_| caller.data_key()));
        let wanted = (callers.len() * MAX_IN_FLIGHT) as u64;
        let all_there = async {
            let there = || self.counters().in_flight >= wanted;
            until(Duration::from_secs(2), there).await;
            self.server.faults(REGION).hang(false);
            Ok(())
        };
        let answered = async { try_join_all(requests).await.map(drop) };
        tokio::try_join!(answered, all_there).map(drop)
    }

    /// The load for this machine, in requests a second, and how many it does at most: the wanted
    /// load, or half of the most if that is less.
    ///
    /// # Errors
    ///
    /// The first of a request.
    pub async fn pace(&self, caller: &Caller) -> Result<Pace, KmsError> {
        let caller = caller.clone();
        let request = move || {
            let caller = caller.clone();
            async move { caller.data_key().await }
        };
        let most = load::capacity_together(MAX_IN_FLIGHT, Duration::from_secs(3), request).await?;
        Ok(Pace { most, per_second: WANTED.min(most / 2.0) })
    }
}

/// A load for a machine.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// What the machine does when nothing waits, server and all, in requests a second.
    pub most: f64,
    /// The load.
    pub per_second: f64,
}

impl Pace {
    /// From the due time of one request to that of the next.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_secs(1).div_f64(self.per_second)
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { most, per_second } = self;
        let why = if *per_second < WANTED { "half of the machine's most" } else { "as wanted" };
        write!(
            f,
            "{per_second:.0} requests a second, {why} (it does {most:.0} with the server beside)"
        )
    }
}

/// Somebody who uses a pool.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The pool.
    pub pool: KmsPool,
    /// As whom.
    pub principal: Principal,
    key: Arc<str>,
}

impl Caller {
    /// Has KMS make a data key, through the client that the pool gives for it.
    ///
    /// # Errors
    ///
    /// What the pool or KMS says.
    pub async fn data_key(&self) -> Result<(), KmsError> {
        let client = self.pool.client(REGION, &self.principal).await?;
        client.generate_data_key().key_id(&*self.key).key_spec(DataKeySpec::Aes256).send().await?;
        Ok(())
    }

    /// Has KMS make a random number, likewise.
    ///
    /// # Errors
    ///
    /// What the pool or KMS says.
    pub async fn random(&self) -> Result<(), KmsError> {
        let client = self.pool.client(REGION, &self.principal).await?;
        client.generate_random().number_of_bytes(32).send().await?;
        Ok(())
    }

    /// Has a crowd ask for data keys. See [`load::crowd`].
    pub async fn crowd(&self, interval: Duration, length: Duration) -> load::Crowd<KmsErrorKind> {
        let caller = self.clone();
        let request = move || {
            let caller = caller.clone();
            async move { caller.data_key().await.map_err(|error| error.kind()) }
        };
        load::crowd(interval, length, request).await
    }
}

/// How a provider is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers at once.
    Well,
    /// It fails at once.
    Fails,
    /// It never answers what it is asked now.
    Hangs,
}

/// A provider of sessions that the server refuses once they have expired.
#[derive(Debug, Clone)]
pub struct Sessions(Arc<Provider>);

#[derive(Debug)]
struct Provider {
    server: Arc<Server>,
    lifetime: Duration,
    health: Mutex<Health>,
    asked: AtomicU64,
    in_vain: AtomicU64,
}

impl Sessions {
    /// Sessions of `server` that live so long.
    pub fn new(server: &Arc<Server>, lifetime: Duration) -> Self {
        Self(Arc::new(Provider {
            server: Arc::clone(server),
            lifetime,
            health: Mutex::new(Health::Well),
            asked: AtomicU64::new(0),
            in_vain: AtomicU64::new(0),
        }))
    }

    /// From now on it is so.
    pub fn turn(&self, health: Health) {
        *self.0.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.0.asked.load(Relaxed)
    }

    /// How often it was asked in vain.
    pub fn in_vain(&self) -> u64 {
        self.0.in_vain.load(Relaxed)
    }

    async fn answer(&self) -> provider::Result {
        let health = *self.0.health.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.asked.fetch_add(1, Relaxed);
        if health != Health::Well {
            self.0.in_vain.fetch_add(1, Relaxed);
        }
        match health {
            Health::Well => Ok(self.0.server.issue_session(self.0.lifetime)),
            Health::Fails => Err(CredentialsError::provider_error("out of order")),
            Health::Hangs => std::future::pending::<provider::Result>().await,
        }
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

/// The access key ids that one principal has had.
#[derive(Debug, Default)]
pub struct KeyRing(Mutex<Vec<String>>);

impl KeyRing {
    /// Adds one, and gives the one before it.
    pub fn add(&self, credentials: &Credentials) -> Option<String> {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = ids.last().cloned();
        ids.push(credentials.access_key_id().to_owned());
        last
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of the requests that came by `counts` of access key ids came under these, and how
    /// many under any other.
    pub fn sort(&self, counts: &BTreeMap<String, u64>) -> (u64, u64) {
        let ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut own, mut others) = (0, 0);
        for (id, count) in counts {
            *(if ids.contains(id) { &mut own } else { &mut others }) += count;
        }
        (own, others)
    }
}

/// Waits until it is so, or for the time that it may take. Whether it is so.
pub async fn until(patience: Duration, mut so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !so() {
        if Instant::now() >= deadline {
            return so();
        }
        sleep(Duration::from_millis(2)).await;
    }
    true
}

/// How many sockets this process has. A connection to a server in it counts twice. Zero where the
/// system does not tell.
pub fn sockets() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|it| fs::read_link(it.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}
