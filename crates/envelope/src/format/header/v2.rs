//! Version 2 of the header body (specification:
//! `data-format/message-header.md#header-body-version-20`).

use super::fields::{
    HeaderBody, UnverifiedHeader, read_content_type_id, read_context, read_frame_length,
    read_suite, write_frame_length, write_middle,
};
use crate::{
    error::Error,
    format::{codec::Reader, encrypted_data_key::EncryptedDataKeys},
};

pub(super) const VERSION: u8 = 2;
/// The length in bytes of all fields but the encryption context and the encrypted data keys:
/// version, suite, message id, context length, content type, frame length, commit key, tag.
pub(super) const FIXED_LENGTH: usize = 1 + 2 + 32 + 2 + 1 + 4 + 32 + 16;

/// Reads the header after its version. The header starts at `start`.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    start: usize,
    max_encrypted_data_keys: usize,
) -> Result<UnverifiedHeader<'a>, Error> {
    let suite = read_suite(reader, true)?;
    reader.require_if_none("message id", 32 + 2)?;
    let message_id = reader.bytes("message id", 32)?;
    let encryption_context = read_context(reader)?;
    let encrypted_data_keys = EncryptedDataKeys::read(reader, max_encrypted_data_keys)?;
    reader.require_if_none("content type", 1 + 4 + 32 + 16)?;
    let content_type_id = read_content_type_id(reader)?;
    let content_type = read_frame_length(reader, content_type_id)?;
    let commit_key = reader.array("commit key")?;
    let body = reader.since(start);
    let tag = reader.array("header authentication tag")?;
    Ok(UnverifiedHeader {
        body,
        suite,
        message_id,
        encryption_context,
        encrypted_data_keys,
        content_type,
        commit_key: Some(commit_key),
        iv: [0; 12],
        tag,
    })
}

/// Appends a header body to `out`.
pub(super) fn write(
    header: &HeaderBody<'_>,
    commit_key: &[u8; 32],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    out.push(VERSION);
    out.extend_from_slice(&header.suite.id().to_be_bytes());
    out.extend_from_slice(header.message_id);
    write_middle(header, out)?;
    write_frame_length(header, out);
    out.extend_from_slice(commit_key);
    Ok(())
}
