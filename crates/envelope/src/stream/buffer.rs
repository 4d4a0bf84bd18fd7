//! A queue of bytes that may be secret.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes that wait to be taken from the front. Wiped on drop, and never left behind in freed memory
/// by growing.
#[derive(Default)]
pub struct Buffer {
    bytes: Zeroizing<Vec<u8>>,
    /// Where the bytes start that were not taken yet.
    start: usize,
    /// How many bytes at the end are not released yet.
    held: usize,
}

impl Buffer {
    /// What may be taken.
    pub(super) fn released(&self) -> &[u8] {
        &self.bytes[self.start..self.bytes.len() - self.held]
    }

    /// Takes `count` of the released bytes away.
    pub(super) fn take(&mut self, count: usize) {
        debug_assert!(count <= self.released().len());
        self.start += count;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// The bytes from the first one not taken, to append to; appended bytes count as released. At
    /// most `additional` bytes may be appended.
    pub(super) fn appending(&mut self, additional: usize) -> &mut Vec<u8> {
        self.reserve(additional);
        &mut self.bytes
    }

    /// Holds back the last bytes, from the `length`th of all that are not taken on.
    pub(super) fn hold_from(&mut self, length: usize) {
        self.held = self.bytes.len() - self.start - length;
    }

    /// Releases what was held back.
    pub(super) fn release(&mut self) {
        self.held = 0;
    }

    /// How many bytes are not taken, released or not.
    pub(super) fn length(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Wipes everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Makes room. Growing by reallocation would leave the bytes behind in freed memory.
    fn reserve(&mut self, additional: usize) {
        if self.bytes.capacity() - self.bytes.len() >= additional {
            return;
        }
        let waiting = &self.bytes[self.start..];
        let needed = waiting.len() + additional;
        // Twice as much where it grows, so that many small additions cost few copies.
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

/// Lengths alone.
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
    fn what_is_held_back_waits_for_its_release() {
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
    fn many_small_additions_reallocate_seldom() {
        let (mut buffer, mut reallocations, mut capacity) = (Buffer::default(), 0, 0);
        for _ in 0..100_000 {
            buffer.appending(1).push(0);
            reallocations += usize::from(buffer.bytes.capacity() != capacity);
            capacity = buffer.bytes.capacity();
        }
        assert!(reallocations < 30, "{reallocations}");
    }

    proptest! {
        #[test]
        fn gives_what_it_was_given(steps in proptest::collection::vec((any::<Vec<u8>>(), 0usize..50), 0..50)) {
            let (mut buffer, mut model) = (Buffer::default(), VecDeque::new());
            for (bytes, taken) in steps {
                let room = buffer.appending(bytes.len());
                let pointer = room.as_ptr();
                room.extend_from_slice(&bytes);
                prop_assert_eq!(room.as_ptr(), pointer, "grew after it was reserved");
                model.extend(bytes);
                let taken = taken.min(model.len());
                buffer.take(taken);
                model.drain(..taken);
                prop_assert_eq!(buffer.released(), model.make_contiguous());
            }
        }
    }
}
