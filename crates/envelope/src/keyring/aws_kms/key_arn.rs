//! The names of KMS keys, and which of them are one key (specification:
//! `framework/aws-kms/aws-kms-key-arn.md`, `aws-kms-mrk-match-for-decrypt.md`,
//! `aws-kms-mrk-are-unique.md`).

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

use crate::{error::Error, format::encrypted_data_key::EncryptedDataKey};

/// The longest that AWS KMS takes, in bytes.
const LONGEST: usize = 2_048;

/// The ARN of a KMS key (specification: `framework/aws-kms/aws-kms-key-arn.md`).
///
/// An alias is refused: KMS responds with the key's ARN, which is stored in the message, so a
/// keyring that knows only an alias could encrypt but never decrypt. An ARN that is longer than
/// 2,048 bytes, or has a character that is not printable ASCII, is refused as well: AWS has no such
/// ARNs, and ARNs of messages are logged.
///
/// ```
/// use envelope::keyring::KmsKeyArn;
///
/// let arn: KmsKeyArn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab".parse()?;
/// assert_eq!(arn.region(), "eu-west-1");
/// assert!("alias/payments".parse::<KmsKeyArn>().is_err());
/// # Ok::<(), envelope::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KmsKeyArn(Arc<str>);

impl KmsKeyArn {
    /// The ARN as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The partition of AWS that the key is in: `aws`, `aws-cn`, `aws-us-gov`, …
    ///
    /// ```
    /// # use envelope::keyring::KmsKeyArn;
    /// let arn: KmsKeyArn = "arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd".parse()?;
    /// assert_eq!(arn.partition(), "aws-cn");
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn partition(&self) -> &str {
        self.part(1)
    }

    /// The key's region.
    #[must_use]
    pub fn region(&self) -> &str {
        self.part(3)
    }

    /// The account that owns the key.
    ///
    /// ```
    /// # use envelope::keyring::KmsKeyArn;
    /// let arn: KmsKeyArn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd".parse()?;
    /// assert_eq!(arn.account(), "111122223333");
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn account(&self) -> &str {
        self.part(4)
    }

    /// Whether it is a multi-Region key: one of several, in as many regions, that open what any of
    /// them sealed (specification:
    /// `framework/aws-kms/aws-kms-key-arn.md#identifying-an-an-aws-kms-multi-region-arn`).
    ///
    /// ```
    /// # use envelope::keyring::KmsKeyArn;
    /// let arn: KmsKeyArn = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd".parse()?;
    /// assert!(arn.is_multi_region());
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn is_multi_region(&self) -> bool {
        self.part(5).starts_with("key/mrk-")
    }

    /// Whether this key can open what `stored` sealed: it is that key, or both are multi-Region
    /// keys that differ in the region alone (specification:
    /// `framework/aws-kms/aws-kms-mrk-match-for-decrypt.md`).
    ///
    /// ```
    /// # use envelope::keyring::KmsKeyArn;
    /// let ireland: KmsKeyArn = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd".parse()?;
    /// let virginia: KmsKeyArn = "arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd".parse()?;
    /// assert!(ireland.mrk_match_for_decrypt(&virginia));
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn mrk_match_for_decrypt(&self, stored: &Self) -> bool {
        let all_but_the_region = [0, 1, 2, 4, 5];
        let is_related =
            || all_but_the_region.iter().all(|&index| self.part(index) == stored.part(index));
        self == stored || (self.is_multi_region() && stored.is_multi_region() && is_related())
    }

    /// The related key in `region`, which must be the name of one.
    pub(super) fn in_region(&self, region: &str) -> Self {
        let (partition, account, resource) = (self.part(1), self.part(4), self.part(5));
        Self(format!("arn:{partition}:kms:{region}:{account}:{resource}").into())
    }

    /// The key that wrapped this, if it is named as the specification wants it.
    pub(super) fn of(wrapped: &EncryptedDataKey) -> Option<Self> {
        std::str::from_utf8(&wrapped.key_provider_information).ok()?.parse().ok()
    }

    /// The same text, shared.
    pub(super) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    fn part(&self, index: usize) -> &str {
        self.0.split(':').nth(index).unwrap_or_default()
    }
}

impl FromStr for KmsKeyArn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > LONGEST {
            return Err(Error::invalid_setting(
                "KMS key ARN",
                format!("{} bytes; at most {LONGEST}", text.len()),
            ));
        }
        let parts: Vec<_> = text.split(':').collect();
        let is_key_arn = match parts[..] {
            ["arn", partition, "kms", region, account, resource] => {
                let key_id = resource.strip_prefix("key/");
                [partition, region, account].iter().all(|part| !part.is_empty())
                    && key_id.is_some_and(|id| !id.is_empty())
            }
            _ => false,
        };
        if !is_key_arn || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let problem = format!(
                "{text:?} is not of the form arn:PARTITION:kms:REGION:ACCOUNT:key/ID; of an alias, `aws kms describe-key` tells it"
            );
            return Err(Error::invalid_setting("KMS key ARN", problem));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for KmsKeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Refuses multi-Region keys that share their id, and names all of them: it would be anybody's
/// guess which region is to be asked (specification:
/// `framework/aws-kms/aws-kms-mrk-are-unique.md`).
///
/// # Errors
///
/// [`Error::InvalidSetting`] if there are any.
pub(super) fn assert_mrk_are_unique<'a>(
    keys: impl IntoIterator<Item = &'a KmsKeyArn>,
) -> Result<(), Error> {
    let multi_region: Vec<_> = keys.into_iter().filter(|key| key.is_multi_region()).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for key in &multi_region {
        *counts.entry(key.part(5)).or_default() += 1;
    }
    let duplicates: Vec<_> =
        multi_region.iter().filter(|key| counts[key.part(5)] > 1).map(|key| key.as_str()).collect();
    if duplicates.is_empty() {
        return Ok(());
    }
    let problem = format!(
        "the same multi-Region key more than once, give it in one region: {}",
        duplicates.join(", ")
    );
    Err(Error::invalid_setting("KMS keys", problem))
}

/// Refuses what can't be the name of a region.
///
/// # Errors
///
/// [`Error::InvalidSetting`] for anything but lower-case letters, digits and hyphens.
pub(super) fn check_region(region: &str) -> Result<(), Error> {
    let may_stand = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !region.is_empty() && region.bytes().all(may_stand) {
        return Ok(());
    }
    Err(Error::invalid_setting(
        "region",
        format!("{region:?} is not the name of a region, such as eu-west-1"),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(arn: &str) -> KmsKeyArn {
        arn.parse().unwrap()
    }

    #[test]
    fn only_key_arns_are_taken() {
        let valid =
            ["arn:aws:kms:us-east-1:1:key/a", "arn:aws-us-gov:kms:us-gov-west-1:1:key/mrk-a/b"];
        for arn in valid {
            assert_eq!(key(arn).as_str(), arn);
        }
        let too_long = format!("arn:aws:kms:us-east-1:1:key/{}", "a".repeat(LONGEST));
        let invalid = [
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
            "arn::kms:us-east-1:1:key/a",
            "arn:aws:s3:us-east-1:1:key/a",
            "ARN:aws:kms:us-east-1:1:key/a",
            "arn:aws:kms:us-east-1:1:key/a\n",
            "arn:aws:kms:us-east-1:1 :key/a",
            "arn:aws:kms:us-east-1:1:key/\u{202e}a",
            &too_long,
        ];
        for arn in invalid {
            assert!(arn.parse::<KmsKeyArn>().is_err(), "{arn}");
        }
    }

    #[test]
    fn each_part_is_found() {
        let arn = key("arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-a/key/b");
        assert_eq!(
            (arn.partition(), arn.region(), arn.account()),
            ("aws-cn", "cn-north-1", "111122223333")
        );
        assert_eq!(
            arn.in_region("cn-northwest-1"),
            key("arn:aws-cn:kms:cn-northwest-1:111122223333:key/mrk-a/key/b")
        );
    }

    #[test]
    fn a_multi_region_key_is_told_by_how_its_id_begins() {
        assert!(key("arn:aws:kms:us-east-1:1:key/mrk-a").is_multi_region());
        for single in ["key/a-mrk-", "key/MRK-a", "key/mrk", "key/a/mrk-a", "key/key/mrk-a"] {
            assert!(
                !key(&format!("arn:aws:kms:us-east-1:1:{single}")).is_multi_region(),
                "{single}"
            );
        }
    }

    #[test]
    fn related_keys_differ_in_the_region_alone() {
        let configured = key("arn:aws:kms:us-east-1:1:key/mrk-a");
        for stored in ["arn:aws:kms:us-east-1:1:key/mrk-a", "arn:aws:kms:eu-west-1:1:key/mrk-a"] {
            assert!(configured.mrk_match_for_decrypt(&key(stored)), "{stored}");
            assert!(key(stored).mrk_match_for_decrypt(&configured), "{stored}");
        }
        let others = [
            "arn:aws-cn:kms:eu-west-1:1:key/mrk-a",
            "arn:aws:kms:eu-west-1:2:key/mrk-a",
            "arn:aws:kms:eu-west-1:1:key/mrk-b",
            "arn:aws:kms:eu-west-1:1:key/mrk-a/b",
            "arn:aws:kms:us-east-1:1:key/a",
        ];
        for stored in others {
            assert!(!configured.mrk_match_for_decrypt(&key(stored)), "{stored}");
            assert!(!key(stored).mrk_match_for_decrypt(&configured), "{stored}");
        }
        let single = key("arn:aws:kms:us-east-1:1:key/a");
        assert!(single.mrk_match_for_decrypt(&single));
        assert!(!single.mrk_match_for_decrypt(&key("arn:aws:kms:eu-west-1:1:key/a")));
    }

    #[test]
    fn multi_region_keys_that_share_an_id_are_all_named() {
        let check = |arns: &[&str]| {
            let keys: Vec<_> = arns.iter().map(|arn| key(arn)).collect();
            assert_mrk_are_unique(&keys).map_err(|error| error.to_string())
        };
        let [a, a_elsewhere, b, b_elsewhere] = [
            "arn:aws:kms:us-east-1:1:key/mrk-a",
            "arn:aws:kms:eu-west-1:1:key/mrk-a",
            "arn:aws:kms:us-east-1:1:key/mrk-b",
            "arn:aws:kms:eu-west-1:2:key/mrk-b",
        ];
        let (single, single_elsewhere) =
            ("arn:aws:kms:us-east-1:1:key/c", "arn:aws:kms:eu-west-1:1:key/c");
        check(&[]).unwrap();
        check(&[single, single, single_elsewhere]).unwrap();
        check(&[a, b, single, single_elsewhere]).unwrap();
        let error = check(&[a, b, single, a_elsewhere, b_elsewhere]).unwrap_err();
        assert!([a, a_elsewhere, b, b_elsewhere].iter().all(|arn| error.contains(arn)), "{error}");
        assert!(!error.contains(single), "{error}");
        assert!(!check(&[a, b, a]).unwrap_err().contains(b));
    }

    #[test]
    fn regions_are_checked() {
        for region in ["eu-west-1", "us-gov-west-1"] {
            check_region(region).unwrap();
        }
        for region in ["", "EU-WEST-1", "eu west 1", "eu-west-1:1:key/a", "*"] {
            check_region(region).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_kept_and_what_is_not_is_refused(text in prop_oneof![
            ".{0,80}", "arn:[awsk:/]{0,20}key/[mrk:/-]{0,8}", "arn:[a-z]{0,3}:kms:[a-z0-9-]{0,9}:[0-9]{0,3}:key/.{0,9}",
        ]) {
            if let Ok(key) = text.parse::<KmsKeyArn>() {
                let (partition, region, account) = (key.partition(), key.region(), key.account());
                let resource = key.part(5);
                prop_assert_eq!(format!("arn:{partition}:kms:{region}:{account}:{resource}"), text);
                prop_assert!([partition, region, account].iter().all(|part| !part.is_empty()));
            }
        }

        /// However the regions are named: each opens for the others, if it is multi-Region.
        #[test]
        fn a_key_elsewhere_is_related_and_comes_back(
            id in "(mrk-)?[a-z0-9/]{1,9}", here in "[a-z0-9-]{1,9}", there in "[a-z0-9-]{1,9}",
        ) {
            let key = key(&format!("arn:aws:kms:{here}:1:key/{id}"));
            let elsewhere = key.in_region(&there);
            prop_assert_eq!(elsewhere.region(), &*there);
            prop_assert_eq!(elsewhere.as_str().parse::<KmsKeyArn>().unwrap(), elsewhere.clone());
            prop_assert_eq!(elsewhere.in_region(&here), key.clone());
            prop_assert_eq!(key.mrk_match_for_decrypt(&elsewhere), key.is_multi_region() || here == there);
        }
    }
}
