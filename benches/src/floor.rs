//! The *floor*: what the primitives alone cost for the bytes of one message.
//!
//! These are the random bytes of the message id, HKDF, the tag of the header, one AES-256-GCM call
//! for each frame, and the signature of suites that sign. With the same primitives, no library can
//! be faster. The floor for a size is that of the faster backend, measured in the same run.
//!
//! Under a branch key, each message also has a [`Wrapping`] of its own.
//!
//! HKDF and its hashes are RustCrypto's, signatures and SHA-384 are AWS-LC's: the faster ones.

mod wrapping;

pub use self::wrapping::Wrapping;

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{AeadInOut as _, inout::InOutBuf},
};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{SHA384, digest},
    signature::{
        ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
        ParsedPublicKey,
    },
};
use envelope::AlgorithmSuite;
use hkdf::Hkdf;
use sha2::{Sha256, Sha512};

/// A header of usual length, with one pair of context and one wrapped key, in bytes.
const HEADER_LENGTH: usize = 214;
/// The number and the IV in front of a frame, and the marker and length of the last one.
const PREFIX_LENGTH: usize = 24;
const TAG_LENGTH: usize = 16;
/// As long as the additional data of a frame.
const FRAME_AAD: [u8; 78] = [0; 78];

/// An implementation of AES-256-GCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// AWS-LC, which is faster for long messages.
    AwsLc,
    /// RustCrypto, which is faster for short messages because it sets up keys faster.
    RustCrypto,
}

impl Backend {
    /// Both implementations.
    pub const ALL: [Self; 2] = [Self::AwsLc, Self::RustCrypto];

    /// Returns the name for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc",
            Self::RustCrypto => "rustcrypto",
        }
    }
}

/// The primitives for messages of one suite and frame length.
#[derive(Debug)]
pub struct Floor {
    backend: Backend,
    suite: AlgorithmSuite,
    frame_length: usize,
    data_key: [u8; 32],
    signature: Option<(EcdsaKeyPair, ParsedPublicKey)>,
}

impl Floor {
    /// Returns the floor of `warm` clients: the default suite, with frames of 4096 bytes.
    #[must_use]
    pub fn usual(backend: Backend) -> Self {
        Self::new(backend, AlgorithmSuite::default(), Some(crate::FRAME_LENGTH))
    }

    /// Returns the floor of `0x0178`, `0x0478` or `0x0578`. Without a frame length, the body is in
    /// one piece.
    #[must_use]
    pub fn new(backend: Backend, suite: AlgorithmSuite, frame_length: Option<u32>) -> Self {
        let signature = suite.is_signed().then(|| {
            let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)
                .expect("the system has random numbers");
            let public = ParsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, pair.public_key().as_ref());
            (pair, public.expect("a generated key is valid"))
        });
        let frame_length = frame_length.map_or(usize::MAX, |length| length as usize);
        Self { backend, suite, frame_length, data_key: [7; 32], signature }
    }

    /// Returns the same floor with another data key.
    #[must_use]
    pub fn with_data_key(mut self, data_key: [u8; 32]) -> Self {
        self.data_key = data_key;
        self
    }

    /// Does what the primitives do to encrypt, and returns the bytes written.
    #[must_use]
    pub fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        match self.backend {
            Backend::AwsLc => self.encrypt_by::<LessSafeKey>(plaintext),
            Backend::RustCrypto => self.encrypt_by::<Aes256Gcm>(plaintext),
        }
    }

    /// Does what the primitives do to decrypt the result of [`encrypt`](Self::encrypt).
    #[must_use]
    pub fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        match self.backend {
            Backend::AwsLc => self.decrypt_by::<LessSafeKey>(message),
            Backend::RustCrypto => self.decrypt_by::<Aes256Gcm>(message),
        }
    }

    fn encrypt_by<C: Cipher>(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut message_id = [0; 32];
        let message_id = &mut message_id[..self.message_id_length()];
        getrandom::fill(message_id).expect("the system has random numbers");
        let cipher = C::with_key(&self.key(message_id));
        let frames = plaintext.len() / self.frame_length + 1;
        let overhead = HEADER_LENGTH + TAG_LENGTH + frames * (PREFIX_LENGTH + TAG_LENGTH) + 112;
        let mut out = Vec::with_capacity(plaintext.len() + overhead);
        out.extend_from_slice(message_id);
        out.resize(HEADER_LENGTH, 0);
        let tag = cipher.encrypt(0, &out, &mut []);
        out.extend_from_slice(&tag);
        for (number, frame) in (1..).zip(plaintext.chunks(self.frame_length)) {
            out.extend_from_slice(&[0; PREFIX_LENGTH]);
            let start = out.len();
            out.extend_from_slice(frame);
            let tag = cipher.encrypt(number, &FRAME_AAD, &mut out[start..]);
            out.extend_from_slice(&tag);
        }
        if let Some((pair, _)) = &self.signature {
            let signature = pair.sign_digest(&digest(&SHA384, &out));
            let signature = signature.expect("the system has random numbers");
            out.extend_from_slice(signature.as_ref());
            out.push(u8::try_from(signature.as_ref().len()).expect("a signature is short"));
        }
        out
    }

    fn decrypt_by<C: Cipher>(&self, message: &[u8]) -> Vec<u8> {
        let message = self.verify(message);
        let cipher = C::with_key(&self.key(&message[..self.message_id_length()]));
        let (header, rest) = message.split_at(HEADER_LENGTH);
        let (tag, mut rest) = rest.split_at(TAG_LENGTH);
        cipher.decrypt(0, header, &mut [], tag);
        let mut plaintext = Vec::with_capacity(rest.len());
        let mut number = 1;
        while !rest.is_empty() {
            let length = (rest.len() - PREFIX_LENGTH - TAG_LENGTH).min(self.frame_length);
            let (content, after) = rest[PREFIX_LENGTH..].split_at(length);
            let (tag, after) = after.split_at(TAG_LENGTH);
            let start = plaintext.len();
            plaintext.extend_from_slice(content);
            cipher.decrypt(number, &FRAME_AAD, &mut plaintext[start..], tag);
            rest = after;
            number += 1;
        }
        plaintext
    }

    /// Verifies the signature, and returns the message without it.
    fn verify<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        let Some((_, public)) = &self.signature else { return message };
        let (length, message) = message.split_last().expect("it ends with a length");
        let (message, signature) = message.split_at(message.len() - usize::from(*length));
        let digest = digest(&SHA384, message);
        public.verify_digest_sig(&digest, signature).expect("the floor signed it");
        message
    }

    fn message_id_length(&self) -> usize {
        if self.suite.commits_to_key() { 32 } else { 16 }
    }

    fn key(&self, message_id: &[u8]) -> [u8; 32] {
        const SHORT: &str = "32 bytes are not too long";
        let mut key = [0; 32];
        if !self.suite.commits_to_key() {
            let hkdf = Hkdf::<Sha256>::new(None, &self.data_key);
            hkdf.expand_multi_info(&[b"\x01\x78", message_id], &mut key).expect(SHORT);
            return key;
        }
        let mut commit_key = [0; 32];
        let hkdf = Hkdf::<Sha512>::new(Some(message_id), &self.data_key);
        hkdf.expand(b"\x04\x78DERIVEKEY", &mut key).expect(SHORT);
        hkdf.expand(b"COMMITKEY", &mut commit_key).expect(SHORT);
        std::hint::black_box(&commit_key);
        key
    }
}

/// Encrypts a copy of `plaintext` with one AES-256-GCM call of AWS-LC and a new key.
#[must_use]
pub fn encrypt_at_once(plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plaintext.len() + TAG_LENGTH);
    out.extend_from_slice(plaintext);
    let tag = LessSafeKey::with_key(&[7; 32]).encrypt(1, &FRAME_AAD, &mut out);
    out.extend_from_slice(&tag);
    out
}

/// Decrypts a copy of the result of [`encrypt_at_once`].
#[must_use]
pub fn decrypt_at_once(ciphertext: &[u8]) -> Vec<u8> {
    let (content, tag) = ciphertext.split_at(ciphertext.len() - TAG_LENGTH);
    let mut plaintext = content.to_vec();
    LessSafeKey::with_key(&[7; 32]).decrypt(1, &FRAME_AAD, &mut plaintext, tag);
    plaintext
}

/// AES-256-GCM in place.
trait Cipher {
    fn with_key(key: &[u8; 32]) -> Self;
    fn encrypt(&self, number: u32, aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_LENGTH];
    fn decrypt(&self, number: u32, aad: &[u8], in_out: &mut [u8], tag: &[u8]);
}

impl Cipher for LessSafeKey {
    fn with_key(key: &[u8; 32]) -> Self {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are a key"))
    }

    fn encrypt(&self, number: u32, aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_LENGTH] {
        let nonce = Nonce::assume_unique_for_key(iv(number));
        let tag = self.seal_in_place_separate_tag(nonce, Aad::from(aad), in_out);
        *tag.expect("a frame is short").as_ref().first_chunk().expect("a tag has 16 bytes")
    }

    fn decrypt(&self, number: u32, aad: &[u8], in_out: &mut [u8], tag: &[u8]) {
        let nonce = Nonce::assume_unique_for_key(iv(number));
        let opened = self.open_in_place_separate_tag(nonce, Aad::from(aad), tag, in_out);
        opened.expect("the floor encrypted it");
    }
}

impl Cipher for Aes256Gcm {
    fn with_key(key: &[u8; 32]) -> Self {
        Self::new(key.into())
    }

    fn encrypt(&self, number: u32, aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_LENGTH] {
        let tag = self.encrypt_inout_detached(&iv(number).into(), aad, InOutBuf::from(in_out));
        tag.expect("a frame is short").into()
    }

    fn decrypt(&self, number: u32, aad: &[u8], in_out: &mut [u8], tag: &[u8]) {
        let tag = tag.first_chunk::<TAG_LENGTH>().expect("a tag has 16 bytes");
        self.decrypt_inout_detached(&iv(number).into(), aad, InOutBuf::from(in_out), tag.into())
            .expect("the floor encrypted it");
    }
}

fn iv(number: u32) -> [u8; 12] {
    let mut iv = [0; 12];
    iv[8..].copy_from_slice(&number.to_be_bytes());
    iv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_floor_decrypts_what_it_encrypted() {
        for (suite, backend) in crate::matrix::SUITES
            .into_iter()
            .flat_map(|suite| Backend::ALL.map(|backend| (suite, backend)))
        {
            for frame_length in [Some(4096), None] {
                let floor = Floor::new(backend, suite, frame_length);
                for size in [0, 1, 4096, 10_000] {
                    let plaintext = vec![5; size];
                    assert_eq!(floor.decrypt(&floor.encrypt(&plaintext)), plaintext, "{floor:?}");
                }
            }
        }
        assert_eq!(decrypt_at_once(&encrypt_at_once(b"plaintext")), b"plaintext");
    }
}
