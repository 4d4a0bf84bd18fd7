//! The footer of a signed message (specification: `data-format/message-footer.md`).

use super::codec::{Reader, write_prefixed};
use crate::error::Error;

/// The max length of a footer in bytes: a length field, and a P-384 signature in DER.
pub(crate) const MAX_LENGTH: usize = 2 + 104;

/// Reads the signature.
///
/// # Errors
///
/// [`Error::Truncated`].
pub(crate) fn read<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    reader.prefixed("signature")
}

/// Appends a footer with this signature.
///
/// # Errors
///
/// [`Error::InvalidSetting`] for a signature of more than 65,535 bytes, which no curve has.
pub(crate) fn write(signature: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    write_prefixed(out, "signature", signature)
}
