//! The ARNs of KMS keys.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::BuildError;
use crate::region::{Region, is_region};

/// The maximum length of a key ARN that AWS KMS accepts, in bytes.
const MAX_LENGTH: usize = 2_048;

/// The ARN of a KMS key: `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`.
///
/// An alias, a bare key id and the ARN of an alias are invalid: the key that they name can change,
/// and KMS responds with a key ARN, which would not match them. An ARN that is longer than 2,048
/// bytes, has a character that is not printable ASCII, or contains an invalid [`Region`] is invalid
/// as well: ARNs may come from untrusted messages, and are logged.
///
/// ```
/// use kms_pool::KmsKeyArn;
///
/// let arn: KmsKeyArn =
///     "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab".parse()?;
/// assert_eq!(arn.partition(), "aws");
/// assert_eq!(arn.region(), "eu-west-1");
/// assert_eq!(arn.account(), "111122223333");
/// assert!("alias/payments".parse::<KmsKeyArn>().is_err());
/// # Ok::<(), kms_pool::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KmsKeyArn(Arc<str>);

impl KmsKeyArn {
    /// Returns the ARN as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the AWS partition of the key: `aws`, `aws-cn`, `aws-us-gov`, …
    #[must_use]
    pub fn partition(&self) -> &str {
        self.part(1)
    }

    /// Returns the region of the key.
    #[must_use]
    pub fn region(&self) -> &str {
        self.part(3)
    }

    /// Returns the account that owns the key.
    #[must_use]
    pub fn account(&self) -> &str {
        self.part(4)
    }

    /// Returns the key id: the text after `key/`.
    #[must_use]
    pub fn key_id(&self) -> &str {
        self.part(5).strip_prefix(KEY).unwrap_or_default()
    }

    /// Returns whether it is a multi-Region key: one of several related keys, which can decrypt
    /// each other's ciphertexts. Their ARNs differ only in the region.
    ///
    /// ```
    /// let arn: kms_pool::KmsKeyArn =
    ///     "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab".parse()?;
    /// assert!(arn.is_multi_region());
    /// # Ok::<(), kms_pool::BuildError>(())
    /// ```
    #[must_use]
    pub fn is_multi_region(&self) -> bool {
        self.key_id().starts_with("mrk-")
    }

    /// Returns the ARN of the related multi-Region key in `region`, whether or not that key exists.
    ///
    /// ```
    /// let ireland: kms_pool::KmsKeyArn =
    ///     "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab".parse()?;
    /// let virginia = ireland.in_region(&"us-east-1".parse()?);
    /// assert_eq!(virginia.region(), "us-east-1");
    /// assert_eq!(virginia.key_id(), ireland.key_id());
    /// # Ok::<(), kms_pool::BuildError>(())
    /// ```
    #[must_use]
    pub fn in_region(&self, region: &Region) -> Self {
        let partition = self.partition();
        let account = self.account();
        let key_id = self.key_id();
        Self(format!("arn:{partition}:kms:{region}:{account}:{KEY}{key_id}").into())
    }

    fn part(&self, index: usize) -> &str {
        self.0.split(':').nth(index).unwrap_or_default()
    }
}

/// The resource type of keys.
const KEY: &str = "key/";

impl FromStr for KmsKeyArn {
    type Err = BuildError;

    fn from_str(text: &str) -> Result<Self, BuildError> {
        let is_valid = text.len() <= MAX_LENGTH
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && is_key_arn(text);
        if is_valid { Ok(Self(text.into())) } else { Err(BuildError::key_arn(text)) }
    }
}

fn is_key_arn(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').collect();
    match parts[..] {
        ["arn", partition, "kms", region, account, resource] => {
            !partition.is_empty()
                && is_region(region)
                && !account.is_empty()
                && resource.strip_prefix(KEY).is_some_and(|id| !id.is_empty())
        }
        _ => false,
    }
}

impl fmt::Display for KmsKeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<KmsKeyArn> for Arc<str> {
    fn from(arn: KmsKeyArn) -> Self {
        arn.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(arn: &str) -> KmsKeyArn {
        arn.parse().unwrap()
    }

    #[test]
    fn key_arns_of_every_aws_partition_are_valid() {
        for (partition, region) in [
            ("aws", "us-east-1"),
            ("aws-cn", "cn-northwest-1"),
            ("aws-us-gov", "us-gov-west-1"),
            ("aws-eusc", "eusc-de-east-1"),
            ("aws-iso", "us-iso-west-1"),
            ("aws-iso-b", "us-isob-east-1"),
            ("aws-iso-e", "eu-isoe-west-1"),
            ("aws-iso-f", "us-isof-south-1"),
        ] {
            let arn = key(&format!("arn:{partition}:kms:{region}:111122223333:key/mrk-a/key/b"));
            assert_eq!(arn.partition(), partition);
            assert_eq!(arn.region(), region);
            assert_eq!(arn.account(), "111122223333");
            assert_eq!(arn.key_id(), "mrk-a/key/b");
        }
    }

    #[test]
    fn everything_else_is_invalid() {
        let too_long = format!("arn:aws:kms:us-east-1:1:key/{}", "a".repeat(MAX_LENGTH));
        for text in [
            "",
            "key/a",
            "mrk-a",
            "arn:aws:kms:us-east-1:1:alias/a",
            "arn:aws:kms:us-east-1:1:alias/mrk-a",
            "arn:aws:kms:us-east-1:1:key/",
            "arn:aws:kms:us-east-1:1:key",
            "arn:aws:kms:us-east-1:1:keys/a",
            "arn:aws:kms:us-east-1:1:key:a",
            "arn:aws:kms:us-east-1:1:key/a:b",
            "arn:aws:kms:us-east-1::key/a",
            "arn:aws:kms::1:key/a",
            "arn:aws:kms:us_east_1:1:key/a",
            "arn:aws:kms:us-east-1.evil.example:1:key/a",
            "arn::kms:us-east-1:1:key/a",
            "arn:aws:s3:us-east-1:1:key/a",
            "ARN:aws:kms:us-east-1:1:key/a",
            "arn:aws:kms:us-east-1:1:key/a\n",
            "arn:aws:kms:us-east-1:1 :key/a",
            "arn:aws:kms:us-east-1:1:key/\u{202e}a",
            &too_long,
        ] {
            let error = text.parse::<KmsKeyArn>().unwrap_err();
            assert!(matches!(error, BuildError::KeyArn { .. }), "{text}");
            assert!(error.to_string().len() < 500, "{error}");
        }
    }

    #[test]
    fn the_id_of_a_multi_region_key_starts_with_mrk() {
        assert!(key("arn:aws:kms:us-east-1:1:key/mrk-a").is_multi_region());
        for id in ["a-mrk-", "MRK-a", "mrk", "a/mrk-a", "key/mrk-a"] {
            assert!(!key(&format!("arn:aws:kms:us-east-1:1:key/{id}")).is_multi_region(), "{id}");
        }
    }

    proptest! {
        #[test]
        fn a_valid_arn_consists_of_its_parts(text in prop_oneof![
            ".{0,80}",
            "arn:[awsk:/]{0,20}key/[mrk:/-]{0,8}",
            "arn:[a-z]{0,3}:kms:[a-z0-9-]{0,9}:[0-9]{0,3}:key/.{0,9}",
        ]) {
            if let Ok(key) = text.parse::<KmsKeyArn>() {
                let (partition, region) = (key.partition(), key.region());
                let (account, id) = (key.account(), key.key_id());
                prop_assert_eq!(format!("arn:{partition}:kms:{region}:{account}:key/{id}"), text);
                prop_assert!([partition, region, account, id].iter().all(|it| !it.is_empty()));
                prop_assert!(region.parse::<Region>().is_ok());
            }
        }

        #[test]
        fn a_related_key_differs_only_in_its_region(
            id in "(mrk-)?[a-z0-9/]{1,9}",
            here in "[a-z]{1,9}(-[0-9])?",
            there in "[a-z]{1,9}(-[0-9])?",
        ) {
            let key = key(&format!("arn:aws:kms:{here}:1:key/{id}"));
            let related = key.in_region(&there.parse().unwrap());
            prop_assert_eq!(related.region(), &*there);
            prop_assert_eq!(related.as_str().parse::<KmsKeyArn>().unwrap(), related.clone());
            prop_assert_eq!(related.in_region(&here.parse().unwrap()), key);
        }
    }
}
