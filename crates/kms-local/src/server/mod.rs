//! A running server, and what a test can do with it without a request.

mod multi_region;
mod sts;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::{
    counters::Counters,
    delay::RoundTrip,
    error::Refused,
    faults::Faults,
    operations::{
        CreateKey, NamedKey, PointAlias, check_alias_name, create_alias, create_key, disable_key,
        enable_key,
    },
    principals::Principals,
    region::Region,
    store::Disk,
    sts::Sts,
    time,
};

/// How long a graceful stop waits for requests in flight.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running KMS, with one listener per region. Stops when it, or its Tokio runtime, is dropped.
///
/// Methods with a region panic if that region was not started. A test chooses the regions that it
/// starts, so this is a mistake in the test.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let kms = kms_local::KmsLocal::builder().start().await?;
/// let key = kms.create_key("us-east-1");
/// // … run the code under test with `key`, `kms.endpoint("us-east-1")`, `kms.ca_pem()` and
/// // `kms.issue_credentials()` …
/// assert_eq!(kms.counters("us-east-1").requests("Decrypt"), 0);
/// # Ok(())
/// # }
/// ```
#[must_use = "the server stops when this is dropped"]
pub struct KmsLocal {
    pub(crate) regions: BTreeMap<String, StartedRegion>,
    pub(crate) principals: Arc<Principals>,
    pub(crate) ca_pem: String,
    pub(crate) admin_endpoint: Option<String>,
    pub(crate) sts: Option<StartedSts>,
    pub(crate) disk: Option<Arc<Disk>>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) tasks: JoinSet<()>,
}

/// A region and its endpoint.
pub(crate) struct StartedRegion {
    pub(crate) region: Region,
    pub(crate) round_trip: RoundTrip,
    pub(crate) endpoint: String,
}

/// The STS and its endpoint.
pub(crate) struct StartedSts {
    pub(crate) sts: Sts,
    pub(crate) endpoint: String,
}

impl KmsLocal {
    /// Returns the names of the regions that were started.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.regions.keys().map(String::as_str)
    }

    /// Returns the URL of a region.
    ///
    /// # Panics
    ///
    /// Panics if the region was not started.
    pub fn endpoint(&self, region: &str) -> &str {
        &self.started(region).endpoint
    }

    /// Returns the certificate authority that clients must trust, as PEM. Each start creates a new
    /// one. Empty if the server uses plain HTTP.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Returns the URL of the admin endpoint, if
    /// [`KmsLocalBuilder::admin`](crate::KmsLocalBuilder::admin) opened one.
    pub fn admin_endpoint(&self) -> Option<&str> {
        self.admin_endpoint.as_deref()
    }

    /// Creates an access key that is valid in every region until the server stops.
    pub fn issue_credentials(&self) -> Credentials {
        self.principals.issue()
    }

    /// Creates a session, with a session token, that expires `lifetime` from now.
    ///
    /// Requests of an expired session fail with `ExpiredTokenException`. `Duration::ZERO` creates
    /// an expired session. From five minutes after the end of a session, its requests can fail with
    /// `UnrecognizedClientException` instead.
    pub fn issue_session(&self, lifetime: Duration) -> Credentials {
        self.principals.issue_session(lifetime, time::now())
    }

    /// Accepts an access key that was created elsewhere. Replaces one with the same id.
    ///
    /// With a session token, it is a session. After `expiry`, its requests fail with
    /// `ExpiredTokenException`.
    pub fn accept_credentials(
        &self,
        access_key_id: impl Into<String>,
        secret_access_key: impl Into<String>,
        session_token: Option<String>,
        expiry: Option<SystemTime>,
    ) {
        self.principals.accept(
            access_key_id.into(),
            secret_access_key.into(),
            session_token,
            expiry,
        );
    }

    /// Ends all sessions now. Access keys without a session token stay valid.
    pub fn expire_sessions(&self) {
        self.principals.expire_sessions(time::now());
    }

    /// Revokes an access key now. Does nothing if it is unknown.
    ///
    /// Requests of a session then fail with `ExpiredTokenException`, and those of another access
    /// key with `UnrecognizedClientException`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let kms = kms_local::KmsLocal::builder().start().await?;
    /// let session = kms.issue_session(Duration::from_hours(1));
    /// kms.revoke(session.access_key_id());
    /// # Ok(())
    /// # }
    /// ```
    pub fn revoke(&self, access_key_id: &str) {
        self.principals.revoke(access_key_id, time::now());
    }

    /// Creates a key in a region, without a request, and returns its ARN. Blocks for the disk if
    /// there is a data directory.
    ///
    /// # Panics
    ///
    /// Panics if the region was not started, or if the data directory cannot be written.
    pub fn create_key(&self, region: &str) -> String {
        let store = &self.started(region).region.store;
        match create_key(store, CreateKey::default(), time::now()) {
            Ok(created) => created.key_metadata.arn,
            Err(refusal) => panic!("could not create a key: {refusal}"),
        }
    }

    /// Returns the ARN of the key with this alias. Creates the key and the alias if there is none.
    /// Blocks for the disk if there is a data directory.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the name of the alias is invalid, or if the data directory cannot be written.
    ///
    /// # Panics
    ///
    /// Panics if the region was not started.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kms = kms_local::KmsLocal::builder().start().await?;
    /// let key = kms.ensure_alias("us-east-1", "alias/app")?;
    /// assert_eq!(kms.ensure_alias("us-east-1", "alias/app")?, key);
    /// # Ok(())
    /// # }
    /// ```
    pub fn ensure_alias(&self, region: &str, alias: &str) -> Result<String, Refused> {
        let store = &self.started(region).region.store;
        let now = time::now();
        check_alias_name(alias)?;
        if let Ok(key) = store.find(alias, now) {
            return Ok(store.home.key_arn(key.id));
        }
        let arn = create_key(store, CreateKey::default(), now)?.key_metadata.arn;
        let request =
            PointAlias { alias_name: Some(alias.to_owned()), target_key_id: Some(arn.clone()) };
        create_alias(store, request, now)?;
        Ok(arn)
    }

    /// Disables a key, by key id or key ARN. Blocks for the disk if there is a data directory.
    ///
    /// # Errors
    ///
    /// [`Refused`] if there is no such key, or if it is pending deletion.
    ///
    /// # Panics
    ///
    /// Panics if the region was not started.
    pub fn disable_key(&self, region: &str, key: &str) -> Result<(), Refused> {
        let request = NamedKey { key_id: Some(key.to_owned()) };
        Ok(disable_key(&self.started(region).region.store, request, time::now())?)
    }

    /// Enables a disabled key, by key id or key ARN. Blocks for the disk if there is a data
    /// directory.
    ///
    /// # Errors
    ///
    /// [`Refused`] if there is no such key, or if it is pending deletion.
    ///
    /// # Panics
    ///
    /// Panics if the region was not started.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kms = kms_local::KmsLocal::builder().start().await?;
    /// let key = kms.create_key("us-east-1");
    /// kms.disable_key("us-east-1", &key)?;
    /// kms.enable_key("us-east-1", &key)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn enable_key(&self, region: &str, key: &str) -> Result<(), Refused> {
        let request = NamedKey { key_id: Some(key.to_owned()) };
        Ok(enable_key(&self.started(region).region.store, request, time::now())?)
    }

    /// Returns a handle that controls the faults of a region.
    ///
    /// # Panics
    ///
    /// Panics if the region was not started.
    pub fn faults(&self, region: &str) -> Faults {
        self.started(region).region.service.faults.clone()
    }

    /// Changes the simulated network latency of a region, for new connections. See
    /// [`KmsLocalBuilder::round_trip_time`](crate::KmsLocalBuilder::round_trip_time).
    ///
    /// # Panics
    ///
    /// Panics if the region was not started.
    pub fn set_round_trip_time(&self, region: &str, time: Duration) {
        self.started(region).round_trip.set(time);
    }

    /// Returns the current counters of a region.
    ///
    /// # Panics
    ///
    /// Panics if the region was not started.
    pub fn counters(&self, region: &str) -> Counters {
        self.started(region).region.service.tally.snapshot()
    }

    /// Resets the counters of a region, except requests in flight and open connections.
    ///
    /// # Panics
    ///
    /// Panics if the region was not started.
    pub fn reset_counters(&self, region: &str) {
        self.started(region).region.service.tally.reset();
    }

    /// Stops the server gracefully: accepts no new connections, and waits up to five seconds for
    /// requests in flight. Requests that a fault delays get no response.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_TIMEOUT, finished).await.is_err() {
            tracing::warn!("the server stopped with requests in flight");
        }
    }

    fn started(&self, region: &str) -> &StartedRegion {
        self.regions.get(region).unwrap_or_else(|| panic!("region `{region}` was not started"))
    }
}

/// Closes all sockets and releases the data directory. Requests in flight get no response.
impl Drop for KmsLocal {
    fn drop(&mut self) {
        self.tasks.abort_all();
        // The tasks can outlive this by a moment. The data directory must be free at once: a test
        // may start the next server on it.
        if let Some(disk) = &self.disk {
            disk.close();
        }
    }
}

impl fmt::Debug for KmsLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.regions.iter().map(|(name, started)| (name, &started.endpoint));
        f.debug_struct("KmsLocal")
            .field("endpoints", &endpoints.collect::<BTreeMap<_, _>>())
            .field("sts_endpoint", &self.sts_endpoint())
            .field("admin_endpoint", &self.admin_endpoint)
            .finish_non_exhaustive()
    }
}
