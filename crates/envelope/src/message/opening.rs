//! Opening a whole message.

use std::ops::Range;

use zeroize::Zeroize as _;

use super::{
    Slices, Unfinished,
    open::Opener,
    workers::{SLICE, Workers, cost},
};
use crate::{
    error::Error,
    format::{codec::Reader, frame, header::ContentType, non_framed},
};

/// Appends the plaintext of one message to a buffer, or leaves that as it was.
pub(crate) struct Opening<'a> {
    opener: &'a mut Opener,
    body: Reader<'a>,
    workers: &'a Workers,
    plaintext: Unfinished<'a>,
}

impl<'a> Opening<'a> {
    /// The plaintext of `message`, whose body starts at `body`.
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

impl Slices for Opening<'_> {
    /// # Errors
    ///
    /// [`Error::Authentication`], or an error of the body's format.
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

/// Opens one message where it is: its plaintext takes its place.
pub(crate) struct OpeningInPlace<'a, 'm> {
    opener: &'a mut Opener,
    message: &'m mut [u8],
    /// Where the next piece starts.
    next: usize,
    /// Where the plaintext is; from its start on, the message is wiped when opening fails.
    plaintext: Range<usize>,
}

impl<'a, 'm> OpeningInPlace<'a, 'm> {
    /// The plaintext of `message`, whose body starts at `body`.
    pub(crate) fn start(opener: &'a mut Opener, message: &'m mut [u8], body: usize) -> Self {
        Self { opener, message, next: body, plaintext: body..body }
    }

    /// The plaintext, once the last slice is done.
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
            // A single frame need not be moved.
            self.plaintext = content;
        } else {
            self.message.copy_within(content.clone(), self.plaintext.end);
            self.plaintext.end += content.len();
        }
        Ok(piece.is_last)
    }
}

impl Slices for OpeningInPlace<'_, '_> {
    /// # Errors
    ///
    /// [`Error::Authentication`], or an error of the body's format.
    fn next_slice(&mut self) -> Result<bool, Error> {
        let mut left = SLICE;
        while left > 0 {
            let before = self.plaintext.len();
            if self.next_piece()? {
                finish(self.opener, &mut Reader::new(self.message, self.next))?;
                // Of frames that were moved, something is left at the end.
                self.message[self.plaintext.end..].zeroize();
                return Ok(true);
            }
            left = left.saturating_sub(cost(self.plaintext.len() - before));
        }
        Ok(false)
    }

    fn wipe_slice(&mut self) -> bool {
        let (start, end) = (self.plaintext.start, self.message.len());
        let left = end.saturating_sub(SLICE).max(start);
        let message = std::mem::take(&mut self.message);
        message[left..].zeroize();
        self.message = &mut message[..left];
        left > start
    }
}

impl Drop for OpeningInPlace<'_, '_> {
    fn drop(&mut self) {
        self.message[self.plaintext.start..].zeroize();
    }
}

/// Verifies the signature, if there is one, and that nothing follows.
fn finish(opener: &mut Opener, reader: &mut Reader<'_>) -> Result<(), Error> {
    opener.finish(reader)?;
    match reader.rest() {
        [] => Ok(()),
        _ => Err(Error::TrailingBytes { offset: reader.offset() }),
    }
}
