//! What the benchmarks share: a warm client, and the *floor* beneath it.
//!
//! The floor is what the primitives alone cost for the same bytes: 32 random bytes, HKDF-SHA-512 with two
//! expands, the header's tag, and one AES-256-GCM call a frame. No library can be faster with these
//! primitives; a figure is worth something only as a ratio to it, taken in the same run.

pub mod file;
pub mod kms;
pub mod load;
pub mod memory;
pub mod outage;
pub mod picture;
pub mod plain;
pub mod pool;
mod verdict;

pub use self::verdict::verdict;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use envelope::{DataKey, EncryptionContext, Envelope, Error, keyring::RawAesKeyring};
use hkdf::Hkdf;
use sha2::Sha512;

/// The frame length of the floor and of [`warm`], in bytes.
pub const FRAME_LENGTH: usize = 4096;

/// What stands in for a header of usual size (one pair of context, one wrapped key), in bytes.
const HEADER_LENGTH: usize = 214;

/// A client whose cache holds the data key for [`context`].
///
/// # Errors
///
/// None, unless the machine has no random numbers.
pub async fn warm() -> Result<Envelope, Error> {
    let envelope = Envelope::new(RawAesKeyring::new("benches", "key", &DataKey::generate(32)?)?)?;
    let message = envelope.encrypt(b"", &context()?).await?;
    envelope.decrypt(&message, &context()?).await?;
    Ok(envelope)
}

/// The encryption context that the benchmarks use.
///
/// # Errors
///
/// None.
pub fn context() -> Result<EncryptionContext, Error> {
    EncryptionContext::new([("tenant", "42")])
}

/// The primitives' work to seal `plaintext`; gives the bytes written.
///
/// # Panics
///
/// When a primitive fails, which none does on these inputs.
#[must_use]
pub fn floor_seal(data_key: &[u8; 32], plaintext: &[u8]) -> Vec<u8> {
    let mut message_id = [0; 32];
    getrandom::fill(&mut message_id).expect("the system has random numbers");
    let key = floor_key(data_key, &message_id);
    let mut out = Vec::with_capacity(HEADER_LENGTH + plaintext.len() + (plaintext.len() / FRAME_LENGTH + 1) * 40);
    out.extend_from_slice(&message_id);
    out.resize(HEADER_LENGTH, 0);
    let tag = seal(&key, 0, &out[..], &mut []);
    out.extend_from_slice(tag.as_ref());
    for (number, frame) in (1..).zip(plaintext.chunks(FRAME_LENGTH)) {
        out.extend_from_slice(&[0; 24]);
        let start = out.len();
        out.extend_from_slice(frame);
        let tag = seal(&key, number, &[0; 78], &mut out[start..]);
        out.extend_from_slice(tag.as_ref());
    }
    out
}

/// The primitives' work to open what [`floor_seal`] gave; gives the plaintext.
///
/// # Panics
///
/// When `sealed` is anything else.
#[must_use]
pub fn floor_open(data_key: &[u8; 32], sealed: &[u8]) -> Vec<u8> {
    let message_id = sealed.first_chunk().expect("a message id stands in front");
    let key = floor_key(data_key, message_id);
    let (header, mut rest) = sealed.split_at(HEADER_LENGTH);
    open(&key, 0, header, &mut [], &rest[..16]);
    rest = &rest[16..];
    let mut plaintext = Vec::with_capacity(rest.len());
    let mut number = 1;
    while !rest.is_empty() {
        let length = (rest.len() - 40).min(FRAME_LENGTH);
        let start = plaintext.len();
        plaintext.extend_from_slice(&rest[24..24 + length]);
        open(&key, number, &[0; 78], &mut plaintext[start..], &rest[24 + length..40 + length]);
        rest = &rest[40 + length..];
        number += 1;
    }
    plaintext
}

fn floor_key(data_key: &[u8; 32], message_id: &[u8; 32]) -> LessSafeKey {
    let hkdf = Hkdf::<Sha512>::new(Some(message_id), data_key);
    let (mut key, mut commit_key) = ([0; 32], [0; 32]);
    hkdf.expand(b"\x04\x78DERIVEKEY", &mut key).expect("32 bytes are short");
    hkdf.expand(b"COMMITKEY", &mut commit_key).expect("32 bytes are short");
    std::hint::black_box(&commit_key);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes are a key"))
}

fn nonce(number: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn seal(key: &LessSafeKey, number: u32, aad: &[u8], in_out: &mut [u8]) -> aws_lc_rs::aead::Tag {
    key.seal_in_place_separate_tag(nonce(number), Aad::from(aad), in_out).expect("a frame is short")
}

fn open(key: &LessSafeKey, number: u32, aad: &[u8], in_out: &mut [u8], tag: &[u8]) {
    key.open_in_place_separate_tag(nonce(number), Aad::from(aad), tag, in_out).expect("floor_seal sealed it");
}
