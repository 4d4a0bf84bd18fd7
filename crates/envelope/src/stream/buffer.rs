//! A queue of secret bytes.

use std::fmt;

use zeroize::Zeroizing;

/// A queue of bytes. It is wiped on drop, and growing leaves no copy in freed memory.
#[derive(Default)]
pub struct Buffer {
    bytes: Zeroizing<Vec<u8>>,
    /// The start of the bytes that were not taken.
    start: usize,
    /// The number of bytes at the end that are not released.
    held: usize,
}

impl Buffer {
    /// Returns the released bytes, which can be taken.
    pub(super) fn released(&self) -> &[u8] {
        &self.bytes[self.start..self.bytes.len() - self.held]
    }

    /// Removes `count` released bytes from the front.
    pub(super) fn take(&mut self, count: usize) {
        debug_assert!(count <= self.released().len());
        self.start += count;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Returns the vector to append at most `additional` bytes to. Appended bytes are released.
    pub(super) fn appending(&mut self, additional: usize) -> &mut Vec<u8> {
        self.reserve(additional);
        &mut self.bytes
    }

    /// Holds back all bytes after the first `length` ones.
    pub(super) fn hold_from(&mut self, length: usize) {
        self.held = self.bytes.len() - self.start - length;
    }

    /// Releases the bytes that were held back.
    pub(super) fn release(&mut self) {
        self.held = 0;
    }

    /// Returns the number of bytes, released or not.
    pub(super) fn length(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Wipes and removes all bytes.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Reserves memory. Reallocation would leave the bytes in freed memory.
    fn reserve(&mut self, additional: usize) {
        if self.bytes.capacity() - self.bytes.len() >= additional {
            return;
        }
        let waiting = &self.bytes[self.start..];
        let needed = waiting.len() + additional;
        // Doubles the capacity when it grows, so that many small additions cost few copies.
        let grown = if needed > self.bytes.capacity() {
            self.bytes.capacity().saturating_mul(2)
        } else {
            0
        };
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(needed.max(self.bytes.capacity()).max(grown)));
        bytes.extend_from_slice(waiting);
        self.bytes = bytes;
        self.start = 0;
    }
}

/// Shows only lengths.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("length", &self.length())
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_that_are_held_back_cannot_be_taken_before_their_release() {
        let mut buffer = Buffer::default();
        buffer.appending(3).extend_from_slice(b"abc");
        buffer.take(1);
        let before = buffer.length();
        buffer.appending(2).extend_from_slice(b"de");
        buffer.hold_from(before);
        assert_eq!(buffer.released(), b"bc");
        buffer.take(2);
        assert_eq!((buffer.released(), buffer.length()), (&b""[..], 2));
        buffer.release();
        assert_eq!(buffer.released(), b"de");
    }

    #[test]
    fn many_small_additions_cause_few_reallocations() {
        let mut buffer = Buffer::default();
        let mut reallocations = 0;
        let mut capacity = 0;
        for _ in 0..100_000 {
            buffer.appending(1).push(0);
            reallocations += usize::from(buffer.bytes.capacity() != capacity);
            capacity = buffer.bytes.capacity();
        }
        assert!(reallocations < 30, "{reallocations}");
    }

    proptest! {
        #[test]
        fn bytes_come_out_in_order(
            steps in proptest::collection::vec((any::<Vec<u8>>(), 0usize..50), 0..50),
        ) {
            let mut buffer = Buffer::default();
            let mut model = VecDeque::new();
            for (bytes, taken) in steps {
                let appended = buffer.appending(bytes.len());
                let pointer = appended.as_ptr();
                appended.extend_from_slice(&bytes);
                prop_assert_eq!(appended.as_ptr(), pointer, "reallocated in spite of reserve");
                model.extend(bytes);
                let taken = taken.min(model.len());
                buffer.take(taken);
                model.drain(..taken);
                prop_assert_eq!(buffer.released(), model.make_contiguous());
            }
        }
    }
}
