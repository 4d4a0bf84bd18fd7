//! Encryption and decryption of messages, without I/O.
//!
//! [`sealer::Sealer`] and [`opener::Opener`] are the state machines that write and read one message
//! piece by piece; a piece is a frame or a non-framed body. [`encrypt::Encryption`] and
//! [`decrypt::Decryption`] drive them over a complete message, in slices.

pub(crate) mod decrypt;
pub(crate) mod encrypt;
pub(crate) mod opener;
pub(crate) mod sealer;
pub(crate) mod workers;

use std::ops::{Deref, DerefMut};

use zeroize::Zeroize as _;

use self::workers::SLICE;
use crate::{crypto::aead, error::Error, format::header};

/// The IV of the header's tag in messages that this crate writes. No frame has this IV.
const HEADER_IV: [u8; aead::NONCE_LENGTH] = [0; aead::NONCE_LENGTH];

/// The work on one message, in slices, because a message may be long.
pub(crate) trait Slices {
    /// Does the next slice. Returns whether it was the last one.
    fn next_slice(&mut self) -> Result<bool, Error>;

    /// Wipes one slice of the output after a failure. Returns whether there is more to wipe.
    ///
    /// Dropping wipes the rest.
    fn wipe_slice(&mut self) -> bool;

    /// Does all remaining slices.
    fn finish(&mut self) -> Result<(), Error> {
        while !self.next_slice()? {}
        Ok(())
    }
}

/// Bytes that are appended to a buffer. They are removed and wiped on drop, unless
/// [`keep`](Self::keep) was called.
struct Unfinished<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Unfinished<'a> {
    /// Reserves `length` bytes. Growing the buffer later would leave a copy in freed memory.
    fn new(buffer: &'a mut Vec<u8>, length: usize) -> Self {
        let start = buffer.len();
        buffer.reserve(length);
        Self { buffer, start }
    }

    /// Keeps the bytes that were appended so far.
    fn keep(&mut self) {
        self.start = self.buffer.len();
    }

    /// Removes and wipes one slice from the end. Returns whether there is more.
    fn wipe_slice(&mut self) -> bool {
        let end = self.buffer.len().saturating_sub(SLICE).max(self.start);
        self.buffer[end..].zeroize();
        self.buffer.truncate(end);
        end > self.start
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
    /// Creates a message id of the suite's length from the front of `bytes`.
    fn new(suite: crate::suite::AlgorithmSuite, bytes: [u8; 32]) -> Self {
        Self { bytes, length: header::message_id_length(suite) }
    }

    /// Copies a received message id of at most 32 bytes.
    fn received(id: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes[..id.len()].copy_from_slice(id);
        Self { bytes, length: id.len() }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
