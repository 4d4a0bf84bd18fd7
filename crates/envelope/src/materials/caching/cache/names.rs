//! Matches the names of wrapping keys with encrypted data keys.

use crate::format::encrypted_data_key::{EncryptedDataKey, EncryptedDataKeys};

/// Returns whether one of these is encrypted by the key with this name, or by a key whose name
/// starts with it.
pub(super) fn is_under(keys: EncryptedDataKeys<'_>, wrapping_key: &str) -> bool {
    keys.iter().any(|key| is_named(&key, wrapping_key))
}

fn is_named(key: &EncryptedDataKey, wrapping_key: &str) -> bool {
    let qualified =
        wrapping_key.strip_prefix(&*key.key_provider_id).and_then(|rest| rest.strip_prefix('/'));
    let is_named = |name: &str| key.key_provider_information.starts_with(name.as_bytes());
    is_named(wrapping_key) || qualified.is_some_and(is_named)
}

/// Returns whether one of these is encrypted by the key that a failure names.
///
/// For AWS KMS and branch keys, the whole name must match: a refused key must not drop the entries
/// of others whose names start with its name. Other providers may append data to the name, so the
/// beginning decides: dropping too many entries is safe, keeping a refused one is not.
pub(in crate::materials::caching) fn is_wrapped_by(
    keys: EncryptedDataKeys<'_>,
    wrapping_key: &str,
) -> bool {
    keys.iter().any(|key| match &*key.key_provider_id {
        "aws-kms" | "aws-kms-hierarchy" => key.key_provider_information == wrapping_key.as_bytes(),
        _ => is_named(&key, wrapping_key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::encrypted_data_key::serialize;

    #[test]
    fn a_failure_concerns_only_the_key_with_the_same_name() {
        let wrapped = |id: &str, name: &str| {
            let key_provider_id = id.to_owned();
            let key_provider_information = name.into();
            let ciphertext = vec![1];
            serialize(&[EncryptedDataKey { key_provider_id, key_provider_information, ciphertext }])
                .unwrap()
        };
        let arn = "arn:aws:kms:us-east-1:1:key/1234";
        let of_aws = wrapped("aws-kms", arn);
        let of_aws = EncryptedDataKeys::from_checked(&of_aws);
        assert!(is_wrapped_by(of_aws, arn) && is_under(of_aws, arn));
        let beginning = &arn[..arn.len() - 1];
        assert!(!is_wrapped_by(of_aws, beginning) && is_under(of_aws, beginning));
        let branch_key = wrapped("aws-kms-hierarchy", "tenant-42");
        let branch_key = EncryptedDataKeys::from_checked(&branch_key);
        assert!(is_wrapped_by(branch_key, "tenant-42") && !is_wrapped_by(branch_key, "tenant-4"));
        let raw = wrapped("namespace", "name, and an IV");
        let raw = EncryptedDataKeys::from_checked(&raw);
        assert!(is_wrapped_by(raw, "name") && is_wrapped_by(raw, "namespace/name"));
    }
}
