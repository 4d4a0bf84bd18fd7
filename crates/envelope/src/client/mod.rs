//! The client: obtains materials, and encrypts or decrypts messages with them.

mod batch;
mod blocking;
mod builder;
mod decrypt;
mod decrypted;
mod encrypt;
mod prepared;
mod readiness;
mod reencrypt;
mod required_keys;
mod warmed;
mod yielding;

use std::{io, sync::Arc};

pub use self::{
    blocking::BlockingEnvelope, builder::EnvelopeBuilder, decrypted::Decrypted,
    prepared::PreparedContext,
};
use self::{required_keys::RequiredKeys, warmed::Warmed};

use crate::{
    context::EncryptionContext,
    error::Error,
    format::{encrypted_data_key, header::ContentType},
    materials::{MaterialsCache, MaterialsManager},
    message::workers::Workers,
    stream::{Decryptor, Encryptor, UnverifiedHeader},
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
/// let decrypted = envelope.decrypt(&message, &context).await?;
/// assert_eq!(decrypted.plaintext(), b"4111 1111 1111 1111");
/// # Ok(()) }
/// ```
///
/// # Long messages
///
/// Async methods process 256 KiB at a time, which takes about 0.1 ms, and yield to other tasks in
/// between, so that long messages do not block the executor. They do not yield within a frame, or
/// within a body that is [not framed](EnvelopeBuilder::framed): a frame of 64 MiB blocks for about
/// 25 ms. (A frame shorter than 1 KiB counts as 1 KiB.) If authentication fails, the plaintext is
/// wiped in the same steps. If you drop the future, the plaintext is wiped at once, in about 0.1 ms
/// per megabyte.
///
/// To keep the work off the executor's threads, use `spawn_blocking` with owned data:
///
/// ```
/// # #[cfg(feature = "tokio")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
/// # let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
/// let tenant = EncryptionContext::new([("tenant", "42")])?;
/// let scan = vec![7; 5_000_000];
/// let envelope = envelope.blocking();
/// let message = tokio::task::spawn_blocking(move || envelope.encrypt(&scan, &tenant)).await??;
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
    /// Returns the cache of this client's data keys; `None` if its materials manager has no cache.
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

    /// Starts a streaming encryption, bound to `context`: see [`stream`](crate::stream). Waits only
    /// if no data key is cached.
    ///
    /// `plaintext_bound` is the maximum length of the plaintext in bytes. This many bytes are
    /// reserved under a cached data key, and a longer plaintext fails with
    /// [`Error::PlaintextBoundExceeded`]. With `None`, the message gets its own data key.
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

    /// Reads the header of a message from `source`, and no byte more. Use a buffered `source`.
    ///
    /// # Errors
    ///
    /// The errors of `source`. For a malformed header, [`Error::in_io`] returns the [`Error`].
    pub fn read_header(&self, source: &mut impl io::Read) -> io::Result<UnverifiedHeader> {
        UnverifiedHeader::read(source, self.max_encrypted_data_keys)
    }

    /// Like [`read_header`](Self::read_header), for an async source.
    ///
    /// # Errors
    ///
    /// The errors of [`read_header`](Self::read_header).
    #[cfg(feature = "tokio")]
    pub async fn read_header_async(
        &self,
        source: &mut (impl tokio::io::AsyncRead + Unpin),
    ) -> io::Result<UnverifiedHeader> {
        UnverifiedHeader::read_async(source, self.max_encrypted_data_keys).await
    }

    /// Verifies the header of a message, and returns a [`Decryptor`] for its body: see
    /// [`stream`](crate::stream). Waits only if its data key is not cached.
    ///
    /// The message must authenticate every pair of `context`, as in [`decrypt`](Self::decrypt).
    ///
    /// # Errors
    ///
    /// [`Error::SignedMessage`] if the message is signed: see
    /// [`decryptor_before_signature`](Self::decryptor_before_signature). Otherwise the errors of
    /// [`decrypt`](Self::decrypt).
    pub async fn decryptor(
        &self,
        header: &UnverifiedHeader,
        context: &EncryptionContext,
    ) -> Result<Decryptor, Error> {
        match header.suite() {
            suite if suite.is_signed() => Err(Error::SignedMessage { suite }),
            _ => self.decryptor_before_signature(header, context).await,
        }
    }

    /// Like [`decryptor`](Self::decryptor), but also decrypts signed messages. Their frames, except
    /// the last one, are released **before the signature is verified**.
    ///
    /// Until you have read to the end without an error, the data may come from anyone who can
    /// *decrypt* the message, not only from the signer: do not act on it before.
    ///
    /// # Errors
    ///
    /// The errors of [`decrypt`](Self::decrypt).
    pub async fn decryptor_before_signature(
        &self,
        header: &UnverifiedHeader,
        context: &EncryptionContext,
    ) -> Result<Decryptor, Error> {
        let unverified = header.parsed();
        encrypted_data_key::check_count(
            unverified.encrypted_data_keys.count(),
            self.max_encrypted_data_keys,
        )?;
        let opener = self.opener(&unverified, context).await?;
        Ok(Decryptor::start(opener, header.length(), self.workers.clone()))
    }
}
