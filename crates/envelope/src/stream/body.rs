//! The structure of a message's body, read without its data key.

use std::{
    io::{self, Read as _},
    ops::Range,
};

use super::{
    UnverifiedHeader,
    header::{read_exactly, shortfall},
};
use crate::{
    error::Error,
    format::{codec, footer, frame::UnverifiedPrefix, non_framed},
};

/// The length of an authentication tag in bytes.
const TAG_LENGTH: u64 = 16;

impl UnverifiedHeader {
    /// Reads the rest of the message from `source`, without its data key, and returns the length of
    /// the signature, if there is one. **Verifies nothing**: anyone can create such a message.
    ///
    /// Calls `content` with the position of the content of each frame, or of the non-framed body,
    /// in the message. The source must be positioned after the header. Use a buffered source.
    ///
    /// ```
    /// use envelope::stream::UnverifiedHeader;
    ///
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # let keyring = RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?;
    /// # let envelope = Envelope::new(keyring)?.blocking();
    /// # let message = envelope.encrypt(&[7; 5000], &EncryptionContext::empty())?;
    /// let mut source = &message[..];
    /// let header = UnverifiedHeader::read(&mut source, 16)?;
    /// let mut frames = vec![];
    /// header.read_body(source, |content| frames.push(content.end - content.start))?;
    /// assert_eq!(frames, [4096, 904]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of `source`. For a malformed message, [`Error::in_io`] returns the [`Error`].
    pub fn read_body(
        &self,
        source: impl io::Read,
        mut content: impl FnMut(Range<u64>),
    ) -> io::Result<Option<usize>> {
        let mut body = Body { source, position: self.length() as u64 };
        loop {
            let (range, is_final) = body.read_piece(self.frame_length())?;
            content(range);
            if is_final {
                return body.read_end(self.suite().is_signed());
            }
        }
    }
}

/// The part of a message after its header, as it is being read.
struct Body<R> {
    source: R,
    /// The position of the source in the message.
    position: u64,
}

impl<R: io::Read> Body<R> {
    /// Reads a frame or a non-framed body, and returns the position of its content, and whether it
    /// is the last one.
    fn read_piece(&mut self, frame_length: Option<u32>) -> io::Result<(Range<u64>, bool)> {
        let start = self.position;
        let mut length = 0;
        let mut is_final = true;
        let prefix = read_exactly(&mut self.source, |bytes, at_end| {
            let mut reader = codec::Reader::continuing(bytes, start);
            let read = match frame_length {
                Some(frame_length) => {
                    UnverifiedPrefix::read(&mut reader, frame_length).map(|prefix| {
                        length = prefix.content_length.into();
                        is_final = prefix.is_final;
                    })
                }
                None => non_framed::read_prefix(&mut reader).map(|prefix| length = prefix.1),
            };
            shortfall(read, at_end)
        })?;
        self.position += prefix.len() as u64;
        let content = self.position..self.position.saturating_add(length);
        self.skip("encrypted content", length)?;
        self.skip("authentication tag", TAG_LENGTH)?;
        Ok((content, is_final))
    }

    /// Reads the rest of the message, and returns the length of the signature.
    fn read_end(&mut self, is_signed: bool) -> io::Result<Option<usize>> {
        let mut length = None;
        if is_signed {
            let position = self.position;
            let bytes = read_exactly(&mut self.source, |bytes, at_end| {
                let mut reader = codec::Reader::continuing(bytes, position);
                let read = footer::read(&mut reader);
                shortfall(read.map(|signature| length = Some(signature.len())), at_end)
            })?;
            self.position += bytes.len() as u64;
        }
        match self.source.by_ref().take(1).read_to_end(&mut vec![])? {
            0 => Ok(length),
            _ => Err(Error::TrailingBytes { offset: self.position }.into()),
        }
    }

    fn skip(&mut self, field: &'static str, length: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
        let offset = self.position;
        self.position += skipped;
        match usize::try_from(length - skipped).unwrap_or(usize::MAX) {
            0 => Ok(()),
            missing => Err(Error::Truncated { field, offset, missing }.into()),
        }
    }
}
