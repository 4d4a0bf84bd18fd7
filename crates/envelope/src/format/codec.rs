//! A cursor over received bytes whose errors name the field and its offset.

use crate::error::Error;

/// Reads big-endian fields off the front of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    message: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `message`, from `offset` on; `offset` must not exceed its length.
    pub(crate) fn new(message: &'a [u8], offset: usize) -> Self {
        debug_assert!(offset <= message.len());
        Self { message, offset }
    }

    /// Where the next field starts.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// All bytes from `start` up to the next field.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        &self.message[start..self.offset]
    }

    /// The next `length` bytes.
    pub(crate) fn bytes(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], Error> {
        let rest = &self.message[self.offset..];
        let Some((bytes, _)) = rest.split_at_checked(length) else {
            return Err(Error::Truncated { field, offset: self.offset, missing: length - rest.len() });
        };
        self.offset += length;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N], Error> {
        let bytes = self.bytes(field, N)?;
        Ok(bytes.try_into().expect("bytes() gave N bytes"))
    }

    /// The next byte.
    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Error> {
        self.array(field).map(|[byte]| *byte)
    }

    /// The next 16-bit number.
    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, Error> {
        self.array(field).map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// The next 32-bit number.
    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Error> {
        self.array(field).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// The next bytes, which a 16-bit length precedes.
    pub(crate) fn prefixed(&mut self, field: &'static str) -> Result<&'a [u8], Error> {
        let length = self.u16(field)?;
        self.bytes(field, length.into())
    }
}

/// Appends `bytes` behind their 16-bit length.
///
/// # Errors
///
/// [`Error::InvalidSetting`] for more than 65,535 bytes.
pub(crate) fn write_prefixed(out: &mut Vec<u8>, field: &'static str, bytes: &[u8]) -> Result<(), Error> {
    let length = u16::try_from(bytes.len())
        .map_err(|_| Error::invalid_setting(field, format!("{} bytes exceed the format's 65,535", bytes.len())))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_names_field_offset_and_what_is_missing() {
        let mut reader = Reader::new(b"\x00\x05abc", 0);
        let Err(Error::Truncated { field: "name", offset: 2, missing: 2 }) = reader.prefixed("name") else {
            panic!("expected a truncation at byte 2");
        };
    }

    #[test]
    fn since_gives_what_was_read() {
        let mut reader = Reader::new(b"x\x00\x02ab!", 1);
        reader.prefixed("name").unwrap();
        assert_eq!((reader.since(1), reader.offset()), (&b"\x00\x02ab"[..], 5));
    }
}
