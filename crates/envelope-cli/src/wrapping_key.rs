//! Parses the wrapping keys of the command line.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use envelope::keyring::RsaPadding;
use kms_pool::{BuildError, KmsKeyArn, Region};

use crate::fields::{Fields, split};

/// The value of one `--wrapping-key`.
#[derive(Debug, Clone)]
pub(crate) enum WrappingKey {
    AwsKms(KmsKeyArn),
    AwsKmsMrk(KmsKeyArn),
    AwsKmsDiscovery {
        filter: Option<Filter>,
        region: Option<Region>,
    },
    RawAes {
        namespace: String,
        name: String,
        key_file: PathBuf,
    },
    RawRsa {
        namespace: String,
        name: String,
        padding: RsaPadding,
        key_file: PathBuf,
    },
    /// The branch key with this id, in the key store of the command line.
    Hierarchical(String),
}

/// The accounts whose KMS keys are allowed, in one AWS partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) partition: String,
    pub(crate) accounts: Vec<String>,
}

impl WrappingKey {
    /// Returns the file with the key, if there is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::AwsKms(_)
            | Self::AwsKmsMrk(_)
            | Self::AwsKmsDiscovery { .. }
            | Self::Hierarchical(_) => None,
            Self::RawAes { key_file, .. } | Self::RawRsa { key_file, .. } => Some(key_file),
        }
    }
}

impl FromStr for WrappingKey {
    type Err = String;

    fn from_str(spec: &str) -> Result<Self, String> {
        for (prefix, kind) in
            [("aws-kms:", Self::AwsKms as fn(_) -> _), ("aws-kms-mrk:", Self::AwsKmsMrk)]
        {
            if let Some(arn) = spec.strip_prefix(prefix) {
                return arn.parse().map(kind).map_err(|error: BuildError| error.to_string());
            }
        }
        if let Some(id) = spec.strip_prefix("hierarchical:") {
            return if (1..=2_048).contains(&id.len()) {
                Ok(Self::Hierarchical(id.to_owned()))
            } else {
                Err("invalid branch key id: expected 1 to 2,048 bytes".to_owned())
            };
        }
        let parts = split(spec)?;
        let (kind, fields) = parts.split_first().expect("`split` returns at least one part");
        let mut fields = Fields::new(fields)?;
        let key = match &**kind {
            "raw-aes" => Self::RawAes {
                namespace: fields.take("namespace")?,
                name: fields.take("name")?,
                key_file: fields.take("key-file")?.into(),
            },
            "raw-rsa" => Self::RawRsa {
                namespace: fields.take("namespace")?,
                name: fields.take("name")?,
                padding: padding(&fields.take("padding")?)?,
                key_file: fields.take("key-file")?.into(),
            },
            "aws-kms-discovery" => Self::AwsKmsDiscovery {
                filter: filter(fields.take_all("account")?, fields.take_optional("partition")?)?,
                region: fields.take_optional("region")?.map(|it| region(&it)).transpose()?,
            },
            "aws-kms" | "aws-kms-mrk" => return Err(format!("expected {kind}:KEY-ARN")),
            "hierarchical" => return Err("expected hierarchical:BRANCH-KEY-ID".to_owned()),
            _ => {
                return Err(format!(
                    "unknown kind of wrapping key {kind:?}: expected aws-kms:, aws-kms-mrk:, \
                     aws-kms-discovery, hierarchical:, raw-aes or raw-rsa"
                ));
            }
        };
        fields.finish()?;
        Ok(key)
    }
}

fn region(name: &str) -> Result<Region, String> {
    name.parse().map_err(|error: BuildError| error.to_string())
}

/// Returns the filter for these accounts, if there are any. The default partition is `aws`.
fn filter(accounts: Vec<String>, partition: Option<String>) -> Result<Option<Filter>, String> {
    if accounts.is_empty() {
        return match partition {
            Some(_) => Err("partition= requires account=".to_owned()),
            None => Ok(None),
        };
    }
    let partition = partition.unwrap_or_else(|| "aws".to_owned());
    Ok(Some(Filter { partition, accounts }))
}

fn padding(name: &str) -> Result<RsaPadding, String> {
    Ok(match name {
        "pkcs1" => RsaPadding::Pkcs1,
        "oaep-sha1" => RsaPadding::OaepSha1Mgf1,
        "oaep-sha256" => RsaPadding::OaepSha256Mgf1,
        "oaep-sha384" => RsaPadding::OaepSha384Mgf1,
        "oaep-sha512" => RsaPadding::OaepSha512Mgf1,
        _ => {
            let all = "pkcs1, oaep-sha1, oaep-sha256, oaep-sha384, oaep-sha512";
            return Err(format!("unknown padding {name:?}: expected one of {all}"));
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn escaped(value: &str) -> String {
        value.replace('\\', "\\\\").replace(',', "\\,")
    }

    #[test]
    fn errors_name_the_problem() {
        let cases = [
            ("", "unknown kind"),
            ("aes", "unknown kind"),
            ("aws-kms", "expected aws-kms:KEY-ARN"),
            ("aws-kms:alias/x", "ARN"),
            ("aws-kms-mrk", "expected aws-kms-mrk:KEY-ARN"),
            ("aws-kms-mrk:mrk-1234abcd", "ARN"),
            ("hierarchical", "expected hierarchical:BRANCH-KEY-ID"),
            ("hierarchical,branch-key=a", "expected hierarchical:BRANCH-KEY-ID"),
            ("hierarchical:", "1 to 2,048 bytes"),
            ("aws-kms-discovery:arn:aws:kms:eu-west-1:1:key/a", "unknown kind"),
            ("aws-kms-discovery,arn:aws:kms:eu-west-1:1:key/a", "expected KEY=VALUE"),
            ("aws-kms-discovery,partition=aws", "requires account="),
            ("aws-kms-discovery,account=", "empty field account="),
            ("aws-kms-discovery,region=", "empty field region="),
            ("aws-kms-discovery,region=EU", "invalid region name \"EU\""),
            ("aws-kms-discovery,region=eu-west-1,region=us-east-1", "duplicate field region="),
            ("aws-kms-discovery,regions=eu-west-1", "unknown field regions="),
            ("raw-aes", "expected namespace="),
            ("raw-aes,namespace=n,name=m", "expected key-file="),
            ("raw-aes,namespace=n,name=,key-file=f", "empty field name="),
            ("raw-aes,namespace=n,name=m,key-file=f,padding=pkcs1", "unknown field padding="),
            ("raw-aes,namespace=n,namespace=o,name=m,key-file=f", "duplicate field namespace="),
            ("raw-aes,namespace=n,name=m,file", "invalid field \"file\""),
            ("raw-aes,namespace=n\\,name=m,key-file=f", "expected name="),
            ("raw-aes,namespace=a\\b,name=m,key-file=f", "invalid escape"),
            ("raw-aes,namespace=n,name=m,key-file=f\\", "invalid escape"),
            ("raw-rsa,namespace=n,name=m,key-file=f", "expected padding="),
            ("raw-rsa,namespace=n,name=m,padding=oaep,key-file=f", "oaep-sha256"),
        ];
        for (spec, expected) in cases {
            let error = spec.parse::<WrappingKey>().unwrap_err();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn kms_keys_are_named_or_discovered() {
        let arn = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd";
        let parse = |spec: &str| spec.parse::<WrappingKey>().unwrap();
        let WrappingKey::AwsKms(key) = parse(&format!("aws-kms:{arn}")) else { panic!() };
        assert_eq!(key.as_str(), arn);
        let WrappingKey::AwsKmsMrk(key) = parse(&format!("aws-kms-mrk:{arn}")) else { panic!() };
        assert_eq!(key.as_str(), arn);
        let any = parse("aws-kms-discovery");
        assert!(matches!(any, WrappingKey::AwsKmsDiscovery { filter: None, region: None }));
    }

    #[test]
    fn a_branch_key_id_is_taken_as_it_is() {
        let WrappingKey::Hierarchical(id) = "hierarchical:a,b=\\c:d".parse().unwrap() else {
            panic!()
        };
        assert_eq!(id, "a,b=\\c:d");
    }

    proptest! {
        #[test]
        fn a_discovery_filter_is_parsed_in_any_order(
            accounts in prop::collection::btree_set("[0-9]{12}", 0..4),
            partition in prop::option::of("aws(-[a-z]{1,5})?"),
            region in prop::option::of("[a-z]{2}-[a-z]{4,9}-[0-9]"),
            seed in any::<u64>(),
        ) {
            let partition = partition.filter(|_| !accounts.is_empty());
            let mut fields: Vec<_> =
                accounts.iter().map(|account| format!(",account={account}")).collect();
            fields.extend(partition.iter().map(|partition| format!(",partition={partition}")));
            fields.extend(region.iter().map(|region| format!(",region={region}")));
            let mix = |hash: u64, byte| hash.rotate_left(7) ^ u64::from(byte);
            fields.sort_by_key(|field| field.bytes().fold(seed, mix));
            let spec = format!("aws-kms-discovery{}", fields.concat());
            let WrappingKey::AwsKmsDiscovery { filter, region: parsed } = spec.parse().unwrap()
            else {
                panic!()
            };
            let partition = partition.unwrap_or("aws".to_owned());
            let filter = filter.map(|it| (it.partition, BTreeSet::from_iter(it.accounts)));
            let expected = (!accounts.is_empty()).then_some((partition, accounts));
            prop_assert_eq!(filter, expected);
            prop_assert_eq!(parsed.as_ref().map(Region::as_str), region.as_deref());
        }

        #[test]
        fn any_value_can_be_written(namespace in ".+", name in ".+", key_file in ".+") {
            let fields = [("name", &name), ("key-file", &key_file), ("namespace", &namespace)];
            let fields = fields.map(|(key, value)| format!("{key}={}", escaped(value)));
            let spec = format!("raw-aes,{}", fields.join(","));
            let WrappingKey::RawAes { namespace: a, name: b, key_file: c } = spec.parse().unwrap()
            else {
                panic!()
            };
            prop_assert_eq!((a, b, c), (namespace, name, PathBuf::from(key_file)));
        }

        #[test]
        fn no_text_makes_the_parser_panic(spec in prop_oneof![
            ".*",
            "raw-(aes|rsa),[namespace=,\\\\]*",
            "aws-kms(-mrk:|-discovery,)[acountregipa=,:0-9\\\\]*",
        ]) {
            let _ = spec.parse::<WrappingKey>();
        }
    }
}
