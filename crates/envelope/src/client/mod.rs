//! The client: the only place that asks for materials and then seals or opens with them.

mod batch;
mod blocking;
mod builder;
mod decrypt;
mod decrypted;
mod encrypt;
mod prepared;
mod readiness;
mod required_keys;
mod turns;

use std::{io, sync::Arc};

pub use self::{
    blocking::BlockingEnvelope, builder::EnvelopeBuilder, decrypted::Decrypted,
    prepared::PreparedContext,
};
use self::{readiness::Warmed, required_keys::RequiredKeys};

use crate::{
    context::EncryptionContext,
    error::Error,
    format::{encrypted_data_key, header::ContentType},
    keyring::Keyring,
    materials::{
        CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache, MaterialsManager,
    },
    message::workers::Workers,
    stream::{DecryptionMode, Decryptor, Encryptor, UnverifiedHeader},
    suite::{AlgorithmSuite, CommitmentPolicy},
};

/// Encrypts and decrypts messages in the AWS Encryption SDK format. Cheap to clone; share one per
/// process.
///
/// ```
/// use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
/// let wrapping_key = DataKey::generate(32)?;
/// let envelope = Envelope::new(RawAesKeyring::new("example", "key", &wrapping_key)?)?;
///
/// let context = EncryptionContext::new([("tenant", "42")])?;
/// let message = envelope.encrypt(b"4111 1111 1111 1111", &context).await?;
/// let opened = envelope.decrypt(&message, &context).await?;
/// assert_eq!(opened.plaintext(), b"4111 1111 1111 1111");
/// # Ok(()) }
/// ```
///
/// # Long messages
///
/// Async calls process 256 KiB at a time, which takes about 0.1 ms, and let other tasks run in
/// between, so that a long message does not block the executor. (A frame of less than 1 KiB counts
/// as 1 KiB. A frame is processed in one piece, and so is a body that is [not
/// framed](EnvelopeBuilder::framed).) The plaintext of a message that turns out not to be authentic
/// is wiped the same way. If a call is cancelled, it is wiped at once, in about 0.1 ms per
/// megabyte. To keep the work off the executor's threads altogether, encrypt owned data on a thread
/// that may block:
///
/// ```
/// # #[cfg(feature = "tokio")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
/// # let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
/// let tenant = envelope.prepare(&EncryptionContext::new([("tenant", "42")])?)?;
/// let scan = vec![7; 5_000_000];
/// tenant.encrypt(b"").await?; // now its data key is there
/// let message = tokio::task::spawn_blocking(move || tenant.try_encrypt(&scan)).await??;
/// # Ok(()) }
/// # #[cfg(not(feature = "tokio"))]
/// # fn main() {}
/// ```
#[derive(Debug, Clone)]
pub struct Envelope {
    manager: Arc<dyn MaterialsManager>,
    required_keys: RequiredKeys,
    policy: CommitmentPolicy,
    suite: AlgorithmSuite,
    content_type: ContentType,
    max_encrypted_data_keys: usize,
    workers: Workers,
    warmed: Warmed,
}

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

    /// A client over a materials manager: [`CachingMaterialsManager`] to reuse data keys,
    /// [`DefaultMaterialsManager`] for a new one per message.
    pub fn builder(manager: impl MaterialsManager + 'static) -> EnvelopeBuilder {
        EnvelopeBuilder::new(Arc::new(manager))
    }

    /// The cache of this client's data keys; `None` if its materials manager has no cache.
    ///
    /// ```
    /// # use envelope::{DataKey, Envelope, keyring::RawAesKeyring};
    /// # let keyring = RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?;
    /// let envelope = Envelope::new(keyring)?;
    /// let cache = envelope.cache().expect("`Envelope::new` caches");
    /// assert_eq!(cache.stats().encryption.entries, 0);
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn cache(&self) -> Option<&MaterialsCache> {
        self.manager.cache()
    }

    /// Starts a message that is encrypted as a stream, bound to `context`: see
    /// [`stream`](crate::stream). Waits only if no data key is cached.
    ///
    /// `plaintext_bound` is the maximum length of the plaintext in bytes: this many bytes are
    /// reserved under a cached data key, and a longer plaintext is an error. With `None`, the
    /// message gets its own data key.
    ///
    /// # Errors
    ///
    /// The errors of [`encrypt`](Self::encrypt).
    pub async fn encryptor(
        &self,
        context: &EncryptionContext,
        plaintext_bound: Option<u64>,
    ) -> Result<Encryptor, Error> {
        let materials = self.encryption_materials(context, plaintext_bound).await?;
        self.check_materials(&materials)?;
        Encryptor::start(materials, self.content_type, plaintext_bound, self.workers.clone())
    }

    /// Reads the header of a message off `source`, and no byte more; `source` is best buffered.
    ///
    /// # Errors
    ///
    /// The errors of `source`, and with [`Error`] inside, errors of the header's format.
    pub fn read_header(&self, source: &mut impl io::Read) -> io::Result<UnverifiedHeader> {
        UnverifiedHeader::read(source, self.max_encrypted_data_keys)
    }

    /// Reads like [`read_header`](Self::read_header), and waits where there is nothing to read.
    ///
    /// # Errors
    ///
    /// Those of [`read_header`](Self::read_header).
    #[cfg(feature = "tokio")]
    pub async fn read_header_async(
        &self,
        source: &mut (impl tokio::io::AsyncRead + Unpin),
    ) -> io::Result<UnverifiedHeader> {
        UnverifiedHeader::read_async(source, self.max_encrypted_data_keys).await
    }

    /// Verifies the header of a message, whose body then is opened as a stream, see
    /// [`stream`](crate::stream). Waits only where its data key is not cached.
    ///
    /// The message must authenticate every pair of `context`, as in [`decrypt`](Self::decrypt).
    ///
    /// # Errors
    ///
    /// [`Error::SignedMessage`] for what `mode` does not allow, and those of
    /// [`decrypt`](Self::decrypt).
    pub async fn decryptor(
        &self,
        header: &UnverifiedHeader,
        context: &EncryptionContext,
        mode: DecryptionMode,
    ) -> Result<Decryptor, Error> {
        let unverified = header.parsed();
        encrypted_data_key::check_count(
            unverified.encrypted_data_keys.count(),
            self.max_encrypted_data_keys,
        )?;
        mode.check(unverified.suite)?;
        let opener = self.opener(&unverified, context).await?;
        Ok(Decryptor::start(opener, header.length(), self.workers.clone()))
    }
}
