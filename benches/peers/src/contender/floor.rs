//! The primitives that a message of suite 0x0478 takes, and nothing else: what no client can be
//! faster than. It is the floor of the other benchmarks, said once more here: these are a workspace
//! of their own.
//!
//! 32 random bytes, HKDF-SHA-512 with two expands, the tag of a header of usual length, and one
//! AES-256-GCM call a frame.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use hkdf::Hkdf;
use sha2::Sha512;

use super::{Contender, FRAME_LENGTH, WRAPPING_KEY, version_of};

const MESSAGE_ID: usize = 32;
/// A header with one pair of context and one wrapped key.
const HEADER: usize = 214;
/// What stands before a frame's bytes, and after them.
const BEFORE: usize = 24;
const TAG: usize = 16;
/// What a frame is bound to.
const BODY_AAD: [u8; 78] = [0; 78];

pub(super) struct Floor;

impl Contender for Floor {
    fn version(&self) -> String {
        format!("aws-lc-rs {}", version_of("aws-lc-rs"))
    }

    fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut message_id = [0; MESSAGE_ID];
        getrandom::fill(&mut message_id).expect("the system has random numbers");
        let key = derived(&message_id);
        let frames = plaintext.len() / FRAME_LENGTH as usize + 1;
        let mut message =
            Vec::with_capacity(HEADER + TAG + plaintext.len() + frames * (BEFORE + TAG));
        message.extend_from_slice(&message_id);
        message.resize(HEADER, 0);
        let tag = key
            .seal_in_place_separate_tag(nonce(0), Aad::from(&message), &mut [])
            .expect("a header is short");
        message.extend_from_slice(tag.as_ref());
        for (number, frame) in (1..).zip(plaintext.chunks(FRAME_LENGTH as usize)) {
            message.extend_from_slice(&[0; BEFORE]);
            let start = message.len();
            message.extend_from_slice(frame);
            let tag = key.seal_in_place_separate_tag(
                nonce(number),
                Aad::from(&BODY_AAD),
                &mut message[start..],
            );
            message.extend_from_slice(tag.expect("a frame is short").as_ref());
        }
        message
    }

    fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        let key = derived(message.first_chunk().expect("a message id stands in front"));
        let (header, rest) = message.split_at(HEADER);
        let (tag, body) = rest.split_at(TAG);
        let mut plaintext = Vec::with_capacity(body.len());
        open(&key, 0, header, tag, &mut []);
        for (number, frame) in (1..).zip(body.chunks(BEFORE + FRAME_LENGTH as usize + TAG)) {
            let (sealed, tag) = frame[BEFORE..].split_at(frame.len() - BEFORE - TAG);
            let start = plaintext.len();
            plaintext.extend_from_slice(sealed);
            open(&key, number, &BODY_AAD, tag, &mut plaintext[start..]);
        }
        plaintext
    }
}

/// The key of a message, and its commitment for nobody.
fn derived(message_id: &[u8; MESSAGE_ID]) -> LessSafeKey {
    let hkdf = Hkdf::<Sha512>::new(Some(message_id), &WRAPPING_KEY);
    let (mut key, mut commitment) = ([0; 32], [0; 32]);
    hkdf.expand(b"\x04\x78DERIVEKEY", &mut key).expect("32 bytes are short");
    hkdf.expand(b"COMMITKEY", &mut commitment).expect("32 bytes are short");
    std::hint::black_box(&commitment);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes are a key"))
}

fn open(key: &LessSafeKey, number: u32, aad: &[u8], tag: &[u8], in_out: &mut [u8]) {
    key.open_in_place_separate_tag(nonce(number), Aad::from(aad), tag, in_out)
        .expect("the same key sealed it");
}

fn nonce(number: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}
