//! Algorithm suites (specification: `framework/algorithm-suites.md`).

use std::fmt;

/// An algorithm suite: cipher, key derivation, key commitment and signature of a message.
///
/// The names are those of the specification, without the lengths of IV (12 bytes) and tag (16
/// bytes), which are the same in all suites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum AlgorithmSuite {
    /// `0x0014`: AES-128-GCM directly under the data key. Legacy.
    Aes128GcmNoKdf,
    /// `0x0046`: AES-192-GCM directly under the data key. Legacy.
    Aes192GcmNoKdf,
    /// `0x0078`: AES-256-GCM directly under the data key. Legacy.
    Aes256GcmNoKdf,
    /// `0x0114`: AES-128-GCM, HKDF with SHA-256.
    Aes128GcmHkdfSha256,
    /// `0x0146`: AES-192-GCM, HKDF with SHA-256.
    Aes192GcmHkdfSha256,
    /// `0x0178`: AES-256-GCM, HKDF with SHA-256.
    Aes256GcmHkdfSha256,
    /// `0x0214`: AES-128-GCM, HKDF with SHA-256, ECDSA over P-256.
    Aes128GcmHkdfSha256EcdsaP256,
    /// `0x0346`: AES-192-GCM, HKDF with SHA-384, ECDSA over P-384.
    Aes192GcmHkdfSha384EcdsaP384,
    /// `0x0378`: AES-256-GCM, HKDF with SHA-384, ECDSA over P-384.
    Aes256GcmHkdfSha384EcdsaP384,
    /// `0x0478`: AES-256-GCM, HKDF with SHA-512, key commitment. The default, for encryptors and
    /// decryptors that trust each other.
    #[default]
    Aes256GcmHkdfSha512CommitKey,
    /// `0x0578`: AES-256-GCM, HKDF with SHA-512, key commitment, ECDSA over P-384. For decryptors
    /// that must not be able to create messages.
    Aes256GcmHkdfSha512CommitKeyEcdsaP384,
}

impl AlgorithmSuite {
    /// All suites, in the order of their ids.
    pub const ALL: [Self; 11] = [
        Self::Aes128GcmNoKdf,
        Self::Aes192GcmNoKdf,
        Self::Aes256GcmNoKdf,
        Self::Aes128GcmHkdfSha256,
        Self::Aes192GcmHkdfSha256,
        Self::Aes256GcmHkdfSha256,
        Self::Aes128GcmHkdfSha256EcdsaP256,
        Self::Aes192GcmHkdfSha384EcdsaP384,
        Self::Aes256GcmHkdfSha384EcdsaP384,
        Self::Aes256GcmHkdfSha512CommitKey,
        Self::Aes256GcmHkdfSha512CommitKeyEcdsaP384,
    ];

    /// Returns the suite with this id, if there is one.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.id() == id)
    }

    /// Returns the suite's id in a message's header.
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Self::Aes128GcmNoKdf => 0x0014,
            Self::Aes192GcmNoKdf => 0x0046,
            Self::Aes256GcmNoKdf => 0x0078,
            Self::Aes128GcmHkdfSha256 => 0x0114,
            Self::Aes192GcmHkdfSha256 => 0x0146,
            Self::Aes256GcmHkdfSha256 => 0x0178,
            Self::Aes128GcmHkdfSha256EcdsaP256 => 0x0214,
            Self::Aes192GcmHkdfSha384EcdsaP384 => 0x0346,
            Self::Aes256GcmHkdfSha384EcdsaP384 => 0x0378,
            Self::Aes256GcmHkdfSha512CommitKey => 0x0478,
            Self::Aes256GcmHkdfSha512CommitKeyEcdsaP384 => 0x0578,
        }
    }

    /// Returns the length in bytes of the data key, which is also the key length of the cipher.
    #[must_use]
    pub fn data_key_length(self) -> usize {
        match self {
            Self::Aes128GcmNoKdf
            | Self::Aes128GcmHkdfSha256
            | Self::Aes128GcmHkdfSha256EcdsaP256 => 16,
            Self::Aes192GcmNoKdf
            | Self::Aes192GcmHkdfSha256
            | Self::Aes192GcmHkdfSha384EcdsaP384 => 24,
            Self::Aes256GcmNoKdf
            | Self::Aes256GcmHkdfSha256
            | Self::Aes256GcmHkdfSha384EcdsaP384
            | Self::Aes256GcmHkdfSha512CommitKey
            | Self::Aes256GcmHkdfSha512CommitKeyEcdsaP384 => 32,
        }
    }

    /// Returns whether messages commit to their data key: no message can be decrypted under two
    /// different data keys.
    #[must_use]
    pub fn commits_to_key(self) -> bool {
        self.key_derivation() == KeyDerivation::HkdfSha512
    }

    /// Returns whether messages are signed.
    #[must_use]
    pub fn is_signed(self) -> bool {
        self.curve().is_some()
    }

    /// Returns whether messages are encrypted directly under the data key. Such data keys are never
    /// cached.
    #[must_use]
    pub fn is_legacy(self) -> bool {
        self.key_derivation() == KeyDerivation::Identity
    }

    /// Returns how the message's key is derived from the data key.
    pub(crate) fn key_derivation(self) -> KeyDerivation {
        match self {
            Self::Aes128GcmNoKdf | Self::Aes192GcmNoKdf | Self::Aes256GcmNoKdf => {
                KeyDerivation::Identity
            }
            Self::Aes128GcmHkdfSha256
            | Self::Aes192GcmHkdfSha256
            | Self::Aes256GcmHkdfSha256
            | Self::Aes128GcmHkdfSha256EcdsaP256 => KeyDerivation::HkdfSha256,
            Self::Aes192GcmHkdfSha384EcdsaP384 | Self::Aes256GcmHkdfSha384EcdsaP384 => {
                KeyDerivation::HkdfSha384
            }
            Self::Aes256GcmHkdfSha512CommitKey | Self::Aes256GcmHkdfSha512CommitKeyEcdsaP384 => {
                KeyDerivation::HkdfSha512
            }
        }
    }

    /// Returns the curve of the signature; `None` for unsigned suites.
    pub(crate) fn curve(self) -> Option<Curve> {
        match self {
            Self::Aes128GcmHkdfSha256EcdsaP256 => Some(Curve::P256),
            Self::Aes192GcmHkdfSha384EcdsaP384
            | Self::Aes256GcmHkdfSha384EcdsaP384
            | Self::Aes256GcmHkdfSha512CommitKeyEcdsaP384 => Some(Curve::P384),
            _ => None,
        }
    }
}

/// The derivation of a message's key from the data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyDerivation {
    /// The data key is the message's key.
    Identity,
    HkdfSha256,
    HkdfSha384,
    HkdfSha512,
}

/// The curve of an ECDSA signature. The hash has the curve's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
}

impl fmt::Display for AlgorithmSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.id())
    }
}

/// Which messages are encrypted and decrypted, depending on key commitment (specification:
/// `framework/commitment-policy.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CommitmentPolicy {
    /// Encrypt without commitment, decrypt both. For as long as some decryptors do not support
    /// commitment.
    ForbidEncryptAllowDecrypt,
    /// Encrypt with commitment, decrypt both. For as long as messages without commitment exist.
    RequireEncryptAllowDecrypt,
    /// Encrypt and decrypt only with commitment. The default.
    #[default]
    RequireEncryptRequireDecrypt,
}

impl CommitmentPolicy {
    /// Returns whether the policy allows encryption with `suite`.
    #[must_use]
    pub fn allows_encryption(self, suite: AlgorithmSuite) -> bool {
        suite.commits_to_key() == (self != Self::ForbidEncryptAllowDecrypt)
    }

    /// Returns whether the policy allows decryption of messages with `suite`.
    #[must_use]
    pub fn allows_decryption(self, suite: AlgorithmSuite) -> bool {
        suite.commits_to_key() || self != Self::RequireEncryptRequireDecrypt
    }

    /// Returns the default suite under this policy: with HKDF, without signature.
    #[must_use]
    pub fn default_suite(self) -> AlgorithmSuite {
        match self {
            Self::ForbidEncryptAllowDecrypt => AlgorithmSuite::Aes256GcmHkdfSha256,
            Self::RequireEncryptAllowDecrypt | Self::RequireEncryptRequireDecrypt => {
                AlgorithmSuite::Aes256GcmHkdfSha512CommitKey
            }
        }
    }
}

impl fmt::Display for CommitmentPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForbidEncryptAllowDecrypt => "forbid-encrypt-allow-decrypt",
            Self::RequireEncryptAllowDecrypt => "require-encrypt-allow-decrypt",
            Self::RequireEncryptRequireDecrypt => "require-encrypt-require-decrypt",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row is one of the specification's table.
    #[test]
    fn properties_are_as_specified() {
        use KeyDerivation::{HkdfSha256, HkdfSha384, HkdfSha512, Identity};
        let rows = [
            (0x0014, 16, Identity, None, false),
            (0x0046, 24, Identity, None, false),
            (0x0078, 32, Identity, None, false),
            (0x0114, 16, HkdfSha256, None, false),
            (0x0146, 24, HkdfSha256, None, false),
            (0x0178, 32, HkdfSha256, None, false),
            (0x0214, 16, HkdfSha256, Some(Curve::P256), false),
            (0x0346, 24, HkdfSha384, Some(Curve::P384), false),
            (0x0378, 32, HkdfSha384, Some(Curve::P384), false),
            (0x0478, 32, HkdfSha512, None, true),
            (0x0578, 32, HkdfSha512, Some(Curve::P384), true),
        ];
        assert_eq!(rows.len(), AlgorithmSuite::ALL.len());
        for (suite, (id, length, key_derivation, curve, commits)) in
            AlgorithmSuite::ALL.into_iter().zip(rows)
        {
            assert_eq!(AlgorithmSuite::from_id(id), Some(suite));
            assert_eq!(
                (suite.data_key_length(), suite.key_derivation()),
                (length, key_derivation),
                "{suite}"
            );
            assert_eq!((suite.curve(), suite.commits_to_key()), (curve, commits), "{suite}");
        }
        assert_eq!(AlgorithmSuite::from_id(0x0000), None);
    }
}
