//! Primitives: authenticated encryption, key derivation, randomness, RSA.

pub(crate) mod aead;
pub(crate) mod kdf;
pub(crate) mod random;
#[cfg(feature = "aws-lc-rs")]
pub(crate) mod rsa;
pub(crate) mod signature;
mod stack;
