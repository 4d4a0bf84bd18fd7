//! The *floor*: what the primitives alone cost for the bytes of one message.
//!
//! The message id's random bytes, HKDF, the header's tag, one AES-256-GCM call a frame, and the
//! signature of suites that sign. No library can be faster with these primitives; a figure is worth
//! something only as a ratio to the floor, taken in the same run. The floor of a size is that of
//! the faster backend for it.
//!
//! HKDF and its hashes are always RustCrypto's, signatures and SHA-384 AWS-LC's: measured, the
//! faster ones.

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{AeadInOut as _, inout::InOutBuf},
};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{Context, SHA384},
    signature::{
        ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
        ParsedPublicKey,
    },
};
use envelope::AlgorithmSuite;
use hkdf::Hkdf;
use sha2::{Sha256, Sha512};

/// What stands in for a header of usual size (one pair of context, one wrapped key), in bytes.
const HEADER_LENGTH: usize = 214;
/// In front of a frame stand its number, its IV, and for the last one a marker and a length: here
/// as much for each.
const PREFIX_LENGTH: usize = 24;
const TAG_LENGTH: usize = 16;
/// As long as a frame's additional data.
const FRAME_AAD: [u8; 78] = [0; 78];

/// Whose AES-256-GCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// AWS-LC: the faster one for much.
    AwsLc,
    /// RustCrypto: the faster one for little, since its key is set up sooner.
    RustCrypto,
}

impl Backend {
    /// Both.
    pub const ALL: [Self; 2] = [Self::AwsLc, Self::RustCrypto];

    /// What it is called in tables.
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
    /// The floor of `suite`, one of `0x0178`, `0x0478` and `0x0578`, with frames of `frame_length`
    /// bytes, or the body in one piece.
    ///
    /// # Panics
    ///
    /// When there are no random numbers to make a signing key from.
    #[must_use]
    pub fn new(backend: Backend, suite: AlgorithmSuite, frame_length: Option<usize>) -> Self {
        let signature = suite.is_signed().then(|| {
            let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)
                .expect("the system has random numbers");
            let public = ParsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, pair.public_key().as_ref());
            (pair, public.expect("a generated key has a point"))
        });
        let frame_length = frame_length.unwrap_or(usize::MAX);
        Self { backend, suite, frame_length, data_key: [7; 32], signature }
    }

    /// The same under this data key instead of a fixed one.
    #[must_use]
    pub fn under(mut self, data_key: [u8; 32]) -> Self {
        self.data_key = data_key;
        self
    }

    /// The primitives' work to seal `plaintext`; gives the bytes written.
    #[must_use]
    pub fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        match self.backend {
            Backend::AwsLc => self.seal_by::<LessSafeKey>(plaintext),
            Backend::RustCrypto => self.seal_by::<Aes256Gcm>(plaintext),
        }
    }

    /// The primitives' work to open what [`seal`](Self::seal) gave; gives the plaintext.
    ///
    /// # Panics
    ///
    /// When `sealed` is anything else.
    #[must_use]
    pub fn open(&self, sealed: &[u8]) -> Vec<u8> {
        match self.backend {
            Backend::AwsLc => self.open_by::<LessSafeKey>(sealed),
            Backend::RustCrypto => self.open_by::<Aes256Gcm>(sealed),
        }
    }

    fn seal_by<C: Cipher>(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut message_id = [0; 32];
        let message_id = &mut message_id[..self.message_id_length()];
        getrandom::fill(message_id).expect("the system has random numbers");
        let cipher = C::with_key(&self.key(message_id));
        let frames = plaintext.len() / self.frame_length + 1;
        let mut out = Vec::with_capacity(
            HEADER_LENGTH
                + TAG_LENGTH
                + plaintext.len()
                + frames * (PREFIX_LENGTH + TAG_LENGTH)
                + 112,
        );
        out.extend_from_slice(message_id);
        out.resize(HEADER_LENGTH, 0);
        let tag = cipher.seal(0, &out, &mut []);
        out.extend_from_slice(&tag);
        for (number, frame) in (1..).zip(plaintext.chunks(self.frame_length)) {
            out.extend_from_slice(&[0; PREFIX_LENGTH]);
            let start = out.len();
            out.extend_from_slice(frame);
            let tag = cipher.seal(number, &FRAME_AAD, &mut out[start..]);
            out.extend_from_slice(&tag);
        }
        if let Some((pair, _)) = &self.signature {
            let mut hash = Context::new(&SHA384);
            hash.update(&out);
            let signature =
                pair.sign_digest(&hash.finish()).expect("the system has random numbers");
            out.extend_from_slice(signature.as_ref());
            out.push(u8::try_from(signature.as_ref().len()).expect("a signature is short"));
        }
        out
    }

    fn open_by<C: Cipher>(&self, sealed: &[u8]) -> Vec<u8> {
        let sealed = self.verify(sealed);
        let cipher = C::with_key(&self.key(&sealed[..self.message_id_length()]));
        let (header, rest) = sealed.split_at(HEADER_LENGTH);
        let (tag, mut rest) = rest.split_at(TAG_LENGTH);
        cipher.open(0, header, &mut [], tag);
        let mut plaintext = Vec::with_capacity(rest.len());
        let mut number = 1;
        while !rest.is_empty() {
            let length = (rest.len() - PREFIX_LENGTH - TAG_LENGTH).min(self.frame_length);
            let (content, after) = rest[PREFIX_LENGTH..].split_at(length);
            let (tag, after) = after.split_at(TAG_LENGTH);
            let start = plaintext.len();
            plaintext.extend_from_slice(content);
            cipher.open(number, &FRAME_AAD, &mut plaintext[start..], tag);
            rest = after;
            number += 1;
        }
        plaintext
    }

    /// The message without its signature, which is verified.
    fn verify<'a>(&self, sealed: &'a [u8]) -> &'a [u8] {
        let Some((_, public)) = &self.signature else { return sealed };
        let (length, sealed) = sealed.split_last().expect("a length stands at the end");
        let (sealed, signature) = sealed.split_at(sealed.len() - usize::from(*length));
        let mut hash = Context::new(&SHA384);
        hash.update(sealed);
        public.verify_digest_sig(&hash.finish(), signature).expect("the floor signed it");
        sealed
    }

    fn message_id_length(&self) -> usize {
        if self.suite.commits_to_key() { 32 } else { 16 }
    }

    fn key(&self, message_id: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        if !self.suite.commits_to_key() {
            let hkdf = Hkdf::<Sha256>::new(None, &self.data_key);
            hkdf.expand_multi_info(&[b"\x01\x78", message_id], &mut key)
                .expect("32 bytes are short");
            return key;
        }
        let mut commit_key = [0; 32];
        let hkdf = Hkdf::<Sha512>::new(Some(message_id), &self.data_key);
        hkdf.expand(b"\x04\x78DERIVEKEY", &mut key).expect("32 bytes are short");
        hkdf.expand(b"COMMITKEY", &mut commit_key).expect("32 bytes are short");
        std::hint::black_box(&commit_key);
        key
    }
}

/// One AES-256-GCM call of AWS-LC over a copy of `plaintext`, with a new key: the least that
/// sealing it can be.
///
/// # Panics
///
/// When `plaintext` is longer than AES-GCM allows.
#[must_use]
pub fn seal_at_once(plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plaintext.len() + TAG_LENGTH);
    out.extend_from_slice(plaintext);
    let tag = LessSafeKey::with_key(&[7; 32]).seal(1, &FRAME_AAD, &mut out);
    out.extend_from_slice(&tag);
    out
}

/// Opens what [`seal_at_once`] gave, into a copy.
///
/// # Panics
///
/// When `sealed` is anything else.
#[must_use]
pub fn open_at_once(sealed: &[u8]) -> Vec<u8> {
    let (content, tag) = sealed.split_at(sealed.len() - TAG_LENGTH);
    let mut plaintext = content.to_vec();
    LessSafeKey::with_key(&[7; 32]).open(1, &FRAME_AAD, &mut plaintext, tag);
    plaintext
}

/// AES-256-GCM in place.
trait Cipher {
    fn with_key(key: &[u8; 32]) -> Self;
    fn seal(&self, number: u32, aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_LENGTH];
    fn open(&self, number: u32, aad: &[u8], in_out: &mut [u8], tag: &[u8]);
}

impl Cipher for LessSafeKey {
    fn with_key(key: &[u8; 32]) -> Self {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are a key"))
    }

    fn seal(&self, number: u32, aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_LENGTH] {
        let nonce = Nonce::assume_unique_for_key(iv(number));
        let tag = self
            .seal_in_place_separate_tag(nonce, Aad::from(aad), in_out)
            .expect("a frame is short");
        *tag.as_ref().first_chunk().expect("a tag has 16 bytes")
    }

    fn open(&self, number: u32, aad: &[u8], in_out: &mut [u8], tag: &[u8]) {
        let nonce = Nonce::assume_unique_for_key(iv(number));
        self.open_in_place_separate_tag(nonce, Aad::from(aad), tag, in_out)
            .expect("the floor sealed it");
    }
}

impl Cipher for Aes256Gcm {
    fn with_key(key: &[u8; 32]) -> Self {
        Self::new(key.into())
    }

    fn seal(&self, number: u32, aad: &[u8], in_out: &mut [u8]) -> [u8; TAG_LENGTH] {
        self.encrypt_inout_detached(&iv(number).into(), aad, InOutBuf::from(in_out))
            .expect("a frame is short")
            .into()
    }

    fn open(&self, number: u32, aad: &[u8], in_out: &mut [u8], tag: &[u8]) {
        let tag = tag.first_chunk::<TAG_LENGTH>().expect("a tag has 16 bytes");
        self.decrypt_inout_detached(&iv(number).into(), aad, InOutBuf::from(in_out), tag.into())
            .expect("the floor sealed it");
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
    fn each_floor_opens_what_it_sealed() {
        use AlgorithmSuite as Suite;
        let suites = [
            Suite::Aes256GcmHkdfSha256,
            Suite::Aes256GcmHkdfSha512CommitKey,
            Suite::Aes256GcmHkdfSha512CommitKeyEcdsaP384,
        ];
        for (suite, backend) in
            suites.into_iter().flat_map(|suite| Backend::ALL.map(|backend| (suite, backend)))
        {
            for frame_length in [Some(4096), None] {
                let floor = Floor::new(backend, suite, frame_length);
                for size in [0, 1, 4096, 10_000] {
                    let plaintext = vec![5; size];
                    assert_eq!(floor.open(&floor.seal(&plaintext)), plaintext, "{floor:?}");
                }
            }
        }
        assert_eq!(open_at_once(&seal_at_once(b"plaintext")), b"plaintext");
    }
}
