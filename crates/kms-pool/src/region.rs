//! Names of AWS regions.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{BuildError, KmsError, KmsErrorKind};

/// The name of an AWS region, such as `eu-west-1`.
///
/// A name has 1 to 32 lower-case letters, digits and inner hyphens. There is no list of regions: a
/// region that AWS opens tomorrow works without a new version of this crate.
///
/// ```
/// let region: kms_pool::Region = "eu-west-1".parse()?;
/// assert_eq!(region.as_str(), "eu-west-1");
/// assert!("EU (Ireland)".parse::<kms_pool::Region>().is_err());
/// # Ok::<(), kms_pool::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(Arc<str>);

/// The longest name, in bytes. A name becomes one label of a host name.
const MAX_LENGTH: usize = 32;

impl Region {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Region {
    type Err = BuildError;

    fn from_str(name: &str) -> Result<Self, BuildError> {
        if is_region(name) { Ok(Self(name.into())) } else { Err(BuildError::region(name)) }
    }
}

impl AsRef<str> for Region {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns whether `name`, which may come from an untrusted message, has the form of a region name.
pub(crate) fn is_region(name: &str) -> bool {
    (1..=MAX_LENGTH).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Refuses an invalid region name before a client is looked up.
pub(crate) fn check_region(name: &str) -> Result<(), KmsError> {
    if is_region(name) {
        return Ok(());
    }
    let message = BuildError::region(name).to_string();
    Err(KmsError::local(KmsErrorKind::InvalidRequest, &message, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_of_every_aws_partition_are_valid() {
        for name in [
            "eu-west-1",
            "us-gov-west-1",
            "cn-northwest-1",
            "eusc-de-east-1",
            "us-iso-west-1",
            "us-isob-east-1",
            "eu-isoe-west-1",
            "us-isof-south-1",
            "mx-central-1",
            "ap-southeast-7",
            &"a".repeat(MAX_LENGTH),
        ] {
            assert_eq!(name.parse::<Region>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn other_names_are_invalid() {
        for name in [
            "",
            "-",
            "-eu-west-1",
            "eu-west-1-",
            "EU-WEST-1",
            "eu west 1",
            "eu_west_1",
            "eu-west-1.evil.example",
            "eu-west-1:1:key/a",
            "eu-west-1/",
            "eu-west-1\n",
            "eu-wést-1",
            "*",
            &"a".repeat(MAX_LENGTH + 1),
        ] {
            let error = name.parse::<Region>().unwrap_err();
            assert!(matches!(error, BuildError::Region { .. }), "{error}");
        }
    }
}
