//! The options that several commands have.

use std::{convert::Infallible, fmt, path::PathBuf};

use branch_keys::KmsKeys;
use clap::Args;
use kms_pool::{BuildError, Region};

use crate::fields::{Fields, split};

#[derive(Debug, Args)]
#[command(next_help_heading = "AWS KMS")]
pub(crate) struct Kms {
    /// AWS KMS endpoint [default: the region's public endpoint]
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint_url: Option<String>,

    /// PEM file of trusted certificate authorities [default: the system's]
    #[arg(long, value_name = "PEM")]
    pub(crate) ca_file: Option<PathBuf>,
}

const STORE: &str = "\
Key store: dynamodb:TABLE (a name or an ARN), sqlite:FILE, postgres://USER@HOST/DATABASE or \
mysql://USER@HOST/DATABASE. Set a URL with a password in the environment instead, because every \
user can list processes";

/// Where the branch keys are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Branch keys")]
pub(crate) struct StoreOptions {
    #[arg(help = STORE)]
    #[arg(long, value_name = "STORE", env = "ENVELOPE_STORE", hide_env_values = true)]
    #[arg(value_parser = StoreUrl::new)]
    pub(crate) store: Option<StoreUrl>,

    /// Region of the DynamoDB table [default: that of its ARN, or else that of the environment]
    #[arg(long, value_name = "REGION", value_parser = region)]
    pub(crate) region: Option<Region>,

    /// The one region in which branch keys are created, rotated and shredded. Set it for a DynamoDB
    /// global table [default: any]
    #[arg(long, value_name = "REGION", env = "ENVELOPE_HOME_REGION", hide_env_values = true)]
    #[arg(value_parser = region)]
    pub(crate) home_region: Option<Region>,
}

/// How AWS KMS protects the branch keys.
#[derive(Debug, Args)]
#[command(next_help_heading = "Branch keys")]
pub(crate) struct BranchKeyOptions {
    /// Logical name of the key store. It is bound to each branch key and can never change
    #[arg(long, value_name = "NAME", env = "ENVELOPE_LOGICAL_NAME", hide_env_values = true)]
    pub(crate) logical_name: Option<String>,

    /// KMS key that protects the branch keys: KEY-ARN, or aws-kms-mrk:KEY-ARN for a multi-Region
    /// key and its related keys. To decrypt and verify only:
    /// aws-kms-discovery,account=ACCOUNT,region=REGION for the stored keys of these accounts and
    /// regions (both repeatable)
    #[arg(long, value_name = "KEY", env = "ENVELOPE_KMS_KEY", hide_env_values = true)]
    #[arg(value_parser = kms_keys)]
    pub(crate) kms_key: Option<KmsKeys>,

    /// Id of the root branch key that protects the branch keys instead of AWS KMS. Other AWS
    /// Encryption SDK clients cannot use them [default: none]
    #[arg(long, value_name = "ID", env = "ENVELOPE_ROOT", hide_env_values = true)]
    pub(crate) root: Option<String>,
}

/// The value of `--store`, which can contain a password. It is parsed when it is used, because
/// `clap` prints values that it cannot parse.
#[derive(Clone)]
pub(crate) struct StoreUrl(String);

impl StoreUrl {
    #[expect(clippy::unnecessary_wraps, reason = "the signature of a parser")]
    fn new(url: &str) -> Result<Self, Infallible> {
        Ok(Self(url.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreUrl(..)")
    }
}

/// Parses `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("missing `=`: expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn region(name: &str) -> Result<Region, String> {
    name.parse().map_err(|error: BuildError| error.to_string())
}

fn kms_keys(spec: &str) -> Result<KmsKeys, String> {
    let key = |arn: &str| arn.parse().map_err(|error: BuildError| error.to_string());
    if let Some(arn) = spec.strip_prefix("aws-kms-mrk:") {
        return key(arn).map(KmsKeys::multi_region);
    }
    let parts = split(spec)?;
    match parts.split_first() {
        Some((kind, fields)) if kind == "aws-kms-discovery" => {
            let mut fields = Fields::new(fields)?;
            let accounts = fields.take_all("account")?;
            let regions = fields.take_all("region")?;
            fields.finish()?;
            KmsKeys::discovery(accounts, regions).map_err(|error| error.to_string())
        }
        _ => key(spec.strip_prefix("aws-kms:").unwrap_or(spec)).map(KmsKeys::exact),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_equals_sign_ends_the_key_of_a_pair() {
        assert_eq!(pair("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert_eq!(pair("a=").unwrap(), ("a".to_owned(), String::new()));
        assert!(pair("a").is_err());
    }

    #[test]
    fn kms_keys_are_exact_related_or_discovered() {
        let arn = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd";
        let discovery = "aws-kms-discovery,account=111122223333,region=eu-west-1,region=us-east-1";
        for (spec, expected) in [
            (arn.to_owned(), format!("KMS key {arn}")),
            (format!("aws-kms:{arn}"), format!("KMS key {arn}")),
            (format!("aws-kms-mrk:{arn}"), format!("KMS keys related to {arn}")),
            (
                discovery.to_owned(),
                "KMS keys of accounts 111122223333 in eu-west-1 us-east-1".to_owned(),
            ),
        ] {
            assert_eq!(kms_keys(&spec).unwrap().to_string(), expected);
        }
        for (spec, expected) in [
            ("", "ARN"),
            ("alias/x", "ARN"),
            ("aws-kms-mrk:alias/x", "ARN"),
            ("aws-kms-discovery", "invalid accounts"),
            ("aws-kms-discovery,account=111122223333", "invalid regions"),
            ("aws-kms-discovery,account=111122223333,regions=eu-west-1", "unknown field regions="),
        ] {
            let error = kms_keys(spec).unwrap_err();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn a_store_is_not_shown() {
        let url = StoreUrl::new("postgres://user:password@localhost/db").unwrap();
        assert!(!format!("{url:?}").contains("password"));
    }
}
