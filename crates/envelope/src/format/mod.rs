//! The wire format (specification: `data-format/`). Its types hold bytes and lengths, never keys.

pub(crate) mod body_aad;
pub(crate) mod codec;
pub(crate) mod encrypted_data_key;
pub(crate) mod footer;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod non_framed;
