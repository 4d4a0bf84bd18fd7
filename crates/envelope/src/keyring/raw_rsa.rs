//! The raw RSA keyring (specification: `framework/raw-rsa-keyring.md`).

use super::{
    EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringRequest,
    RsaPadding, RsaPrivateKey, RsaPublicKey, check_key_names, first_unwrapped,
};
use crate::{
    data_key::DataKey,
    error::{Error, ResultFuture},
};

/// Wraps data keys locally under an RSA public key, and unwraps them with the private one.
///
/// Encryption needs only the public key. Other AWS Encryption SDK clients can decrypt the messages
/// with the same namespace, name, padding and private key.
///
/// Unlike the other keyrings, this one does not authenticate the data key: anyone with the public
/// key can wrap any data key under any encryption context. If it matters who encrypted the message,
/// use a signed suite or another keyring. Unwrapping blocks the calling thread for up to a few
/// milliseconds.
///
/// ```
/// # use envelope::keyring::{RawRsaKeyring, RsaPadding, RsaPrivateKey, RsaPublicKey};
/// # let public_pem = include_str!("../../tests/data/rsa/test-only-2048.public.spki.pem");
/// # let private_pem =
/// #     include_str!("../../tests/data/rsa/test-only-2048.private.pkcs8.pem").to_owned();
/// let padding = RsaPadding::OaepSha256Mgf1;
/// // Only encrypts:
/// let public_key = RsaPublicKey::from_pem(public_pem)?;
/// let encrypting =
///     RawRsaKeyring::with_public_key("partners", "2026-key", padding, public_key)?;
///
/// // Only decrypts:
/// let private_key = RsaPrivateKey::from_pem(private_pem)?; // wipes the text
/// let decrypting =
///     RawRsaKeyring::with_private_key("partners", "2026-key", padding, private_key)?;
/// # Ok::<(), envelope::Error>(())
/// ```
#[derive(Debug)]
pub struct RawRsaKeyring {
    namespace: String,
    name: String,
    padding: RsaPadding,
    public_key: Option<RsaPublicKey>,
    private_key: Option<RsaPrivateKey>,
}

impl RawRsaKeyring {
    /// Creates a keyring that only wraps. Every message contains `namespace` (the key provider id)
    /// and `name`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for a namespace that starts with `aws-kms`, for a namespace or
    /// name that does not fit the message format, and for a public key that may only verify
    /// signatures (RSA-PSS).
    pub fn with_public_key(
        namespace: impl Into<String>,
        name: impl Into<String>,
        padding: RsaPadding,
        public_key: RsaPublicKey,
    ) -> Result<Self, Error> {
        Self::new(namespace.into(), name.into(), padding, Some(public_key), None)
    }

    /// Creates a keyring that only unwraps. The specification forbids deriving the public key from
    /// the private key here. To wrap as well, pass [`RsaPrivateKey::public_key`] to
    /// [`with_key_pair`](Self::with_key_pair).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for a namespace that starts with `aws-kms`, and for a namespace or
    /// name that does not fit the message format.
    pub fn with_private_key(
        namespace: impl Into<String>,
        name: impl Into<String>,
        padding: RsaPadding,
        private_key: RsaPrivateKey,
    ) -> Result<Self, Error> {
        Self::new(namespace.into(), name.into(), padding, None, Some(private_key))
    }

    /// Creates a keyring that wraps and unwraps.
    ///
    /// # Errors
    ///
    /// The errors of [`with_public_key`](Self::with_public_key), and [`Error::InvalidSetting`] if
    /// the keys are not a pair: such a keyring could not decrypt its own messages.
    pub fn with_key_pair(
        namespace: impl Into<String>,
        name: impl Into<String>,
        padding: RsaPadding,
        public_key: RsaPublicKey,
        private_key: RsaPrivateKey,
    ) -> Result<Self, Error> {
        if !public_key.belongs_to(&private_key) {
            return Err(Error::invalid_setting(
                "RSA key pair",
                "the public key does not match the private key",
            ));
        }
        Self::new(namespace.into(), name.into(), padding, Some(public_key), Some(private_key))
    }

    fn new(
        namespace: String,
        name: String,
        padding: RsaPadding,
        public_key: Option<RsaPublicKey>,
        private_key: Option<RsaPrivateKey>,
    ) -> Result<Self, Error> {
        check_key_names(&namespace, &name, usize::from(u16::MAX))?;
        // Fails here instead of with the first message, if the longest data key does not fit.
        if public_key
            .as_ref()
            .is_some_and(|key| key.encrypt(padding, &[0; LONGEST_DATA_KEY]).is_err())
        {
            let problem = format!(
                "cannot encrypt with padding {padding:?} (RSA-PSS keys can only verify signatures)"
            );
            return Err(Error::invalid_setting("RSA public key", problem));
        }
        Ok(Self { namespace, name, padding, public_key, private_key })
    }

    fn wrap_now(&self, data_key: &DataKey) -> Result<EncryptedDataKey, Error> {
        let failed = |cause| Error::DataKeyUnavailable(self.failed(KeyringErrorKind::Other, cause));
        let public_key = self
            .public_key
            .as_ref()
            .ok_or_else(|| failed("the keyring has no public key to wrap with"))?;
        let ciphertext = public_key.encrypt(self.padding, data_key.expose_secret());
        Ok(EncryptedDataKey {
            key_provider_id: self.namespace.clone(),
            key_provider_information: self.name.as_bytes().to_vec(),
            ciphertext: ciphertext.map_err(|_| failed("RSA encryption failed"))?,
        })
    }

    fn generate_now(&self, request: KeyringRequest<'_>) -> Result<GeneratedDataKey, Error> {
        let data_key = DataKey::generate(request.suite.data_key_length())?;
        let encrypted_data_keys = vec![self.wrap_now(&data_key)?];
        Ok(GeneratedDataKey { data_key, encrypted_data_keys })
    }

    /// Returns the data key in `wrapped`, or `None` if another keyring wrapped it.
    fn unwrap_now(
        &self,
        request: KeyringRequest<'_>,
        wrapped: &EncryptedDataKey,
    ) -> Option<Result<DataKey, KeyringError>> {
        if wrapped.key_provider_id != self.namespace
            || wrapped.key_provider_information != self.name.as_bytes()
        {
            return None;
        }
        let Some(private_key) = &self.private_key else {
            return Some(Err(self.failed(
                KeyringErrorKind::Other,
                "the keyring has no private key to unwrap with",
            )));
        };
        // A data key of the wrong length must fail here, with the same error as invalid padding. A
        // later or different failure would tell an attacker that the padding was valid.
        let length = request.suite.data_key_length();
        let data_key = private_key
            .decrypt(self.padding, &wrapped.ciphertext)
            .ok()
            .filter(|key| key.len() == length);
        Some(data_key.ok_or_else(|| {
            let cause = "the wrapped data key did not decrypt: it was changed, or \
                wrapped with another key or padding";
            self.failed(KeyringErrorKind::InvalidCiphertext, cause)
        }))
    }

    fn failed(&self, kind: KeyringErrorKind, cause: &'static str) -> KeyringError {
        KeyringError::new(format!("{}/{}", self.namespace, self.name), kind, cause)
    }
}

/// The length of the longest data key of any algorithm suite, in bytes.
const LONGEST_DATA_KEY: usize = 32;

impl Keyring for RawRsaKeyring {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        Box::pin(async move { self.generate_now(request) })
    }

    fn wrap<'a>(
        &'a self,
        _request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(async move { Ok(vec![self.wrap_now(data_key)?]) })
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(async move {
            first_unwrapped(
                encrypted_data_keys.iter().filter_map(|key| self.unwrap_now(request, key)),
            )
        })
    }

    fn try_generate(&self, request: KeyringRequest<'_>) -> Option<Result<GeneratedDataKey, Error>> {
        Some(self.generate_now(request))
    }

    fn try_wrap(
        &self,
        _: KeyringRequest<'_>,
        data_key: &DataKey,
    ) -> Option<Result<Vec<EncryptedDataKey>, Error>> {
        Some(self.wrap_now(data_key).map(|wrapped| vec![wrapped]))
    }

    fn try_unwrap(
        &self,
        request: KeyringRequest<'_>,
        encrypted_data_keys: &[EncryptedDataKey],
    ) -> Option<Result<DataKey, Vec<KeyringError>>> {
        let keys = encrypted_data_keys.iter();
        Some(first_unwrapped(keys.filter_map(|key| self.unwrap_now(request, key))))
    }

    fn identity(&self) -> Option<String> {
        let Self { namespace, name, padding, public_key, private_key } = self;
        let fingerprint = match (public_key, private_key) {
            (Some(key), _) => key.fingerprint()?,
            (None, key) => key.as_ref()?.public_key().fingerprint()?,
        };
        Some(format!("raw RSA {namespace:?} {name:?} {padding:?} {fingerprint:016x}"))
    }
}
