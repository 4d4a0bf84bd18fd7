//! Where keys live, and the four ways to name one: key id, key ARN, alias name, alias ARN.

use uuid::Uuid;

use crate::error::Refusal;

/// A region of an account.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) region: String,
    pub(crate) account: String,
}

/// What a request calls a key by, once it is known to lie in this [`Home`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeyName<'a> {
    /// A key id, alone or out of a key ARN.
    Id(Uuid),
    /// An alias with its `alias/`, alone or out of an alias ARN.
    Alias(&'a str),
}

impl Home {
    pub(crate) fn key_arn(&self, id: Uuid) -> String {
        self.arn(&format!("key/{id}"))
    }

    pub(crate) fn alias_arn(&self, alias: &str) -> String {
        self.arn(alias)
    }

    /// Reads any of the four names.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`] for an ARN of elsewhere and for what names nothing, as AWS has it.
    pub(crate) fn parse<'a>(&self, name: &'a str) -> Result<KeyName<'a>, Refusal> {
        let resource = if name.starts_with("arn:") {
            self.resource_of(name)?
        } else if name.starts_with("alias/") {
            name
        } else {
            return key_id(name).map(KeyName::Id).ok_or_else(|| Refusal::NotFound(format!("Invalid keyId '{name}'")));
        };
        if resource.starts_with("alias/") {
            return Ok(KeyName::Alias(resource));
        }
        resource
            .strip_prefix("key/")
            .and_then(key_id)
            .map(KeyName::Id)
            .ok_or_else(|| Refusal::NotFound(format!("Invalid arn {name}")))
    }

    fn arn(&self, resource: &str) -> String {
        let Self { region, account } = self;
        format!("arn:{}:kms:{region}:{account}:{resource}", self.partition())
    }

    fn partition(&self) -> &'static str {
        match self.region.as_str() {
            region if region.starts_with("cn-") => "aws-cn",
            region if region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        }
    }

    /// The last field of an ARN of this region and account.
    fn resource_of<'a>(&self, arn: &'a str) -> Result<&'a str, Refusal> {
        let mut fields = arn.splitn(6, ':').skip(1);
        let mut next = || fields.next().unwrap_or_default();
        let (partition, service, region, account, resource) = (next(), next(), next(), next(), next());
        if region != self.region {
            return Err(Refusal::NotFound(format!("Invalid arn {region}")));
        }
        if partition != self.partition() || service != "kms" || account != self.account {
            return Err(Refusal::NotFound(format!("Invalid arn {arn}")));
        }
        Ok(resource)
    }
}

/// A key id in the one spelling that AWS hands out: lower case, with hyphens.
fn key_id(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    fn home(region: &str) -> Home {
        Home { region: region.to_owned(), account: "111122223333".to_owned() }
    }

    #[test]
    fn the_four_names_are_read() {
        let home = home("eu-west-1");
        let id = Uuid::parse_str(ID).unwrap();
        assert_eq!(home.parse(ID).unwrap(), KeyName::Id(id));
        assert_eq!(home.parse(&home.key_arn(id)).unwrap(), KeyName::Id(id));
        assert_eq!(home.parse("alias/a/b").unwrap(), KeyName::Alias("alias/a/b"));
        assert_eq!(home.parse(&home.alias_arn("alias/a")).unwrap(), KeyName::Alias("alias/a"));
    }

    #[test]
    fn other_spellings_and_places_are_not_found() {
        let upper = ID.to_uppercase();
        let simple = ID.replace('-', "");
        for name in [
            "",
            "key",
            &upper,
            &simple,
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
