//! Decryption of a stream (specification: `client-apis/decrypt.md`).

use std::fmt;

use super::{
    Reader, Writer,
    buffer::Buffer,
    machine::{self, CHUNK, Steps},
};
use crate::{
    context::EncryptionContext,
    error::Error,
    format::codec,
    message::{opener::Opener, workers::Workers},
    suite::AlgorithmSuite,
};

/// Decrypts the body of one message, whose header is verified. Created by
/// [`Envelope::decryptor`](crate::Envelope::decryptor).
pub struct Decryptor {
    opener: Opener,
    /// The incomplete frame or footer at the end of the input.
    received: Vec<u8>,
    /// The start of `received` in the message.
    offset: u64,
    /// The number of bytes that are missing after `received`, at least.
    missing: usize,
    output: Buffer,
    state: State,
    stops_at_end: bool,
    workers: Workers,
}

#[derive(Debug)]
enum State {
    Body,
    Footer,
    /// The message is complete and authentic. Whether bytes follow is not known.
    Verified,
    Ended,
    Failed(Error),
}

impl Decryptor {
    /// Starts to decrypt the body after a header of `header_length` bytes.
    pub(crate) fn start(opener: Opener, header_length: usize, workers: Workers) -> Self {
        Self {
            opener,
            received: vec![],
            offset: header_length as u64,
            missing: 1,
            output: Buffer::default(),
            state: State::Body,
            stops_at_end: false,
            workers,
        }
    }

    /// Leaves bytes after the message unread instead of failing. Use this for a message that is
    /// embedded in other data.
    ///
    /// A [`Reader`] then never reads past the end of the message, so use a buffered source.
    #[must_use]
    pub fn stop_at_message_end(mut self) -> Self {
        self.stops_at_end = true;
        self
    }

    /// Returns the authenticated encryption context, with the required pairs that the message does
    /// not store.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        self.opener.encryption_context()
    }

    /// Returns the message's algorithm suite.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.opener.suite()
    }

    /// Returns a reader that decrypts the message body from `source`.
    pub fn reader<R>(self, source: R) -> Reader<Self, R> {
        Reader::new(self, source)
    }

    /// Returns a writer that decrypts the message body that you write, and writes the plaintext to
    /// `sink`.
    ///
    /// Call [`Writer::finish`] at the end: the last frame is only written then.
    pub fn writer<W>(self, sink: W) -> Writer<Self, W> {
        Writer::new(self, sink)
    }

    /// Stores the error and wipes everything else.
    fn fail<T>(&mut self, error: Error) -> Result<T, Error> {
        self.received = vec![];
        self.output.clear();
        self.state = State::Failed(error.clone());
        Err(error)
    }

    fn push_checked(&mut self, input: &[u8]) -> Result<usize, Error> {
        // Memory for the output is reserved by the length of the input.
        let input = &input[..input.len().min(self.chunk())];
        let mut taken = 0;
        while self.output.released().len() < CHUNK {
            let rest = &input[taken..];
            if matches!(self.state, State::Verified | State::Ended) {
                match rest {
                    [] => break,
                    _ if self.stops_at_end => break,
                    _ => return Err(Error::TrailingBytes { offset: self.offset }),
                }
            }
            if self.received.is_empty() {
                match self.step(rest) {
                    Ok(consumed) => taken += consumed,
                    Err(Error::Truncated { missing, .. }) => {
                        self.received.extend_from_slice(rest);
                        self.missing = missing;
                        return Ok(input.len());
                    }
                    Err(error) => return Err(error),
                }
                continue;
            }
            let (next, _) = rest.split_at(rest.len().min(self.missing));
            self.received.extend_from_slice(next);
            taken += next.len();
            self.missing -= next.len();
            if self.missing > 0 {
                break;
            }
            let received = std::mem::take(&mut self.received);
            let step = self.step(&received);
            self.received = received;
            match step {
                // Exactly the missing bytes were taken, so all of them belong to the piece.
                Ok(_) => self.received.clear(),
                Err(Error::Truncated { missing, .. }) => self.missing = missing,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// Decrypts the next piece of the message at the front of `bytes`. Returns its length.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let mut reader = codec::Reader::continuing(bytes, self.offset);
        if matches!(self.state, State::Body) {
            let before = self.output.length();
            // The plaintext of a piece is not longer than the piece.
            let output = self.output.appending(bytes.len());
            let run = self.opener.regular_frames(&mut reader, &self.workers, output);
            if run == 0 && self.opener.next_piece(&mut reader, output)? {
                self.output.hold_from(before);
                self.state = State::Footer;
            }
        } else {
            self.opener.finish(&mut reader)?;
            self.state = State::Verified;
            if self.stops_at_end {
                self.output.release();
            }
        }
        self.offset = reader.offset();
        Ok(reader.position())
    }
}

impl Steps for Decryptor {
    fn push(&mut self, input: &[u8]) -> Result<usize, Error> {
        match &self.state {
            State::Failed(error) => Err(error.clone()),
            _ => self.push_checked(input).or_else(|error| self.fail(error)),
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        match &self.state {
            State::Failed(error) => return Err(error.clone()),
            State::Ended => return Ok(()),
            State::Body | State::Footer => {
                let received = std::mem::take(&mut self.received);
                if let Err(error) = self.step(&received) {
                    return self.fail(error);
                }
                return self.end();
            }
            State::Verified => {}
        }
        self.output.release();
        self.state = State::Ended;
        Ok(())
    }

    fn chunk(&self) -> usize {
        machine::chunk(&self.workers)
    }

    fn wanted(&self) -> usize {
        match self.state {
            _ if !self.stops_at_end => self.chunk(),
            State::Verified | State::Ended => 0,
            _ => self.missing.clamp(1, self.chunk()),
        }
    }

    fn output(&mut self) -> &mut Buffer {
        &mut self.output
    }
}

/// Shows the progress, but no data.
impl fmt::Debug for Decryptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, state, .. } = self;
        f.debug_struct("Decryptor")
            .field("offset", offset)
            .field("state", state)
            .finish_non_exhaustive()
    }
}
