//! Wrapping keys, as they are named on the command line.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use envelope::{
    DataKey,
    keyring::{
        AwsKmsDiscoveryKeyring, AwsKmsKeyring, Keyring, MultiKeyring, MultiKeyringBuilder,
        RawAesKeyring, RawRsaKeyring, RsaPadding, RsaPrivateKey, RsaPublicKey,
    },
};
use kms_pool::{BuildError, KmsKeyArn, KmsPool, PooledClients, Principal, Region};
use zeroize::Zeroizing;

use crate::{arguments::Kms, failure::Failure};

/// One `--wrapping-key`.
#[derive(Debug, Clone)]
pub(crate) enum WrappingKey {
    AwsKms(KmsKeyArn),
    AwsKmsMrk(KmsKeyArn),
    AwsKmsDiscovery { filter: Option<Filter>, region: Option<Region> },
    RawAes { namespace: String, name: String, key_file: PathBuf },
    RawRsa { namespace: String, name: String, padding: RsaPadding, key_file: PathBuf },
}

/// The accounts whose KMS keys may be discovered, in one AWS partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    partition: String,
    accounts: Vec<String>,
}

/// Four times what a key of 16,384 bits takes, in bytes.
const LONGEST_PEM: usize = 64 * 1024;

impl WrappingKey {
    /// The file that the key is in, if it is in one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::AwsKms(_) | Self::AwsKmsMrk(_) | Self::AwsKmsDiscovery { .. } => None,
            Self::RawAes { key_file, .. } | Self::RawRsa { key_file, .. } => Some(key_file),
        }
    }
}

/// What the wrapping keys are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Encrypt,
    Decrypt,
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
        let parts = split(spec)?;
        let (kind, fields) = parts.split_first().expect("split() gives at least one part");
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
            "aws-kms" | "aws-kms-mrk" => return Err(format!("write {kind}:KEY-ARN, with a colon")),
            _ => {
                let all =
                    "`aws-kms:`, `aws-kms-mrk:`, `aws-kms-discovery`, `raw-aes,` and `raw-rsa,`";
                return Err(format!("it starts with none of {all}"));
            }
        };
        fields.finish()?;
        Ok(key)
    }
}

/// A keyring whose first key generates, and all of which unwrap.
pub(crate) fn keyring(
    keys: &[WrappingKey],
    purpose: Purpose,
    kms: &Kms,
) -> Result<MultiKeyring, Failure> {
    let mut made = None;
    let mut clients = || match &made {
        Some(clients) => Ok(PooledClients::clone(clients)),
        None => pooled_clients(kms).map(|clients| made.insert(clients).clone()),
    };
    let mut builder = MultiKeyring::builder();
    for (index, key) in keys.iter().enumerate() {
        builder = match key {
            WrappingKey::AwsKms(arn) => {
                add(builder, index, AwsKmsKeyring::new(clients()?, arn.clone()))
            }
            WrappingKey::AwsKmsMrk(arn) => {
                add(builder, index, AwsKmsKeyring::mrk_aware(clients()?, arn.clone()))
            }
            WrappingKey::AwsKmsDiscovery { .. } if purpose == Purpose::Encrypt => {
                let problem = "aws-kms-discovery only decrypts: name the KMS key to encrypt under, by aws-kms:KEY-ARN";
                return Err(Failure::usage(format!("--wrapping-key: {problem}")));
            }
            WrappingKey::AwsKmsDiscovery { filter, region } => add(
                builder,
                index,
                discovery_keyring(filter.as_ref(), region.as_ref(), clients()?)?,
            ),
            WrappingKey::RawAes { namespace, name, key_file } => {
                let keyring = RawAesKeyring::new(namespace, name, &aes_key(key_file)?);
                let keyring = keyring.map_err(|error| Failure::key_file(key_file, &error))?;
                add(builder, index, keyring)
            }
            WrappingKey::RawRsa { namespace, name, padding, key_file } => {
                let keyring = rsa_keyring(namespace, name, *padding, key_file, purpose)?;
                add(builder, index, keyring)
            }
        };
    }
    builder.build().map_err(|error| Failure::envelope(&error))
}

/// The first key generates, the others are children.
fn add(
    builder: MultiKeyringBuilder,
    index: usize,
    keyring: impl Keyring + 'static,
) -> MultiKeyringBuilder {
    if index == 0 { builder.generator(keyring) } else { builder.child(keyring) }
}

/// Clients of every region, as whom the environment says.
fn pooled_clients(kms: &Kms) -> Result<PooledClients, Failure> {
    Ok(pool(kms)?.clients(&Principal::from_default_chain()))
}

fn pool(kms: &Kms) -> Result<KmsPool, Failure> {
    let failed = |error: BuildError| Failure::new(format!("invalid AWS KMS settings: {error}"));
    let mut builder = KmsPool::builder().with_environment().map_err(failed)?;
    if let Some(url) = &kms.endpoint_url {
        builder = builder.endpoint_url(url);
    }
    if let Some(file) = &kms.ca_file {
        builder =
            builder.trust_root_pem(fs::read(file).map_err(|error| Failure::file(file, &error))?);
    }
    builder.build().map_err(failed)
}

fn discovery_keyring(
    filter: Option<&Filter>,
    region: Option<&Region>,
    clients: PooledClients,
) -> Result<AwsKmsDiscoveryKeyring, Failure> {
    let keyring = match region {
        Some(region) => AwsKmsDiscoveryKeyring::mrk_aware(clients, region.clone()),
        None => AwsKmsDiscoveryKeyring::new(clients),
    };
    let Some(Filter { partition, accounts }) = filter else { return Ok(keyring) };
    let filtered = keyring.with_filter(partition, accounts);
    filtered.map_err(|error| Failure::usage(format!("--wrapping-key: {error}")))
}

fn region(name: &str) -> Result<Region, String> {
    name.parse().map_err(|error: BuildError| error.to_string())
}

/// The keys of these accounts, if any are given, in this partition or else the public one.
fn filter(accounts: Vec<String>, partition: Option<String>) -> Result<Option<Filter>, String> {
    if accounts.is_empty() {
        return match partition {
            Some(_) => {
                Err("account= is missing: beside partition= it says whose keys are asked"
                    .to_owned())
            }
            None => Ok(None),
        };
    }
    let partition = partition.unwrap_or_else(|| "aws".to_owned());
    Ok(Some(Filter { partition, accounts }))
}

/// Reads no more than tells a key from another file, into memory that is wiped.
fn aes_key(file: &Path) -> Result<DataKey, Failure> {
    let mut bytes = Vec::with_capacity(64);
    let read = File::open(file).and_then(|file| file.take(33).read_to_end(&mut bytes));
    let key = DataKey::from_vec(bytes);
    read.map_err(|error| Failure::file(file, &error))?;
    if ![16, 24, 32].contains(&key.len()) {
        let problem = "it must have 16, 24 or 32 raw bytes, neither hexadecimal nor Base64";
        return Err(Failure::new(format!("{}: not an AES key: {problem}", file.display())));
    }
    Ok(key)
}

fn rsa_keyring(
    namespace: &str,
    name: &str,
    padding: RsaPadding,
    file: &Path,
    purpose: Purpose,
) -> Result<RawRsaKeyring, Failure> {
    let pem = pem(file)?;
    let failed = |error: envelope::Error| Failure::key_file(file, &error);
    let keyring = match RsaPublicKey::from_pem(&pem) {
        Ok(_) if purpose == Purpose::Decrypt => {
            let problem = "it is a public key, and decrypting takes the private one";
            return Err(Failure::new(format!("{}: {problem}", file.display())));
        }
        Ok(public_key) => RawRsaKeyring::with_public_key(namespace, name, padding, public_key),
        Err(_) => {
            let private_key = RsaPrivateKey::from_pem(pem).map_err(failed)?;
            RawRsaKeyring::with_key_pair(
                namespace,
                name,
                padding,
                private_key.public_key(),
                private_key,
            )
        }
    };
    keyring.map_err(failed)
}

/// Reads a key's PEM into memory that never grows, and so leaves no copies behind.
fn pem(file: &Path) -> Result<String, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_PEM + 1));
    let read =
        File::open(file).and_then(|file| file.take(LONGEST_PEM as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::file(file, &error))?;
    match std::str::from_utf8(&bytes) {
        Ok(pem) if bytes.len() <= LONGEST_PEM => Ok(pem.to_owned()),
        _ => Err(Failure::new(format!(
            "{}: not a key in PEM: it starts with `-----BEGIN`",
            file.display()
        ))),
    }
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
            return Err(format!("padding {name:?} is not one of {all}"));
        }
    })
}

/// The parts between commas. A backslash takes the meaning from a comma or a backslash behind it.
fn split(spec: &str) -> Result<Vec<String>, String> {
    let (mut parts, mut part) = (vec![], String::new());
    let mut characters = spec.chars();
    while let Some(character) = characters.next() {
        match character {
            ',' => parts.push(std::mem::take(&mut part)),
            '\\' => match characters.next() {
                Some(escaped @ (',' | '\\')) => part.push(escaped),
                _ => {
                    return Err("a backslash stands before a comma or a backslash only: double it"
                        .to_owned());
                }
            },
            character => part.push(character),
        }
    }
    parts.push(part);
    Ok(parts)
}

/// `KEY=VALUE` parts, to be taken by their keys.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn new(parts: &[String]) -> Result<Self, String> {
        let pair = |part: &String| {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} has no `=`: write KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        parts.iter().map(pair).collect::<Result<_, _>>().map(Self)
    }

    fn take(&mut self, key: &str) -> Result<String, String> {
        self.take_optional(key)?.ok_or_else(|| format!("{key}= is missing"))
    }

    fn take_optional(&mut self, key: &str) -> Result<Option<String>, String> {
        let mut values = self.take_all(key)?;
        if values.len() > 1 {
            return Err(format!("{key} is given twice"));
        }
        Ok(values.pop())
    }

    fn take_all(&mut self, key: &str) -> Result<Vec<String>, String> {
        let (taken, left): (Vec<_>, Vec<_>) = self.0.drain(..).partition(|(name, _)| name == key);
        self.0 = left;
        if taken.iter().any(|(_, value)| value.is_empty()) {
            return Err(format!("{key} is empty"));
        }
        Ok(taken.into_iter().map(|(_, value)| value).collect())
    }

    fn finish(self) -> Result<(), String> {
        match self.0.first() {
            Some((unknown, _)) => Err(format!("{unknown}= is not known here")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(value: &str) -> String {
        value.replace('\\', "\\\\").replace(',', "\\,")
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            ("", "none of"),
            ("aes", "none of"),
            ("aws-kms", "with a colon"),
            ("aws-kms:alias/x", "ARN"),
            ("aws-kms-mrk", "with a colon"),
            ("aws-kms-mrk:mrk-1234abcd", "ARN"),
            ("aws-kms-discovery:arn:aws:kms:eu-west-1:1:key/a", "none of"),
            ("aws-kms-discovery,arn:aws:kms:eu-west-1:1:key/a", "has no `=`"),
            ("aws-kms-discovery,partition=aws", "account= is missing"),
            ("aws-kms-discovery,account=", "account is empty"),
            ("aws-kms-discovery,region=", "region is empty"),
            ("aws-kms-discovery,region=EU", "invalid region name \"EU\""),
            ("aws-kms-discovery,region=eu-west-1,region=us-east-1", "region is given twice"),
            ("aws-kms-discovery,regions=eu-west-1", "regions= is not known"),
            ("raw-aes", "namespace= is missing"),
            ("raw-aes,namespace=n,name=m", "key-file= is missing"),
            ("raw-aes,namespace=n,name=,key-file=f", "name is empty"),
            ("raw-aes,namespace=n,name=m,key-file=f,padding=pkcs1", "padding= is not known"),
            ("raw-aes,namespace=n,namespace=o,name=m,key-file=f", "namespace is given twice"),
            ("raw-aes,namespace=n,name=m,file", "\"file\" has no `=`"),
            ("raw-aes,namespace=n\\,name=m,key-file=f", "name= is missing"),
            ("raw-aes,namespace=a\\b,name=m,key-file=f", "backslash"),
            ("raw-aes,namespace=n,name=m,key-file=f\\", "backslash"),
            ("raw-rsa,namespace=n,name=m,key-file=f", "padding= is missing"),
            ("raw-rsa,namespace=n,name=m,padding=oaep,key-file=f", "oaep-sha256"),
        ];
        for (spec, expected) in cases {
            let error = spec.parse::<WrappingKey>().unwrap_err();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn keys_of_kms_are_named_or_discovered() {
        let arn = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd";
        let parse = |spec: &str| spec.parse::<WrappingKey>().unwrap();
        assert!(
            matches!(parse(&format!("aws-kms:{arn}")), WrappingKey::AwsKms(key) if key.as_str() == arn)
        );
        assert!(
            matches!(parse(&format!("aws-kms-mrk:{arn}")), WrappingKey::AwsKmsMrk(key) if key.as_str() == arn)
        );
        let any = parse("aws-kms-discovery");
        assert!(matches!(any, WrappingKey::AwsKmsDiscovery { filter: None, region: None }));
    }

    proptest! {
        #[test]
        fn a_discovery_filter_is_read_in_any_order(
            accounts in prop::collection::vec("[0-9]{12}", 0..4),
            partition in prop::option::of("aws(-[a-z]{1,5})?"),
            region in prop::option::of("[a-z]{2}-[a-z]{4,9}-[0-9]"),
            seed in any::<u64>(),
        ) {
            let partition = partition.filter(|_| !accounts.is_empty());
            let mut fields: Vec<_> = accounts.iter().map(|account| format!(",account={account}")).collect();
            fields.extend(partition.iter().map(|partition| format!(",partition={partition}")));
            fields.extend(region.iter().map(|region| format!(",region={region}")));
            fields.sort_by_key(|field| field.bytes().fold(seed, |hash, byte| hash.rotate_left(7) ^ u64::from(byte)));
            let spec = format!("aws-kms-discovery{}", fields.concat());
            let WrappingKey::AwsKmsDiscovery { filter, region: read } = spec.parse().unwrap() else { panic!() };
            let partition = partition.as_deref().unwrap_or("aws");
            let partition = partition.to_owned();
            let expected = (!accounts.is_empty()).then_some(Filter { partition, accounts });
            prop_assert_eq!(filter, expected);
            prop_assert_eq!(read.as_ref().map(Region::as_str), region.as_deref());
        }

        #[test]
        fn any_value_can_be_written(namespace in ".+", name in ".+", key_file in ".+") {
            let fields = [("name", &name), ("key-file", &key_file), ("namespace", &namespace)];
            let fields = fields.map(|(key, value)| format!("{key}={}", escaped(value)));
            let spec = format!("raw-aes,{}", fields.join(","));
            let WrappingKey::RawAes { namespace: a, name: b, key_file: c } = spec.parse().unwrap() else { panic!() };
            prop_assert_eq!((a, b, c), (namespace, name, PathBuf::from(key_file)));
        }

        #[test]
        fn no_text_makes_it_panic(spec in prop_oneof![
            ".*", "raw-(aes|rsa),[namespace=,\\\\]*", "aws-kms(-mrk:|-discovery,)[acountregipa=,:0-9\\\\]*",
        ]) {
            let _ = spec.parse::<WrappingKey>();
        }
    }
}
