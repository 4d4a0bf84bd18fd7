//! The primitives that a message of suite 0x0478 takes, and nothing else: what no client can be faster than.

use benches::{floor_open, floor_seal};

use super::{Contender, WRAPPING_KEY, version_of};

/// As `benches` has it for every benchmark: 32 random bytes, HKDF-SHA-512, the header's tag, the frames.
pub(super) struct Floor;

impl Contender for Floor {
    fn version(&self) -> String {
        format!("aws-lc-rs {}", version_of("aws-lc-rs"))
    }

    fn encrypt(&self, plaintext: &[u8]) -> Vec<u8> {
        floor_seal(&WRAPPING_KEY, plaintext)
    }

    fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        floor_open(&WRAPPING_KEY, message)
    }
}
