//! Cryptographic primitives: AES-GCM, key derivation, random bytes, RSA, ECDSA.

pub(crate) mod aead;
pub(crate) mod kdf;
pub(crate) mod random;
#[cfg(feature = "aws-lc-rs")]
pub(crate) mod rsa;
pub(crate) mod signature;
mod stack;
