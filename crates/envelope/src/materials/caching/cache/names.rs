//! Matches the names of wrapping keys with encrypted data keys.

use crate::format::encrypted_data_key::{EncryptedDataKey, EncryptedDataKeys};

/// Returns whether one of these is encrypted by the key with this name, or by a key whose name
/// starts with it.
pub(super) fn is_under(keys: EncryptedDataKeys<'_>, wrapping_key: &str) -> bool {
    keys.iter().any(|key| is_named(&key, wrapping_key))
}

fn is_named(key: &EncryptedDataKey, wrapping_key: &str) -> bool {
    let is_named = |name: &str| key.key_provider_information.starts_with(name.as_bytes());
    is_named(wrapping_key) || qualified(key, wrapping_key).is_some_and(is_named)
}

/// Returns whether one of these is encrypted by the key that a failure names.
///
/// The whole name must match: a refused key must not drop the entries of others whose names start
/// with its name.
pub(in crate::materials::caching) fn is_wrapped_by(
    keys: EncryptedDataKeys<'_>,
    wrapping_key: &str,
) -> bool {
    keys.iter().any(|key| {
        let name = key.key_name();
        name == Some(wrapping_key) || name.is_some() && name == qualified(&key, wrapping_key)
    })
}

/// Returns the name without the key provider id of `key` and a slash.
fn qualified<'a>(key: &EncryptedDataKey, wrapping_key: &'a str) -> Option<&'a str> {
    wrapping_key.strip_prefix(&*key.key_provider_id)?.strip_prefix('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::encrypted_data_key::{RAW_AES_LENGTHS, serialize};

    #[test]
    fn a_failure_concerns_only_the_key_with_the_same_name() {
        let arn = "arn:aws:kms:us-east-1:1:key/1234";
        let raw_aes = [b"tenant-42", &RAW_AES_LENGTHS[..], &[0xFF; 12]].concat();
        for (provider, information, name) in [
            ("aws-kms", arn.as_bytes(), arn),
            ("aws-kms-hierarchy", b"tenant-42", "tenant-42"),
            ("namespace", &raw_aes, "tenant-42"),
            ("namespace", &raw_aes, "namespace/tenant-42"),
            ("vault", b"tenant-42", "tenant-42"),
            ("vault", b"tenant-42", "vault/tenant-42"),
        ] {
            let key_provider_id = provider.to_owned();
            let key_provider_information = information.to_vec();
            let ciphertext = vec![1];
            let key = EncryptedDataKey { key_provider_id, key_provider_information, ciphertext };
            let serialized = serialize(&[key]).unwrap();
            let keys = EncryptedDataKeys::from_checked(&serialized);
            assert!(is_wrapped_by(keys, name) && is_under(keys, name), "{provider} {name}");
            let beginning = &name[..name.len() - 1];
            assert!(!is_wrapped_by(keys, beginning), "{provider} {beginning}");
            assert!(is_under(keys, beginning), "{provider} {beginning}");
            assert!(!is_wrapped_by(keys, &format!("{name}0")) && !is_wrapped_by(keys, ""));
        }
    }
}
