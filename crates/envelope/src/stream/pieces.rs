//! The structure of a message's body, read without its data key.

use std::{
    fmt,
    io::{self, Read as _},
};

use super::{
    UnverifiedHeader,
    header::{read_exactly, shortfall},
};
use crate::{
    error::Error,
    format::{codec, footer, frame::UnverifiedPrefix, non_framed},
};

/// The length of a piece's authentication tag in bytes.
const TAG_LENGTH: u64 = 16;

/// An iterator over the frames of a message, or over its non-framed body. **Verifies nothing**:
/// anyone can create a message that looks like this one.
///
/// The source must be positioned after the header. The iterator ends after the last piece. Then
/// [`signature_length`](Self::signature_length) reads the rest.
pub struct UnverifiedPieces<R> {
    source: R,
    frame_length: Option<u32>,
    is_signed: bool,
    /// The position of the source in the message.
    offset: u64,
    ended: bool,
}

/// A frame or a non-framed body, not authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnverifiedPiece {
    /// The start of the piece in the message, in bytes.
    pub offset: u64,
    /// The sequence number; 1 for a non-framed body.
    pub sequence_number: u32,
    /// Whether it is marked as the final frame; `true` for a non-framed body.
    pub is_final: bool,
    /// The length of the content in bytes.
    pub content_length: u64,
}

impl UnverifiedPiece {
    /// Reads the fields before the content.
    fn read_prefix(&mut self, bytes: &[u8], frame_length: Option<u32>) -> Result<(), Error> {
        let mut reader = codec::Reader::continuing(bytes, self.offset);
        if let Some(frame_length) = frame_length {
            let prefix = UnverifiedPrefix::read(&mut reader, frame_length)?;
            self.sequence_number = prefix.sequence_number;
            self.is_final = prefix.is_final;
            self.content_length = prefix.content_length.into();
        } else {
            self.content_length = non_framed::read_prefix(&mut reader)?.1;
        }
        Ok(())
    }
}

impl<R: io::Read> UnverifiedPieces<R> {
    /// Looks at the body of the message with this header, in `source`, which is best buffered.
    pub fn new(header: &UnverifiedHeader, source: R) -> Self {
        let (frame_length, is_signed) = (header.frame_length(), header.suite().is_signed());
        Self { source, frame_length, is_signed, offset: header.length() as u64, ended: false }
    }

    /// Reads the rest of the message after the last piece. Returns the length of the signature, if
    /// the message is signed.
    ///
    /// # Errors
    ///
    /// Errors of the source, and [`Error::Truncated`] or [`Error::TrailingBytes`] inside an
    /// [`io::Error`].
    pub fn signature_length(mut self) -> io::Result<Option<usize>> {
        let mut length = None;
        if self.is_signed {
            let offset = self.offset;
            let bytes = read_exactly(&mut self.source, |bytes, at_end| {
                let mut reader = codec::Reader::continuing(bytes, offset);
                shortfall(
                    footer::read(&mut reader).map(|signature| length = Some(signature.len())),
                    at_end,
                )
            })?;
            self.offset += bytes.len() as u64;
        }
        match self.source.by_ref().take(1).read_to_end(&mut vec![])? {
            0 => Ok(length),
            _ => Err(Error::TrailingBytes { offset: self.offset }.into()),
        }
    }

    fn read_piece(&mut self) -> io::Result<UnverifiedPiece> {
        let offset = self.offset;
        let frame_length = self.frame_length;
        let mut piece =
            UnverifiedPiece { offset, sequence_number: 1, is_final: true, content_length: 0 };
        let prefix = read_exactly(&mut self.source, |bytes, at_end| {
            shortfall(piece.read_prefix(bytes, frame_length), at_end)
        })?;
        self.offset += prefix.len() as u64;
        self.skip("encrypted content", piece.content_length)?;
        self.skip("authentication tag", TAG_LENGTH)?;
        Ok(piece)
    }

    fn skip(&mut self, field: &'static str, length: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
        let offset = self.offset;
        let missing = usize::try_from(length - skipped).unwrap_or(usize::MAX);
        self.offset += skipped;
        match missing {
            0 => Ok(()),
            missing => Err(Error::Truncated { field, offset, missing }.into()),
        }
    }
}

impl<R: io::Read> Iterator for UnverifiedPieces<R> {
    type Item = io::Result<UnverifiedPiece>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let piece = self.read_piece();
        self.ended = piece.as_ref().map_or(true, |piece| piece.is_final);
        Some(piece)
    }
}

impl<R> fmt::Debug for UnverifiedPieces<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, ended, .. } = self;
        f.debug_struct("UnverifiedPieces")
            .field("offset", offset)
            .field("ended", ended)
            .finish_non_exhaustive()
    }
}
