//! Reading through a machine.

use std::{fmt, io};
#[cfg(feature = "tokio")]
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use zeroize::Zeroizing;

use super::machine::Machine;

/// How much is read from a source at first, in bytes.
const FIRST: usize = 4096;
/// How many times more is read at once after a source has filled all that there was.
const GROWTH: usize = 4;

/// Reads from a source, and gives what a machine makes of it: the message, or its plaintext.
///
/// At the end of the source it ends the message, or checks that the message has ended. Reading
/// `Ok(0)` means that all is well (into a buffer that is not empty). After an error of the source
/// that passes (interrupted, would block, timed out) reading may go on; after any other, and after
/// one of the machine, each further read fails: a message is never sealed over what a source failed
/// to give.
pub struct Reader<M, R> {
    machine: M,
    source: R,
    /// Grows to what the machine is best given, fourfold while the source fills it, so that short
    /// streams cost little.
    input: Zeroizing<Vec<u8>>,
    /// Which part of `input` the machine has not taken yet.
    unread: std::ops::Range<usize>,
    at_end: bool,
    ended: bool,
    /// How the source failed for good.
    failed: Option<io::ErrorKind>,
}

impl<M: Machine, R> Reader<M, R> {
    pub(super) fn new(machine: M, source: R) -> Self {
        let input = Zeroizing::new(vec![0; FIRST]);
        Self { machine, source, input, unread: 0..0, at_end: false, ended: false, failed: None }
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The source.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// The source. What was read ahead of what was given is lost.
    pub fn into_source(self) -> R {
        self.source
    }

    /// Fills `buffer`, and tells how much it took; `None` when the source must be read first.
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            // Also where there is nothing to push: a machine that failed goes on failing.
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

    /// How much to read from the source at once.
    fn wanted(&mut self) -> io::Result<usize> {
        if let Some(kind) = self.failed {
            return Err(io::Error::new(kind, "the source failed before"));
        }
        let wanted = self.machine.wanted();
        let length = self.input.len();
        if self.unread.end == length && wanted > length {
            self.input =
                Zeroizing::new(vec![0; self.machine.chunk().clamp(length, GROWTH * length)]);
        }
        Ok(wanted.min(self.input.len()))
    }

    /// Notes how the source failed, unless that passes.
    fn source_failed(&mut self, error: io::Error) -> io::Error {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};

        if !matches!(error.kind(), Interrupted | TimedOut | WouldBlock) {
            self.failed = Some(error.kind());
        }
        error
    }

    /// Notes that the source gave so many bytes.
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

    /// Takes everything, and makes nothing of it.
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

    /// Gives so many bytes, and notes how many were asked for at a time.
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
    fn the_buffer_grows_while_the_source_fills_it_up_to_what_the_machine_is_best_given() {
        const K: usize = 1024;
        let asked = |chunk, length| {
            let mut reader = Reader::new(Sink(Buffer::default(), chunk), Source(length, vec![]));
            reader.read_to_end(&mut vec![]).unwrap();
            (reader.source.1, reader.input.len() / K)
        };
        assert_eq!(asked(64 * K, 0), (vec![4 * K], 4));
        assert_eq!(asked(64 * K, 4 * K - 1), (vec![4 * K, 4 * K], 4));
        let grown = [4, 16, 64, 64, 64, 64].map(|length| length * K);
        assert_eq!(asked(64 * K, 200 * K), (grown.to_vec(), 64));
        let grown = [4, 16, 64, 100, 100, 100, 100].map(|length| length * K);
        assert_eq!(asked(100 * K, 300 * K), (grown.to_vec(), 100));
        assert_eq!(asked(K, 2 * K), (vec![K; 3], 4));
    }
}
