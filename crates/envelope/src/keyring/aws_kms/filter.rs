//! The discovery filter (specification: `framework/aws-kms/aws-kms-discovery-keyring.md`).

use std::{collections::BTreeSet, fmt};

use kms_pool::KmsKeyArn;

use crate::error::Error;

/// The accounts, in one AWS partition, whose KMS keys a discovery keyring calls.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    partition: String,
    accounts: BTreeSet<String>,
}

impl Filter {
    /// Creates a filter that allows the keys of these accounts in this partition.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if there is no account, one does not have 12 digits, or the
    /// partition does not consist of lower-case letters, digits and hyphens.
    pub(super) fn new(
        partition: impl Into<String>,
        accounts: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, Error> {
        let partition = partition.into();
        let accounts: BTreeSet<String> = accounts.into_iter().map(Into::into).collect();
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if partition.is_empty() || !partition.bytes().all(is_allowed) {
            let problem = format!("{partition:?}: expected e.g. aws, aws-cn or aws-us-gov");
            return Err(Error::invalid_setting("partition", problem));
        }
        if accounts.is_empty() {
            let problem = "at least one account is required";
            return Err(Error::invalid_setting("accounts", problem));
        }
        let is_account = |account: &str| {
            account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())
        };
        if let Some(invalid) = accounts.iter().find(|account| !is_account(account)) {
            let problem = format!("{invalid:?}: expected 12 digits");
            return Err(Error::invalid_setting("accounts", problem));
        }
        Ok(Self { partition, accounts })
    }

    /// Returns whether the key may be called.
    pub(super) fn allows(&self, key: &KmsKeyArn) -> bool {
        self.partition == key.partition() && self.accounts.contains(key.account())
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", accounts of {}:", self.partition)?;
        self.accounts.iter().try_for_each(|account| write!(f, " {account}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_and_account_must_both_match() {
        let filter = Filter::new("aws", ["111122223333", "444455556666"]).unwrap();
        let allows = |partition: &str, account: &str| {
            filter.allows(
                &format!("arn:{partition}:kms:eu-west-1:{account}:key/mrk-a").parse().unwrap(),
            )
        };
        assert!(allows("aws", "111122223333"));
        assert!(allows("aws", "444455556666"));
        for (partition, account) in [
            ("aws-cn", "111122223333"),
            ("aws", "111122223334"),
            ("aws", "11112222333"),
            ("aw", "111122223333"),
        ] {
            assert!(!allows(partition, account), "{partition}, {account}");
        }
    }

    #[test]
    fn an_invalid_filter_is_an_error() {
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
            let error = Filter::new(partition, accounts).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
