//! The keyring for the wrapping keys of the command line.

use std::{fs::File, io::Read as _, path::Path};

use envelope::{
    DataKey,
    branch_key::BranchKeys,
    keyring::{
        AwsKmsDiscoveryKeyring, AwsKmsKeyring, HierarchicalKeyring, Keyring, MultiKeyring,
        RawAesKeyring, RawRsaKeyring, RsaPadding, RsaPrivateKey, RsaPublicKey,
    },
};
use kms_pool::{PooledClients, Region};
use zeroize::Zeroizing;

use crate::{
    failure::Failure,
    kms::Aws,
    options::{BranchKeyOptions, Kms, StoreOptions},
    store::key_store,
    wrapping_key::{Filter, WrappingKey},
};

/// The maximum length of a PEM file, in bytes: four times that of a key of 16,384 bits.
const MAX_PEM: usize = 64 * 1024;

/// What the wrapping keys are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Encrypt,
    Decrypt,
}

/// Returns a keyring in which the first key generates data keys, and all keys unwrap them.
pub(crate) async fn keyring(
    keys: &[WrappingKey],
    purpose: Purpose,
    store: &StoreOptions,
    branch_keys: &BranchKeyOptions,
    kms: &Kms,
) -> Result<MultiKeyring, Failure> {
    let aws = Aws::new(kms);
    let mut opened: Option<BranchKeys> = None;
    let mut multi = None;
    for key in keys {
        let added = match key {
            WrappingKey::AwsKms(arn) => add(multi, AwsKmsKeyring::new(aws.clients()?, arn.clone())),
            WrappingKey::AwsKmsMrk(arn) => {
                add(multi, AwsKmsKeyring::mrk_aware(aws.clients()?, arn.clone()))
            }
            WrappingKey::AwsKmsDiscovery { .. } if purpose == Purpose::Encrypt => {
                let problem = "aws-kms-discovery cannot encrypt: use aws-kms:KEY-ARN";
                return Err(Failure::usage(format!("--wrapping-key: {problem}")));
            }
            WrappingKey::AwsKmsDiscovery { filter, region } => {
                add(multi, discovery_keyring(filter.as_ref(), region.as_ref(), aws.clients()?)?)
            }
            WrappingKey::Hierarchical(id) => {
                let branch_keys = if let Some(branch_keys) = &opened {
                    branch_keys.clone()
                } else {
                    let store = key_store(store, branch_keys, &aws).await?;
                    opened.insert(BranchKeys::new(store)).clone()
                };
                let keyring = HierarchicalKeyring::new(branch_keys, id.as_str());
                add(multi, keyring.map_err(|error| Failure::envelope(&error))?)
            }
            WrappingKey::RawAes { namespace, name, key_file } => {
                let keyring = RawAesKeyring::new(namespace, name, &aes_key(key_file)?);
                let keyring = keyring.map_err(|error| Failure::key_file(key_file, &error))?;
                add(multi, keyring)
            }
            WrappingKey::RawRsa { namespace, name, padding, key_file } => {
                let keyring = rsa_keyring(namespace, name, *padding, key_file, purpose)?;
                add(multi, keyring)
            }
        };
        multi = Some(added?);
    }
    multi.ok_or_else(|| Failure::usage("--wrapping-key: at least one is required"))
}

/// Adds a keyring: the first as the generator, the others as children.
fn add(
    multi: Option<MultiKeyring>,
    keyring: impl Keyring + 'static,
) -> Result<MultiKeyring, Failure> {
    match multi {
        None => Ok(MultiKeyring::new(keyring)),
        Some(multi) => multi.with_child(keyring).map_err(|error| Failure::envelope(&error)),
    }
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

/// Reads an AES key into memory that is wiped. Reads one byte more than a key has, to detect a
/// longer file.
fn aes_key(file: &Path) -> Result<DataKey, Failure> {
    let mut bytes = Vec::with_capacity(64);
    let read = File::open(file).and_then(|file| file.take(33).read_to_end(&mut bytes));
    let key = DataKey::from_vec(bytes);
    read.map_err(|error| Failure::file(file, &error))?;
    if ![16, 24, 32].contains(&key.len()) {
        let problem = "expected 16, 24 or 32 raw bytes, not hexadecimal or Base64";
        return Err(Failure::new(format!("{}: invalid AES key: {problem}", file.display())));
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
            let problem = "this is a public key: decryption needs the private key";
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

/// Reads a PEM file into memory that is wiped. It never grows, so it leaves no copies behind.
fn pem(file: &Path) -> Result<String, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_PEM + 1));
    let read =
        File::open(file).and_then(|file| file.take(MAX_PEM as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::file(file, &error))?;
    match std::str::from_utf8(&bytes) {
        Ok(pem) if bytes.len() <= MAX_PEM => Ok(pem.to_owned()),
        _ => Err(Failure::new(format!(
            "{}: invalid PEM file: expected `-----BEGIN`",
            file.display()
        ))),
    }
}
