//! The message header, of either version (specification: `data-format/message-header.md`).

use super::{
    codec::{Reader, write_prefixed},
    encrypted_data_key::EncryptedDataKeys,
    header_v1, header_v2,
};
use crate::{context::EncryptionContext, error::Error, suite::AlgorithmSuite};

const NON_FRAMED: u8 = 1;
const FRAMED: u8 = 2;

/// How the body is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentType {
    /// One piece.
    NonFramed,
    /// Frames of this many bytes of plaintext each, the last one shorter.
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

/// A header as received: well-formed, but nothing in it is authenticated yet.
#[derive(Debug)]
pub(crate) struct UnverifiedHeader<'a> {
    /// The header body as received: what the tag authenticates.
    pub(crate) body: &'a [u8],
    pub(crate) suite: AlgorithmSuite,
    /// 16 bytes in version 1, 32 in version 2.
    pub(crate) message_id: &'a [u8],
    /// The encryption context's canonical serialization.
    pub(crate) encryption_context: &'a [u8],
    pub(crate) encrypted_data_keys: EncryptedDataKeys<'a>,
    pub(crate) content_type: ContentType,
    /// What suites that commit store in version 2.
    pub(crate) commit_key: Option<&'a [u8; 32]>,
    /// What the tag was made with: zero in version 2, where it is not stored.
    pub(crate) iv: [u8; 12],
    pub(crate) tag: &'a [u8; 16],
}

impl<'a> UnverifiedHeader<'a> {
    /// Reads the header at the front of a message.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::Malformed`], [`Error::Unsupported`], or
    /// [`Error::TooManyEncryptedDataKeys`].
    pub(crate) fn read(
        reader: &mut Reader<'a>,
        max_encrypted_data_keys: usize,
    ) -> Result<Self, Error> {
        let (start, offset) = (reader.position(), reader.offset());
        match reader.u8("version")? {
            header_v1::VERSION => header_v1::read(reader, start, max_encrypted_data_keys),
            header_v2::VERSION => header_v2::read(reader, start, max_encrypted_data_keys),
            version => Err(Error::Unsupported { field: "version", offset, value: version.into() }),
        }
    }
}

impl UnverifiedHeader<'_> {
    /// The header as it was received, with its authentication, to be parsed again.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.body.to_vec();
        write_authentication(self.suite, self.iv, *self.tag, &mut bytes);
        bytes
    }
}

/// What goes into the body of a new header.
#[derive(Debug)]
pub(crate) struct HeaderBody<'a> {
    pub(crate) suite: AlgorithmSuite,
    /// 16 bytes for version 1, 32 for version 2.
    pub(crate) message_id: &'a [u8],
    /// The pairs to be stored.
    pub(crate) encryption_context: &'a EncryptionContext,
    /// The encrypted data keys, serialized.
    pub(crate) encrypted_data_keys: &'a [u8],
    pub(crate) content_type: ContentType,
    /// Present exactly for suites that commit, whose messages are of version 2.
    pub(crate) commit_key: Option<&'a [u8; 32]>,
}

impl HeaderBody<'_> {
    /// Appends the header body.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when a part does not fit the format; never for a context and keys
    /// that this crate made.
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        match self.commit_key {
            Some(commit_key) => header_v2::write(self, commit_key, out),
            None => header_v1::write(self, out),
        }
    }
}

/// Appends what stands behind the body: in version 1 the IV and the tag, in version 2 the tag.
pub(crate) fn write_authentication(
    suite: AlgorithmSuite,
    iv: [u8; 12],
    tag: [u8; 16],
    out: &mut Vec<u8>,
) {
    if !suite.commits_to_key() {
        out.extend_from_slice(&iv);
    }
    out.extend_from_slice(&tag);
}

/// The length of a suite's message id in bytes.
pub(crate) fn message_id_length(suite: AlgorithmSuite) -> usize {
    if suite.commits_to_key() { 32 } else { 16 }
}

/// The length in bytes of a header with its authentication.
pub(crate) fn length(
    suite: AlgorithmSuite,
    encryption_context: &EncryptionContext,
    encrypted_data_keys: &[u8],
) -> usize {
    let fixed =
        if suite.commits_to_key() { header_v2::FIXED_LENGTH } else { header_v1::FIXED_LENGTH };
    fixed + encryption_context.as_serialized().len() + encrypted_data_keys.len()
}

/// Reads the suite, which must be one of this version.
pub(super) fn read_suite(reader: &mut Reader<'_>, version: u8) -> Result<AlgorithmSuite, Error> {
    let offset = reader.offset();
    let id = reader.u16("algorithm suite id")?;
    let unsupported = Error::Unsupported { field: "algorithm suite id", offset, value: id };
    let suite = AlgorithmSuite::from_id(id).ok_or(unsupported)?;
    if suite.commits_to_key() != (version == header_v2::VERSION) {
        let (field, problem) = ("algorithm suite id", "not a suite of the message's version");
        return Err(Error::Malformed { field, offset, problem });
    }
    Ok(suite)
}

/// Reads the encryption context, and checks that it is canonical.
pub(super) fn read_context<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    let offset = reader.offset() + 2;
    let encryption_context = reader.prefixed("encryption context")?;
    EncryptionContext::validate(encryption_context, offset)?;
    Ok(encryption_context)
}

/// Reads the content type's identifier, which [`content_type`] joins with the frame length.
pub(super) fn read_content_type(reader: &mut Reader<'_>) -> Result<u8, Error> {
    let offset = reader.offset();
    match reader.u8("content type")? {
        id @ (NON_FRAMED | FRAMED) => Ok(id),
        id => Err(Error::Unsupported { field: "content type", offset, value: id.into() }),
    }
}

/// Reads the frame length: zero for a body that is not framed, and for no other.
pub(super) fn read_frame_length(
    reader: &mut Reader<'_>,
    content_type: u8,
) -> Result<ContentType, Error> {
    let offset = reader.offset();
    match (content_type, reader.u32("frame length")?) {
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
            problem: "not zero in a message without frames",
        }),
    }
}

/// Appends what both versions have in the middle: context, encrypted data keys, content type.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: &[u8] = b"\x00\x01\x00\x02ns\x00\x01n\x00\x02ck";
    const IV: [u8; 12] = [5; 12];

    fn header(
        suite: AlgorithmSuite,
        context: &EncryptionContext,
        content_type: ContentType,
    ) -> Vec<u8> {
        let mut out = vec![];
        let body = HeaderBody {
            suite,
            message_id: &[1; 32][..message_id_length(suite)],
            encryption_context: context,
            encrypted_data_keys: KEYS,
            content_type,
            commit_key: suite.commits_to_key().then_some(&[9; 32]),
        };
        body.write(&mut out).unwrap();
        write_authentication(suite, IV, [8; 16], &mut out);
        out
    }

    fn read(bytes: &[u8]) -> Result<UnverifiedHeader<'_>, Error> {
        UnverifiedHeader::read(&mut Reader::new(bytes, 0), 1)
    }

    const FRAMES: ContentType = ContentType::Framed { frame_length: 4096 };
    const VERSIONS: [AlgorithmSuite; 2] =
        [AlgorithmSuite::Aes256GcmHkdfSha256, AlgorithmSuite::Aes256GcmHkdfSha512CommitKey];

    #[test]
    fn every_truncation_names_its_field() {
        for suite in VERSIONS {
            let bytes = header(suite, &EncryptionContext::new([("a", "b")]).unwrap(), FRAMES);
            for end in 0..bytes.len() {
                let error = read(&bytes[..end]).unwrap_err();
                assert!(
                    matches!(error, Error::Truncated { offset, .. } if offset <= end as u64),
                    "{end}: {error:?}"
                );
            }
        }
    }

    #[test]
    fn unknown_values_are_named() {
        let v2 = header(AlgorithmSuite::default(), &EncryptionContext::empty(), FRAMES);
        let v1 = header(AlgorithmSuite::Aes256GcmHkdfSha256, &EncryptionContext::empty(), FRAMES);
        let error = |bytes: &[u8], at: usize, value: u8| {
            let mut bytes = bytes.to_vec();
            bytes[at] = value;
            read(&bytes).unwrap_err()
        };
        assert!(matches!(
            error(&v2, 0, 3),
            Error::Unsupported { field: "version", offset: 0, value: 3 }
        ));
        assert!(matches!(
            error(&v2, 1, 9),
            Error::Unsupported { field: "algorithm suite id", offset: 1, value: 0x0978 }
        ));
        assert!(matches!(
            error(&v2, 1, 1),
            Error::Malformed { field: "algorithm suite id", offset: 1, .. }
        ));
        assert!(matches!(
            error(&v1, 2, 4),
            Error::Malformed { field: "algorithm suite id", offset: 2, .. }
        ));
        assert!(matches!(
            error(&v1, 1, 0),
            Error::Unsupported { field: "type", offset: 1, value: 0 }
        ));
        let content_type = v2.len() - 16 - 32 - 4 - 1;
        assert!(matches!(
            error(&v2, content_type, 7),
            Error::Unsupported { field: "content type", value: 7, .. }
        ));
        assert!(matches!(
            error(&v2, content_type, 1),
            Error::Malformed { field: "frame length", .. }
        ));
        let reserved = v1.len() - 16 - 12 - 4 - 1 - 4;
        assert!(matches!(error(&v1, reserved, 1), Error::Malformed { field: "reserved", .. }));
        assert!(matches!(
            error(&v1, reserved + 4, 16),
            Error::Unsupported { field: "IV length", value: 16, .. }
        ));
        let zero = header(
            AlgorithmSuite::default(),
            &EncryptionContext::empty(),
            ContentType::Framed { frame_length: 0 },
        );
        assert!(matches!(read(&zero), Err(Error::Malformed { field: "frame length", .. })));
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(
            suite in proptest::sample::select(&AlgorithmSuite::ALL[..]),
            pairs: std::collections::BTreeMap<String, String>,
            frame_length: u32,
        ) {
            let content_type = match frame_length {
                0 => ContentType::NonFramed,
                frame_length => ContentType::Framed { frame_length },
            };
            let context = EncryptionContext::new(pairs).unwrap();
            let bytes = header(suite, &context, content_type);
            prop_assert_eq!(length(suite, &context, KEYS), bytes.len());
            let read = read(&bytes).unwrap();
            let (iv, authentication) = if suite.commits_to_key() { ([0; 12], 16) } else { (IV, 28) };
            prop_assert_eq!(read.body, &bytes[..bytes.len() - authentication]);
            prop_assert_eq!((read.suite, read.content_type, read.iv), (suite, content_type, iv));
            prop_assert_eq!(read.message_id, &[1; 32][..message_id_length(suite)]);
            prop_assert_eq!(read.encryption_context, context.as_serialized());
            prop_assert_eq!(read.encrypted_data_keys.as_serialized(), KEYS);
            prop_assert_eq!(read.commit_key, suite.commits_to_key().then_some(&[9; 32]));
            prop_assert_eq!(read.tag, &[8; 16]);
        }
    }
}
