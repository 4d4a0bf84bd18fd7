//! A non-framed body (specification: `data-format/message-body.md#non-framed-data`).

use super::codec::Reader;
use crate::error::Error;

/// The max content that AES-GCM encrypts under one IV: 2^36 - 32 bytes.
pub(crate) const MAX_CONTENT_LENGTH: u64 = (1 << 36) - 32;
/// The length of a body without its content: IV, content length and tag.
pub(crate) const OVERHEAD: usize = 12 + 8 + 16;

/// A body as received: not authenticated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnverifiedBody<'a> {
    pub(crate) iv: &'a [u8; 12],
    pub(crate) encrypted_content: &'a [u8],
    pub(crate) tag: &'a [u8; 16],
}

impl<'a> UnverifiedBody<'a> {
    /// Reads the body.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], or [`Error::Malformed`] for a length that AES-GCM does not allow.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let (iv, content_length) = read_prefix(reader)?;
        // A length that does not fit `usize` is longer than the bytes that are there.
        let length = usize::try_from(content_length).unwrap_or(usize::MAX);
        let encrypted_content = reader.bytes("encrypted content", length)?;
        let tag = reader.array("authentication tag")?;
        Ok(Self { iv, encrypted_content, tag })
    }
}

/// Reads the fields before the content: the IV, and the content's length in bytes.
///
/// # Errors
///
/// [`Error::Truncated`], or [`Error::Malformed`] for a length that AES-GCM does not allow.
pub(crate) fn read_prefix<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8; 12], u64), Error> {
    let iv = reader.array("IV")?;
    let offset = reader.offset();
    let content_length = u64::from_be_bytes(*reader.array("encrypted content length")?);
    if content_length > MAX_CONTENT_LENGTH {
        return Err(Error::Malformed {
            field: "encrypted content length",
            offset,
            problem: "over 2^36 - 32 bytes",
        });
    }
    Ok((iv, content_length))
}

/// Appends the fields before the content.
pub(crate) fn write_prefix(out: &mut Vec<u8>, iv: [u8; 12], content_length: usize) {
    out.extend_from_slice(&iv);
    out.extend_from_slice(&(content_length as u64).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_that_aes_gcm_does_not_allow_are_malformed() {
        let mut bytes = vec![0; 12];
        bytes.extend_from_slice(&(MAX_CONTENT_LENGTH + 1).to_be_bytes());
        let error = UnverifiedBody::read(&mut Reader::new(&bytes, 0)).unwrap_err();
        assert!(matches!(error, Error::Malformed { offset: 12, .. }), "{error:?}");
        bytes.truncate(12);
        bytes.extend_from_slice(&MAX_CONTENT_LENGTH.to_be_bytes());
        let error = UnverifiedBody::read(&mut Reader::new(&bytes, 0)).unwrap_err();
        assert!(matches!(error, Error::Truncated { offset: 20, .. }), "{error:?}");
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(iv: [u8; 12], content: Vec<u8>, tag: [u8; 16]) {
            let mut bytes = vec![];
            write_prefix(&mut bytes, iv, content.len());
            bytes.extend_from_slice(&content);
            bytes.extend_from_slice(&tag);
            prop_assert_eq!(bytes.len(), content.len() + OVERHEAD);
            let read = UnverifiedBody::read(&mut Reader::new(&bytes, 0)).unwrap();
            let expected = UnverifiedBody { iv: &iv, encrypted_content: &content, tag: &tag };
            prop_assert_eq!(read, expected);
        }
    }
}
