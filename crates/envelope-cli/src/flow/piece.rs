//! What goes from thread to thread.

use std::io::{self, Read};

use zeroize::Zeroize as _;

/// A buffer that may hold secrets. Behind what it holds there are zeros, and it leaves none but
/// zeros.
pub(crate) struct Piece {
    bytes: Box<[u8]>,
    length: usize,
}

impl Piece {
    /// An empty one. Its memory is taken as it is filled.
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), length: 0 }
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn is_full(&self) -> bool {
        self.length == self.bytes.len()
    }

    /// Appends what one read gives, and tells how much that was.
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

    /// Appends what there is room for, and tells how much that was.
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.bytes.len() - self.length);
        self.bytes[self.length..self.length + count].copy_from_slice(&bytes[..count]);
        self.length += count;
        count
    }

    /// Wipes it.
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
