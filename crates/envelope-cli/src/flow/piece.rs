//! The buffers that threads pass to each other.

use std::io::{self, Read};

use zeroize::Zeroize as _;

/// A buffer that can hold secrets. The bytes after its content are zero, and it is wiped on drop.
pub(crate) struct Piece {
    bytes: Box<[u8]>,
    length: usize,
}

impl Piece {
    /// Returns an empty buffer. Its memory is allocated lazily, as it is filled.
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), length: 0 }
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn is_full(&self) -> bool {
        self.length == self.bytes.len()
    }

    /// Appends the bytes of one read, and returns their number.
    pub(super) fn read(&mut self, source: &mut impl Read) -> io::Result<usize> {
        loop {
            match source.read(&mut self.bytes[self.length..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    let count = result?;
                    self.length += count;
                    return Ok(count);
                }
            }
        }
    }

    /// Appends as many bytes as fit, and returns their number.
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.bytes.len() - self.length);
        self.bytes[self.length..self.length + count].copy_from_slice(&bytes[..count]);
        self.length += count;
        count
    }

    /// Wipes the content.
    pub(super) fn clear(&mut self) {
        self.bytes[..self.length].zeroize();
        self.length = 0;
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.clear();
    }
}
