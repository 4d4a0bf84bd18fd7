//! What to start.

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
    faults::Faults,
    listener::{Handler, Listener},
    principals::Principals,
    region::Region,
    server::{KmsLocal, Started},
    store::{Everywhere, KeyStore, Place, State, disk::Disk},
    sts::{StartedSts, Sts},
    time,
    tls::Tls,
};

const DEFAULT_REGION: &str = "us-east-1";
const DEFAULT_ACCOUNT: &str = "000000000000";

/// Builds a [`KmsLocal`]. Created by [`KmsLocal::builder`].
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
#[must_use = "nothing is started before `start`"]
pub struct Builder {
    regions: Vec<(String, u16)>,
    account: String,
    data_dir: Option<PathBuf>,
    plaintext_http: bool,
    admin_port: Option<u16>,
    round_trip_time: Duration,
    sts: bool,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            regions: Vec::new(),
            account: DEFAULT_ACCOUNT.to_owned(),
            data_dir: None,
            plaintext_http: false,
            admin_port: None,
            round_trip_time: Duration::ZERO,
            sts: false,
        }
    }

    /// Adds a region on a port that the operating system chooses. Without any region there is
    /// `us-east-1`.
    pub fn region(self, region: impl Into<String>) -> Self {
        self.region_on_port(region, 0)
    }

    /// Adds a region on a port of `127.0.0.1`; 0 has the operating system choose.
    pub fn region_on_port(mut self, region: impl Into<String>, port: u16) -> Self {
        self.regions.push((region.into(), port));
        self
    }

    /// Keeps keys and aliases in a directory, which is created if necessary, so that they survive a
    /// restart. Default: in memory. The directory is as secret as the keys.
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(directory.into());
        self
    }

    /// Speaks plain HTTP instead of TLS, for clients that cannot be given a certificate authority.
    pub fn plaintext_http(mut self) -> Self {
        self.plaintext_http = true;
        self
    }

    /// Sets the account in ARNs: twelve digits. Default: `000000000000`.
    pub fn account(mut self, account: impl Into<String>) -> Self {
        self.account = account.into();
        self
    }

    /// Simulates a round trip of this length between the server and its clients: every byte, in
    /// either direction, is delayed by half of it, on each connection independently. Default:
    /// `Duration::ZERO`, no delay; more than two seconds counts as two seconds. Timers are exact to
    /// a millisecond. The admin endpoint is not delayed.
    ///
    /// An answer on a connection that is open takes a round trip, TLS 1.3 another one. So does
    /// connecting, with one difference from a real distance: the kernel accepts a connection at
    /// once, so the client believes it connected and the round trip is added to the first thing it
    /// says.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let far = kms_local::KmsLocal::builder().round_trip_time(Duration::from_millis(80)).start().await?;
    /// far.set_round_trip_time("us-east-1", Duration::from_millis(5));
    /// # Ok(())
    /// # }
    /// ```
    pub fn round_trip_time(mut self, time: Duration) -> Self {
        self.round_trip_time = time;
        self
    }

    /// Opens the admin endpoint, plain HTTP on a port of `127.0.0.1`; 0 has the operating system
    /// choose. Default: there is none.
    ///
    /// It asks nobody who they are, and takes and gives JSON:
    ///
    /// | request | body | does |
    /// | --- | --- | --- |
    /// | `GET /counters` | | gives the [`Counters`](crate::Counters) of each region |
    /// | `POST /counters/reset` | | forgets them |
    /// | `GET /faults` | | gives the [`FaultPlan`](crate::FaultPlan) of each region |
    /// | `PUT /faults` | `{"us-east-1": {"latency_ms": 50}}` | sets the faults of these regions |
    /// | `DELETE /faults` | | ends the faults of every region |
    /// | `POST /credentials/expire` | | ends every session now |
    /// | `POST /keys/disable` | `{"region": "us-east-1", "key_id": "…"}` | disables a key now |
    ///
    /// A plan may hold any field of a [`FaultPlan`](crate::FaultPlan), such as `slow_share` with
    /// `slow_latency_ms`, or `clock_offset_ms`; what it leaves out is without fault.
    pub fn admin(mut self, port: u16) -> Self {
        self.admin_port = Some(port);
        self
    }

    /// Starts an STS as well, on a port of `127.0.0.1` that the operating system chooses, with the
    /// same certificate authority. The sessions that it makes are good for the KMS. Every principal
    /// may assume every role of any account, and a signature for it may name any region. Default:
    /// there is none.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kms = kms_local::KmsLocal::builder().sts().start().await?;
    /// assert!(kms.sts_endpoint().is_some_and(|url| url.starts_with("https://127.0.0.1:")));
    /// // … the code under test assumes a role there …
    /// assert_eq!(kms.sts_counters().succeeded("AssumeRole"), 0);
    /// assert!(kms.role_sessions().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn sts(mut self) -> Self {
        self.sts = true;
        self
    }

    /// Starts the server on the current Tokio runtime. It stops when the value is dropped, or when
    /// that runtime is.
    ///
    /// Each `#[tokio::test]` has its own runtime. To share a server between tests, start it on a
    /// multi-thread runtime that you keep beside it.
    ///
    /// # Errors
    ///
    /// [`StartError`] if a region or the account is invalid, or if a port, the data directory or a
    /// certificate is not available.
    ///
    /// # Panics
    ///
    /// When called outside a Tokio runtime with I/O and time enabled.
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
        for ((_, port), keys) in self.regions.into_iter().zip(Everywhere::places(stores)) {
            let round_trip = RoundTrip::new(self.round_trip_time);
            serve_region(&mut kms, keys, port, tls.as_ref(), round_trip).await?;
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
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        for (at, (name, _)) in self.regions.iter().enumerate() {
            if name.is_empty() || name.len() > 32 || !name.chars().all(letter) {
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
    keys: Place,
    port: u16,
    tls: Option<&Tls>,
    round_trip: RoundTrip,
) -> Result<(), StartError> {
    let name = keys.home.region.clone();
    let region = Region {
        keys,
        principals: Arc::clone(&kms.principals),
        faults: Faults::new(),
        tally: Tally::default(),
    };
    let (tcp, address) = bind(port).await?;
    let listener = Listener {
        tcp,
        tls: tls.map(|tls| Arc::clone(&tls.server)),
        round_trip: round_trip.clone(),
        tally: region.tally.clone(),
        stop: kms.stop.subscribe(),
    };
    let (served, stop) = (region.clone(), kms.stop.subscribe());
    let handler: Handler =
        Arc::new(move |request| Box::pin(served.clone().answer(request, stop.clone())));
    kms.tasks.spawn(listener.serve(handler));
    kms.regions.insert(name, Started { region, round_trip, endpoint: url(tls, address) });
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
        tally: sts.tally.clone(),
        stop: kms.stop.subscribe(),
    };
    let (served, stop) = (sts.clone(), kms.stop.subscribe());
    let handler: Handler =
        Arc::new(move |request| Box::pin(served.clone().answer(request, stop.clone())));
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
