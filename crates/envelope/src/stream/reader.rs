//! Readers that encrypt or decrypt.

use std::{fmt, io};
#[cfg(feature = "tokio")]
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use zeroize::Zeroizing;

use super::machine::Machine;

/// The number of bytes that are read from a source at first.
const FIRST: usize = 4096;
/// The factor by which reads grow when the source fills the buffer.
const GROWTH: usize = 4;

/// Reads from a source and returns the output of an [`Encryptor`](super::Encryptor) (the message)
/// or a [`Decryptor`](super::Decryptor) (the plaintext).
///
/// At the end of the source, an encryptor finishes the message, and a decryptor checks that the
/// message is complete. `Ok(0)` for a non-empty buffer means success. After a transient error of
/// the source (interrupted, would block, timed out) you can read again. After any other error every
/// read fails, so a message is never finished with missing plaintext.
pub struct Reader<M, R> {
    machine: M,
    source: R,
    /// Grows fourfold while the source fills it, up to the machine's chunk, so that short streams
    /// need little memory.
    input: Zeroizing<Vec<u8>>,
    /// The part of `input` that the machine has not taken.
    unread: std::ops::Range<usize>,
    at_end: bool,
    ended: bool,
    /// The permanent error of the source, if any.
    failed: Option<io::ErrorKind>,
}

impl<M: Machine, R> Reader<M, R> {
    pub(super) fn new(machine: M, source: R) -> Self {
        let input = Zeroizing::new(vec![0; FIRST]);
        Self { machine, source, input, unread: 0..0, at_end: false, ended: false, failed: None }
    }

    /// Returns the encryptor or decryptor.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Returns the source.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// Consumes the reader and returns the source. Bytes that were read ahead are lost.
    pub fn into_source(self) -> R {
        self.source
    }

    /// Fills `buffer` and returns the number of bytes; `None` when the source must be read first.
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            // Also with no input: a machine that failed returns its error again.
            self.unread.start += self.machine.push(&self.input[self.unread.clone()])?;
            let output = self.machine.output();
            let count = output.released().len().min(buffer.len());
            if count > 0 || buffer.is_empty() {
                buffer[..count].copy_from_slice(&output.released()[..count]);
                output.take(count);
                return Ok(Some(count));
            }
            if self.ended {
                return Ok(Some(0));
            }
            if self.unread.is_empty() {
                if !self.at_end && self.machine.wanted() > 0 {
                    return Ok(None);
                }
                self.machine.end()?;
                self.ended = true;
            }
        }
    }

    /// Returns the number of bytes to read from the source.
    fn wanted(&mut self) -> io::Result<usize> {
        if let Some(kind) = self.failed {
            return Err(io::Error::new(kind, "read after an earlier error of the source"));
        }
        let wanted = self.machine.wanted();
        let length = self.input.len();
        if self.unread.end == length && wanted > length {
            self.input =
                Zeroizing::new(vec![0; self.machine.chunk().clamp(length, GROWTH * length)]);
        }
        Ok(wanted.min(self.input.len()))
    }

    /// Stores the kind of a permanent error of the source.
    fn source_failed(&mut self, error: io::Error) -> io::Error {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};

        if !matches!(error.kind(), Interrupted | TimedOut | WouldBlock) {
            self.failed = Some(error.kind());
        }
        error
    }

    /// Records that the source returned `count` bytes.
    fn received(&mut self, count: usize) {
        self.unread = 0..count;
        self.at_end = count == 0;
    }
}

impl<M: Machine, R: io::Read> io::Read for Reader<M, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(count) = self.serve(buffer)? {
                return Ok(count);
            }
            let wanted = self.wanted()?;
            let count = self.source.read(&mut self.input[..wanted]);
            let count = count.map_err(|error| self.source_failed(error))?;
            self.received(count);
        }
    }
}

#[cfg(feature = "tokio")]
impl<M: Machine + Unpin, R: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for Reader<M, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Some(count) = this.serve(buffer.initialize_unfilled())? {
                buffer.advance(count);
                return Poll::Ready(Ok(()));
            }
            let wanted = this.wanted()?;
            let mut input = tokio::io::ReadBuf::new(&mut this.input[..wanted]);
            let polled = ready!(Pin::new(&mut this.source).poll_read(cx, &mut input));
            let count = polled.map(|()| input.filled().len());
            let count = count.map_err(|error| this.source_failed(error))?;
            this.received(count);
        }
    }
}

impl<M: fmt::Debug, R> fmt::Debug for Reader<M, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("machine", &self.machine).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::{
        error::Error,
        stream::{buffer::Buffer, machine::Steps},
    };

    /// Takes all input and has no output.
    struct Sink(Buffer, usize);

    impl Steps for Sink {
        fn push(&mut self, input: &[u8]) -> Result<usize, Error> {
            Ok(input.len())
        }

        fn end(&mut self) -> Result<(), Error> {
            Ok(())
        }

        fn chunk(&self) -> usize {
            self.1
        }

        fn wanted(&self) -> usize {
            self.1
        }

        fn output(&mut self) -> &mut Buffer {
            &mut self.0
        }
    }

    /// Returns this many zeros, and records the length of each read.
    struct Source(usize, Vec<usize>);

    impl io::Read for Source {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(self.0);
            self.0 -= count;
            self.1.push(buffer.len());
            Ok(count)
        }
    }

    #[test]
    fn the_buffer_grows_up_to_the_machines_chunk_while_the_source_fills_it() {
        const K: usize = 1024;
        let reads = |chunk, length| {
            let mut reader = Reader::new(Sink(Buffer::default(), chunk), Source(length, vec![]));
            reader.read_to_end(&mut vec![]).unwrap();
            (reader.source.1, reader.input.len() / K)
        };
        assert_eq!(reads(64 * K, 0), (vec![4 * K], 4));
        assert_eq!(reads(64 * K, 4 * K - 1), (vec![4 * K, 4 * K], 4));
        let grown = [4, 16, 64, 64, 64, 64].map(|length| length * K);
        assert_eq!(reads(64 * K, 200 * K), (grown.to_vec(), 64));
        let grown = [4, 16, 64, 100, 100, 100, 100].map(|length| length * K);
        assert_eq!(reads(100 * K, 300 * K), (grown.to_vec(), 100));
        assert_eq!(reads(K, 2 * K), (vec![K; 3], 4));
    }
}
