//! AES-256-GCM and nothing else: one key, one random nonce and one call a message. No data keys, no
//! derivation, no commitment, no context, no frames.

use std::error::Error;

use aes_gcm::{Aes256Gcm, KeyInit, aead::AeadInOut};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{Contender, WRAPPING_KEY, version_of};

const NONCE: usize = 12;

/// By RustCrypto.
pub(super) struct AesGcm(Aes256Gcm);

impl AesGcm {
    pub(super) fn new() -> Self {
        Self(Aes256Gcm::new(&WRAPPING_KEY.into()))
    }
}

impl Contender for AesGcm {
    fn version(&self) -> String {
        format!("aes-gcm {}", version_of("aes-gcm"))
    }

    fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        let (nonce, mut message) = begun(plaintext);
        let tag = self.0.encrypt_inout_detached(&nonce.into(), b"", (&mut message[NONCE..]).into());
        message.extend_from_slice(&tag.expect("it is short"));
        message
    }

    fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        let (nonce, sealed) = message.split_first_chunk::<NONCE>().expect("a nonce");
        let mut plaintext = sealed.to_vec();
        self.0
            .decrypt_in_place(&(*nonce).into(), b"", &mut plaintext)
            .expect("the same key sealed it");
        plaintext
    }
}

/// By AWS-LC.
pub(super) struct AwsLc(LessSafeKey);

impl AwsLc {
    pub(super) fn new() -> Result<Self, Box<dyn Error>> {
        Ok(Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &WRAPPING_KEY)?)))
    }
}

impl Contender for AwsLc {
    fn version(&self) -> String {
        format!("aws-lc-rs {}", version_of("aws-lc-rs"))
    }

    fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        let (nonce, mut message) = begun(plaintext);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::empty(), &mut message[NONCE..]);
        message.extend_from_slice(tag.expect("it is short").as_ref());
        message
    }

    fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        let (nonce, sealed) = message.split_first_chunk::<NONCE>().expect("a nonce");
        let mut plaintext = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self
            .0
            .open_in_place(nonce, Aad::empty(), &mut plaintext)
            .expect("the same key sealed it")
            .len();
        plaintext.truncate(length);
        plaintext
    }
}

/// A random nonce, and it before the plaintext, with room for the tag.
fn begun(plaintext: &[u8]) -> ([u8; NONCE], Vec<u8>) {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).expect("the system has random numbers");
    let mut message = Vec::with_capacity(NONCE + plaintext.len() + 16);
    message.extend_from_slice(&nonce);
    message.extend_from_slice(plaintext);
    (nonce, message)
}
