//! Wrapping keys, as they are named on the command line.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use envelope::{
    DataKey,
    keyring::{
        AwsKmsKeyring, Keyring, KmsKeyArn, MultiKeyring, MultiKeyringBuilder, RawAesKeyring, RawRsaKeyring, RsaPadding,
        RsaPrivateKey, RsaPublicKey,
    },
};
use kms_pool::{KmsPool, Principal};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::{arguments::Kms, failure::Failure};

/// One `--wrapping-key`.
#[derive(Debug, Clone)]
pub(crate) enum WrappingKey {
    AwsKms(KmsKeyArn),
    RawAes { namespace: String, name: String, key_file: PathBuf },
    RawRsa { namespace: String, name: String, padding: RsaPadding, key_file: PathBuf },
}

/// Four times what a key of 16,384 bits takes, in bytes.
const LONGEST_PEM: usize = 64 * 1024;

impl WrappingKey {
    /// The file that the key is in, if it is in one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::AwsKms(_) => None,
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
        if let Some(arn) = spec.strip_prefix("aws-kms:") {
            return arn.parse().map(Self::AwsKms).map_err(|error: envelope::Error| error.to_string());
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
            "aws-kms" => return Err("write aws-kms:KEY-ARN, with a colon".to_owned()),
            _ => return Err("it starts with none of `aws-kms:`, `raw-aes,` and `raw-rsa,`".to_owned()),
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
    runtime: &Runtime,
) -> Result<MultiKeyring, Failure> {
    let mut aws = None;
    let mut builder = MultiKeyring::builder();
    for (index, key) in keys.iter().enumerate() {
        builder = match key {
            WrappingKey::AwsKms(arn) => {
                if aws.is_none() {
                    aws = Some((pool(kms)?, runtime.block_on(Principal::from_default_chain())));
                }
                let (pool, principal) = aws.clone().expect("it was just set");
                let keyring = AwsKmsKeyring::new(pool, principal, arn.clone());
                add(builder, index, keyring)
            }
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
fn add(builder: MultiKeyringBuilder, index: usize, keyring: impl Keyring + 'static) -> MultiKeyringBuilder {
    if index == 0 { builder.generator(keyring) } else { builder.child(keyring) }
}

fn pool(kms: &Kms) -> Result<KmsPool, Failure> {
    let failed = |error: kms_pool::BuildError| Failure::new(format!("AWS KMS can't be reached: {error}"));
    let mut builder = KmsPool::builder().with_environment().map_err(failed)?;
    if let Some(url) = &kms.endpoint_url {
        builder = builder.endpoint_url(url);
    }
    if let Some(file) = &kms.ca_file {
        builder = builder.trust_root_pem(fs::read(file).map_err(|error| Failure::file(file, &error))?);
    }
    builder.build().map_err(failed)
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
            RawRsaKeyring::with_key_pair(namespace, name, padding, private_key.public_key(), private_key)
        }
    };
    keyring.map_err(failed)
}

/// Reads a key's PEM into memory that never grows, and so leaves no copies behind.
fn pem(file: &Path) -> Result<String, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_PEM + 1));
    let read = File::open(file).and_then(|file| file.take(LONGEST_PEM as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::file(file, &error))?;
    match std::str::from_utf8(&bytes) {
        Ok(pem) if bytes.len() <= LONGEST_PEM => Ok(pem.to_owned()),
        _ => Err(Failure::new(format!("{}: not a key in PEM: it starts with `-----BEGIN`", file.display()))),
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
                _ => return Err("a backslash stands before a comma or a backslash only: double it".to_owned()),
            },
            character => part.push(character),
        }
    }
    parts.push(part);
    Ok(parts)
}

/// `KEY=VALUE` parts, each to be taken once.
struct Fields(BTreeMap<String, String>);

impl Fields {
    fn new(parts: &[String]) -> Result<Self, String> {
        let mut fields = BTreeMap::new();
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} has no `=`: write KEY=VALUE"))?;
            if fields.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(format!("{key} is given twice"));
            }
        }
        Ok(Self(fields))
    }

    fn take(&mut self, key: &str) -> Result<String, String> {
        match self.0.remove(key) {
            Some(value) if !value.is_empty() => Ok(value),
            Some(_) => Err(format!("{key} is empty")),
            None => Err(format!("{key}= is missing")),
        }
    }

    fn finish(self) -> Result<(), String> {
        match self.0.into_keys().next() {
            Some(unknown) => Err(format!("{unknown}= is not known here")),
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

    proptest! {
        #[test]
        fn any_value_can_be_written(namespace in ".+", name in ".+", key_file in ".+") {
            let fields = [("name", &name), ("key-file", &key_file), ("namespace", &namespace)];
            let fields = fields.map(|(key, value)| format!("{key}={}", escaped(value)));
            let spec = format!("raw-aes,{}", fields.join(","));
            let WrappingKey::RawAes { namespace: a, name: b, key_file: c } = spec.parse().unwrap() else { panic!() };
            prop_assert_eq!((a, b, c), (namespace, name, PathBuf::from(key_file)));
        }

        #[test]
        fn no_text_makes_it_panic(spec in prop_oneof![".*", "raw-(aes|rsa),[namespace=,\\\\]*"]) {
            let _ = spec.parse::<WrappingKey>();
        }
    }
}
