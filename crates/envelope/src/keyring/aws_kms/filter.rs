//! Whose KMS keys may be asked to open a message (specification:
//! `framework/aws-kms/aws-kms-discovery-keyring.md`).

use std::collections::BTreeSet;

use super::key_arn::KmsKeyArn;
use crate::error::Error;

/// The accounts, in one partition of AWS, whose KMS keys a discovery keyring asks.
///
/// ```
/// use envelope::keyring::DiscoveryFilter;
///
/// let filter = DiscoveryFilter::new("aws", ["111122223333", "444455556666"])?;
/// assert!(DiscoveryFilter::new("aws", ["1111-2222-3333"]).is_err());
/// # Ok::<(), envelope::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryFilter {
    partition: String,
    accounts: BTreeSet<String>,
}

impl DiscoveryFilter {
    /// Admits the keys of these accounts in this partition: `aws`, `aws-cn`, `aws-us-gov`, …
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if there is no account, one that does not have 12 digits, or a
    /// partition that is not made of lower-case letters, digits and hyphens.
    pub fn new(
        partition: impl Into<String>,
        accounts: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, Error> {
        let (partition, accounts) =
            (partition.into(), accounts.into_iter().map(Into::into).collect::<BTreeSet<_>>());
        let may_stand =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if partition.is_empty() || !partition.bytes().all(may_stand) {
            let problem = format!(
                "{partition:?} is not the name of a partition, such as aws, aws-cn or aws-us-gov"
            );
            return Err(Error::invalid_setting("partition", problem));
        }
        if accounts.is_empty() {
            return Err(Error::invalid_setting(
                "accounts",
                "none, and so the filter would admit no key at all",
            ));
        }
        let is_account = |account: &str| {
            account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())
        };
        if let Some(other) = accounts.iter().find(|account| !is_account(account)) {
            return Err(Error::invalid_setting(
                "accounts",
                format!("{other:?} is not an account's 12 digits"),
            ));
        }
        Ok(Self { partition, accounts })
    }

    /// Whether the key may be asked.
    pub(super) fn admits(&self, key: &KmsKeyArn) -> bool {
        self.partition == key.partition() && self.accounts.contains(key.account())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_and_account_must_both_match() {
        let filter = DiscoveryFilter::new("aws", ["111122223333", "444455556666"]).unwrap();
        let admits = |partition: &str, account: &str| {
            filter.admits(
                &format!("arn:{partition}:kms:eu-west-1:{account}:key/mrk-a").parse().unwrap(),
            )
        };
        assert!(admits("aws", "111122223333"));
        assert!(admits("aws", "444455556666"));
        for (partition, account) in [
            ("aws-cn", "111122223333"),
            ("aws", "111122223334"),
            ("aws", "11112222333"),
            ("aw", "111122223333"),
        ] {
            assert!(!admits(partition, account), "{partition}, {account}");
        }
    }

    #[test]
    fn a_filter_that_admits_nothing_is_none() {
        let good = || vec!["111122223333"];
        let cases = [
            ("aws", vec![], "accounts"),
            ("aws", vec![""], "accounts"),
            ("aws", vec!["111122223333", "1111-2222-3333"], "1111-2222-3333"),
            ("aws", vec!["11112222333"], "12 digits"),
            ("aws", vec!["11112222333a"], "12 digits"),
            ("", good(), "partition"),
            ("AWS", good(), "partition"),
            ("arn:aws", good(), "partition"),
        ];
        for (partition, accounts, expected) in cases {
            let error = DiscoveryFilter::new(partition, accounts).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
