//! What the primitives alone cost to generate and wrap a data key under a branch key.

use aes_gcm::Aes256Gcm;
use aws_lc_rs::aead::LessSafeKey;
use hkdf::hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{Backend, Cipher, TAG_LENGTH};

const LABEL: &[u8] = b"aws-kms-hierarchy";
const SALT_LENGTH: usize = 16;
const IV_LENGTH: usize = 12;
const DATA_KEY_LENGTH: usize = 32;
/// As long as the additional data of a wrapped data key with one pair of context.
const AAD: [u8; 56] = [0; 56];

/// The salt, the IV, the encrypted data key and the tag.
type Wrapped = [u8; SALT_LENGTH + IV_LENGTH + DATA_KEY_LENGTH + TAG_LENGTH];

/// The primitives that wrap data keys under one branch key: the random bytes of salt, IV and data
/// key, HMAC-SHA-256 in counter mode from a state that is kept, and AES-256-GCM under the derived
/// key.
#[derive(Debug)]
pub struct Wrapping {
    backend: Backend,
    kdf: Hmac<Sha256>,
}

impl Wrapping {
    /// Returns the floor of a wrapping with the AES-256-GCM of `backend`.
    #[must_use]
    pub fn new(backend: Backend) -> Self {
        let kdf = Hmac::<Sha256>::new_from_slice(&[7; 32]);
        Self { backend, kdf: kdf.expect("HMAC accepts keys of any length") }
    }

    /// Does what the primitives do to generate and wrap a data key.
    #[must_use]
    pub fn wrap(&self) -> Wrapped {
        match self.backend {
            Backend::AwsLc => self.wrap_by::<LessSafeKey>(),
            Backend::RustCrypto => self.wrap_by::<Aes256Gcm>(),
        }
    }

    /// Does what the primitives do to unwrap the result of [`wrap`](Self::wrap).
    #[must_use]
    pub fn unwrap(&self, wrapped: &Wrapped) -> [u8; DATA_KEY_LENGTH] {
        match self.backend {
            Backend::AwsLc => self.unwrap_by::<LessSafeKey>(wrapped),
            Backend::RustCrypto => self.unwrap_by::<Aes256Gcm>(wrapped),
        }
    }

    fn wrap_by<C: Cipher>(&self) -> Wrapped {
        let mut wrapped = [0; _];
        let (random, tag) = wrapped.split_at_mut(SALT_LENGTH + IV_LENGTH + DATA_KEY_LENGTH);
        getrandom::fill(random).expect("the system has random numbers");
        let (salt, rest) = random.split_at_mut(SALT_LENGTH);
        let encrypted = self.cipher::<C>(salt).encrypt(0, &AAD, &mut rest[IV_LENGTH..]);
        tag.copy_from_slice(&encrypted);
        wrapped
    }

    fn unwrap_by<C: Cipher>(&self, wrapped: &Wrapped) -> [u8; DATA_KEY_LENGTH] {
        let (rest, tag) = wrapped.split_at(wrapped.len() - TAG_LENGTH);
        let mut data_key = *rest.last_chunk().expect("the data key comes before the tag");
        self.cipher::<C>(&wrapped[..SALT_LENGTH]).decrypt(0, &AAD, &mut data_key, tag);
        data_key
    }

    fn cipher<C: Cipher>(&self, salt: &[u8]) -> C {
        let mut hmac = self.kdf.clone();
        for part in [&1_u32.to_be_bytes(), LABEL, &[0], salt, &256_u32.to_be_bytes()] {
            hmac.update(part);
        }
        C::with_key(&hmac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrapping_unwraps_what_it_wrapped() {
        for backend in Backend::ALL {
            let wrapping = Wrapping::new(backend);
            let wrapped = wrapping.wrap();
            let data_key = wrapping.unwrap(&wrapped);
            assert_ne!(data_key, [0; DATA_KEY_LENGTH]);
            let start = SALT_LENGTH + IV_LENGTH;
            assert_ne!(data_key, wrapped[start..start + DATA_KEY_LENGTH], "{backend:?}");
        }
    }
}
