//! Builds a caching materials manager.

use std::{sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{CachingMaterialsManager, Inner, MaterialsCache, MaterialsManager, Probes};
use crate::{
    cache::{failures::Failures, policy::Policy, tenure::Tenure},
    crypto::random,
    error::Error,
    keyring::Keyring,
};

/// The specification's default and upper limit for messages under one data key.
const MAX_MESSAGES: u64 = 1 << 32;
/// The specification's default and upper limit for bytes under one data key.
const MAX_BYTES: u64 = (1 << 63) - 1;
/// The maximum number of wrapping keys whose failures are remembered.
const WRAPPING_KEYS: usize = 1_000;

impl CachingMaterialsManager {
    /// Returns a builder for a manager that keeps the data keys of `source`.
    ///
    /// `source` is not asked again while its materials are cached. Therefore place a manager that
    /// checks requests above this one, not below it.
    pub fn builder(source: impl MaterialsManager + 'static) -> CachingBuilder {
        let policy = Policy {
            max_age: Duration::from_mins(5),
            check_every: None,
            max_messages: MAX_MESSAGES,
            max_bytes: MAX_BYTES,
            stale: Duration::ZERO,
            refuse_for: Duration::from_secs(1),
            max_backoff: Duration::from_secs(5),
            refresh_ahead: true,
            jitter: fastrand::f64(),
        };
        CachingBuilder {
            source: Arc::new(source),
            cache: None,
            partition: None,
            policy,
            prime_decrypt: false,
        }
    }
}

/// Builds a [`CachingMaterialsManager`]. Created by [`CachingMaterialsManager::builder`].
///
/// # Examples
///
/// Two tenants share a cache, but no data keys. A revoked key works for at most one minute, and an
/// outage of KMS of up to ten minutes is bridged:
///
/// ```
/// use std::time::Duration;
/// use envelope::{DataKey, EncryptionContext, Envelope, Error, keyring::RawAesKeyring};
/// use envelope::materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache};
///
/// let cache = MaterialsCache::new(10_000);
/// let tenant = |name: &str, wrapping_key: &DataKey| {
///     let keyring = RawAesKeyring::new("tenants", name, wrapping_key)?;
///     let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring))
///         .cache(&cache)
///         .partition_id(name)
///         .max_age(Duration::from_secs(60))
///         .serve_stale_for(Duration::from_secs(600))
///         .build()?;
///     Envelope::builder(manager).build()
/// };
/// let acme = tenant("acme", &DataKey::generate(32)?)?.blocking();
/// let other = tenant("other", &DataKey::generate(32)?)?.blocking();
///
/// let context = EncryptionContext::new([("purpose", "card number")])?;
/// let message = acme.encrypt(b"4111 1111 1111 1111", &context)?;
/// assert!(other.decrypt(&message, &context).is_err());
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct CachingBuilder {
    source: Arc<dyn MaterialsManager>,
    cache: Option<MaterialsCache>,
    partition: Option<Arc<str>>,
    policy: Policy,
    prime_decrypt: bool,
}

impl CachingBuilder {
    /// Sets the maximum age of a data key, counted from its request. Default: 5 minutes. Allowed:
    /// over zero.
    ///
    /// This is also the longest time that a data key stays in use after KMS would refuse it. Ages
    /// are read from the cache's [`Clock`](crate::Clock), which includes suspended time on Linux.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.policy.max_age = max_age;
        self
    }

    /// Sets the maximum number of messages that are encrypted under one data key. Default: 2^32.
    /// Allowed: 1 to 2^32.
    pub fn max_messages(mut self, max_messages: u64) -> Self {
        self.policy.max_messages = max_messages;
        self
    }

    /// Sets the maximum number of plaintext bytes that are encrypted under one data key. Default:
    /// 2^63 - 1. Allowed: 0 to 2^63 - 1.
    ///
    /// A longer message gets its own data key, which is not cached.
    pub fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.policy.max_bytes = max_bytes;
        self
    }

    /// Sets whether the next data key is fetched in the background before the current one reaches a
    /// limit. Default: `true`.
    ///
    /// A refresh starts when one of these conditions holds:
    ///
    /// - The data key has reached 70 to 80 % of `max_age`. If requests are slow, this happens
    ///   earlier, but not before 50 %. The exact point is random for each process, so that a fleet
    ///   does not refresh at the same time.
    /// - 40 to 50 % of its messages or bytes are used.
    /// - At the current rate, it would reach a limit within four times the duration of a request.
    /// - It would be too old at the use after the next one, if uses continue at the last interval.
    ///
    /// With `false`, or without the feature `tokio`, a caller that finds no usable data key waits
    /// for the next one.
    pub fn refresh_ahead(mut self, ahead: bool) -> Self {
        self.policy.refresh_ahead = ahead;
        self
    }

    /// Sets how long a data key is used past its `max_age` while KMS is unavailable. Default: zero.
    /// Allowed: any.
    ///
    /// KMS counts as unavailable if a request for a new data key failed by throttling, a timeout, a
    /// connection error or an internal error. A refusal does not count, nor do expired or missing
    /// credentials, nor the pool's own budget
    /// ([`OverBudget`](crate::keyring::KeyringErrorKind::OverBudget)).
    ///
    /// `max_messages` and `max_bytes` still apply. A revocation takes up to this time longer to
    /// take effect.
    ///
    /// After `max_age`, callers wait until the first request has failed, unless a refresh ahead has
    /// detected the outage before. Set `KmsPoolBuilder::operation_timeout` below your callers'
    /// deadline. With the feature `tokio`, the request continues after its callers are cancelled,
    /// so that later callers benefit from its outcome.
    pub fn serve_stale_for(mut self, duration: Duration) -> Self {
        self.policy.stale = duration;
        self
    }

    /// Sets how long permanent failures are remembered. Default: 1 second. Allowed: any; zero
    /// remembers none.
    ///
    /// Permanent failures are denied access, a disabled or missing KMS key, and an encrypted data
    /// key that cannot be unwrapped. While a failure is remembered, calls for the same entry fail
    /// at once with [`Error::Remembered`]. If nobody may use the wrapping key, calls for every
    /// entry under it fail as well.
    pub fn remember_failures_for(mut self, duration: Duration) -> Self {
        self.policy.refuse_for = duration;
        self
    }

    /// Sets the maximum pause between requests for one entry after retryable failures, such as
    /// throttling. Default: 5 seconds. Allowed: any; with zero, each call sends a request.
    ///
    /// The pause is 50 to 100 milliseconds after the first failure, and doubles with each further
    /// one. Calls during a pause fail at once with [`Error::Remembered`].
    pub fn max_backoff(mut self, duration: Duration) -> Self {
        self.policy.max_backoff = duration;
        self
    }

    /// Sets the cache, which other managers may share. Default: a new cache with 1,000 entries.
    pub fn cache(mut self, cache: &MaterialsCache) -> Self {
        self.cache = Some(cache.clone());
        self
    }

    /// Sets the cache partition. Default: a random id, so that nothing is shared.
    ///
    /// Managers on the same cache share entries only if their partition ids are equal and their
    /// sources use the same wrapping keys in the same order: see
    /// [`Keyring::identity`](crate::keyring::Keyring::identity). A manager with a new wrapping key
    /// therefore never encrypts under the old one.
    ///
    /// Share a partition only between managers whose principals have the same permissions and whose
    /// limits are equal: each manager uses the entries that the others loaded.
    pub fn partition_id(mut self, partition_id: &str) -> Self {
        self.partition = Some(partition_id.into());
        self
    }

    /// Sets whether a data key that was generated for encryption also decrypts the messages of this
    /// process, without a request to KMS. Default: `false`.
    ///
    /// This saves the `Decrypt` requests of a process that decrypts its own messages. It also skips
    /// the permission check: a principal with `kms:GenerateDataKey`, but without `kms:Decrypt`, can
    /// decrypt the messages of this process as long as their data key is cached. While that data
    /// key is in use, KMS is asked at 70 to 80 % of its age. If it refuses, the entries for
    /// encryption under that KMS key are dropped, too. So do not set this for a principal that may
    /// not decrypt.
    ///
    /// ```
    /// # use envelope::{DataKey, keyring::RawAesKeyring};
    /// # use envelope::materials::{CachingMaterialsManager, DefaultMaterialsManager};
    /// # let keyring = RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?;
    /// let source = DefaultMaterialsManager::new(keyring);
    /// let manager = CachingMaterialsManager::builder(source).prime_decrypt(true).build()?;
    /// # Ok::<(), envelope::Error>(())
    /// ```
    pub fn prime_decrypt(mut self, prime: bool) -> Self {
        self.prime_decrypt = prime;
        self
    }

    /// Builds the manager.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for a limit out of its range, and for a
    /// [`partition_id`](Self::partition_id) if the identity of the source's wrapping keys is
    /// unknown. [`Error::Random`] if the system's random number generator fails.
    pub fn build(self) -> Result<CachingMaterialsManager, Error> {
        let Policy { max_age, max_messages, max_bytes, .. } = self.policy;
        if max_age.is_zero() {
            return Err(Error::invalid_setting(
                "max_age",
                "expected over zero: to cache nothing, use DefaultMaterialsManager",
            ));
        }
        if !(1..=MAX_MESSAGES).contains(&max_messages) {
            return Err(Error::invalid_setting(
                "max_messages",
                format!("expected 1 to 2^32, got {max_messages}"),
            ));
        }
        if max_bytes > MAX_BYTES {
            return Err(Error::invalid_setting(
                "max_bytes",
                format!("expected 0 to 2^63 - 1, got {max_bytes}"),
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
            tenure: Tenure::new(self.source.keyring().map_or(0, Keyring::tenure)),
            source: self.source,
            cache: self.cache.unwrap_or_default(),
            partition,
            policy: self.policy,
            backoffs: Failures::new(WRAPPING_KEYS),
            probes: Probes::default(),
            prime_decrypt: self.prime_decrypt,
        })))
    }
}

/// Returns the cache partition for this id and for keyrings with this identity.
/// [`Key::partition_id`](crate::cache::key::Key::partition_id) depends on the format of the result.
fn partition(id: &str, identity: &str) -> String {
    let digest = u128::from_be_bytes(*Sha256::digest(identity).first_chunk().expect("of 32 bytes"));
    format!("{id}/{digest:032x}")
}
