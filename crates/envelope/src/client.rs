//! The client: the only place that asks for materials and then seals or opens with them.

use std::{fmt, io, sync::Arc};

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

/// A hostile message could otherwise make one decryption cost thousands of KMS requests.
const DEFAULT_MAX_ENCRYPTED_DATA_KEYS: usize = 16;
const DEFAULT_FRAME_LENGTH: u32 = 4096;
/// What a message leaves out of its stored context unless a materials manager says so.
static NOTHING_REQUIRED: EncryptionContext = EncryptionContext::empty();

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
}

impl Envelope {
    /// A client that caches the data keys of `keyring` within the defaults of
    /// [`CachingMaterialsManager`].
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
        EnvelopeBuilder {
            manager: Arc::new(manager),
            policy: CommitmentPolicy::default(),
            suite: None,
            legacy_suites: false,
            frame_length: DEFAULT_FRAME_LENGTH,
            framed: true,
            max_encrypted_data_keys: DEFAULT_MAX_ENCRYPTED_DATA_KEYS,
        }
    }

    /// Seals `plaintext`, bound to `context`, into one message. Waits only where no data key is cached.
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
        self.seal(materials, plaintext)
    }

    /// Seals like [`encrypt`](Self::encrypt), but never waits.
    ///
    /// # Errors
    ///
    /// [`Error::NotCached`] when no usable data key is cached, and those of [`encrypt`](Self::encrypt).
    pub fn try_encrypt(&self, plaintext: &[u8], context: &EncryptionContext) -> Result<Vec<u8>, Error> {
        let request = self.encryption_request(context, Some(plaintext.len() as u64))?;
        let materials = self.manager.try_encryption_materials(request)?.ok_or(Error::NotCached)?;
        self.seal(materials, plaintext)
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
        Ok(EncryptionMaterialsRequest {
            suite: self.suite,
            encryption_context,
            required_context: &NOTHING_REQUIRED,
            plaintext_length,
        })
    }

    fn seal(&self, materials: Arc<EncryptionMaterials>, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        self.check_materials(&materials)?;
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

/// Builds an [`Envelope`].
#[derive(Debug)]
pub struct EnvelopeBuilder {
    manager: Arc<dyn MaterialsManager>,
    policy: CommitmentPolicy,
    suite: Option<AlgorithmSuite>,
    legacy_suites: bool,
    frame_length: u32,
    framed: bool,
    max_encrypted_data_keys: usize,
}

impl EnvelopeBuilder {
    /// Which messages are written and opened, by whether they commit to their data key. Default:
    /// [`CommitmentPolicy::RequireEncryptRequireDecrypt`].
    #[must_use]
    pub fn commitment_policy(mut self, policy: CommitmentPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The suite that messages are sealed with. Default: `0x0478`, or `0x0178` where the policy forbids
    /// commitment. Signed suites need the feature `aws-lc-rs`.
    #[must_use]
    pub fn suite(mut self, suite: AlgorithmSuite) -> Self {
        self.suite = Some(suite);
        self
    }

    /// Allows writing the suites without key derivation: `0x0014`, `0x0046`, `0x0078`. Default: `false`. For
    /// readers that know nothing else; such a data key is never cached.
    #[must_use]
    pub fn legacy_suites(mut self, allowed: bool) -> Self {
        self.legacy_suites = allowed;
        self
    }

    /// How many plaintext bytes a frame holds. Default: 4096. Allowed: 1 to 2^32 - 1.
    ///
    /// Longer frames cost less per byte, shorter ones let a streaming reader start sooner. The Python
    /// client writes only multiples of 128, but reads any.
    #[must_use]
    pub fn frame_length(mut self, frame_length: u32) -> Self {
        self.frame_length = frame_length;
        self
    }

    /// Whether the body is cut into frames. Default: `true`. `false` writes it in one piece, of at most 64 GiB,
    /// for readers from before frames.
    #[must_use]
    pub fn framed(mut self, framed: bool) -> Self {
        self.framed = framed;
        self
    }

    /// How many wrapped data keys a message may have, sealed or opened. Default: 16. Allowed: 1 to 65,535.
    ///
    /// A hostile message could otherwise make one decryption cost thousands of KMS requests.
    #[must_use]
    pub fn max_encrypted_data_keys(mut self, limit: usize) -> Self {
        self.max_encrypted_data_keys = limit;
        self
    }

    /// The client.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for a setting out of its range, [`Error::CommitmentPolicy`] for a suite that
    /// the policy does not allow to be written.
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
            let problem = format!("{suite} seals without key derivation: call `legacy_suites(true)` if it must be");
            return Err(Error::invalid_setting("suite", problem));
        }
        if suite.is_signed() && cfg!(not(feature = "aws-lc-rs")) {
            return Err(Error::invalid_setting(
                "suite",
                format!("{suite} is signed: that takes the feature `aws-lc-rs`"),
            ));
        }
        let content_type = if self.framed { ContentType::Framed { frame_length } } else { ContentType::NonFramed };
        Ok(Envelope { manager, policy, suite, content_type, max_encrypted_data_keys })
    }
}

/// An opened message.
pub struct Decrypted {
    plaintext: Vec<u8>,
    encryption_context: EncryptionContext,
    suite: AlgorithmSuite,
}

impl Decrypted {
    /// The plaintext.
    #[must_use]
    pub fn plaintext(&self) -> &[u8] {
        &self.plaintext
    }

    /// The plaintext, to keep.
    #[must_use]
    pub fn into_plaintext(self) -> Vec<u8> {
        self.plaintext
    }

    /// The message's encryption context, authenticated, with what it requires but does not store: check here what
    /// you did not supply.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        &self.encryption_context
    }

    /// The algorithm suite the message was sealed with.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.suite
    }
}

/// The plaintext's length, not the plaintext.
impl fmt::Debug for Decrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plaintext, encryption_context, suite } = self;
        f.debug_struct("Decrypted")
            .field("plaintext", &format_args!("[{} bytes]", plaintext.len()))
            .field("encryption_context", encryption_context)
            .field("suite", suite)
            .finish()
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
