//! The version 2 message header (specification: `data-format/message-header.md#header-body-version-20`).

use super::{
    codec::{Reader, write_prefixed},
    encrypted_data_key::EncryptedDataKeys,
};
use crate::{context::EncryptionContext, error::Error, suite::AlgorithmSuite};

const VERSION: u8 = 2;
const CONTENT_TYPE_FRAMED: u8 = 2;
/// Everything but the encryption context and the encrypted data keys: version, suite, message id, the
/// context's length, content type, frame length, commit key and tag, in bytes.
const FIXED_LENGTH: usize = 1 + 2 + 32 + 2 + 1 + 4 + 32 + 16;

/// A header as received: well-formed, but nothing in it is authenticated yet.
#[derive(Debug)]
pub(crate) struct UnverifiedHeader<'a> {
    /// The header body as received: what the tag authenticates.
    pub(crate) body: &'a [u8],
    pub(crate) suite: AlgorithmSuite,
    pub(crate) message_id: &'a [u8; 32],
    /// The encryption context's canonical serialization.
    pub(crate) encryption_context: &'a [u8],
    pub(crate) encrypted_data_keys: EncryptedDataKeys<'a>,
    pub(crate) frame_length: u32,
    pub(crate) commit_key: &'a [u8; 32],
    pub(crate) tag: &'a [u8; 16],
}

impl<'a> UnverifiedHeader<'a> {
    /// Reads the header at the front of a message.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::Malformed`], [`Error::Unsupported`], or
    /// [`Error::TooManyEncryptedDataKeys`].
    pub(crate) fn read(reader: &mut Reader<'a>, max_encrypted_data_keys: usize) -> Result<Self, Error> {
        let start = reader.offset();
        let version = reader.u8("version")?;
        if version != VERSION {
            return Err(Error::Unsupported { field: "version", offset: start, value: version.into() });
        }
        let offset = reader.offset();
        let id = reader.u16("algorithm suite id")?;
        let unsupported = Error::Unsupported { field: "algorithm suite id", offset, value: id };
        let suite = AlgorithmSuite::from_id(id).ok_or(unsupported)?;
        let message_id = reader.array("message id")?;

        let offset = reader.offset() + 2;
        let encryption_context = reader.prefixed("encryption context")?;
        EncryptionContext::validate(encryption_context, offset)?;
        let encrypted_data_keys = EncryptedDataKeys::read(reader, max_encrypted_data_keys)?;

        let offset = reader.offset();
        let content_type = reader.u8("content type")?;
        if content_type != CONTENT_TYPE_FRAMED {
            return Err(Error::Unsupported { field: "content type", offset, value: content_type.into() });
        }
        let offset = reader.offset();
        let frame_length = reader.u32("frame length")?;
        if frame_length == 0 {
            let (field, problem) = ("frame length", "zero in a framed message");
            return Err(Error::Malformed { field, offset, problem });
        }
        let commit_key = reader.array("commit key")?;
        let body = reader.since(start);
        let tag = reader.array("header authentication tag")?;
        Ok(Self { body, suite, message_id, encryption_context, encrypted_data_keys, frame_length, commit_key, tag })
    }
}

/// What goes into the body of a new header.
#[derive(Debug)]
pub(crate) struct HeaderBody<'a> {
    pub(crate) suite: AlgorithmSuite,
    pub(crate) message_id: &'a [u8; 32],
    pub(crate) encryption_context: &'a EncryptionContext,
    /// The encrypted data keys, serialized.
    pub(crate) encrypted_data_keys: &'a [u8],
    pub(crate) frame_length: u32,
    pub(crate) commit_key: &'a [u8; 32],
}

impl HeaderBody<'_> {
    /// Appends the header body.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when a part does not fit the format; never for a context and keys that
    /// this crate made.
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        out.push(VERSION);
        out.extend_from_slice(&self.suite.id().to_be_bytes());
        out.extend_from_slice(self.message_id);
        write_prefixed(out, "encryption context", self.encryption_context.as_serialized())?;
        out.extend_from_slice(self.encrypted_data_keys);
        out.push(CONTENT_TYPE_FRAMED);
        out.extend_from_slice(&self.frame_length.to_be_bytes());
        out.extend_from_slice(self.commit_key);
        Ok(())
    }
}

/// The length in bytes of a header with its tag.
pub(crate) fn length(encryption_context: &EncryptionContext, encrypted_data_keys: &[u8]) -> usize {
    FIXED_LENGTH + encryption_context.as_serialized().len() + encrypted_data_keys.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: &[u8] = b"\x00\x01\x00\x02ns\x00\x01n\x00\x02ck";

    fn header(context: &EncryptionContext, message_id: &[u8; 32], frame_length: u32) -> Vec<u8> {
        let mut out = vec![];
        let body = HeaderBody {
            suite: AlgorithmSuite::default(),
            message_id,
            encryption_context: context,
            encrypted_data_keys: KEYS,
            frame_length,
            commit_key: &[9; 32],
        };
        body.write(&mut out).unwrap();
        out.extend_from_slice(&[8; 16]);
        out
    }

    #[test]
    fn every_truncation_names_its_field() {
        let bytes = header(&EncryptionContext::new([("a", "b")]).unwrap(), &[1; 32], 4096);
        for end in 0..bytes.len() {
            let error = UnverifiedHeader::read(&mut Reader::new(&bytes[..end], 0), 1).unwrap_err();
            assert!(matches!(error, Error::Truncated { offset, .. } if offset <= end), "{end}: {error:?}");
        }
    }

    #[test]
    fn unknown_values_are_named() {
        let bytes = header(&EncryptionContext::empty(), &[1; 32], 4096);
        let read = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            UnverifiedHeader::read(&mut Reader::new(&bytes, 0), 1).unwrap_err()
        };
        assert!(matches!(read(0, 1), Error::Unsupported { field: "version", offset: 0, value: 1 }));
        assert!(matches!(read(1, 9), Error::Unsupported { field: "algorithm suite id", offset: 1, value: 0x0978 }));
        let content_type = bytes.len() - 16 - 32 - 4 - 1;
        let error = read(content_type, 7);
        assert!(matches!(error, Error::Unsupported { field: "content type", value: 7, .. }), "{error}");
        let zero = header(&EncryptionContext::empty(), &[1; 32], 0);
        let error = UnverifiedHeader::read(&mut Reader::new(&zero, 0), 1).unwrap_err();
        assert!(matches!(error, Error::Malformed { field: "frame length", .. }));
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(
            pairs: std::collections::BTreeMap<String, String>, message_id: [u8; 32], frame_length in 1..=u32::MAX,
        ) {
            let context = EncryptionContext::new(pairs).unwrap();
            let bytes = header(&context, &message_id, frame_length);
            prop_assert_eq!(length(&context, KEYS), bytes.len());
            let read = UnverifiedHeader::read(&mut Reader::new(&bytes, 0), 1).unwrap();
            prop_assert_eq!(read.body, &bytes[..bytes.len() - 16]);
            prop_assert_eq!(read.message_id, &message_id);
            prop_assert_eq!(read.encryption_context, context.as_serialized());
            prop_assert_eq!(read.encrypted_data_keys.as_serialized(), KEYS);
            prop_assert_eq!((read.frame_length, read.commit_key, read.tag), (frame_length, &[9; 32], &[8; 16]));
        }
    }
}
