//! The tiers of branch keys.

use std::fmt;

/// What protects the branch keys of a [`KeyStore`](crate::KeyStore).
///
/// ```
/// assert_eq!(branch_keys::Tier::Root.to_string(), "a root branch key");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// AWS KMS protects each branch key. The AWS Encryption SDKs can use it.
    Kms,
    /// A root branch key protects all others, and AWS KMS protects the root.
    Root,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kms => "AWS KMS",
            Self::Root => "a root branch key",
        })
    }
}
