//! Sealing and opening, piece by piece, without input or output of their own.

pub(crate) mod open;
pub(crate) mod seal;

use crate::{crypto::aead, format::header};

/// The IV of a header's tag where this library writes it: zero, which no frame's is.
const HEADER_IV: [u8; aead::NONCE_LENGTH] = [0; aead::NONCE_LENGTH];

/// A message id: 16 or 32 bytes.
#[derive(Debug, Clone, Copy)]
struct MessageId {
    bytes: [u8; 32],
    length: usize,
}

impl MessageId {
    /// The first bytes of `bytes`, as many as the suite's message ids have.
    fn new(suite: crate::suite::AlgorithmSuite, bytes: [u8; 32]) -> Self {
        Self { bytes, length: header::message_id_length(suite) }
    }

    /// A received message id, of at most 32 bytes.
    fn received(id: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes[..id.len()].copy_from_slice(id);
        Self { bytes, length: id.len() }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
