//! Opening a stream (specification: `client-apis/decrypt.md`).

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

/// Which messages may be opened as a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecryptionMode {
    /// Those of unsigned suites. A signed one is refused with [`Error::SignedMessage`].
    UnsignedOnly,
    /// All; of a signed one, every frame but the last is released **before the signature is
    /// verified**. Until the end was read without an error, what came may be by anyone who may
    /// *open* the message, not by who may sign it: don't act on it before.
    ReleaseBeforeSignatureIsVerified,
}

impl DecryptionMode {
    /// Refuses a signed suite where that is the mode.
    pub(crate) fn check(self, suite: AlgorithmSuite) -> Result<(), Error> {
        match self {
            Self::UnsignedOnly if suite.is_signed() => Err(Error::SignedMessage { suite }),
            _ => Ok(()),
        }
    }
}

/// Opens the body of one message, whose header is verified. From
/// [`Envelope::decryptor`](crate::Envelope::decryptor).
pub struct Decryptor {
    opener: Opener,
    /// What came of the frame, or the footer, that is not complete yet.
    received: Vec<u8>,
    /// Where that starts in the message.
    offset: u64,
    /// How much is missing of it, at the least.
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
    /// The message is whole and authentic; whether more follows is not known yet.
    Verified,
    Ended,
    Failed(Error),
}

impl Decryptor {
    /// Opens what follows a header of so many bytes.
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

    /// Leaves what follows the message unread, instead of taking it for an error: for a message
    /// amid other bytes.
    ///
    /// A [`Reader`] then asks its source for no byte beyond the message, so a buffered source is
    /// best.
    #[must_use]
    pub fn stop_at_message_end(mut self) -> Self {
        self.stops_at_end = true;
        self
    }

    /// The message's encryption context, authenticated, with what it requires but does not store.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        self.opener.encryption_context()
    }

    /// The algorithm suite the message was sealed with.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.opener.suite()
    }

    /// The plaintext of the message whose body is read from `source`, to be read.
    pub fn reader<R>(self, source: R) -> Reader<Self, R> {
        Reader::new(self, source)
    }

    /// Takes the message's body, and writes its plaintext to `sink`. It must be finished, see
    /// [`Writer`]: the last frame is written only then.
    pub fn writer<W>(self, sink: W) -> Writer<Self, W> {
        Writer::new(self, sink)
    }

    /// Remembers a failure, and gives up everything else.
    fn fail<T>(&mut self, error: Error) -> Result<T, Error> {
        self.received = vec![];
        self.output.clear();
        self.state = State::Failed(error.clone());
        Err(error)
    }

    fn push_checked(&mut self, input: &[u8]) -> Result<usize, Error> {
        // Room for output is made by the input's length.
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
                // Exactly the missing bytes were taken, so all of them belonged to the piece.
                Ok(_) => self.received.clear(),
                Err(Error::Truncated { missing, .. }) => self.missing = missing,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// Opens the next piece of the message at the front of `bytes`, and tells how long it was.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let mut reader = codec::Reader::continuing(bytes, self.offset);
        if matches!(self.state, State::Body) {
            let before = self.output.length();
            // No piece has more plaintext than bytes.
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

/// How far it is, nothing of what it opens.
impl fmt::Debug for Decryptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, state, .. } = self;
        f.debug_struct("Decryptor")
            .field("offset", offset)
            .field("state", state)
            .finish_non_exhaustive()
    }
}
