//! Sealing and opening, frame by frame, without input or output of their own.

pub(crate) mod open;
pub(crate) mod seal;

use crate::{
    crypto::{aead, kdf},
    data_key::DataKey,
    suite::AlgorithmSuite,
};

/// The IV of a version 2 header's tag: zero, which no frame's is.
const HEADER_IV: [u8; aead::NONCE_LENGTH] = [0; aead::NONCE_LENGTH];

/// The commit key and the cipher of one message.
fn derive(suite: AlgorithmSuite, data_key: &DataKey, message_id: &[u8; 32]) -> ([u8; 32], aead::Key) {
    let keys = kdf::derive_committing(suite.id(), data_key.expose_secret(), message_id);
    let cipher = aead::Key::new(keys.encryption_key.as_ref()).expect("32 bytes are an AES-256 key");
    (keys.commit_key, cipher)
}
