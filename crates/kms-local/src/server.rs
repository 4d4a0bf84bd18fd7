//! A running server.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::{
    Builder, Counters, Faults,
    delay::RoundTrip,
    error::Refused,
    operations::{
        CreateKey, NamedKey, PointAlias, check_alias_name, create_alias, create_key, disable_key,
        enable_key,
    },
    principals::Principals,
    region::Region,
    store::disk::Disk,
    sts::StartedSts,
    time,
};

/// How long a graceful stop waits for answers that are under way.
const GRACE: Duration = Duration::from_secs(5);

/// A running KMS, one listener per region. Stops when it, or its Tokio runtime, is dropped.
///
/// Methods that take a region panic for one that was not started: a test names the regions that it
/// starts, so this is a mistake in the test.
pub struct KmsLocal {
    pub(crate) regions: BTreeMap<String, Started>,
    pub(crate) principals: Arc<Principals>,
    pub(crate) ca_pem: String,
    pub(crate) admin_endpoint: Option<String>,
    pub(crate) sts: Option<StartedSts>,
    pub(crate) disk: Option<Arc<Disk>>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) tasks: JoinSet<()>,
}

/// A region and where it listens.
pub(crate) struct Started {
    pub(crate) region: Region,
    pub(crate) round_trip: RoundTrip,
    pub(crate) endpoint: String,
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
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The regions that were started, by name.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.regions.keys().map(String::as_str)
    }

    /// The URL of a region.
    ///
    /// # Panics
    ///
    /// When the region was not started.
    pub fn endpoint(&self, region: &str) -> &str {
        &self.started(region).endpoint
    }

    /// The certificate authority that clients must trust, as PEM. Created at each start; empty
    /// if the server speaks plain HTTP.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The URL of the admin endpoint, when [`Builder::admin`] asked for one.
    pub fn admin_endpoint(&self) -> Option<&str> {
        self.admin_endpoint.as_deref()
    }

    /// Creates an access key that is valid in every region until the server stops.
    pub fn issue_credentials(&self) -> Credentials {
        self.principals.issue()
    }

    /// Makes a session, with a session token, that expires `lifetime` from now. The server refuses
    /// it from then on with `ExpiredTokenException`; `Duration::ZERO` makes one that has expired.
    /// Five minutes after its end a session may be forgotten, and is then as unknown as any other.
    pub fn issue_session(&self, lifetime: Duration) -> Credentials {
        self.principals.issue_session(lifetime, time::now())
    }

    /// Accepts an access key that was made elsewhere, in place of one with the same id. With a
    /// session token it is a session; with an expiry it is refused from then on.
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

    /// Ends every session now. Access keys without a session token go on.
    pub fn expire_sessions(&self) {
        self.principals.expire_sessions(time::now());
    }

    /// Refuses an access key from now on: a session with `ExpiredTokenException`, as if it had
    /// ended, any other with `UnrecognizedClientException`. One that is unknown is left so.
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

    /// Makes a key in a region, without a request, and returns its ARN. Blocks for the disk when
    /// there is a data directory.
    ///
    /// # Panics
    ///
    /// When the region was not started, or the data directory cannot be written.
    pub fn create_key(&self, region: &str) -> String {
        let keys = &self.started(region).region.keys;
        match create_key(keys, CreateKey::default(), time::now()) {
            Ok(created) => created.key_metadata.arn,
            Err(refusal) => panic!("cannot create a key: {refusal}"),
        }
    }

    /// The ARN of the key that an alias stands for, which is made together with the alias when
    /// there is none. Blocks for the disk when there is a data directory.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the alias has no proper name or the data directory cannot be written.
    ///
    /// # Panics
    ///
    /// When the region was not started.
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
        let keys = &self.started(region).region.keys;
        let now = time::now();
        check_alias_name(alias)?;
        if let Ok(key) = keys.find(alias, now) {
            return Ok(keys.home.key_arn(key.id));
        }
        let arn = create_key(keys, CreateKey::default(), now)?.key_metadata.arn;
        let request =
            PointAlias { alias_name: Some(alias.to_owned()), target_key_id: Some(arn.clone()) };
        create_alias(keys, request, now)?;
        Ok(arn)
    }

    /// Disables a key now, by key id or key ARN. Blocks for the disk when there is a data
    /// directory.
    ///
    /// # Errors
    ///
    /// [`Refused`] when there is no such key, or it is pending deletion.
    ///
    /// # Panics
    ///
    /// When the region was not started.
    pub fn disable_key(&self, region: &str, key: &str) -> Result<(), Refused> {
        let request = NamedKey { key_id: Some(key.to_owned()) };
        Ok(disable_key(&self.started(region).region.keys, request, time::now())?)
    }

    /// Enables a key now that was disabled, by key id or key ARN. Blocks for the disk when there is
    /// a data directory.
    ///
    /// # Errors
    ///
    /// [`Refused`] when there is no such key, or it is pending deletion.
    ///
    /// # Panics
    ///
    /// When the region was not started.
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
        Ok(enable_key(&self.started(region).region.keys, request, time::now())?)
    }

    /// A handle on the faults of a region.
    ///
    /// # Panics
    ///
    /// When the region was not started.
    pub fn faults(&self, region: &str) -> Faults {
        self.started(region).region.faults.clone()
    }

    /// Moves a region to another distance, for the connections that are made from now on. See
    /// [`Builder::round_trip_time`].
    ///
    /// # Panics
    ///
    /// When the region was not started.
    pub fn set_round_trip_time(&self, region: &str, time: Duration) {
        self.started(region).round_trip.set(time);
    }

    /// What a region has counted so far.
    ///
    /// # Panics
    ///
    /// When the region was not started.
    pub fn counters(&self, region: &str) -> Counters {
        self.started(region).region.tally.snapshot()
    }

    /// Forgets what a region has counted, but for the requests in flight.
    ///
    /// # Panics
    ///
    /// When the region was not started.
    pub fn reset_counters(&self, region: &str) {
        self.started(region).region.tally.reset();
    }

    /// Stops the server: it accepts no new connections, responds to requests in flight for up to
    /// five seconds, and then ends. Requests that a fault delays are cut off.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(GRACE, finished).await.is_err() {
            tracing::warn!("requests were still under way when the server stopped");
        }
    }

    pub(crate) fn started(&self, region: &str) -> &Started {
        self.regions.get(region).unwrap_or_else(|| panic!("region `{region}` was not started"))
    }
}

/// Closes every socket and lets the data directory go. Nothing under way is answered.
impl Drop for KmsLocal {
    fn drop(&mut self) {
        self.tasks.abort_all();
        // The tasks may outlive this by a moment. The data directory must not: a test may be about
        // to start the next server on it.
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
