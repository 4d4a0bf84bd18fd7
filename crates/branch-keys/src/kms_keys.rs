//! Which KMS keys a key store calls (specification: `framework/branch-key-store.md`, "AWS KMS
//! Configuration").

use std::collections::BTreeSet;
use std::fmt;

use kms_pool::{KmsKeyArn, Region};

use crate::error::BuildError;

/// Which KMS keys a [`KeyStore`](crate::KeyStore) calls.
///
/// A stored ARN that is not allowed costs no request. Aliases are never allowed, because the key
/// that they name can change.
///
/// # Examples
///
/// ```
/// use branch_keys::KmsKeys;
///
/// let arn = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";
/// let exact = KmsKeys::exact(arn.parse()?);
/// let related = KmsKeys::multi_region(arn.parse()?);
/// let readers = KmsKeys::discovery(["111122223333"], ["eu-west-1", "us-east-1"])?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct KmsKeys(Rule);

#[derive(Clone, Debug)]
enum Rule {
    None,
    Exact(KmsKeyArn),
    MultiRegion(KmsKeyArn),
    Discovery(Filter),
    MultiRegionDiscovery(Region, Filter),
}

/// The accounts and regions whose keys may be called.
#[derive(Clone, Debug)]
struct Filter {
    accounts: BTreeSet<String>,
    regions: BTreeSet<Region>,
}

impl KmsKeys {
    /// Allows no key. A key store with it lists and shreds branch keys, and reads what their items
    /// say.
    ///
    /// ```
    /// assert_eq!(branch_keys::KmsKeys::none().to_string(), "no KMS keys");
    /// ```
    #[must_use]
    pub fn none() -> Self {
        Self(Rule::None)
    }

    /// Allows exactly this key. It protects new branch keys.
    #[must_use]
    pub fn exact(key: KmsKeyArn) -> Self {
        Self(Rule::Exact(key))
    }

    /// Allows this multi-Region key, and items of related keys. It protects new branch keys.
    ///
    /// Every request names `key`, in the region of `key`, also for items that a related key in
    /// another region protects. A key that is not a multi-Region key is allowed as by
    /// [`exact`](Self::exact).
    #[must_use]
    pub fn multi_region(key: KmsKeyArn) -> Self {
        Self(Rule::MultiRegion(key))
    }

    /// Allows the keys that items name, in these accounts and regions. It cannot create or rotate.
    ///
    /// The specification allows any key. Then anybody who can write to the table could make you
    /// use a branch key that they know, under a KMS key of their own.
    ///
    /// # Errors
    ///
    /// [`BuildError::InvalidSetting`] if there is no account or no region, an account does not have
    /// 12 digits, or a region name is invalid.
    pub fn discovery(
        accounts: impl IntoIterator<Item = impl Into<String>>,
        regions: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, BuildError> {
        Ok(Self(Rule::Discovery(Filter::new(accounts, regions)?)))
    }

    /// Allows the keys that items name, in these accounts and regions, and calls the related key in
    /// `region` instead of a multi-Region key. It cannot create or rotate.
    ///
    /// `regions` are those of the stored ARNs.
    ///
    /// # Errors
    ///
    /// The errors of [`discovery`](Self::discovery).
    pub fn multi_region_discovery(
        region: Region,
        accounts: impl IntoIterator<Item = impl Into<String>>,
        regions: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, BuildError> {
        Ok(Self(Rule::MultiRegionDiscovery(region, Filter::new(accounts, regions)?)))
    }

    /// The key for new branch keys, if there is one.
    pub(crate) fn for_new(&self) -> Option<&KmsKeyArn> {
        match &self.0 {
            Rule::Exact(key) | Rule::MultiRegion(key) => Some(key),
            Rule::None | Rule::Discovery(_) | Rule::MultiRegionDiscovery(..) => None,
        }
    }

    /// The key to call for the ARN in an item. None if it is not allowed.
    pub(crate) fn for_stored(&self, stored: &str) -> Option<KmsKeyArn> {
        let stored: KmsKeyArn = stored.parse().ok()?;
        match &self.0 {
            Rule::None => None,
            Rule::Exact(key) => (stored == *key).then_some(stored),
            Rule::MultiRegion(key) => is_related(key, &stored).then(|| key.clone()),
            Rule::Discovery(filter) => filter.allows(&stored).then_some(stored),
            Rule::MultiRegionDiscovery(region, filter) => {
                let is_allowed = filter.allows(&stored);
                is_allowed.then(|| {
                    if stored.is_multi_region() { stored.in_region(region) } else { stored }
                })
            }
        }
    }
}

/// Whether both are the same key, or multi-Region keys whose ARNs differ only in the region
/// (specification: `framework/aws-kms/aws-kms-mrk-match-for-decrypt.md`).
fn is_related(key: &KmsKeyArn, stored: &KmsKeyArn) -> bool {
    key == stored
        || (key.is_multi_region()
            && key.partition() == stored.partition()
            && key.account() == stored.account()
            && key.key_id() == stored.key_id())
}

impl Filter {
    fn new(
        accounts: impl IntoIterator<Item = impl Into<String>>,
        regions: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, BuildError> {
        let accounts: BTreeSet<String> = accounts.into_iter().map(Into::into).collect();
        let is_account = |account: &String| {
            account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())
        };
        if accounts.is_empty() || !accounts.iter().all(is_account) {
            return Err(BuildError::new("accounts", "expected at least one, each of 12 digits"));
        }
        let regions: Result<BTreeSet<Region>, _> =
            regions.into_iter().map(|region| region.as_ref().parse()).collect();
        let regions = regions.map_err(|error| BuildError::new("regions", error.to_string()))?;
        if regions.is_empty() {
            return Err(BuildError::new("regions", "expected at least one"));
        }
        Ok(Self { accounts, regions })
    }

    fn allows(&self, key: &KmsKeyArn) -> bool {
        self.accounts.contains(key.account())
            && self.regions.iter().any(|region| region.as_str() == key.region())
    }
}

impl fmt::Display for KmsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::None => f.write_str("no KMS keys"),
            Rule::Exact(key) => write!(f, "KMS key {key}"),
            Rule::MultiRegion(key) => write!(f, "KMS keys related to {key}"),
            Rule::Discovery(filter) => write!(f, "KMS keys {filter}"),
            Rule::MultiRegionDiscovery(region, filter) => {
                write!(f, "KMS keys {filter}, called in {region}")
            }
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("of accounts")?;
        self.accounts.iter().try_for_each(|account| write!(f, " {account}"))?;
        f.write_str(" in")?;
        self.regions.iter().try_for_each(|region| write!(f, " {region}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IRELAND: &str = "arn:aws:kms:eu-west-1:111122223333:key/mrk-a";
    const VIRGINIA: &str = "arn:aws:kms:us-east-1:111122223333:key/mrk-a";
    const SINGLE: &str = "arn:aws:kms:us-east-1:111122223333:key/a";
    const FOREIGN: &str = "arn:aws:kms:us-east-1:444455556666:key/mrk-a";
    const ALIAS: &str = "arn:aws:kms:us-east-1:111122223333:alias/a";
    const TOKYO: &str = "arn:aws:kms:ap-northeast-1:111122223333:key/mrk-a";

    #[test]
    fn each_rule_allows_its_keys() {
        let key = || IRELAND.parse().unwrap();
        let region = || "eu-west-1".parse().unwrap();
        let accounts = ["111122223333"];
        let regions = ["eu-west-1", "us-east-1"];
        let exact = KmsKeys::exact(key());
        let related = KmsKeys::multi_region(key());
        let discovery = KmsKeys::discovery(accounts, regions).unwrap();
        let mrk_discovery = KmsKeys::multi_region_discovery(region(), accounts, regions).unwrap();
        let single = KmsKeys::multi_region(SINGLE.parse().unwrap());
        let none = KmsKeys::none();
        // For each stored ARN, the key that each of the five calls.
        for (stored, called) in [
            (IRELAND, [IRELAND, IRELAND, IRELAND, IRELAND, ""]),
            (VIRGINIA, ["", IRELAND, VIRGINIA, IRELAND, ""]),
            (TOKYO, ["", IRELAND, "", "", ""]),
            (SINGLE, ["", "", SINGLE, SINGLE, SINGLE]),
            (FOREIGN, [""; 5]),
            (ALIAS, [""; 5]),
            ("", [""; 5]),
        ] {
            assert_eq!(none.for_stored(stored), None);
            let all = [&exact, &related, &discovery, &mrk_discovery, &single];
            for (keys, called) in all.into_iter().zip(called) {
                let key = keys.for_stored(stored).map(|key| key.to_string());
                assert_eq!(key.unwrap_or_default(), called, "{keys}: {stored}");
            }
        }
    }

    #[test]
    fn discovery_needs_accounts_and_regions_and_has_no_key_for_new_items() {
        let none: [&str; 0] = [];
        for (accounts, regions, setting) in [
            (&none[..], &["us-east-1"][..], "accounts"),
            (&["1"], &["us-east-1"], "accounts"),
            (&["111122223333", "11112222333x"], &["us-east-1"], "accounts"),
            (&["111122223333"], &none, "regions"),
            (&["111122223333"], &["US East"], "regions"),
        ] {
            let error = KmsKeys::discovery(accounts.iter().copied(), regions).unwrap_err();
            assert!(error.to_string().contains(setting), "{error}");
        }
        let discovery = KmsKeys::discovery(["111122223333"], ["us-east-1"]).unwrap();
        assert_eq!(discovery.for_new(), None);
        assert_eq!(KmsKeys::none().for_new(), None);
        let exact = KmsKeys::exact(SINGLE.parse().unwrap());
        assert_eq!(exact.for_new().unwrap().as_str(), SINGLE);
    }
}
