//! Bytes on the wire (specification: `data-format/`). Holds bytes and lengths, never keys.

pub(crate) mod body_aad;
pub(crate) mod codec;
pub(crate) mod encrypted_data_key;
pub(crate) mod footer;
pub(crate) mod frame;
pub(crate) mod header;
mod header_v1;
mod header_v2;
pub(crate) mod non_framed;
