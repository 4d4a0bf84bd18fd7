//! The raw AES keyring (specification: `framework/raw-aes-keyring.md`).

use super::{
    EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringRequest,
    check_key_names, first_unwrapped,
};
use crate::{
    crypto::{
        aead::{self, NONCE_LENGTH, TAG_LENGTH},
        kdf, random,
    },
    data_key::DataKey,
    error::{Error, ResultFuture},
    format::encrypted_data_key::RAW_AES_LENGTHS as LENGTHS,
};

/// Wraps data keys locally with AES-GCM under your own key of 128, 192 or 256 bits.
///
/// Other AWS Encryption SDK clients can decrypt the messages with the same namespace, name and key.
///
/// ```
/// use envelope::{DataKey, keyring::RawAesKeyring};
///
/// let wrapping_key = DataKey::from_vec(vec![7; 32]); // from a vault or an HSM, never from code
/// let keyring = RawAesKeyring::new("payments", "2026-key", &wrapping_key)?;
/// # Ok::<(), envelope::Error>(())
/// ```
pub struct RawAesKeyring {
    namespace: String,
    name: String,
    wrapping_key: aead::Key,
    fingerprint: u64,
}

impl RawAesKeyring {
    /// Creates a keyring for `wrapping_key`, which has 16, 24 or 32 bytes. Every message contains
    /// `namespace` (the key provider id) and `name`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if the wrapping key has another length, if the namespace starts
    /// with `aws-kms`, or if the namespace or the name is empty or too long for the message format.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        wrapping_key: &DataKey,
    ) -> Result<Self, Error> {
        let namespace = namespace.into();
        let name = name.into();
        check_key_names(&namespace, &name, usize::from(u16::MAX) - PROVIDER_SUFFIX_LENGTH)?;
        let length = wrapping_key.len();
        let fingerprint = kdf::fingerprint(wrapping_key.expose_secret());
        let wrapping_key = aead::Key::new(wrapping_key.expose_secret()).ok_or_else(|| {
            Error::invalid_setting("wrapping key", format!("{length} bytes, expected 16, 24 or 32"))
        })?;
        Ok(Self { namespace, name, wrapping_key, fingerprint })
    }

    fn generate_now(&self, request: KeyringRequest<'_>) -> Result<GeneratedDataKey, Error> {
        let data_key = DataKey::generate(request.suite.data_key_length())?;
        let encrypted_data_keys = vec![self.wrap_now(request, &data_key)?];
        Ok(GeneratedDataKey { data_key, encrypted_data_keys })
    }

    fn wrap_now(
        &self,
        request: KeyringRequest<'_>,
        data_key: &DataKey,
    ) -> Result<EncryptedDataKey, Error> {
        let iv = random::bytes()?;
        // With room for the tag: growing later would leave a copy of the data key behind.
        let mut ciphertext = Vec::with_capacity(data_key.len() + TAG_LENGTH);
        ciphertext.extend_from_slice(data_key.expose_secret());
        let tag =
            self.wrapping_key.seal(iv, request.encryption_context.as_serialized(), &mut ciphertext);
        ciphertext.extend_from_slice(&tag);
        Ok(EncryptedDataKey {
            key_provider_id: self.namespace.clone(),
            key_provider_information: self.provider_information(iv),
            ciphertext,
        })
    }

    /// Returns the data key in `wrapped`, or `None` if another keyring wrapped it.
    fn unwrap_now(
        &self,
        request: KeyringRequest<'_>,
        wrapped: &EncryptedDataKey,
    ) -> Option<Result<DataKey, KeyringError>> {
        let iv = self.iv_of(wrapped)?;
        let (ciphertext, tag) = wrapped.ciphertext.split_last_chunk()?;
        let mut data_key = ciphertext.to_vec();
        let opened = self.wrapping_key.open(
            iv,
            request.encryption_context.as_serialized(),
            &mut data_key,
            tag,
        );
        Some(opened.map(|()| DataKey::from_vec(data_key)).map_err(|_| {
            let key = format!("{}/{}", self.namespace, self.name);
            let cause = "the wrapping key or the encryption context does not match, or the \
                wrapped data key is damaged";
            KeyringError::new(key, KeyringErrorKind::InvalidCiphertext, cause)
        }))
    }

    /// Returns the key name, the tag length in bits, the IV length in bytes, and the IV.
    fn provider_information(&self, iv: [u8; NONCE_LENGTH]) -> Vec<u8> {
        let mut information = self.name.as_bytes().to_vec();
        information.extend_from_slice(&LENGTHS);
        information.extend_from_slice(&iv);
        information
    }

    /// Returns the IV of an encrypted data key, if that belongs to this keyring.
    fn iv_of(&self, wrapped: &EncryptedDataKey) -> Option<[u8; NONCE_LENGTH]> {
        if wrapped.key_provider_id != self.namespace {
            return None;
        }
        let suffix = wrapped.key_provider_information.strip_prefix(self.name.as_bytes())?;
        suffix.strip_prefix(&LENGTHS)?.try_into().ok()
    }
}

const PROVIDER_SUFFIX_LENGTH: usize = LENGTHS.len() + NONCE_LENGTH;

impl Keyring for RawAesKeyring {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        Box::pin(async move { self.generate_now(request) })
    }

    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(async move { Ok(vec![self.wrap_now(request, data_key)?]) })
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
        request: KeyringRequest<'_>,
        data_key: &DataKey,
    ) -> Option<Result<Vec<EncryptedDataKey>, Error>> {
        Some(self.wrap_now(request, data_key).map(|wrapped| vec![wrapped]))
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
        let Self { namespace, name, fingerprint, .. } = self;
        Some(format!("raw AES {namespace:?} {name:?} {fingerprint:016x}"))
    }
}

impl std::fmt::Debug for RawAesKeyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, name, wrapping_key: _, fingerprint: _ } = self;
        f.debug_struct("RawAesKeyring")
            .field("namespace", namespace)
            .field("name", name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{context::EncryptionContext, suite::AlgorithmSuite};

    fn keyring(name: &str, byte: u8) -> RawAesKeyring {
        RawAesKeyring::new("ns", name, &DataKey::from_vec(vec![byte; 32])).unwrap()
    }

    fn unwrap(
        keyring: &RawAesKeyring,
        context: &EncryptionContext,
        keys: &[EncryptedDataKey],
    ) -> Result<DataKey, Vec<KeyringError>> {
        let request = KeyringRequest::new(AlgorithmSuite::default(), context);
        keyring.unwrap(request, keys).now_or_never().expect("a local keyring never waits")
    }

    #[test]
    fn unwraps_only_its_own() {
        let context = EncryptionContext::new([("a", "b")]).unwrap();
        let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
        let keyring_a = keyring("a", 1);
        let generated = keyring_a.generate(request).now_or_never().unwrap().unwrap();
        let keys = generated.encrypted_data_keys;

        let opened = unwrap(&keyring_a, &context, &keys).unwrap();
        assert_eq!(opened.expose_secret(), generated.data_key.expose_secret());
        assert!(unwrap(&keyring("b", 1), &context, &keys).unwrap_err().is_empty(), "another name");
        assert_eq!(unwrap(&keyring("a", 2), &context, &keys).unwrap_err().len(), 1, "another key");
        let other = EncryptionContext::empty();
        assert_eq!(unwrap(&keyring_a, &other, &keys).unwrap_err().len(), 1, "another context");
    }

    #[test]
    fn a_name_that_is_a_prefix_does_not_match() {
        let context = EncryptionContext::empty();
        let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
        let generated = keyring("key-1", 1).generate(request).now_or_never().unwrap().unwrap();
        assert!(
            unwrap(&keyring("key", 1), &context, &generated.encrypted_data_keys)
                .unwrap_err()
                .is_empty()
        );
    }

    #[test]
    fn no_two_wrappings_share_an_iv() {
        let context = EncryptionContext::empty();
        let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
        let keyring = keyring("a", 1);
        let information = || {
            let generated = keyring.generate(request).now_or_never().unwrap().unwrap();
            generated.encrypted_data_keys[0].key_provider_information.clone()
        };
        assert_ne!(information(), information());
    }

    #[test]
    fn a_failure_does_not_hide_a_later_key() {
        let context = EncryptionContext::empty();
        let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
        let mut keys =
            keyring("a", 9).generate(request).now_or_never().unwrap().unwrap().encrypted_data_keys;
        let wanted = keyring("a", 1).generate(request).now_or_never().unwrap().unwrap();
        keys.extend(wanted.encrypted_data_keys);
        let opened = unwrap(&keyring("a", 1), &context, &keys).unwrap();
        assert_eq!(opened.expose_secret(), wanted.data_key.expose_secret());
    }

    #[test]
    fn misuse_shows_when_it_is_built() {
        let key = DataKey::from_vec(vec![1; 32]);
        assert!(RawAesKeyring::new("aws-kms", "a", &key).is_err());
        assert!(RawAesKeyring::new("aws-kms-mrk", "a", &key).is_err());
        assert!(RawAesKeyring::new("ns", "", &key).is_err());
        assert!(RawAesKeyring::new("ns", "a".repeat(65_516), &key).is_err());
        assert!(RawAesKeyring::new("ns", "a", &DataKey::from_vec(vec![1; 31])).is_err());
    }
}
