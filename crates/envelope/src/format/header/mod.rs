//! The message header of both versions (specification: `data-format/message-header.md`).

mod fields;
mod v1;
mod v2;

pub(crate) use self::fields::{ContentType, HeaderBody, UnverifiedHeader};
use super::codec::Reader;
use crate::{context::EncryptionContext, error::Error, suite::AlgorithmSuite};

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
        let start = reader.position();
        let offset = reader.offset();
        match reader.u8("version")? {
            v1::VERSION => v1::read(reader, start, max_encrypted_data_keys),
            v2::VERSION => v2::read(reader, start, max_encrypted_data_keys),
            version => Err(Error::Unsupported { field: "version", offset, value: version.into() }),
        }
    }

    /// Returns the header as received, authentication included.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.body.to_vec();
        write_authentication(self.suite, self.iv, *self.tag, &mut bytes);
        bytes
    }
}

impl HeaderBody<'_> {
    /// Appends the header body to `out`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when a field does not fit the format. This cannot happen for a
    /// context and keys that this crate made.
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        match self.commit_key {
            Some(commit_key) => v2::write(self, commit_key, out),
            None => v1::write(self, out),
        }
    }
}

/// Appends the authentication that follows the body: IV and tag in version 1, the tag in version 2.
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

/// Returns the length of a suite's message id in bytes.
pub(crate) fn message_id_length(suite: AlgorithmSuite) -> usize {
    if suite.commits_to_key() { 32 } else { 16 }
}

/// Returns the length of a header in bytes, authentication included.
pub(crate) fn length(
    suite: AlgorithmSuite,
    encryption_context: &EncryptionContext,
    encrypted_data_keys: &[u8],
) -> usize {
    let fixed = if suite.commits_to_key() { v2::FIXED_LENGTH } else { v1::FIXED_LENGTH };
    fixed + encryption_context.as_serialized().len() + encrypted_data_keys.len()
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
            let commits = suite.commits_to_key();
            let iv = if commits { [0; 12] } else { IV };
            let authentication = if commits { 16 } else { 28 };
            prop_assert_eq!(read.body, &bytes[..bytes.len() - authentication]);
            prop_assert_eq!((read.suite, read.content_type, read.iv), (suite, content_type, iv));
            prop_assert_eq!(read.message_id, &[1; 32][..message_id_length(suite)]);
            prop_assert_eq!(read.encryption_context, context.as_serialized());
            prop_assert_eq!(read.encrypted_data_keys.as_serialized(), KEYS);
            prop_assert_eq!(read.commit_key, commits.then_some(&[9; 32]));
            prop_assert_eq!(read.tag, &[8; 16]);
        }
    }
}
