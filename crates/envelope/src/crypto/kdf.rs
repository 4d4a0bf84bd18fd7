//! Key derivation: HKDF for messages (specification:
//! `framework/transitive-requirements.md#hkdf-encryption-key` and `#hkdf-commit-key`; RFC 5869),
//! and the counter mode for keys under branch keys (NIST SP 800-108r1).
//!
//! No derived key leaves this module: it only returns ciphers. HKDF and HMAC leave copies of keys
//! on the stack, so the stack is wiped before any other code runs.

use hkdf::{
    GenericHkdf, Hkdf, HmacImpl,
    hmac::{Hmac, KeyInit, Mac},
};
use sha2::{Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::{aead, stack};
use crate::suite::{AlgorithmSuite, KeyDerivation};

/// The number of frames of 2,000 bytes to wipe: more than the 3.1 kB of stack that the derivation
/// uses in a release build.
const FRAMES: u32 = 2;

/// The keys of one message, derived from the data key and the message id.
pub(crate) struct MessageKeys {
    /// Computes the header's tag, and encrypts and decrypts the body.
    pub(crate) cipher: aead::Key,
    /// The public value in the header that commits the message to this data key. `None` for suites
    /// without key commitment.
    pub(crate) commit_key: Option<[u8; 32]>,
}

/// Derives the keys of the message with `message_id`. `data_key` must have the suite's length.
pub(crate) fn derive(suite: AlgorithmSuite, data_key: &[u8], message_id: &[u8]) -> MessageKeys {
    let keys = derive_on_stack(suite, data_key, message_id);
    stack::wipe(FRAMES);
    keys
}

/// Not inlined, so that its stack is below the stack of the caller, which wipes it.
#[inline(never)]
fn derive_on_stack(suite: AlgorithmSuite, data_key: &[u8], message_id: &[u8]) -> MessageKeys {
    let mut key = Zeroizing::new([0; 32]);
    let key = &mut key[..suite.data_key_length()];
    let commit_key = derive_into(key, suite, data_key, message_id);
    let cipher = aead::Key::new(key).expect("the key length of every suite is valid for AES");
    MessageKeys { cipher, commit_key }
}

/// Returns a public value that tells keys apart, and reveals nothing about them.
pub(crate) fn fingerprint(key: &[u8]) -> u64 {
    let fingerprint = fingerprint_on_stack(key);
    stack::wipe(FRAMES);
    fingerprint
}

/// Not inlined, like [`derive_on_stack`].
#[inline(never)]
fn fingerprint_on_stack(key: &[u8]) -> u64 {
    let mut fingerprint = [0; 8];
    expand(&Hkdf::<Sha512>::new(None, key), &[b"envelope keyring identity"], &mut fingerprint);
    u64::from_be_bytes(fingerprint)
}

/// Writes the encryption key to `key` and returns the commit key.
fn derive_into(
    key: &mut [u8],
    suite: AlgorithmSuite,
    data_key: &[u8],
    message_id: &[u8],
) -> Option<[u8; 32]> {
    let id = suite.id().to_be_bytes();
    match suite.key_derivation() {
        KeyDerivation::Identity => key.copy_from_slice(data_key),
        KeyDerivation::HkdfSha256 => {
            expand(&Hkdf::<Sha256>::new(None, data_key), &[&id, message_id], key);
        }
        KeyDerivation::HkdfSha384 => {
            expand(&Hkdf::<Sha384>::new(None, data_key), &[&id, message_id], key);
        }
        KeyDerivation::HkdfSha512 => {
            let hkdf = Hkdf::<Sha512>::new(Some(message_id), data_key);
            expand(&hkdf, &[&id, b"DERIVEKEY"], key);
            let mut commit_key = [0; 32];
            expand(&hkdf, &[b"COMMITKEY"], &mut commit_key);
            return Some(commit_key);
        }
    }
    None
}

fn expand<H: HmacImpl>(hkdf: &GenericHkdf<H>, info: &[&[u8]], key: &mut [u8]) {
    hkdf.expand_multi_info(info, key).expect("32 bytes are fewer than HKDF's limit of 255 hashes");
}

/// Derives keys of 32 bytes from one key in counter mode with HMAC-SHA-256 (NIST SP 800-108r1,
/// section 4.1).
///
/// Keeps the state of HMAC after the key's block, which costs half as much to use as the key
/// itself. The state is as secret as the key. It is wiped on drop, and is never moved: that would
/// leave a copy behind.
pub(crate) struct CounterKdf(Box<Hmac<Sha256>>);

impl CounterKdf {
    /// Returns the derivation from `key`.
    pub(crate) fn new(key: &[u8]) -> Self {
        let kdf = Self::new_on_stack(key);
        stack::wipe(FRAMES);
        kdf
    }

    /// Not inlined, like [`derive_on_stack`].
    #[inline(never)]
    fn new_on_stack(key: &[u8]) -> Self {
        let keyed = <Hmac<Sha256> as KeyInit>::new_from_slice(key);
        Self(Box::new(keyed.expect("HMAC accepts keys of any length")))
    }

    /// Returns an AES-256-GCM cipher under the key for `label` and `context`.
    ///
    /// Different labels yield independent keys if no label contains a zero byte.
    pub(crate) fn cipher(&self, label: &[u8], context: &[u8]) -> aead::Key {
        let cipher = self.cipher_on_stack(label, context);
        stack::wipe(FRAMES);
        cipher
    }

    /// Not inlined, like [`derive_on_stack`].
    #[inline(never)]
    fn cipher_on_stack(&self, label: &[u8], context: &[u8]) -> aead::Key {
        const BITS: [u8; 4] = 256_u32.to_be_bytes();
        let mut key = Zeroizing::new([0; 32]);
        counter_mode(&*self.0, &[label, &[0], context, &BITS], &mut *key);
        aead::Key::new(&*key).expect("32 bytes are a valid length for AES")
    }
}

/// Writes the first block of the counter mode to `key`, which is at most that long.
fn counter_mode<M: Mac + Clone>(keyed: &M, fixed_input: &[&[u8]], key: &mut [u8]) {
    let mut hmac = keyed.clone();
    hmac.update(&1_u32.to_be_bytes());
    for part in fixed_input {
        hmac.update(part);
    }
    // Wiped on drop, unlike its bytes.
    let block = hmac.finalize();
    key.copy_from_slice(&block.as_bytes()[..key.len()]);
}

#[cfg(test)]
mod counter_mode_tests;

#[cfg(all(test, feature = "aws-lc-rs"))]
mod tests {
    use aws_lc_rs::hkdf::{HKDF_SHA256, HKDF_SHA384, HKDF_SHA512, KeyType, Salt};
    use proptest::prelude::*;

    use super::*;

    struct Length(usize);

    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }

    proptest! {
        /// AWS-LC derives the same keys (RFC 5869).
        #[test]
        fn agrees_with_aws_lc(
            suite in proptest::sample::select(&AlgorithmSuite::ALL[..]),
            data_key: [u8; 32],
            message_id: [u8; 32],
        ) {
            let message_id =
                if suite.commits_to_key() { &message_id[..] } else { &message_id[..16] };
            let data_key = &data_key[..suite.data_key_length()];
            let expand = |salt: &Salt, info: &[&[u8]], length| {
                let mut out = vec![0; length];
                let prk = salt.extract(data_key);
                prk.expand(info, Length(length)).unwrap().fill(&mut out).unwrap();
                out
            };
            let id = suite.id().to_be_bytes();
            let length = suite.data_key_length();
            let (key, commit_key) = match suite.key_derivation() {
                KeyDerivation::Identity => (data_key.to_vec(), None),
                KeyDerivation::HkdfSha256 => {
                    let salt = Salt::new(HKDF_SHA256, &[]);
                    (expand(&salt, &[&id, message_id], length), None)
                }
                KeyDerivation::HkdfSha384 => {
                    let salt = Salt::new(HKDF_SHA384, &[]);
                    (expand(&salt, &[&id, message_id], length), None)
                }
                KeyDerivation::HkdfSha512 => {
                    let salt = Salt::new(HKDF_SHA512, message_id);
                    let commit_key = expand(&salt, &[b"COMMITKEY"], 32);
                    (expand(&salt, &[&id, b"DERIVEKEY"], 32), Some(commit_key))
                }
            };
            let mut derived = vec![0; length];
            let derived_commit_key = derive_into(&mut derived, suite, data_key, message_id);
            prop_assert_eq!(derived, key);
            prop_assert_eq!(derived_commit_key.map(Vec::from), commit_key);
        }
    }
}
