//! Cryptographic operations: encrypt, decrypt, re-encrypt, data keys, random bytes.

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use zeroize::Zeroizing;

use super::fields::{Blob, length, not_in_enum, number, required};
use crate::{
    ciphertext::Ciphertext,
    context::EncryptionContext,
    error::Refusal,
    random,
    store::{Key, KeyStore},
};

const ALGORITHM: &str = "SYMMETRIC_DEFAULT";
const MAX_PLAINTEXT: usize = 4096;
const MAX_CIPHERTEXT: usize = 6144;
const MAX_RANDOM: usize = 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Encrypt {
    key_id: Option<String>,
    plaintext: Option<Blob>,
    encryption_context: Option<EncryptionContext>,
    encryption_algorithm: Option<String>,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Decrypt {
    key_id: Option<String>,
    ciphertext_blob: Option<Blob>,
    encryption_context: Option<EncryptionContext>,
    encryption_algorithm: Option<String>,
    recipient: Option<IgnoredAny>,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReEncrypt {
    ciphertext_blob: Option<Blob>,
    source_key_id: Option<String>,
    source_encryption_context: Option<EncryptionContext>,
    source_encryption_algorithm: Option<String>,
    destination_key_id: Option<String>,
    destination_encryption_context: Option<EncryptionContext>,
    destination_encryption_algorithm: Option<String>,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateDataKey {
    key_id: Option<String>,
    key_spec: Option<String>,
    number_of_bytes: Option<i64>,
    encryption_context: Option<EncryptionContext>,
    recipient: Option<IgnoredAny>,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GenerateRandom {
    number_of_bytes: Option<i64>,
    recipient: Option<IgnoredAny>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Encrypted {
    ciphertext_blob: Blob,
    encryption_algorithm: &'static str,
    key_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Decrypted {
    encryption_algorithm: &'static str,
    key_id: String,
    plaintext: Blob,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReEncrypted {
    ciphertext_blob: Blob,
    destination_encryption_algorithm: &'static str,
    key_id: String,
    source_encryption_algorithm: &'static str,
    source_key_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DataKey {
    ciphertext_blob: Blob,
    key_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<Blob>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Random {
    plaintext: Blob,
}

pub(super) fn encrypt(
    store: &KeyStore,
    request: Encrypt,
    now: SystemTime,
) -> Result<Encrypted, Refusal> {
    let name = required("keyId", request.key_id)?;
    let plaintext = required("plaintext", request.plaintext)?.0;
    length("plaintext", plaintext.len(), 1..=MAX_PLAINTEXT)?;
    check_algorithm("encryptionAlgorithm", request.encryption_algorithm.as_deref())?;
    let key = usable(store, &name, now)?;
    check_dry_run(request.dry_run)?;
    let context = request.encryption_context.unwrap_or_default();
    Ok(Encrypted {
        ciphertext_blob: Blob::public(key.wrapping.wrap(&plaintext, &context)?),
        encryption_algorithm: ALGORITHM,
        key_id: store.home.key_arn(key.id),
    })
}

pub(super) fn decrypt(
    store: &KeyStore,
    request: Decrypt,
    now: SystemTime,
) -> Result<Decrypted, Refusal> {
    let blob = required("ciphertextBlob", request.ciphertext_blob)?.0;
    check_algorithm("encryptionAlgorithm", request.encryption_algorithm.as_deref())?;
    check_recipient(request.recipient)?;
    let context = request.encryption_context.unwrap_or_default();
    let (key, plaintext) = decrypt_blob(store, &blob, request.key_id.as_deref(), &context, now)?;
    check_dry_run(request.dry_run)?;
    Ok(Decrypted {
        encryption_algorithm: ALGORITHM,
        key_id: store.home.key_arn(key.id),
        plaintext: Blob(plaintext),
    })
}

pub(super) fn re_encrypt(
    store: &KeyStore,
    request: ReEncrypt,
    now: SystemTime,
) -> Result<ReEncrypted, Refusal> {
    let blob = required("ciphertextBlob", request.ciphertext_blob)?.0;
    let destination = required("destinationKeyId", request.destination_key_id)?;
    let source_algorithm = request.source_encryption_algorithm;
    check_algorithm("sourceEncryptionAlgorithm", source_algorithm.as_deref())?;
    let destination_algorithm = request.destination_encryption_algorithm;
    check_algorithm("destinationEncryptionAlgorithm", destination_algorithm.as_deref())?;

    let from = request.source_encryption_context.unwrap_or_default();
    let to = request.destination_encryption_context.unwrap_or_default();
    let (source, plaintext) =
        decrypt_blob(store, &blob, request.source_key_id.as_deref(), &from, now)?;
    let destination = usable(store, &destination, now)?;
    check_dry_run(request.dry_run)?;
    Ok(ReEncrypted {
        ciphertext_blob: Blob::public(destination.wrapping.wrap(&plaintext, &to)?),
        destination_encryption_algorithm: ALGORITHM,
        key_id: store.home.key_arn(destination.id),
        source_encryption_algorithm: ALGORITHM,
        source_key_id: store.home.key_arn(source.id),
    })
}

pub(super) fn generate_data_key(
    store: &KeyStore,
    request: GenerateDataKey,
    now: SystemTime,
) -> Result<DataKey, Refusal> {
    let name = required("keyId", request.key_id)?;
    let length = match (request.key_spec.as_deref(), request.number_of_bytes) {
        (Some("AES_256"), None) => 32,
        (Some("AES_128"), None) => 16,
        (Some(other), None) => return Err(not_in_enum(other, "keySpec", "AES_256, AES_128")),
        (None, Some(bytes)) => number("numberOfBytes", Some(bytes), 0, 1..=MAX_RANDOM)?,
        (Some(_), Some(_)) | (None, None) => {
            let rule = "Please specify either number of bytes or key spec.";
            return Err(Refusal::Validation(rule.to_owned()));
        }
    };
    check_recipient(request.recipient)?;
    let key = usable(store, &name, now)?;
    check_dry_run(request.dry_run)?;
    let plaintext = random::secret(length);
    let context = request.encryption_context.unwrap_or_default();
    Ok(DataKey {
        ciphertext_blob: Blob::public(key.wrapping.wrap(&plaintext, &context)?),
        key_id: store.home.key_arn(key.id),
        plaintext: Some(Blob(plaintext)),
    })
}

pub(super) fn generate_data_key_without_plaintext(
    store: &KeyStore,
    request: GenerateDataKey,
    now: SystemTime,
) -> Result<DataKey, Refusal> {
    let data_key = generate_data_key(store, request, now)?;
    Ok(DataKey { plaintext: None, ..data_key })
}

pub(super) fn generate_random(request: &GenerateRandom) -> Result<Random, Refusal> {
    let bytes = required("numberOfBytes", request.number_of_bytes)?;
    let length = number("numberOfBytes", Some(bytes), 0, 1..=MAX_RANDOM)?;
    check_recipient(request.recipient)?;
    Ok(Random { plaintext: Blob(random::secret(length)) })
}

fn usable(store: &KeyStore, name: &str, now: SystemTime) -> Result<Arc<Key>, Refusal> {
    let key = store.find(name, now)?;
    store.check_usable(&key)?;
    Ok(key)
}

/// Decrypts a blob with the key that it names. If the caller names a key, it must be the same.
fn decrypt_blob(
    store: &KeyStore,
    blob: &[u8],
    name: Option<&str>,
    context: &EncryptionContext,
    now: SystemTime,
) -> Result<(Arc<Key>, Zeroizing<Vec<u8>>), Refusal> {
    length("ciphertextBlob", blob.len(), 1..=MAX_CIPHERTEXT)?;
    let named = name.map(|name| store.find(name, now)).transpose()?;
    let blob = Ciphertext::parse(blob)?;
    let key = match named {
        Some(key) if key.id == blob.key_id() => key,
        Some(_) => return Err(Refusal::IncorrectKey),
        None => store.find(&blob.key_id().to_string(), now).map_err(|_| {
            Refusal::AccessDenied(
                "The ciphertext refers to a customer master key that does not exist, does not \
                 exist in this region, or you are not allowed to access.",
            )
        })?,
    };
    store.check_usable(&key)?;
    let plaintext = key.wrapping.unwrap(&blob, context)?;
    Ok((key, plaintext))
}

fn check_algorithm(member: &str, algorithm: Option<&str>) -> Result<(), Refusal> {
    match algorithm {
        None | Some(ALGORITHM) => Ok(()),
        Some(other @ ("RSAES_OAEP_SHA_1" | "RSAES_OAEP_SHA_256" | "SM2PKE")) => {
            let what = format!("{other} is not an algorithm of a {ALGORITHM} key");
            Err(Refusal::InvalidKeyUsage(what))
        }
        Some(other) => {
            let allowed = "RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256, SYMMETRIC_DEFAULT, SM2PKE";
            Err(not_in_enum(other, member, allowed))
        }
    }
}

fn check_recipient(recipient: Option<IgnoredAny>) -> Result<(), Refusal> {
    match recipient {
        None => Ok(()),
        Some(_) => Err(Refusal::Unsupported("kms-local does not support Recipient".to_owned())),
    }
}

/// Check this last: a dry run fails with the error of a real run, if there is one.
fn check_dry_run(dry_run: Option<bool>) -> Result<(), Refusal> {
    if dry_run == Some(true) { Err(Refusal::DryRun) } else { Ok(()) }
}
