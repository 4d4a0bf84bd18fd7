//! The settings of a server, and its start.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    admin,
    arn::Home,
    counters::Tally,
    delay::RoundTrip,
    error::StartError,
    listener::{Handler, Listener},
    principals::Principals,
    region::Region,
    server::{KmsLocal, StartedRegion, StartedSts},
    service::Service,
    signature::Scope,
    store::{Disk, KeyStore, State, StoreHandle, Stores},
    sts::Sts,
    time,
    tls::Tls,
};

const DEFAULT_REGION: &str = "us-east-1";
const DEFAULT_ACCOUNT: &str = "000000000000";

/// Configures and starts a [`KmsLocal`] server. Created by [`KmsLocal::builder`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let kms = kms_local::KmsLocal::builder()
///     .region("us-east-1")
///     .region("eu-west-1")
///     .account("111122223333")
///     .start()
///     .await?;
/// let key = kms.create_key("eu-west-1");
/// assert!(key.starts_with("arn:aws:kms:eu-west-1:111122223333:key/"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "call `start` to start the server"]
pub struct KmsLocalBuilder {
    regions: Vec<(String, u16)>,
    account: String,
    data_dir: Option<PathBuf>,
    plaintext_http: bool,
    admin_port: Option<u16>,
    round_trip_time: Duration,
    sts: bool,
}

impl KmsLocal {
    /// Returns a builder, to choose regions and other settings.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kms = kms_local::KmsLocal::builder().region("eu-west-1").start().await?;
    /// assert!(kms.endpoint("eu-west-1").starts_with("https://127.0.0.1:"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> KmsLocalBuilder {
        KmsLocalBuilder {
            regions: Vec::new(),
            account: DEFAULT_ACCOUNT.to_owned(),
            data_dir: None,
            plaintext_http: false,
            admin_port: None,
            round_trip_time: Duration::ZERO,
            sts: false,
        }
    }
}

impl KmsLocalBuilder {
    /// Adds a region on a free port. Default, if you add none: `us-east-1`.
    pub fn region(self, region: impl Into<String>) -> Self {
        self.region_on_port(region, 0)
    }

    /// Adds a region on a port of `127.0.0.1`. Port 0 picks a free port.
    pub fn region_on_port(mut self, region: impl Into<String>, port: u16) -> Self {
        self.regions.push((region.into(), port));
        self
    }

    /// Keeps keys and aliases in a directory, so that they survive a restart. Default: in memory.
    ///
    /// The directory is created if it does not exist. It contains the keys in the clear: protect it
    /// like the keys.
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(directory.into());
        self
    }

    /// Uses plain HTTP instead of TLS, for clients that cannot trust another certificate authority.
    /// The admin endpoint always uses plain HTTP.
    pub fn plaintext_http(mut self) -> Self {
        self.plaintext_http = true;
        self
    }

    /// Sets the account in ARNs, twelve digits. Default: `000000000000`.
    pub fn account(mut self, account: impl Into<String>) -> Self {
        self.account = account.into();
        self
    }

    /// Simulates network latency: every byte is delayed by half of `time` in each direction,
    /// independently on each connection. The admin endpoint is not delayed.
    ///
    /// Default: zero. Range: 0 to 2 seconds. A longer time counts as 2 seconds. Timers have a
    /// resolution of a millisecond.
    ///
    /// A response on an open connection takes one round trip, and a TLS 1.3 handshake one more.
    /// Connecting also costs one, but the kernel accepts a connection at once. The delay is
    /// therefore added to the client's first bytes instead.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let kms = kms_local::KmsLocal::builder()
    ///     .round_trip_time(Duration::from_millis(80))
    ///     .start()
    ///     .await?;
    /// kms.set_round_trip_time("us-east-1", Duration::from_millis(5));
    /// # Ok(())
    /// # }
    /// ```
    pub fn round_trip_time(mut self, time: Duration) -> Self {
        self.round_trip_time = time;
        self
    }

    /// Opens an admin endpoint, for tests in other languages: plain HTTP on a port of `127.0.0.1`.
    /// Port 0 picks a free port. Default: no admin endpoint.
    ///
    /// It has no authentication, and uses JSON with the content type `application/json`:
    ///
    /// | request | body | effect |
    /// | --- | --- | --- |
    /// | `GET /counters` | | returns the [`Counters`](crate::Counters) of each region |
    /// | `POST /counters/reset` | | resets the counters of all regions |
    /// | `GET /faults` | | returns the faults of each region |
    /// | `PUT /faults` | `{"us-east-1": {"latency_ms": 50}}` | sets the faults of these regions |
    /// | `DELETE /faults` | | ends the faults of all regions |
    /// | `POST /credentials/expire` | | ends all sessions now |
    /// | `POST /keys/disable` | `{"region": "us-east-1", "key_id": "…"}` | disables a key now |
    ///
    /// The faults of a region are an object with these fields. Fields that are left out have no
    /// fault. [`Faults`](crate::Faults) explains each of them:
    ///
    /// | field | value |
    /// | --- | --- |
    /// | `latency_ms` | delay of each request, in milliseconds |
    /// | `slow_share`, `slow_latency_ms` | share of requests, 0 to 1, with this additional delay |
    /// | `max_requests_per_second` | rate above which requests are throttled, or `null` |
    /// | `internal_error_share` | share of requests, 0 to 1, that fail |
    /// | `connection_reset_share` | share of requests, 0 to 1, whose connection is reset |
    /// | `hang`, `access_denied`, `wrong_key_id` | `true` or `false` |
    /// | `clock_offset_ms` | milliseconds by which the clock is ahead; negative: behind |
    /// | `seed` | seed of the random generator that picks the requests of a share |
    pub fn admin(mut self, port: u16) -> Self {
        self.admin_port = Some(port);
        self
    }

    /// Starts an STS as well, on a free port of `127.0.0.1`, with the same certificate authority.
    /// Default: no STS.
    ///
    /// The KMS accepts the sessions that it creates. Every principal can assume any role in any
    /// account, and requests can be signed for any region.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kms = kms_local::KmsLocal::builder().sts().start().await?;
    /// assert!(kms.sts_endpoint().is_some_and(|url| url.starts_with("https://127.0.0.1:")));
    /// // … run the code under test, which assumes a role …
    /// assert_eq!(kms.sts_counters().succeeded("AssumeRole"), 0);
    /// assert!(kms.role_sessions().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn sts(mut self) -> Self {
        self.sts = true;
        self
    }

    /// Starts the server on the current Tokio runtime. It stops when the returned value, or the
    /// runtime, is dropped.
    ///
    /// Each `#[tokio::test]` has its own runtime. To share a server between tests, start it on a
    /// multi-thread runtime that lives as long as the server.
    ///
    /// # Errors
    ///
    /// [`StartError`] if a region or the account is invalid, or if a port, the data directory or a
    /// certificate is not available.
    ///
    /// # Panics
    ///
    /// Panics outside a Tokio runtime with I/O and time enabled.
    pub async fn start(mut self) -> Result<KmsLocal, StartError> {
        if self.regions.is_empty() {
            self = self.region(DEFAULT_REGION);
        }
        self.check()?;
        let tls = if self.plaintext_http { None } else { Some(Tls::generate()?) };
        let disk = match &self.data_dir {
            Some(directory) => Some(Arc::new(Disk::open(directory, &self.account)?)),
            None => None,
        };
        // The server stops when it is dropped, so any failure from here on stops it.
        let mut kms = KmsLocal {
            regions: BTreeMap::new(),
            principals: Arc::new(Principals::new(&self.account)),
            ca_pem: tls.as_ref().map(|tls| tls.ca_pem.clone()).unwrap_or_default(),
            admin_endpoint: None,
            sts: None,
            disk,
            stop: watch::Sender::new(false),
            tasks: JoinSet::new(),
        };
        let mut stores = Vec::new();
        for (name, _) in &self.regions {
            let state = match &kms.disk {
                Some(disk) => disk.load(name, time::now())?,
                None => State::default(),
            };
            let home = Home { region: name.clone(), account: self.account.clone() };
            stores.push(KeyStore::new(home, state, kms.disk.clone()));
        }
        for ((_, port), store) in self.regions.into_iter().zip(Stores::handles(stores)) {
            let round_trip = RoundTrip::new(self.round_trip_time);
            serve_region(&mut kms, store, port, tls.as_ref(), round_trip).await?;
        }
        if self.sts {
            let round_trip = RoundTrip::new(self.round_trip_time);
            serve_sts(&mut kms, &self.account, tls.as_ref(), round_trip).await?;
        }
        if let Some(port) = self.admin_port {
            serve_admin(&mut kms, port).await?;
        }
        Ok(kms)
    }

    fn check(&self) -> Result<(), StartError> {
        for (at, (name, _)) in self.regions.iter().enumerate() {
            if !is_region(name) {
                return Err(StartError::InvalidRegion(name.clone()));
            }
            if self.regions[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(StartError::DuplicateRegion(name.clone()));
            }
        }
        if self.account.len() != 12 || !self.account.chars().all(|c| c.is_ascii_digit()) {
            return Err(StartError::InvalidAccount(self.account.clone()));
        }
        Ok(())
    }
}

async fn serve_region(
    kms: &mut KmsLocal,
    store: StoreHandle,
    port: u16,
    tls: Option<&Tls>,
    round_trip: RoundTrip,
) -> Result<(), StartError> {
    let name = store.home.region.clone();
    let scope = Scope { service: "kms", region: Some(name.as_str().into()) };
    let service = Service::new(scope, Arc::clone(&kms.principals));
    let region = Region { store, service };
    let (tcp, address) = bind(port).await?;
    let listener = Listener {
        tcp,
        tls: tls.map(|tls| Arc::clone(&tls.server)),
        round_trip: round_trip.clone(),
        tally: region.service.tally.clone(),
        stop: kms.stop.subscribe(),
    };
    let served = region.clone();
    let stop = kms.stop.subscribe();
    let handler: Handler =
        Arc::new(move |request| Box::pin(served.clone().respond(request, stop.clone())));
    kms.tasks.spawn(listener.serve(handler));
    kms.regions.insert(name, StartedRegion { region, round_trip, endpoint: url(tls, address) });
    Ok(())
}

async fn serve_sts(
    kms: &mut KmsLocal,
    account: &str,
    tls: Option<&Tls>,
    round_trip: RoundTrip,
) -> Result<(), StartError> {
    let sts = Sts::new(account, Arc::clone(&kms.principals));
    let (tcp, address) = bind(0).await?;
    let listener = Listener {
        tcp,
        tls: tls.map(|tls| Arc::clone(&tls.server)),
        round_trip,
        tally: sts.service.tally.clone(),
        stop: kms.stop.subscribe(),
    };
    let served = sts.clone();
    let stop = kms.stop.subscribe();
    let handler: Handler =
        Arc::new(move |request| Box::pin(served.clone().respond(request, stop.clone())));
    kms.tasks.spawn(listener.serve(handler));
    kms.sts = Some(StartedSts { sts, endpoint: url(tls, address) });
    Ok(())
}

async fn serve_admin(kms: &mut KmsLocal, port: u16) -> Result<(), StartError> {
    let (tcp, address) = bind(port).await?;
    let listener = Listener {
        tcp,
        tls: None,
        round_trip: RoundTrip::default(),
        tally: Tally::default(),
        stop: kms.stop.subscribe(),
    };
    let by_name = kms.regions.iter().map(|(name, it)| (name.clone(), it.region.clone()));
    let handler = admin::handler(by_name.collect());
    kms.tasks.spawn(listener.serve(handler));
    kms.admin_endpoint = Some(format!("http://{address}"));
    Ok(())
}

fn url(tls: Option<&Tls>, address: SocketAddr) -> String {
    let scheme = if tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}")
}

async fn bind(port: u16) -> Result<(TcpListener, SocketAddr), StartError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let bind_error = |source| StartError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(bind_error)?;
    let bound = listener.local_addr().map_err(bind_error)?;
    Ok((listener, bound))
}

/// Returns whether `name` may be the name of a region: the same rule as that of `kms_pool::Region`.
/// This crate must not depend on that one, whose tests use this server.
fn is_region(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=32).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.chars().all(is_allowed)
}
