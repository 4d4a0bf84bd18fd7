//! How a client is set.

use std::sync::Arc;

use super::{Envelope, readiness::Warmed, required_keys::RequiredKeys};
use crate::{
    error::Error,
    format::header::ContentType,
    materials::MaterialsManager,
    message::workers::Workers,
    suite::{AlgorithmSuite, CommitmentPolicy},
};

/// A hostile message could otherwise make one decryption cost thousands of KMS requests.
const DEFAULT_MAX_ENCRYPTED_DATA_KEYS: usize = 16;
const DEFAULT_FRAME_LENGTH: u32 = 4096;

/// Builds an [`Envelope`].
#[derive(Debug)]
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
    pub(super) fn new(manager: Arc<dyn MaterialsManager>) -> Self {
        Self {
            manager,
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

    /// Requires these keys in every encryption context, and keeps their pairs out of messages.
    ///
    /// A message is then bound to pairs that it does not contain. Without them, or with other
    /// values, decryption fails. Use this for pairs that every reader knows from where the message
    /// is stored, such as its tenant or table: a message that was moved elsewhere does not decrypt
    /// there. Older messages that store the pairs still decrypt, if the supplied values are equal.
    /// Default: none.
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
    /// let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring)).build()?;
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
    #[must_use]
    pub fn required_keys(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.required_keys = keys.into_iter().map(Into::into).collect();
        self
    }

    /// Whether messages must commit to their data key, to be encrypted or decrypted. Default:
    /// [`CommitmentPolicy::RequireEncryptRequireDecrypt`].
    #[must_use]
    pub fn commitment_policy(mut self, policy: CommitmentPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The suite that messages are encrypted with. Default: `0x0478`, or `0x0178` where the policy
    /// forbids commitment. Signed suites need the feature `aws-lc-rs`.
    #[must_use]
    pub fn suite(mut self, suite: AlgorithmSuite) -> Self {
        self.suite = Some(suite);
        self
    }

    /// Allows writing the suites without key derivation: `0x0014`, `0x0046`, `0x0078`. Default:
    /// `false`. For readers that know nothing else; such a data key is never cached.
    #[must_use]
    pub fn legacy_suites(mut self, allowed: bool) -> Self {
        self.legacy_suites = allowed;
        self
    }

    /// How many plaintext bytes a frame holds. Default: 4096. Allowed: 1 to 2^32 - 1.
    ///
    /// Longer frames cost less per byte, shorter ones let a streaming reader start sooner. The
    /// Python client writes only multiples of 128, but reads any.
    #[must_use]
    pub fn frame_length(mut self, frame_length: u32) -> Self {
        self.frame_length = frame_length;
        self
    }

    /// Whether the body is cut into frames. Default: `true`. `false` writes it in one piece, of at
    /// most 64 GiB, for readers from before frames.
    #[must_use]
    pub fn framed(mut self, framed: bool) -> Self {
        self.framed = framed;
        self
    }

    /// How many encrypted data keys a message may have, in encryption and decryption. Default: 16.
    /// Allowed: 1 to 65,535.
    ///
    /// A hostile message could otherwise make one decryption cost thousands of KMS requests.
    #[must_use]
    pub fn max_encrypted_data_keys(mut self, limit: usize) -> Self {
        self.max_encrypted_data_keys = limit;
        self
    }

    /// How many threads encrypt or decrypt one long message together, frame by frame. Default: 1,
    /// the caller's thread. Allowed: 1 to 256.
    ///
    /// Applies to messages and streams from 128 KiB on, but not to `decrypt_in_place`. Several
    /// threads belong to this client and its clones, and the caller's thread waits for them.
    ///
    /// For programs that wait for one file. A server whose cores are busy anyway gains nothing, and
    /// async calls process 256 KiB for each of the threads before it lets other tasks run.
    /// Called on a thread of another pool of rayon's, that thread may do other work of its pool
    /// while it waits: hold no lock there.
    ///
    /// ```
    /// # use envelope::{DataKey, Envelope, keyring::RawAesKeyring, materials::DefaultMaterialsManager};
    /// # let keyring = RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?;
    /// let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring)).threads(4).build()?;
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[cfg(feature = "parallel")]
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Builds the client.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for a setting out of its range, [`Error::CommitmentPolicy`] for a
    /// suite that the policy does not allow to be written.
    pub fn build(self) -> Result<Envelope, Error> {
        let Self { manager, policy, frame_length, max_encrypted_data_keys, .. } = self;
        if frame_length == 0 {
            return Err(Error::invalid_setting("frame_length", "0 is not in 1..=2^32-1"));
        }
        if !(1..=usize::from(u16::MAX)).contains(&max_encrypted_data_keys) {
            let problem = format!("{max_encrypted_data_keys} is not in 1..=65535");
            return Err(Error::invalid_setting("max_encrypted_data_keys", problem));
        }
        let suite = self.suite.unwrap_or(policy.default_suite());
        if !policy.allows_encryption(suite) {
            return Err(Error::CommitmentPolicy { suite, policy });
        }
        if suite.is_legacy() && !self.legacy_suites {
            let problem = format!(
                "{suite} seals without key derivation: call `legacy_suites(true)` if it must be"
            );
            return Err(Error::invalid_setting("suite", problem));
        }
        if suite.is_signed() && cfg!(not(feature = "aws-lc-rs")) {
            return Err(Error::invalid_setting(
                "suite",
                format!("{suite} is signed: that takes the feature `aws-lc-rs`"),
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
