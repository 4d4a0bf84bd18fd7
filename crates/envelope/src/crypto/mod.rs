//! Primitives: authenticated encryption, key derivation, randomness.

pub(crate) mod aead;
pub(crate) mod kdf;
pub(crate) mod random;
pub(crate) mod signature;
