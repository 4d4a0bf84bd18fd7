//! Keyrings: who generates, wraps and unwraps data keys (specification:
//! `framework/keyring-interface.md`).

#[cfg(feature = "aws-kms")]
mod aws_kms;
mod multi;
mod raw_aes;
#[cfg(feature = "aws-lc-rs")]
mod raw_rsa;
mod rotating;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

#[cfg(feature = "aws-kms")]
pub use self::aws_kms::{AwsKmsDiscoveryKeyring, AwsKmsKeyring};
#[cfg(feature = "aws-lc-rs")]
pub use self::raw_rsa::RawRsaKeyring;
pub use self::{
    multi::{MultiKeyring, MultiKeyringBuilder},
    raw_aes::RawAesKeyring,
    rotating::RotatingKeyring,
};
#[cfg(feature = "aws-lc-rs")]
pub use crate::crypto::rsa::{RsaPadding, RsaPrivateKey, RsaPublicKey};
pub use crate::error::{KeyringError, KeyringErrorKind};
use crate::{
    context::EncryptionContext, data_key::DataKey, error::Error,
    format::encrypted_data_key::EncryptedDataKey, suite::AlgorithmSuite,
};

/// What a keyring's operations return.
pub type KeyringFuture<'a, T, E = Error> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// Generates, wraps and unwraps data keys under wrapping keys that it alone knows how to use.
///
/// The specification's `OnEncrypt` is [`generate`](Self::generate) where no data key exists yet and
/// [`wrap`](Self::wrap) where one does; `OnDecrypt` is [`unwrap`](Self::unwrap).
pub trait Keyring: fmt::Debug + Send + Sync {
    /// Makes a new data key and wraps it.
    ///
    /// # Errors
    ///
    /// [`Error::DataKeyUnavailable`] with the provider's cause.
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> KeyringFuture<'a, GeneratedDataKey>;

    /// Wraps a data key that another keyring made.
    ///
    /// # Errors
    ///
    /// [`Error::DataKeyUnavailable`] with the provider's cause.
    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> KeyringFuture<'a, Vec<EncryptedDataKey>>;

    /// Unwraps the first of these encrypted data keys that it can, in their order.
    ///
    /// # Errors
    ///
    /// The failure of each attempt; empty if no encrypted data key belongs to this keyring.
    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> KeyringFuture<'a, DataKey, Vec<KeyringError>>;

    /// The wrapping key that [`generate`](Self::generate) would use for this request, as its errors
    /// name it. Requests to a named wrapping key back off together when it fails. Default: `None`,
    /// for keyrings that send no requests.
    fn wrapping_key(&self, request: KeyringRequest<'_>) -> Option<Arc<str>> {
        let _ = request;
        None
    }

    /// Identifies the wrapping keys that this keyring uses, and how it uses them.
    ///
    /// Two keyrings may have the same identity only if each may use data keys that the other one
    /// obtained. The identity is part of the cache key, so that a keyring with another wrapping key
    /// does not get data keys of the previous one. It must not contain secrets. Default: `None`,
    /// which means unknown; [`CachingBuilder::partition_id`] can then not be set.
    ///
    /// [`CachingBuilder::partition_id`]: crate::materials::CachingBuilder::partition_id
    fn identity(&self) -> Option<String> {
        None
    }

    /// Grows when another identity than before sends the requests. Entries that were cached under
    /// the permissions of the previous one are then dropped. Default: it never grows.
    fn tenure(&self) -> u64 {
        0
    }
}

/// What a data key is for, and bound to.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct KeyringRequest<'a> {
    /// The algorithm suite that the data key is for.
    pub suite: AlgorithmSuite,
    /// The encryption context that the wrapping authenticates.
    pub encryption_context: &'a EncryptionContext,
    /// Whether no caller waits for it, because the next data key is fetched ahead. Default:
    /// `false`.
    pub background: bool,
}

impl<'a> KeyringRequest<'a> {
    /// A request for a data key of `suite`, bound to `encryption_context`.
    #[must_use]
    pub fn new(suite: AlgorithmSuite, encryption_context: &'a EncryptionContext) -> Self {
        Self { suite, encryption_context, background: false }
    }
}

/// A new data key, plain and wrapped.
#[derive(Debug)]
pub struct GeneratedDataKey {
    /// The plaintext data key.
    pub data_key: DataKey,
    /// The same key under each wrapping key; at least one.
    pub encrypted_data_keys: Vec<EncryptedDataKey>,
}

/// Refuses a namespace that is AWS KMS's (specification:
/// `framework/keyring-interface.md#key-provider-id`), and a namespace or name of a raw keyring that
/// is empty or does not fit its field.
fn check_key_names(namespace: &str, name: &str, longest_name: usize) -> Result<(), Error> {
    if namespace.starts_with("aws-kms") {
        return Err(Error::invalid_setting(
            "namespace",
            "what starts with `aws-kms` is reserved for AWS KMS",
        ));
    }
    for (setting, value, longest) in
        [("namespace", namespace, usize::from(u16::MAX)), ("name", name, longest_name)]
    {
        if !(1..=longest).contains(&value.len()) {
            let problem = format!("{} bytes; 1 to {longest} are allowed", value.len());
            return Err(Error::invalid_setting(setting, problem));
        }
    }
    Ok(())
}

/// Unwraps with the first of `keyrings` that can, or returns the failures of all.
async fn unwrap_with_any(
    keyrings: impl Iterator<Item = &dyn Keyring> + Send,
    request: KeyringRequest<'_>,
    encrypted_data_keys: &[EncryptedDataKey],
) -> Result<DataKey, Vec<KeyringError>> {
    let mut failures = vec![];
    for keyring in keyrings {
        match keyring.unwrap(request, encrypted_data_keys).await {
            Ok(data_key) => return Ok(data_key),
            Err(more) => failures.extend(more),
        }
    }
    Err(failures)
}

/// Returns the first success, or all failures.
fn first_unwrapped(
    outcomes: impl Iterator<Item = Result<DataKey, KeyringError>>,
) -> Result<DataKey, Vec<KeyringError>> {
    let mut failures = vec![];
    for outcome in outcomes {
        match outcome {
            Ok(data_key) => return Ok(data_key),
            Err(failure) => failures.push(failure),
        }
    }
    Err(failures)
}
