//! Sealing and opening, piece by piece, without input or output of their own.

pub(crate) mod open;
pub(crate) mod opening;
pub(crate) mod seal;
pub(crate) mod sealing;
pub(crate) mod workers;

use std::ops::{Deref, DerefMut};

use zeroize::Zeroize as _;

use self::workers::SLICE;
use crate::{crypto::aead, error::Error, format::header};

/// The IV of a header's tag where this library writes it: zero, which no frame's is.
const HEADER_IV: [u8; aead::NONCE_LENGTH] = [0; aead::NONCE_LENGTH];

/// Work on a whole message, which may be long.
pub(crate) trait Slices {
    /// Does the next slice of it, and tells whether that was the last.
    fn next_slice(&mut self) -> Result<bool, Error>;

    /// After a failure: wipes a slice of what was done, and tells whether there is more. Dropping
    /// wipes all that is left.
    fn wipe_slice(&mut self) -> bool;

    /// Finishes the rest at once.
    fn finish(&mut self) -> Result<(), Error> {
        while !self.next_slice()? {}
        Ok(())
    }
}

/// Bytes that are being appended to a buffer. On drop they are removed and wiped, unless they were
/// kept.
struct Unfinished<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Unfinished<'a> {
    /// Makes room for so many bytes. Growing in between would leave a copy behind.
    fn new(buffer: &'a mut Vec<u8>, length: usize) -> Self {
        let start = buffer.len();
        buffer.reserve(length);
        Self { buffer, start }
    }

    fn keep(&mut self) {
        self.start = self.buffer.len();
    }

    /// Takes back a slice, and tells whether there is more.
    fn wipe_slice(&mut self) -> bool {
        let left = self.buffer.len().saturating_sub(SLICE).max(self.start);
        self.buffer[left..].zeroize();
        self.buffer.truncate(left);
        left > self.start
    }
}

impl Deref for Unfinished<'_> {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        self.buffer
    }
}

impl DerefMut for Unfinished<'_> {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        self.buffer
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.buffer[self.start..].zeroize();
        self.buffer.truncate(self.start);
    }
}

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
