//! How a caching materials manager is set.

use std::{
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::{CachingMaterialsManager, Inner, MaterialsCache, MaterialsManager, Probes};
use crate::{
    cache::{failures::Failures, limits::Limits, policy::Policy},
    crypto::random,
    error::Error,
    keyring::Keyring,
};

/// The specification's default and upper limit for messages under one data key.
const MAX_MESSAGES: u64 = 1 << 32;
/// The specification's default and upper limit for bytes under one data key.
const MAX_BYTES: u64 = (1 << 63) - 1;
/// How many wrapping keys are remembered to fail.
const WRAPPING_KEYS: usize = 1_000;

/// Builds a [`CachingMaterialsManager`].
#[derive(Debug)]
pub struct CachingBuilder {
    source: Arc<dyn MaterialsManager>,
    cache: Option<MaterialsCache>,
    partition: Option<Arc<str>>,
    policy: Policy,
    prime_decrypt: bool,
}

impl CachingBuilder {
    pub(super) fn new(source: Arc<dyn MaterialsManager>) -> Self {
        let policy = Policy {
            limits: Limits {
                max_age: Duration::from_mins(5),
                max_messages: MAX_MESSAGES,
                max_bytes: MAX_BYTES,
            },
            stale: Duration::ZERO,
            refuse_for: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(5),
            refresh_ahead: true,
            jitter: fastrand::f64(),
        };
        Self { source, cache: None, partition: None, policy, prime_decrypt: false }
    }

    /// How long a data key is used, counted from its request. Default: 5 minutes. Allowed: over
    /// zero.
    ///
    /// Ages are read from the cache's [`Clock`](crate::Clock), which on Linux counts suspended
    /// time.
    ///
    /// This also limits how long a data key is used after KMS would have refused it.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.policy.limits.max_age = max_age;
        self
    }

    /// How many messages are encrypted under one data key. Default: 2^32. Allowed: 1 to 2^32.
    #[must_use]
    pub fn max_messages(mut self, max_messages: u64) -> Self {
        self.policy.limits.max_messages = max_messages;
        self
    }

    /// How many plaintext bytes are encrypted under one data key. Default: 2^63 - 1. Allowed: 0 to
    /// 2^63 - 1.
    ///
    /// A longer message gets its own data key.
    #[must_use]
    pub fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.policy.limits.max_bytes = max_bytes;
        self
    }

    /// Whether the next data key is fetched in the background before the current one is spent.
    /// Default: `true`.
    ///
    /// A refresh starts when one of these conditions holds:
    ///
    /// - The data key has passed 70 to 80 % of its age. The exact point is random, so that a fleet
    ///   does not refresh at the same time.
    /// - Half of its messages or bytes are used.
    /// - At the current rate, it would be spent within four times the duration of a request.
    /// - It would be too old at the use after the next one, if the pause before that use is as long
    ///   as the last pause was.
    ///
    /// With `false`, or without the feature `tokio`, an operation that finds its data key spent
    /// waits for the next one.
    #[must_use]
    pub fn refresh_ahead(mut self, ahead: bool) -> Self {
        self.policy.refresh_ahead = ahead;
        self
    }

    /// How long a data key is used past its `max_age` while KMS is unavailable.
    ///
    /// KMS counts as unavailable when a request for a new data key failed by throttling, a timeout,
    /// a connection error or an internal error, but not by a refusal. Default: zero. Allowed: any.
    ///
    /// `max_messages` and `max_bytes` still apply. Revocation takes longer to take effect. Expired
    /// or unavailable credentials do not count as an outage, nor does the pool's own budget
    /// ([`OverBudget`](crate::keyring::KeyringErrorKind::OverBudget)).
    ///
    /// Until the first request has failed, all callers past `max_age` wait for it, unless a refresh
    /// ahead has detected the outage before. Set `KmsPoolBuilder::operation_timeout` below your
    /// callers' deadline. With the feature `tokio`, the request continues after its callers are
    /// cancelled, so that later callers benefit from its outcome.
    #[must_use]
    pub fn serve_stale_for(mut self, ceiling: Duration) -> Self {
        self.policy.stale = ceiling;
        self
    }

    /// How long a failure that does not pass by itself is remembered: access denied, a disabled or
    /// missing key, a wrapped key that does not unwrap. Calls in that time get
    /// [`Error::Remembered`] at once: for the same entry, or, if nobody may use the wrapping key,
    /// for any entry under it. Default: 1 second. Allowed: any; zero remembers none.
    #[must_use]
    pub fn remember_failures_for(mut self, duration: Duration) -> Self {
        self.policy.refuse_for = duration;
        self
    }

    /// The maximum pause between requests for one entry after transient failures, such as
    /// throttling: 50 to 100 milliseconds after the first failure, and twice as long after each
    /// further one. Calls in between get [`Error::Remembered`] at once. Default: 5 seconds.
    /// Allowed: any; with zero, each call sends a request.
    #[must_use]
    pub fn longest_backoff(mut self, duration: Duration) -> Self {
        self.policy.longest_backoff = duration;
        self
    }

    /// The cache to use, which other managers may share. Default: a new cache with 1,000 entries.
    #[must_use]
    pub fn cache(mut self, cache: &MaterialsCache) -> Self {
        self.cache = Some(cache.clone());
        self
    }

    /// Managers on the same cache share entries if, and only if, their partition ids are equal and
    /// their sources use the same wrapping keys in the same order: see
    /// [`Keyring::identity`](crate::keyring::Keyring::identity). A manager with a new wrapping key
    /// therefore never encrypts under the old one. Default: a random id, so that nothing is shared.
    ///
    /// Share a partition only between managers whose principals have the same permissions and whose
    /// limits are equal: every manager uses the entries that any of them loaded.
    #[must_use]
    pub fn partition_id(mut self, partition_id: &str) -> Self {
        self.partition = Some(partition_id.into());
        self
    }

    /// Whether a data key that was generated for encryption also decrypts the messages of this
    /// process, without a request to KMS. Default: `false`.
    ///
    /// This saves the `Decrypt` requests of processes that decrypt their own messages. It also
    /// skips the permission check: a principal that is allowed `kms:GenerateDataKey`, but not
    /// `kms:Decrypt`, can decrypt the messages of this process as long as their data key is cached.
    /// While that data key is in use, KMS is asked at 70 to 80 % of its age, and then refuses,
    /// which also drops the entries for encryption under that KMS key: do not use this for
    /// principals that may not decrypt.
    ///
    /// ```
    /// # use envelope::{DataKey, keyring::RawAesKeyring, materials::{CachingMaterialsManager, DefaultMaterialsManager}};
    /// # let keyring = RawAesKeyring::new("ns", "name", &DataKey::generate(32)?)?;
    /// let manager =
    ///     CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring)).prime_decrypt(true).build()?;
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn prime_decrypt(mut self, prime: bool) -> Self {
        self.prime_decrypt = prime;
        self
    }

    /// Builds the manager.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for
    ///
    /// - a limit out of its range,
    /// - a [`partition_id`](Self::partition_id) if the identity of the source's wrapping keys is
    ///   unknown.
    pub fn build(self) -> Result<CachingMaterialsManager, Error> {
        let Limits { max_age, max_messages, max_bytes } = self.policy.limits;
        if max_age.is_zero() {
            return Err(Error::invalid_setting(
                "max_age",
                "zero would cache nothing: use DefaultMaterialsManager instead",
            ));
        }
        if !(1..=MAX_MESSAGES).contains(&max_messages) {
            return Err(Error::invalid_setting(
                "max_messages",
                format!("{max_messages} is not in 1..=2^32"),
            ));
        }
        if max_bytes > MAX_BYTES {
            return Err(Error::invalid_setting(
                "max_bytes",
                format!("{max_bytes} is not in 0..=2^63-1"),
            ));
        }
        let partition = match self.partition {
            Some(id) => {
                let identity = self.source.keyring().and_then(Keyring::identity);
                let identity = identity.ok_or_else(|| {
                    Error::invalid_setting(
                        "partition_id",
                        "the wrapping keys of the keyring are unknown: implement \
                         `Keyring::identity` and `MaterialsManager::keyring`, or do not set it",
                    )
                })?;
                partition(&id, &identity).into()
            }
            None => format!("{:032x}", u128::from_be_bytes(random::bytes()?)).into(),
        };
        Ok(CachingMaterialsManager(Arc::new(Inner {
            tenure: AtomicU64::new(self.source.keyring().map_or(0, Keyring::tenure)),
            source: self.source,
            cache: self.cache.unwrap_or_default(),
            partition,
            policy: self.policy,
            backoffs: Failures::new(WRAPPING_KEYS),
            probes: Probes::default(),
            prime_decrypt: self.prime_decrypt,
            handover: Mutex::default(),
        })))
    }
}

/// The cache partition for this id and for sources with this identity.
fn partition(id: &str, identity: &str) -> String {
    let digest = u128::from_be_bytes(*Sha256::digest(identity).first_chunk().expect("of 32 bytes"));
    format!("{id}/{digest:032x}")
}
