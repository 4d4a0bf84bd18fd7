//! A cursor over received bytes, whose errors name the field and its offset.

use crate::error::Error;

/// Reads big-endian fields from the front of a message, or of a later part of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// The start of the next field in `bytes`.
    position: usize,
    /// The start of `bytes` in the message.
    base: u64,
}

impl<'a> Reader<'a> {
    /// Creates a reader of `message` from `position` on, which must not exceed its length.
    pub(crate) fn new(message: &'a [u8], position: usize) -> Self {
        debug_assert!(position <= message.len());
        Self { bytes: message, position, base: 0 }
    }

    /// Creates a reader of `bytes`, which start at byte `base` of the message.
    pub(crate) fn continuing(bytes: &'a [u8], base: u64) -> Self {
        Self { bytes, position: 0, base }
    }

    /// Returns the start of the next field in the message.
    pub(crate) fn offset(&self) -> u64 {
        self.base + self.position as u64
    }

    /// Returns the start of the next field in the bytes that the reader was given.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Returns all bytes, read or not.
    pub(crate) fn all(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the bytes from the position `start` up to the next field.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.position]
    }

    /// Returns the bytes from the next field on.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    /// Skips the next `length` bytes, which must be there.
    pub(crate) fn skip(&mut self, length: usize) {
        debug_assert!(length <= self.rest().len());
        self.position += length;
    }

    /// Fails unless there are `length` more bytes. Reads none of them.
    pub(crate) fn require(&self, field: &'static str, length: usize) -> Result<(), Error> {
        let rest = self.bytes.len() - self.position;
        match length.checked_sub(rest) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(Error::Truncated { field, offset: self.offset(), missing }),
        }
    }

    /// Fails if there are no more bytes: `field` and the fields after it have `length` bytes in
    /// all. A stream then reads them at once, while a truncated message still names its last field.
    pub(crate) fn require_if_none(&self, field: &'static str, length: usize) -> Result<(), Error> {
        match self.rest() {
            [] => self.require(field, length),
            _ => Ok(()),
        }
    }

    /// Reads the next `length` bytes.
    pub(crate) fn bytes(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], Error> {
        self.require(field, length)?;
        let start = self.position;
        self.position += length;
        Ok(self.since(start))
    }

    /// Reads the next `N` bytes.
    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<&'a [u8; N], Error> {
        let bytes = self.bytes(field, N)?;
        Ok(bytes.try_into().expect("bytes() returned N bytes"))
    }

    /// Reads the next byte.
    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Error> {
        self.array(field).map(|[byte]| *byte)
    }

    /// Reads the next 16-bit number.
    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, Error> {
        self.array(field).map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// Reads the next 32-bit number.
    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Error> {
        self.array(field).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// Reads a 16-bit length and as many bytes.
    pub(crate) fn prefixed(&mut self, field: &'static str) -> Result<&'a [u8], Error> {
        let length = self.u16(field)?;
        self.bytes(field, length.into())
    }
}

/// Appends the 16-bit length of `bytes`, then `bytes`.
///
/// # Errors
///
/// [`Error::InvalidSetting`] for more than 65,535 bytes.
pub(crate) fn write_prefixed(
    out: &mut Vec<u8>,
    field: &'static str,
    bytes: &[u8],
) -> Result<(), Error> {
    let length = u16::try_from(bytes.len()).map_err(|_| {
        Error::invalid_setting(field, format!("expected at most 65,535 bytes, got {}", bytes.len()))
    })?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_names_the_field_its_offset_and_the_missing_bytes() {
        let mut reader = Reader::new(b"\x00\x05abc", 0);
        let Err(Error::Truncated { field: "name", offset: 2, missing: 2 }) =
            reader.prefixed("name")
        else {
            panic!("expected a truncation at byte 2");
        };
    }

    #[test]
    fn since_returns_the_bytes_that_were_read() {
        let mut reader = Reader::new(b"x\x00\x02ab!", 1);
        reader.prefixed("name").unwrap();
        assert_eq!((reader.since(1), reader.position()), (&b"\x00\x02ab"[..], 5));
    }
}
