//! Ciphertext blobs, and the keys that encrypt and decrypt them.
//!
//! A blob is `version (1 byte) ‖ key id (16) ‖ nonce (12) ‖ AES-256-GCM ciphertext ‖ tag (16)`. The
//! version is 0x01 for a single-Region key and 0x02 for a multi-Region key. Related multi-Region
//! keys have the same id, so each of them can decrypt the blobs of the others. The version, the key
//! id and the encryption context are authenticated. To callers a blob is opaque, like those of AWS.

use aes_gcm::{AeadInOut, Aes256Gcm, Key, KeyInit, Nonce};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    arn::KeyId,
    context::{self, EncryptionContext},
    error::Refusal,
    random,
};

/// The length of a KMS key, in bytes.
pub(crate) const KEY_BYTES: usize = 32;

const SINGLE_REGION: u8 = 1;
const MULTI_REGION: u8 = 2;
const HEADER_BYTES: usize = 1 + 16;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// A parsed blob that is not authenticated yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ciphertext<'a> {
    key_id: KeyId,
    header: &'a [u8; HEADER_BYTES],
    nonce: &'a [u8; NONCE_BYTES],
    encrypted: &'a [u8],
}

impl<'a> Ciphertext<'a> {
    /// Parses a blob.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidCiphertext`] if it is too short or has another version.
    pub(crate) fn parse(blob: &'a [u8]) -> Result<Self, Refusal> {
        let (header, rest) =
            blob.split_first_chunk::<HEADER_BYTES>().ok_or(Refusal::InvalidCiphertext)?;
        let (nonce, encrypted) =
            rest.split_first_chunk::<NONCE_BYTES>().ok_or(Refusal::InvalidCiphertext)?;
        let (version, number) = header.split_first().ok_or(Refusal::InvalidCiphertext)?;
        let multi_region = match *version {
            SINGLE_REGION => false,
            MULTI_REGION => true,
            _ => return Err(Refusal::InvalidCiphertext),
        };
        if encrypted.len() < TAG_BYTES {
            return Err(Refusal::InvalidCiphertext);
        }
        let number = Uuid::from_slice(number).map_err(|_| Refusal::InvalidCiphertext)?;
        let key_id = KeyId { multi_region, number };
        Ok(Self { key_id, header, nonce, encrypted })
    }

    /// Returns the id of the key that the blob names.
    pub(crate) fn key_id(&self) -> KeyId {
        self.key_id
    }
}

/// A KMS key, expanded for encryption. Its round keys are wiped on drop.
pub(crate) struct WrappingKey {
    id: KeyId,
    cipher: Aes256Gcm,
}

impl WrappingKey {
    pub(crate) fn new(id: KeyId, material: &[u8; KEY_BYTES]) -> Self {
        let cipher = Aes256Gcm::new(<&Key<Aes256Gcm>>::from(material));
        Self { id, cipher }
    }

    /// Encrypts `plaintext` with a random nonce.
    ///
    /// # Errors
    ///
    /// [`Refusal::Internal`] above the maximum length of AES-GCM, which no request reaches.
    pub(crate) fn wrap(
        &self,
        plaintext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, Refusal> {
        let mut nonce = [0; NONCE_BYTES];
        random::fill(&mut nonce);

        let mut blob = Vec::with_capacity(HEADER_BYTES + NONCE_BYTES + plaintext.len() + TAG_BYTES);
        blob.push(if self.id.multi_region { MULTI_REGION } else { SINGLE_REGION });
        blob.extend_from_slice(self.id.number.as_bytes());
        let associated_data = associated_data(&blob, context);
        blob.extend_from_slice(&nonce);
        blob.extend_from_slice(plaintext);
        let tag = self
            .cipher
            .encrypt_inout_detached(
                &Nonce::from(nonce),
                &associated_data,
                (&mut blob[HEADER_BYTES + NONCE_BYTES..]).into(),
            )
            .map_err(|_| Refusal::Internal("the plaintext is too long".to_owned()))?;
        blob.extend_from_slice(&tag);
        Ok(blob)
    }

    /// Decrypts a blob.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidCiphertext`] if the blob or the context has changed.
    pub(crate) fn unwrap(
        &self,
        blob: &Ciphertext<'_>,
        context: &EncryptionContext,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let mut plaintext = Zeroizing::new(blob.encrypted.to_vec());
        self.cipher
            .decrypt_in_place(
                &Nonce::from(*blob.nonce),
                &associated_data(blob.header, context),
                &mut *plaintext,
            )
            .map_err(|_| Refusal::InvalidCiphertext)?;
        Ok(plaintext)
    }
}

/// The header has a fixed length, so no part of the context can be mistaken for it.
fn associated_data(header: &[u8], context: &EncryptionContext) -> Vec<u8> {
    let mut bytes = header.to_vec();
    context::encode(context, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::{btree_map, vec},
        prelude::*,
    };

    use super::*;

    fn key() -> WrappingKey {
        key_of(false)
    }

    fn key_of(multi_region: bool) -> WrappingKey {
        WrappingKey::new(KeyId { multi_region, number: Uuid::from_u128(7) }, &[7; KEY_BYTES])
    }

    #[test]
    fn the_kind_of_the_key_is_authenticated() {
        let context = EncryptionContext::new();
        let mut blob = key_of(true).wrap(b"data key", &context).unwrap();
        assert!(Ciphertext::parse(&blob).unwrap().key_id().multi_region);
        assert!(key_of(true).unwrap(&Ciphertext::parse(&blob).unwrap(), &context).is_ok());
        blob[0] = SINGLE_REGION;
        let unwrapped = key_of(false).unwrap(&Ciphertext::parse(&blob).unwrap(), &context);
        assert!(matches!(unwrapped, Err(Refusal::InvalidCiphertext)));
    }

    proptest! {
        #[test]
        fn a_wrapped_plaintext_unwraps(
            plaintext in vec(any::<u8>(), 0..200),
            context in btree_map(".{0,8}", ".{0,8}", 0..4),
        ) {
            let blob = key().wrap(&plaintext, &context)?;
            let parsed = Ciphertext::parse(&blob)?;
            prop_assert_eq!(parsed.key_id(), key().id);
            let unwrapped = key().unwrap(&parsed, &context)?;
            prop_assert_eq!(&unwrapped[..], &plaintext[..]);
        }

        #[test]
        fn any_changed_bit_is_refused(
            plaintext in vec(any::<u8>(), 0..40),
            at: prop::sample::Index,
            bit in 0..8u32,
        ) {
            let context = EncryptionContext::new();
            let mut blob = key().wrap(&plaintext, &context)?;
            let at = at.index(blob.len());
            blob[at] ^= 1u8 << bit;
            let unwrapped = Ciphertext::parse(&blob).and_then(|blob| key().unwrap(&blob, &context));
            prop_assert!(matches!(unwrapped, Err(Refusal::InvalidCiphertext)));
        }

        #[test]
        fn any_other_context_is_refused(
            one in btree_map("[ab]{0,2}", "[ab]{0,2}", 0..3),
            other in btree_map("[ab]{0,2}", "[ab]{0,2}", 0..3),
        ) {
            let blob = key().wrap(b"data key", &one)?;
            let unwrapped = key().unwrap(&Ciphertext::parse(&blob)?, &other);
            prop_assert_eq!(unwrapped.is_ok(), one == other);
        }

        #[test]
        fn parsing_never_panics_and_loses_nothing(
            blob in vec(any::<u8>(), 0..80),
            versioned: bool,
        ) {
            let mut blob = blob;
            if let (true, Some(first)) = (versioned, blob.first_mut()) {
                *first = SINGLE_REGION + (*first & 1);
            }
            if let Ok(parsed) = Ciphertext::parse(&blob) {
                let parts = [parsed.header, parsed.nonce.as_slice(), parsed.encrypted];
                prop_assert_eq!(parts.concat(), blob);
            }
        }

        #[test]
        fn every_truncation_is_refused(length in 0..HEADER_BYTES + NONCE_BYTES + TAG_BYTES) {
            let blob = key().wrap(b"", &EncryptionContext::new())?;
            prop_assert!(Ciphertext::parse(&blob[..length]).is_err());
        }
    }
}
