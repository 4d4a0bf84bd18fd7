//! Decryption of a complete message, in slices.

use std::ops::Range;

use zeroize::Zeroize as _;

use super::{
    Slices, Unfinished,
    opener::Opener,
    workers::{SLICE, Workers, cost},
};
use crate::{
    error::Error,
    format::{codec::Reader, frame, header::ContentType, non_framed},
};

/// Appends the plaintext of one message to a buffer, or leaves the buffer unchanged.
pub(crate) struct Decryption<'a> {
    opener: &'a mut Opener,
    body: Reader<'a>,
    workers: &'a Workers,
    plaintext: Unfinished<'a>,
}

impl<'a> Decryption<'a> {
    /// Starts to decrypt `message`, whose body starts at `body`.
    pub(crate) fn start(
        opener: &'a mut Opener,
        message: &'a [u8],
        body: usize,
        workers: &'a Workers,
        plaintext: &'a mut Vec<u8>,
    ) -> Self {
        let body_length = message.len() - body;
        let length = match opener.content_type() {
            ContentType::Framed { frame_length } => {
                frame::plaintext_length(body_length, frame_length)
            }
            ContentType::NonFramed => body_length.saturating_sub(non_framed::OVERHEAD),
        };
        Self {
            opener,
            body: Reader::new(message, body),
            workers,
            plaintext: Unfinished::new(plaintext, length),
        }
    }
}

impl Slices for Decryption<'_> {
    /// Fails with [`Error::Authentication`], or an error of the body's format.
    fn next_slice(&mut self) -> Result<bool, Error> {
        let mut left = SLICE;
        while left > 0 {
            let before = self.plaintext.len();
            let run = self.opener.regular_frames(&mut self.body, self.workers, &mut self.plaintext);
            if run == 0 && self.opener.next_piece(&mut self.body, &mut self.plaintext)? {
                finish(self.opener, &mut self.body)?;
                self.plaintext.keep();
                return Ok(true);
            }
            left = left.saturating_sub(run.max(cost(self.plaintext.len() - before)));
        }
        Ok(false)
    }

    fn wipe_slice(&mut self) -> bool {
        self.plaintext.wipe_slice()
    }
}

/// Decrypts one message in place.
pub(crate) struct InPlaceDecryption<'a, 'm> {
    opener: &'a mut Opener,
    message: &'m mut [u8],
    /// The start of the next piece.
    next: usize,
    /// The position of the plaintext. After a failure, the message is wiped from its start on.
    plaintext: Range<usize>,
}

impl<'a, 'm> InPlaceDecryption<'a, 'm> {
    /// Starts to decrypt `message`, whose body starts at `body`.
    pub(crate) fn start(opener: &'a mut Opener, message: &'m mut [u8], body: usize) -> Self {
        Self { opener, message, next: body, plaintext: body..body }
    }

    /// Returns the plaintext after the last slice.
    pub(crate) fn into_plaintext(mut self) -> &'m mut [u8] {
        let plaintext = std::mem::take(&mut self.plaintext);
        &mut std::mem::take(&mut self.message)[plaintext]
    }

    fn next_piece(&mut self) -> Result<bool, Error> {
        let mut reader = Reader::new(self.message, self.next);
        let piece = self.opener.read_piece(&mut reader)?;
        self.next = reader.position();
        let content = piece.content.clone();
        self.opener.open_piece(&piece, &mut self.message[content.clone()])?;
        if self.plaintext.is_empty() {
            // The plaintext starts with this piece, which need not be moved.
            self.plaintext = content;
        } else {
            self.message.copy_within(content.clone(), self.plaintext.end);
            self.plaintext.end += content.len();
        }
        Ok(piece.is_last)
    }
}

impl Slices for InPlaceDecryption<'_, '_> {
    /// Fails with [`Error::Authentication`], or an error of the body's format.
    fn next_slice(&mut self) -> Result<bool, Error> {
        let mut left = SLICE;
        while left > 0 {
            let before = self.plaintext.len();
            if self.next_piece()? {
                finish(self.opener, &mut Reader::new(self.message, self.next))?;
                // Frames that were moved left plaintext behind the end.
                self.message[self.plaintext.end..].zeroize();
                return Ok(true);
            }
            left = left.saturating_sub(cost(self.plaintext.len() - before));
        }
        Ok(false)
    }

    fn wipe_slice(&mut self) -> bool {
        let start = self.plaintext.start;
        let end = self.message.len().saturating_sub(SLICE).max(start);
        let message = std::mem::take(&mut self.message);
        message[end..].zeroize();
        self.message = &mut message[..end];
        end > start
    }
}

impl Drop for InPlaceDecryption<'_, '_> {
    fn drop(&mut self) {
        self.message[self.plaintext.start..].zeroize();
    }
}

/// Verifies the signature, if the suite has one, and that no bytes follow.
fn finish(opener: &mut Opener, reader: &mut Reader<'_>) -> Result<(), Error> {
    opener.finish(reader)?;
    match reader.rest() {
        [] => Ok(()),
        _ => Err(Error::TrailingBytes { offset: reader.offset() }),
    }
}
