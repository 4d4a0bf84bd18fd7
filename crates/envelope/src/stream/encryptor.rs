//! Encryption of a stream (specification: `client-apis/encrypt.md`).

use std::{fmt, sync::Arc};

use super::{
    Reader, Writer,
    buffer::Buffer,
    machine::{self, CHUNK, Steps},
};
use crate::{
    error::Error,
    format::{footer, frame, header::ContentType, non_framed},
    materials::EncryptionMaterials,
    message::{
        sealer::{self, Sealer},
        workers::{self, Workers},
    },
};

/// Encrypts one message incrementally. Created by
/// [`Envelope::encryptor`](crate::Envelope::encryptor).
pub struct Encryptor {
    content_type: ContentType,
    bound: Option<u64>,
    /// The number of plaintext bytes so far.
    length: u64,
    /// The plaintext of the next frame. A full frame waits for more plaintext, because the final
    /// frame has another format.
    frame: Buffer,
    output: Buffer,
    state: State,
    workers: Workers,
}

enum State {
    Open(Sealer<Arc<EncryptionMaterials>>),
    Ended,
    Failed(Error),
}

impl Encryptor {
    /// Starts a message. Its header is the first output.
    pub(crate) fn start(
        materials: Arc<EncryptionMaterials>,
        content_type: ContentType,
        bound: Option<u64>,
        workers: Workers,
    ) -> Result<Self, Error> {
        let mut output = Buffer::default();
        let length = sealer::header_length(&materials);
        let sealer = Sealer::start(materials, content_type, output.appending(length))?;
        Ok(Self {
            content_type,
            bound,
            length: 0,
            frame: Buffer::default(),
            output,
            state: State::Open(sealer),
            workers,
        })
    }

    /// Returns a reader that encrypts the plaintext from `source`.
    pub fn reader<R>(self, source: R) -> Reader<Self, R> {
        Reader::new(self, source)
    }

    /// Returns a writer that encrypts the plaintext that you write, and writes the message to
    /// `sink`.
    ///
    /// Call [`Writer::finish`] at the end.
    pub fn writer<W>(self, sink: W) -> Writer<Self, W> {
        Writer::new(self, sink)
    }

    /// Stores the error and wipes everything else.
    fn fail<T>(&mut self, error: Error) -> Result<T, Error> {
        self.frame.clear();
        self.output.clear();
        self.state = State::Failed(error.clone());
        Err(error)
    }

    fn push_checked(&mut self, input: &[u8]) -> Result<usize, Error> {
        if input.is_empty() {
            return Ok(0);
        }
        let State::Open(sealer) = &mut self.state else {
            return Err(Error::invalid_setting(
                "stream",
                "plaintext was written after the message was finished",
            ));
        };
        let mut rest = input;
        let ContentType::Framed { frame_length } = self.content_type else {
            self.frame.appending(rest.len()).extend_from_slice(rest);
            return Ok(rest.len());
        };
        let frame_length = frame::length(frame_length);
        // Takes at least one byte, even if a long frame must be encrypted first: `Ok(0)` from a
        // writer means that it is closed.
        while !rest.is_empty()
            && (rest.len() == input.len() || self.output.released().len() < CHUNK)
        {
            if self.frame.length() == 0 && rest.len() > frame_length {
                let max = machine::chunk(&self.workers);
                let count = ((rest.len() - 1) / frame_length)
                    .min((max / workers::cost(frame_length)).max(1));
                let (frames, after) = rest.split_at(count * frame_length);
                let out = self.output.appending(frames.len() + count * frame::REGULAR_OVERHEAD);
                sealer.regular_frames(frames, frame_length, &self.workers, out)?;
                rest = after;
            } else if self.frame.length() == frame_length {
                let out = self.output.appending(frame_length + frame::REGULAR_OVERHEAD);
                sealer.regular_frame(self.frame.released(), out)?;
                self.frame.take(frame_length);
            } else {
                let (frame, after) =
                    rest.split_at(rest.len().min(frame_length - self.frame.length()));
                self.frame.appending(frame.len()).extend_from_slice(frame);
                rest = after;
            }
        }
        Ok(input.len() - rest.len())
    }

    /// Fails for more plaintext than the bound, or than a message can hold.
    fn check_length(&self, length: u64) -> Result<(), Error> {
        match self.bound {
            Some(bound) if length > bound => Err(Error::PlaintextBoundExceeded { bound }),
            _ => sealer::check_length(length, self.content_type),
        }
    }
}

impl Steps for Encryptor {
    fn push(&mut self, input: &[u8]) -> Result<usize, Error> {
        if let State::Failed(error) = &self.state {
            return Err(error.clone());
        }
        let checked = self.check_length(self.length.saturating_add(input.len() as u64));
        let taken = checked.and_then(|()| self.push_checked(input));
        let taken = taken.or_else(|error| self.fail(error))?;
        self.length += taken as u64;
        Ok(taken)
    }

    fn end(&mut self) -> Result<(), Error> {
        let mut sealer = match std::mem::replace(&mut self.state, State::Ended) {
            State::Open(sealer) => sealer,
            State::Ended => return Ok(()),
            State::Failed(error) => return self.fail(error),
        };
        let length = self.frame.length();
        let overhead = frame::FINAL_OVERHEAD.max(non_framed::OVERHEAD) + footer::MAX_LENGTH;
        let out = self.output.appending(length + overhead);
        match self.content_type {
            ContentType::Framed { .. } => sealer.final_frame(self.frame.released(), out),
            ContentType::NonFramed => sealer.single_block(self.frame.released(), out),
        }
        let finished = sealer.finish(out);
        self.frame.clear();
        finished.or_else(|error| self.fail(error))
    }

    fn chunk(&self) -> usize {
        machine::chunk(&self.workers)
    }

    fn wanted(&self) -> usize {
        self.chunk()
    }

    fn output(&mut self) -> &mut Buffer {
        &mut self.output
    }
}

/// Shows the progress, but no data.
impl fmt::Debug for Encryptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Open(_) => "open",
            State::Ended => "ended",
            State::Failed(_) => "failed",
        };
        f.debug_struct("Encryptor")
            .field("length", &self.length)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
