//! Key ids, and the four names of a key: key id, key ARN, alias name and alias ARN.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

use crate::error::Refusal;

const MULTI_REGION: &str = "mrk-";

/// The id of a key in its region: `1234abcd-12ab-…` for a single-Region key, and
/// `mrk-1234abcd12ab…` for a multi-Region key. They name different
/// keys, even with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyId {
    /// The first field, so that keys are in the order of their ids as text.
    pub(crate) multi_region: bool,
    pub(crate) number: Uuid,
}

/// A region of an account.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) region: String,
    pub(crate) account: String,
}

/// A name of a key in one [`Home`], as a request gives it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeyName<'a> {
    /// A key id, alone or from a key ARN.
    Id(KeyId),
    /// An alias name with `alias/`, alone or from an alias ARN.
    Alias(&'a str),
}

impl KeyId {
    pub(crate) fn generate(multi_region: bool) -> Self {
        Self { multi_region, number: Uuid::new_v4() }
    }

    /// Parses the one format that AWS uses: lower case, with hyphens for a single-Region key, and
    /// without hyphens for a multi-Region key.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(MULTI_REGION);
        let number = Uuid::try_parse(digits.unwrap_or(text)).ok()?;
        let id = Self { multi_region: digits.is_some(), number };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.multi_region {
            write!(f, "{MULTI_REGION}{}", self.number.simple())
        } else {
            write!(f, "{}", self.number.hyphenated())
        }
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("invalid key id"))
    }
}

impl Home {
    pub(crate) fn key_arn(&self, id: KeyId) -> String {
        self.arn(&format!("key/{id}"))
    }

    pub(crate) fn alias_arn(&self, alias: &str) -> String {
        self.arn(alias)
    }

    /// Parses any of the four names.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`] for an ARN of another region or account and, like AWS, for any other
    /// text.
    pub(crate) fn parse<'a>(&self, name: &'a str) -> Result<KeyName<'a>, Refusal> {
        let resource = if name.starts_with("arn:") {
            self.resource_of(name)?
        } else if name.starts_with("alias/") {
            name
        } else {
            return KeyId::parse(name)
                .map(KeyName::Id)
                .ok_or_else(|| Refusal::NotFound(format!("Invalid keyId '{name}'")));
        };
        if resource.starts_with("alias/") {
            return Ok(KeyName::Alias(resource));
        }
        resource
            .strip_prefix("key/")
            .and_then(KeyId::parse)
            .map(KeyName::Id)
            .ok_or_else(|| Refusal::NotFound(format!("Invalid arn {name}")))
    }

    fn arn(&self, resource: &str) -> String {
        let Self { region, account } = self;
        format!("arn:{}:kms:{region}:{account}:{resource}", self.partition())
    }

    pub(crate) fn partition(&self) -> &'static str {
        match self.region.as_str() {
            region if region.starts_with("cn-") => "aws-cn",
            region if region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        }
    }

    /// Returns the last field of an ARN of this region and account.
    fn resource_of<'a>(&self, arn: &'a str) -> Result<&'a str, Refusal> {
        let mut fields = arn.splitn(6, ':').skip(1);
        let [partition, service, region, account, resource] =
            std::array::from_fn(|_| fields.next().unwrap_or_default());
        if region != self.region {
            return Err(Refusal::NotFound(format!("Invalid arn {region}")));
        }
        if partition != self.partition() || service != "kms" || account != self.account {
            return Err(Refusal::NotFound(format!("Invalid arn {arn}")));
        }
        Ok(resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    fn home(region: &str) -> Home {
        Home { region: region.to_owned(), account: "111122223333".to_owned() }
    }

    #[test]
    fn the_four_names_are_parsed() {
        let home = home("eu-west-1");
        let number = Uuid::parse_str(ID).unwrap();
        let multi = format!("mrk-{}", ID.replace('-', ""));
        for (name, multi_region) in [(ID, false), (&*multi, true)] {
            let id = KeyId { multi_region, number };
            assert_eq!(home.parse(name).unwrap(), KeyName::Id(id));
            assert_eq!(home.parse(&home.key_arn(id)).unwrap(), KeyName::Id(id));
        }
        assert_eq!(home.parse("alias/a/b").unwrap(), KeyName::Alias("alias/a/b"));
        assert_eq!(home.parse(&home.alias_arn("alias/a")).unwrap(), KeyName::Alias("alias/a"));
    }

    #[test]
    fn other_formats_regions_and_accounts_are_not_found() {
        let upper = ID.to_uppercase();
        let simple = ID.replace('-', "");
        for name in [
            "",
            "key",
            &upper,
            &simple,
            &format!("mrk-{ID}"),
            &format!("mrk-{}", simple.to_uppercase()),
            &format!("MRK-{simple}"),
            &format!("mrk-mrk-{simple}"),
            "mrk-",
            "arn:",
            "arn:aws:kms:eu-west-1:111122223333:key/",
            "arn:aws:kms:eu-west-1:111122223333:other/x",
            &format!("arn:aws:kms:us-east-1:111122223333:key/{ID}"),
            &format!("arn:aws:kms:eu-west-1:999999999999:key/{ID}"),
            &format!("arn:aws:s3:eu-west-1:111122223333:key/{ID}"),
            &format!("arn:aws-cn:kms:eu-west-1:111122223333:key/{ID}"),
        ] {
            assert!(matches!(home("eu-west-1").parse(name), Err(Refusal::NotFound(_))), "{name:?}");
        }
    }

    #[test]
    fn partitions_follow_the_region() {
        assert!(home("cn-north-1").alias_arn("alias/a").starts_with("arn:aws-cn:kms:"));
        assert!(home("us-gov-west-1").alias_arn("alias/a").starts_with("arn:aws-us-gov:kms:"));
    }
}
