//! Algorithm suites (specification: `framework/algorithm-suites.md`).

use std::fmt;

/// What a message is sealed with: cipher, key derivation, commitment, signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum AlgorithmSuite {
    /// `0x0478`: AES-256-GCM, HKDF with SHA-512, key commitment, no signature. The default.
    #[default]
    Aes256GcmHkdfSha512CommitKey,
}

impl AlgorithmSuite {
    /// The suite with this identifier, if this library knows it.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        match id {
            0x0478 => Some(Self::Aes256GcmHkdfSha512CommitKey),
            _ => None,
        }
    }

    /// The identifier that stands in a message's header.
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Self::Aes256GcmHkdfSha512CommitKey => 0x0478,
        }
    }

    /// The length in bytes of the data key that a keyring supplies (the key derivation's input length).
    #[must_use]
    pub fn data_key_length(self) -> usize {
        match self {
            Self::Aes256GcmHkdfSha512CommitKey => 32,
        }
    }
}

impl fmt::Display for AlgorithmSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.id())
    }
}
