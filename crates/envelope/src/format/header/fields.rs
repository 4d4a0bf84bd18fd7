//! The fields that both versions of the header have in common.

use super::super::{
    codec::{Reader, write_prefixed},
    encrypted_data_key::EncryptedDataKeys,
};
use crate::{context::EncryptionContext, error::Error, suite::AlgorithmSuite};

const NON_FRAMED: u8 = 1;
const FRAMED: u8 = 2;

/// The layout of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentType {
    /// One block.
    NonFramed,
    /// Frames of this many bytes of plaintext each. The final frame may be shorter.
    Framed {
        /// Never zero.
        frame_length: u32,
    },
}

impl ContentType {
    fn id(self) -> u8 {
        match self {
            Self::NonFramed => NON_FRAMED,
            Self::Framed { .. } => FRAMED,
        }
    }

    fn frame_length(self) -> u32 {
        match self {
            Self::NonFramed => 0,
            Self::Framed { frame_length } => frame_length,
        }
    }
}

/// A header as received: well-formed, but not authenticated.
#[derive(Debug)]
pub(crate) struct UnverifiedHeader<'a> {
    /// The header body as received. The tag authenticates these bytes.
    pub(crate) body: &'a [u8],
    pub(crate) suite: AlgorithmSuite,
    /// 16 bytes in version 1, 32 in version 2.
    pub(crate) message_id: &'a [u8],
    /// The canonical serialization of the encryption context.
    pub(crate) encryption_context: &'a [u8],
    pub(crate) encrypted_data_keys: EncryptedDataKeys<'a>,
    pub(crate) content_type: ContentType,
    /// The commit key; present exactly in version 2.
    pub(crate) commit_key: Option<&'a [u8; 32]>,
    /// The IV of the tag; zero in version 2, which does not store it.
    pub(crate) iv: [u8; 12],
    pub(crate) tag: &'a [u8; 16],
}

/// The fields of a new header's body.
#[derive(Debug)]
pub(crate) struct HeaderBody<'a> {
    pub(crate) suite: AlgorithmSuite,
    /// 16 bytes for version 1, 32 for version 2.
    pub(crate) message_id: &'a [u8],
    /// The pairs that the header stores.
    pub(crate) encryption_context: &'a EncryptionContext,
    /// The serialized encrypted data keys.
    pub(crate) encrypted_data_keys: &'a [u8],
    pub(crate) content_type: ContentType,
    /// Present exactly for suites with key commitment, whose messages have version 2.
    pub(crate) commit_key: Option<&'a [u8; 32]>,
}

/// Reads the suite. `commits_to_key` says whether the message's version is for suites with key
/// commitment.
pub(super) fn read_suite(
    reader: &mut Reader<'_>,
    commits_to_key: bool,
) -> Result<AlgorithmSuite, Error> {
    let offset = reader.offset();
    let id = reader.u16("algorithm suite id")?;
    let Some(suite) = AlgorithmSuite::from_id(id) else {
        return Err(Error::Unsupported { field: "algorithm suite id", offset, value: id });
    };
    if suite.commits_to_key() != commits_to_key {
        return Err(Error::Malformed {
            field: "algorithm suite id",
            offset,
            problem: "not a suite of the message's version",
        });
    }
    Ok(suite)
}

/// Reads the encryption context and checks that it is canonical.
pub(super) fn read_context<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    let offset = reader.offset() + 2;
    let encryption_context = reader.prefixed("encryption context")?;
    EncryptionContext::validate(encryption_context, offset)?;
    Ok(encryption_context)
}

/// Reads the content type's id. [`read_frame_length`] combines it with the frame length.
pub(super) fn read_content_type_id(reader: &mut Reader<'_>) -> Result<u8, Error> {
    let offset = reader.offset();
    match reader.u8("content type")? {
        id @ (NON_FRAMED | FRAMED) => Ok(id),
        id => Err(Error::Unsupported { field: "content type", offset, value: id.into() }),
    }
}

/// Reads the frame length, which is zero exactly for a non-framed body.
pub(super) fn read_frame_length(
    reader: &mut Reader<'_>,
    content_type_id: u8,
) -> Result<ContentType, Error> {
    let offset = reader.offset();
    match (content_type_id, reader.u32("frame length")?) {
        (FRAMED, frame_length @ 1..) => Ok(ContentType::Framed { frame_length }),
        (NON_FRAMED, 0) => Ok(ContentType::NonFramed),
        (FRAMED, _) => Err(Error::Malformed {
            field: "frame length",
            offset,
            problem: "zero in a framed message",
        }),
        _ => Err(Error::Malformed {
            field: "frame length",
            offset,
            problem: "not zero in a non-framed message",
        }),
    }
}

/// Appends the middle part of both versions: context, encrypted data keys, content type.
pub(super) fn write_middle(header: &HeaderBody<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
    write_prefixed(out, "encryption context", header.encryption_context.as_serialized())?;
    out.extend_from_slice(header.encrypted_data_keys);
    out.push(header.content_type.id());
    Ok(())
}

/// Appends the frame length.
pub(super) fn write_frame_length(header: &HeaderBody<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&header.content_type.frame_length().to_be_bytes());
}
