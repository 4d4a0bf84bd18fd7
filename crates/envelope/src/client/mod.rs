//! The client: the only place that asks for materials and then seals or opens with them.

mod builder;
mod decrypted;
mod prepared;
mod readiness;

use std::{io, sync::Arc};

use self::readiness::Warmed;
pub use self::{builder::EnvelopeBuilder, decrypted::Decrypted, prepared::PreparedContext};

use crate::{
    context::EncryptionContext,
    error::Error,
    format::{
        encrypted_data_key,
        header::{self, ContentType},
    },
    keyring::Keyring,
    materials::{
        CachingMaterialsManager, DecryptionMaterialsRequest, DefaultMaterialsManager, EncryptionMaterials,
        EncryptionMaterialsRequest, MaterialsManager,
    },
    message::{
        open::{self, Opener},
        seal,
    },
    stream::{DecryptionMode, Decryptor, Encryptor, UnverifiedHeader},
    suite::{AlgorithmSuite, CommitmentPolicy},
};

/// Seals and opens messages in the AWS Encryption SDK format. Cheap to clone; share one per process.
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
#[derive(Debug, Clone)]
pub struct Envelope {
    manager: Arc<dyn MaterialsManager>,
    policy: CommitmentPolicy,
    suite: AlgorithmSuite,
    content_type: ContentType,
    max_encrypted_data_keys: usize,
    warmed: Warmed,
}

impl Envelope {
    /// A client that caches the data keys of `keyring` within the defaults of
    /// [`CachingMaterialsManager`]. Its cache can't be reached: use that and [`builder`](Self::builder) to see or invalidate it.
    ///
    /// # Errors
    ///
    /// [`Error::Random`] when the system's random number generator fails.
    pub fn new(keyring: impl Keyring + 'static) -> Result<Self, Error> {
        let source = DefaultMaterialsManager::new(keyring);
        Self::builder(CachingMaterialsManager::builder(source).build()?).build()
    }

    /// A client over a materials manager: [`CachingMaterialsManager`] to reuse data keys,
    /// [`DefaultMaterialsManager`] for a new one per message.
    pub fn builder(manager: impl MaterialsManager + 'static) -> EnvelopeBuilder {
        EnvelopeBuilder::new(Arc::new(manager))
    }

    /// Seals `plaintext`, bound to `context`, into one message. Waits only where no data key is cached.
    ///
    /// A deadline is `tokio::time::timeout`'s matter: a caller who gives up leaves nothing behind, and wedges nobody.
    ///
    /// Sealing itself runs on the calling thread, at about 1 ms for each 2 MiB: move it off the async
    /// workers for plaintexts of many megabytes.
    ///
    /// # Errors
    ///
    /// [`Error::DataKeyUnavailable`] when the keyring can't supply a data key,
    /// [`Error::InvalidEncryptionContext`] for a key that starts with `aws-crypto-`,
    /// [`Error::RequiredContextMissing`], [`Error::PlaintextTooLong`],
    /// [`Error::TooManyEncryptedDataKeys`], [`Error::Random`].
    pub async fn encrypt(&self, plaintext: &[u8], context: &EncryptionContext) -> Result<Vec<u8>, Error> {
        let materials = self.encryption_materials(context, Some(plaintext.len() as u64)).await?;
        self.seal(&materials, plaintext)
    }

    /// Seals like [`encrypt`](Self::encrypt), but never waits, and fetches nothing that is missing: on
    /// [`Error::NotCached`], fall back to that.
    ///
    /// # Errors
    ///
    /// [`Error::NotCached`] when no usable data key is cached, and those of [`encrypt`](Self::encrypt).
    pub fn try_encrypt(&self, plaintext: &[u8], context: &EncryptionContext) -> Result<Vec<u8>, Error> {
        let request = self.encryption_request(context, Some(plaintext.len() as u64))?;
        let materials = self.manager.try_encryption_materials(request)?.ok_or(Error::NotCached)?;
        self.seal(&materials, plaintext)
    }

    /// Opens one whole message.
    ///
    /// The message must authenticate every pair of `context`: either store it, or have been sealed with it as
    /// required context. It may store more, see [`Decrypted::encryption_context`]. Of a signed message nothing is
    /// returned before its signature is verified.
    ///
    /// # Errors
    ///
    /// [`Error::EncryptionContextMismatch`], [`Error::RequiredContextMissing`], [`Error::CommitmentPolicy`],
    /// [`Error::DataKeyNotUnwrapped`], [`Error::Authentication`], or what is wrong with the message's form.
    pub async fn decrypt(&self, message: &[u8], context: &EncryptionContext) -> Result<Decrypted, Error> {
        let (header, body) = open::read_header(message, self.max_encrypted_data_keys)?;
        decrypted(self.opener(&header, context).await?, message, body)
    }

    /// Opens like [`decrypt`](Self::decrypt), but never waits.
    ///
    /// # Errors
    ///
    /// [`Error::NotCached`] when the message's data key is not cached, and those of
    /// [`decrypt`](Self::decrypt).
    pub fn try_decrypt(&self, message: &[u8], context: &EncryptionContext) -> Result<Decrypted, Error> {
        let (header, body) = open::read_header(message, self.max_encrypted_data_keys)?;
        self.check_header(&header, context)?;
        let required = context.without(header.encryption_context);
        let request = decryption_request(&header, context, &required);
        let materials = self.manager.try_decryption_materials(request)?.ok_or(Error::NotCached)?;
        check_suite(materials.suite(), header.suite)?;
        decrypted(Opener::start(&header, materials)?, message, body)
    }

    /// Starts a message that is sealed as a stream, bound to `context`, see [`stream`](crate::stream). Waits only where no data key
    /// is cached.
    ///
    /// `plaintext_bound` is how many bytes the plaintext has, at the most: so many are reserved under a cached data
    /// key, and one more is an error. With `None`, the message gets a data key of its own.
    ///
    /// # Errors
    ///
    /// Those of [`encrypt`](Self::encrypt).
    pub async fn encryptor(
        &self,
        context: &EncryptionContext,
        plaintext_bound: Option<u64>,
    ) -> Result<Encryptor, Error> {
        let materials = self.encryption_materials(context, plaintext_bound).await?;
        self.check_materials(&materials)?;
        Encryptor::start(materials, self.content_type, plaintext_bound)
    }

    /// Reads the header of a message off `source`, and no byte more; `source` is best buffered.
    ///
    /// # Errors
    ///
    /// Those of `source`, and with [`Error`] inside, what is wrong with the header's form.
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

    /// Verifies the header of a message, whose body then is opened as a stream, see [`stream`](crate::stream). Waits only where its
    /// data key is not cached.
    ///
    /// The message must authenticate every pair of `context`, as in [`decrypt`](Self::decrypt).
    ///
    /// # Errors
    ///
    /// [`Error::SignedMessage`] for what `mode` does not allow, and those of [`decrypt`](Self::decrypt).
    pub async fn decryptor(
        &self,
        header: &UnverifiedHeader,
        context: &EncryptionContext,
        mode: DecryptionMode,
    ) -> Result<Decryptor, Error> {
        let unverified = header.parsed();
        encrypted_data_key::check_count(unverified.encrypted_data_keys.count(), self.max_encrypted_data_keys)?;
        mode.check(unverified.suite)?;
        let opener = self.opener(&unverified, context).await?;
        Ok(Decryptor::start(opener, header.length()))
    }

    async fn encryption_materials(
        &self,
        context: &EncryptionContext,
        plaintext_bound: Option<u64>,
    ) -> Result<Arc<EncryptionMaterials>, Error> {
        let request = self.encryption_request(context, plaintext_bound)?;
        match self.manager.try_encryption_materials(request)? {
            Some(materials) => Ok(materials),
            None => self.manager.encryption_materials(request).await,
        }
    }

    /// Verifies a header under the data key that the materials manager has for it.
    async fn opener(
        &self,
        header: &header::UnverifiedHeader<'_>,
        context: &EncryptionContext,
    ) -> Result<Opener, Error> {
        self.check_header(header, context)?;
        let required = context.without(header.encryption_context);
        let request = decryption_request(header, context, &required);
        if let Some(materials) = self.manager.try_decryption_materials(request)? {
            check_suite(materials.suite(), header.suite)?;
            return Opener::start(header, materials);
        }
        let materials = self.manager.decryption_materials(request).await?;
        check_suite(materials.suite(), header.suite)?;
        let opener = Opener::start(header, materials);
        self.manager.decryption_served(request, opener.is_ok());
        opener
    }

    fn encryption_request<'a>(
        &self,
        encryption_context: &'a EncryptionContext,
        plaintext_length: Option<u64>,
    ) -> Result<EncryptionMaterialsRequest<'a>, Error> {
        if encryption_context.reserved_key().is_some() {
            let problem = "keys that start with `aws-crypto-` are reserved for the message format";
            return Err(Error::InvalidEncryptionContext { problem });
        }
        seal::check_length(plaintext_length.unwrap_or(0), self.content_type)?;
        Ok(EncryptionMaterialsRequest::new(self.suite, encryption_context, plaintext_length))
    }

    fn seal(&self, materials: &EncryptionMaterials, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        self.check_materials(materials)?;
        seal::seal(materials, plaintext, self.content_type)
    }

    /// Policy, legacy suites and caching were decided for the suite that was asked for.
    fn check_materials(&self, materials: &EncryptionMaterials) -> Result<(), Error> {
        check_suite(materials.suite(), self.suite)?;
        encrypted_data_key::check_count(materials.encrypted_data_key_count(), self.max_encrypted_data_keys)
    }

    /// Checks a header against the policy and the supplied context.
    fn check_header(&self, header: &header::UnverifiedHeader<'_>, supplied: &EncryptionContext) -> Result<(), Error> {
        let (suite, policy) = (header.suite, self.policy);
        if !policy.allows_decryption(suite) {
            return Err(Error::CommitmentPolicy { suite, policy });
        }
        match supplied.first_contradiction(header.encryption_context) {
            Some(key) => Err(Error::EncryptionContextMismatch { key: key.to_owned() }),
            None => Ok(()),
        }
    }
}

/// What a header asks of the materials manager.
fn decryption_request<'a>(
    header: &header::UnverifiedHeader<'a>,
    supplied_context: &'a EncryptionContext,
    required_context: &'a EncryptionContext,
) -> DecryptionMaterialsRequest<'a> {
    DecryptionMaterialsRequest {
        suite: header.suite,
        encrypted_data_keys: header.encrypted_data_keys,
        supplied_context,
        required_context,
        stored_context: header.encryption_context,
        background: false,
    }
}

/// Refuses materials for another suite than was asked for.
fn check_suite(supplied: AlgorithmSuite, asked: AlgorithmSuite) -> Result<(), Error> {
    if supplied != asked {
        let problem = format!("for suite {supplied}, but {asked} was asked for");
        return Err(Error::invalid_setting("materials", problem));
    }
    Ok(())
}

fn decrypted(mut opener: Opener, message: &[u8], body: usize) -> Result<Decrypted, Error> {
    let plaintext = open::open_rest(&mut opener, message, body)?;
    let materials = opener.materials();
    Ok(Decrypted { plaintext, encryption_context: materials.encryption_context().clone(), suite: materials.suite() })
}
