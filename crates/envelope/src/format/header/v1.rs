//! Version 1 of the header body (specification:
//! `data-format/message-header.md#header-body-version-10`).

use super::fields::{
    HeaderBody, UnverifiedHeader, read_content_type_id, read_context, read_frame_length,
    read_suite, write_frame_length, write_middle,
};
use crate::{
    error::Error,
    format::{codec::Reader, encrypted_data_key::EncryptedDataKeys},
};

pub(super) const VERSION: u8 = 1;
/// "Customer authenticated encrypted data", the only type.
const TYPE: u8 = 0x80;
const RESERVED: [u8; 4] = [0; 4];
const IV_LENGTH: u8 = 12;
/// The length in bytes of all fields but the encryption context and the encrypted data keys:
/// version, type, suite, message id, context length, content type, reserved, IV length, frame
/// length, IV, tag.
pub(super) const FIXED_LENGTH: usize = 1 + 1 + 2 + 16 + 2 + 1 + 4 + 1 + 4 + 12 + 16;

/// Reads the header after its version. The header starts at `start`.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    start: usize,
    max_encrypted_data_keys: usize,
) -> Result<UnverifiedHeader<'a>, Error> {
    let offset = reader.offset();
    let kind = reader.u8("type")?;
    if kind != TYPE {
        return Err(Error::Unsupported { field: "type", offset, value: kind.into() });
    }
    let suite = read_suite(reader, false)?;
    reader.require_if_none("message id", 16 + 2)?;
    let message_id = reader.bytes("message id", 16)?;
    let encryption_context = read_context(reader)?;
    let encrypted_data_keys = EncryptedDataKeys::read(reader, max_encrypted_data_keys)?;
    reader.require_if_none("content type", 1 + 4 + 1 + 4 + 12 + 16)?;
    let content_type_id = read_content_type_id(reader)?;
    let offset = reader.offset();
    if *reader.array("reserved")? != RESERVED {
        return Err(Error::Malformed { field: "reserved", offset, problem: "not zero" });
    }
    let offset = reader.offset();
    let iv_length = reader.u8("IV length")?;
    if iv_length != IV_LENGTH {
        return Err(Error::Unsupported { field: "IV length", offset, value: iv_length.into() });
    }
    let content_type = read_frame_length(reader, content_type_id)?;
    let body = reader.since(start);
    let iv = *reader.array("header IV")?;
    let tag = reader.array("header authentication tag")?;
    Ok(UnverifiedHeader {
        body,
        suite,
        message_id,
        encryption_context,
        encrypted_data_keys,
        content_type,
        commit_key: None,
        iv,
        tag,
    })
}

/// Appends a header body to `out`.
pub(super) fn write(header: &HeaderBody<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
    out.extend_from_slice(&[VERSION, TYPE]);
    out.extend_from_slice(&header.suite.id().to_be_bytes());
    out.extend_from_slice(header.message_id);
    write_middle(header, out)?;
    out.extend_from_slice(&RESERVED);
    out.push(IV_LENGTH);
    write_frame_length(header, out);
    Ok(())
}
