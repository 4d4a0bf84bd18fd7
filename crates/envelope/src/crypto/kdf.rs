//! Key derivation (specification: `framework/transitive-requirements.md#hkdf-encryption-key` and
//! `#hkdf-commit-key`; RFC 5869).

use hkdf::Hkdf;
use sha2::Sha512;
use zeroize::Zeroizing;

/// What one message is sealed with, derived from the data key and the message id.
pub(crate) struct CommittingKeys {
    /// The AES-256 key of the header tag and of every frame.
    pub(crate) encryption_key: Zeroizing<[u8; 32]>,
    /// Public: stands in the header and binds the message to this one data key.
    pub(crate) commit_key: [u8; 32],
}

/// HKDF-SHA-512 with the message id as salt: one extract, two expands.
pub(crate) fn derive_committing(suite_id: u16, data_key: &[u8], message_id: &[u8; 32]) -> CommittingKeys {
    let hkdf = Hkdf::<Sha512>::new(Some(message_id), data_key);
    let mut keys = CommittingKeys { encryption_key: Zeroizing::new([0; 32]), commit_key: [0; 32] };
    let id = suite_id.to_be_bytes();
    hkdf.expand_multi_info(&[&id, b"DERIVEKEY"], keys.encryption_key.as_mut())
        .expect("32 bytes are fewer than HKDF-SHA-512's limit of 16,320");
    hkdf.expand(b"COMMITKEY", &mut keys.commit_key).expect("32 bytes are fewer than HKDF-SHA-512's limit of 16,320");
    keys
}

#[cfg(all(test, feature = "aws-lc-rs"))]
mod tests {
    use aws_lc_rs::hkdf::{HKDF_SHA512, KeyType, Salt};
    use proptest::prelude::*;

    use super::*;

    struct Bytes32;

    impl KeyType for Bytes32 {
        fn len(&self) -> usize {
            32
        }
    }

    proptest! {
        /// The same keys as AWS-LC derives by RFC 5869.
        #[test]
        fn agrees_with_aws_lc(suite: u16, data_key: [u8; 32], message_id: [u8; 32]) {
            let prk = Salt::new(HKDF_SHA512, &message_id).extract(&data_key);
            let expand = |info: &[&[u8]]| {
                let mut out = [0; 32];
                prk.expand(info, Bytes32).unwrap().fill(&mut out).unwrap();
                out
            };
            let keys = derive_committing(suite, &data_key, &message_id);
            prop_assert_eq!(*keys.encryption_key, expand(&[&suite.to_be_bytes(), b"DERIVEKEY"]));
            prop_assert_eq!(keys.commit_key, expand(&[b"COMMITKEY"]));
        }
    }
}
