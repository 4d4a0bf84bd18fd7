//! What it costs to encrypt and decrypt messages, compared with the bare primitives.

pub(crate) mod branch_keys;
pub(crate) mod file;
pub(crate) mod hot_paths;
pub(crate) mod matrix;
pub(crate) mod ratios;
pub(crate) mod scale;
pub(crate) mod turns;
