//! Which multi-Region keys are related (specification:
//! `framework/aws-kms/aws-kms-mrk-match-for-decrypt.md`, `aws-kms-mrk-are-unique.md`).

use kms_pool::KmsKeyArn;

use crate::error::Error;

/// Returns whether the key `configured` can decrypt what the key `stored` encrypted: both are the
/// same key, or multi-Region keys whose ARNs differ only in the region.
pub(super) fn mrk_match_for_decrypt(configured: &KmsKeyArn, stored: &KmsKeyArn) -> bool {
    configured == stored
        || (configured.is_multi_region()
            && configured.partition() == stored.partition()
            && configured.account() == stored.account()
            && configured.key_id() == stored.key_id())
}

/// Refuses several multi-Region keys with the same id: it would be unclear which region to call
/// (specification: `framework/aws-kms/aws-kms-mrk-are-unique.md`).
///
/// # Errors
///
/// [`Error::InvalidSetting`], which names all of them.
pub(super) fn check_unrelated(keys: &[&KmsKeyArn]) -> Result<(), Error> {
    let is_duplicate = |key: &KmsKeyArn| {
        key.is_multi_region() && keys.iter().filter(|it| it.key_id() == key.key_id()).count() > 1
    };
    let duplicates: Vec<_> =
        keys.iter().filter(|key| is_duplicate(key)).map(|key| key.as_str()).collect();
    if duplicates.is_empty() {
        return Ok(());
    }
    let problem = format!(
        "the same multi-Region key more than once, use it in one region: {}",
        duplicates.join(", ")
    );
    Err(Error::invalid_setting("KMS keys", problem))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(arn: &str) -> KmsKeyArn {
        arn.parse().unwrap()
    }

    #[test]
    fn related_keys_differ_only_in_their_region() {
        let configured = key("arn:aws:kms:us-east-1:1:key/mrk-a");
        for stored in ["arn:aws:kms:us-east-1:1:key/mrk-a", "arn:aws:kms:eu-west-1:1:key/mrk-a"] {
            assert!(mrk_match_for_decrypt(&configured, &key(stored)), "{stored}");
            assert!(mrk_match_for_decrypt(&key(stored), &configured), "{stored}");
        }
        let others = [
            "arn:aws-cn:kms:eu-west-1:1:key/mrk-a",
            "arn:aws:kms:eu-west-1:2:key/mrk-a",
            "arn:aws:kms:eu-west-1:1:key/mrk-b",
            "arn:aws:kms:eu-west-1:1:key/mrk-a/b",
            "arn:aws:kms:us-east-1:1:key/a",
        ];
        for stored in others {
            assert!(!mrk_match_for_decrypt(&configured, &key(stored)), "{stored}");
            assert!(!mrk_match_for_decrypt(&key(stored), &configured), "{stored}");
        }
        let single = key("arn:aws:kms:us-east-1:1:key/a");
        assert!(mrk_match_for_decrypt(&single, &single));
        assert!(!mrk_match_for_decrypt(&single, &key("arn:aws:kms:eu-west-1:1:key/a")));
    }

    #[test]
    fn multi_region_keys_that_share_an_id_are_all_named() {
        let check = |arns: &[&str]| {
            let keys: Vec<_> = arns.iter().map(|arn| key(arn)).collect();
            let keys: Vec<_> = keys.iter().collect();
            check_unrelated(&keys).map_err(|error| error.to_string())
        };
        let a = "arn:aws:kms:us-east-1:1:key/mrk-a";
        let a_elsewhere = "arn:aws:kms:eu-west-1:1:key/mrk-a";
        let b = "arn:aws:kms:us-east-1:1:key/mrk-b";
        let b_elsewhere = "arn:aws:kms:eu-west-1:2:key/mrk-b";
        let single = "arn:aws:kms:us-east-1:1:key/c";
        let single_elsewhere = "arn:aws:kms:eu-west-1:1:key/c";
        check(&[]).unwrap();
        check(&[single, single, single_elsewhere]).unwrap();
        check(&[a, b, single, single_elsewhere]).unwrap();
        let error = check(&[a, b, single, a_elsewhere, b_elsewhere]).unwrap_err();
        assert!([a, a_elsewhere, b, b_elsewhere].iter().all(|arn| error.contains(arn)), "{error}");
        assert!(!error.contains(single), "{error}");
        assert!(!check(&[a, b, a]).unwrap_err().contains(b));
    }

    proptest! {
        #[test]
        fn a_key_in_another_region_matches_only_if_it_is_multi_region(
            id in "(mrk-)?[a-z0-9/]{1,9}", here in "[a-z]{1,9}", there in "[a-z]{1,9}",
        ) {
            let key = key(&format!("arn:aws:kms:{here}:1:key/{id}"));
            let elsewhere = key.in_region(&there.parse().unwrap());
            prop_assert_eq!(
                mrk_match_for_decrypt(&key, &elsewhere),
                key.is_multi_region() || here == there
            );
        }
    }
}
