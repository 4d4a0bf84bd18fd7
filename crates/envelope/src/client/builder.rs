//! Builds a client.

use std::sync::Arc;

use super::{Envelope, required_keys::RequiredKeys, warmed::Warmed};
use crate::{
    error::Error,
    format::header::ContentType,
    keyring::Keyring,
    materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsManager},
    message::workers::Workers,
    suite::{AlgorithmSuite, CommitmentPolicy},
};

/// The default limit of encrypted data keys: each of them may cost a KMS request on decryption.
const DEFAULT_MAX_ENCRYPTED_DATA_KEYS: usize = 16;
const DEFAULT_FRAME_LENGTH: u32 = 4096;

impl Envelope {
    /// Creates a client that caches the data keys of `keyring`, with the default limits of
    /// [`CachingMaterialsManager`]. [`cache`](Self::cache) returns its cache.
    ///
    /// # Errors
    ///
    /// [`Error::Random`] if the system's random number generator fails.
    pub fn new(keyring: impl Keyring + 'static) -> Result<Self, Error> {
        let source = DefaultMaterialsManager::new(keyring);
        Self::builder(CachingMaterialsManager::builder(source).build()?).build()
    }

    /// Returns a builder for a client that uses `manager`: [`CachingMaterialsManager`] to reuse
    /// data keys, [`DefaultMaterialsManager`] to get a new one per message.
    pub fn builder(manager: impl MaterialsManager + 'static) -> EnvelopeBuilder {
        EnvelopeBuilder {
            manager: Arc::new(manager),
            required_keys: vec![],
            policy: CommitmentPolicy::default(),
            suite: None,
            legacy_suites: false,
            frame_length: DEFAULT_FRAME_LENGTH,
            framed: true,
            max_encrypted_data_keys: DEFAULT_MAX_ENCRYPTED_DATA_KEYS,
            threads: 1,
        }
    }
}

/// Builds an [`Envelope`]. Created by [`Envelope::builder`].
///
/// # Examples
///
/// A client for a service whose data keys are used for at most one minute, whose messages are bound
/// to their tenant, and which still reads messages from before key commitment:
///
/// ```
/// use std::time::Duration;
/// use envelope::{CommitmentPolicy, DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
/// use envelope::materials::{CachingMaterialsManager, DefaultMaterialsManager};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
/// let keyring = RawAesKeyring::new("payments", "2026", &DataKey::generate(32)?)?;
/// let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring))
///     .max_age(Duration::from_secs(60))
///     .build()?;
/// let envelope = Envelope::builder(manager)
///     .required_keys(["tenant"])
///     .commitment_policy(CommitmentPolicy::RequireEncryptAllowDecrypt)
///     .build()?;
///
/// let context = EncryptionContext::new([("tenant", "42")])?;
/// let message = envelope.encrypt(b"4111 1111 1111 1111", &context).await?;
/// assert!(envelope.decrypt(&message, &EncryptionContext::empty()).await.is_err());
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct EnvelopeBuilder {
    manager: Arc<dyn MaterialsManager>,
    required_keys: Vec<String>,
    policy: CommitmentPolicy,
    suite: Option<AlgorithmSuite>,
    legacy_suites: bool,
    frame_length: u32,
    framed: bool,
    max_encrypted_data_keys: usize,
    threads: usize,
}

impl EnvelopeBuilder {
    /// Requires these keys in every encryption context, and keeps their pairs out of messages.
    ///
    /// A message is then bound to pairs that it does not contain. Without them, or with other
    /// values, decryption fails. Use this for pairs that every reader knows from where the message
    /// is stored, such as its tenant or table: a message that was moved elsewhere does not decrypt
    /// there. Older messages that store the pairs still decrypt, if the supplied values are equal.
    /// Default: none. A second call replaces the keys of the first.
    ///
    /// The keys are checked in every operation, whether the data key is cached or not. (The
    /// specification calls this the required encryption context CMM.)
    ///
    /// ```
    /// use envelope::{DataKey, EncryptionContext, Envelope, Error, keyring::RawAesKeyring};
    /// use envelope::materials::{CachingMaterialsManager, DefaultMaterialsManager};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
    /// let keyring = RawAesKeyring::new("payments", "2026", &DataKey::generate(32)?)?;
    /// let source = DefaultMaterialsManager::new(keyring);
    /// let manager = CachingMaterialsManager::builder(source).build()?;
    /// let envelope = Envelope::builder(manager).required_keys(["tenant"]).build()?;
    ///
    /// let acme = EncryptionContext::new([("tenant", "acme"), ("purpose", "card number")])?;
    /// let message = envelope.encrypt(b"4111 1111 1111 1111", &acme).await?;
    /// assert!(!message.windows(4).any(|bytes| bytes == b"acme"));
    /// assert_eq!(envelope.decrypt(&message, &acme).await?.plaintext(), b"4111 1111 1111 1111");
    ///
    /// let forgotten = envelope.decrypt(&message, &EncryptionContext::empty()).await;
    /// assert!(matches!(forgotten, Err(Error::RequiredContextMissing { key }) if key == "tenant"));
    /// let other = EncryptionContext::new([("tenant", "other")])?;
    /// assert!(envelope.decrypt(&message, &other).await.is_err());
    /// # Ok(()) }
    /// ```
    pub fn required_keys(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.required_keys = keys.into_iter().map(Into::into).collect();
        self
    }

    /// Sets whether messages must commit to their data key, in encryption and in decryption.
    /// Default: [`CommitmentPolicy::RequireEncryptRequireDecrypt`].
    pub fn commitment_policy(mut self, policy: CommitmentPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the algorithm suite for encryption. Default: `0x0478`, or `0x0178` if the policy
    /// forbids commitment. Signed suites need the feature `aws-lc-rs`.
    pub fn suite(mut self, suite: AlgorithmSuite) -> Self {
        self.suite = Some(suite);
        self
    }

    /// Sets whether the suites without key derivation are allowed for encryption: `0x0014`,
    /// `0x0046` and `0x0078`. Default: `false`.
    ///
    /// Use them only for readers that support nothing else. Their data keys are never cached.
    pub fn legacy_suites(mut self, allowed: bool) -> Self {
        self.legacy_suites = allowed;
        self
    }

    /// Sets the number of plaintext bytes in a frame. Default: 4096. Allowed: 1 to 2^32 - 1.
    ///
    /// Longer frames cost less per byte. With shorter ones, a streaming reader gets its first bytes
    /// sooner. The Python client writes only multiples of 128, but reads any length.
    pub fn frame_length(mut self, frame_length: u32) -> Self {
        self.frame_length = frame_length;
        self
    }

    /// Sets whether the body is framed. Default: `true`.
    ///
    /// A non-framed body has at most 64 GiB. Use it only for readers that do not support frames.
    pub fn framed(mut self, framed: bool) -> Self {
        self.framed = framed;
        self
    }

    /// Sets the maximum number of encrypted data keys in a message, for encryption and decryption.
    /// Default: 16. Allowed: 1 to 65,535.
    ///
    /// Without a low limit, a hostile message could make one decryption cost thousands of KMS
    /// requests.
    pub fn max_encrypted_data_keys(mut self, limit: usize) -> Self {
        self.max_encrypted_data_keys = limit;
        self
    }

    /// Sets how many threads encrypt or decrypt one message of 128 KiB or more, in one call or as a
    /// stream. Default: 1, the calling thread. Allowed: 1 to 256.
    ///
    /// With more than one, this client and its clones own a pool of threads, and the calling thread
    /// waits for it. `decrypt_in_place` always uses the calling thread only.
    ///
    /// Use this in programs that process one file at a time. A server whose cores are busy gains
    /// nothing, and async methods process 256 KiB per thread before they yield.
    ///
    /// If you call the client on a thread of another `rayon` pool, that thread may run other jobs
    /// of its pool while it waits: do not hold a lock during the call.
    ///
    /// ```
    /// # use envelope::{DataKey, Envelope, keyring::RawAesKeyring};
    /// # use envelope::materials::DefaultMaterialsManager;
    /// # let keyring = RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?;
    /// let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring)).threads(4).build()?;
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[cfg(feature = "parallel")]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Builds the client.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidSetting`] for a setting out of its range, a legacy suite that is not
    ///   allowed, a signed suite without the feature `aws-lc-rs`, a reserved required key, or
    ///   threads that do not start.
    /// - [`Error::CommitmentPolicy`] for a suite that the policy does not allow for encryption.
    pub fn build(self) -> Result<Envelope, Error> {
        let Self { manager, policy, frame_length, max_encrypted_data_keys, .. } = self;
        if frame_length == 0 {
            return Err(Error::invalid_setting("frame_length", "expected 1 to 2^32 - 1, got 0"));
        }
        if !(1..=usize::from(u16::MAX)).contains(&max_encrypted_data_keys) {
            let problem = format!("expected 1 to 65535, got {max_encrypted_data_keys}");
            return Err(Error::invalid_setting("max_encrypted_data_keys", problem));
        }
        let suite = self.suite.unwrap_or(policy.default_suite());
        if !policy.allows_encryption(suite) {
            return Err(Error::CommitmentPolicy { suite, policy });
        }
        if suite.is_legacy() && !self.legacy_suites {
            let problem = format!(
                "{suite} has no key derivation: call `legacy_suites(true)` if you must write it"
            );
            return Err(Error::invalid_setting("suite", problem));
        }
        if suite.is_signed() && cfg!(not(feature = "aws-lc-rs")) {
            return Err(Error::invalid_setting(
                "suite",
                format!("{suite} is signed, which requires the feature `aws-lc-rs`"),
            ));
        }
        let content_type =
            if self.framed { ContentType::Framed { frame_length } } else { ContentType::NonFramed };
        Ok(Envelope {
            manager,
            required_keys: RequiredKeys::new(self.required_keys)?,
            policy,
            suite,
            content_type,
            max_encrypted_data_keys,
            workers: Workers::new(self.threads)?,
            warmed: Warmed::default(),
        })
    }
}
