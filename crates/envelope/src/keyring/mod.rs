//! Keyrings: they generate, wrap and unwrap data keys (specification:
//! `framework/keyring-interface.md`).

#[cfg(feature = "aws-kms")]
mod aws_kms;
mod hierarchical;
mod multi;
mod raw_aes;
#[cfg(feature = "aws-lc-rs")]
mod raw_rsa;
mod rotating;

use std::{fmt, sync::Arc};

#[cfg(feature = "aws-kms")]
pub use self::aws_kms::{AwsKmsDiscoveryKeyring, AwsKmsKeyring};
#[cfg(feature = "aws-lc-rs")]
pub use self::raw_rsa::RawRsaKeyring;
pub use self::{
    hierarchical::HierarchicalKeyring, multi::MultiKeyring, raw_aes::RawAesKeyring,
    rotating::RotatingKeyring,
};
#[cfg(feature = "aws-lc-rs")]
pub use crate::crypto::rsa::{RsaPadding, RsaPrivateKey, RsaPublicKey};
pub use crate::error::{KeyringError, KeyringErrorKind};
use crate::{
    context::EncryptionContext,
    data_key::DataKey,
    error::{Error, ResultFuture},
    format::encrypted_data_key::EncryptedDataKey,
    suite::AlgorithmSuite,
};

/// Generates, wraps and unwraps data keys under one or more wrapping keys.
///
/// The specification's `OnEncrypt` is [`generate`](Self::generate) if there is no data key yet, and
/// [`wrap`](Self::wrap) if there is one. `OnDecrypt` is [`unwrap`](Self::unwrap).
///
/// Implement it to support another key provider, or to change how an existing keyring behaves. This
/// example limits a keyring to decryption:
///
/// ```
/// use envelope::{DataKey, Error, ResultFuture, materials::EncryptedDataKey};
/// use envelope::keyring::{
///     GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringRequest,
/// };
///
/// #[derive(Debug)]
/// struct DecryptOnly<K>(K);
///
/// fn denied<T>() -> Result<T, Error> {
///     let cause = "this service only decrypts";
///     let error = KeyringError::new("decrypt-only", KeyringErrorKind::Denied, cause);
///     Err(Error::DataKeyUnavailable(error))
/// }
///
/// impl<K: Keyring> Keyring for DecryptOnly<K> {
///     fn generate<'a>(&'a self, _: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
///         Box::pin(async { denied() })
///     }
///
///     fn wrap<'a>(
///         &'a self,
///         _: KeyringRequest<'a>,
///         _: &'a DataKey,
///     ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
///         Box::pin(async { denied() })
///     }
///
///     fn unwrap<'a>(
///         &'a self,
///         request: KeyringRequest<'a>,
///         encrypted_data_keys: &'a [EncryptedDataKey],
///     ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
///         self.0.unwrap(request, encrypted_data_keys)
///     }
/// }
/// ```
pub trait Keyring: fmt::Debug + Send + Sync {
    /// Generates a new data key and wraps it.
    ///
    /// # Errors
    ///
    /// [`Error::DataKeyUnavailable`] with the error of the key provider.
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey>;

    /// Wraps a data key that another keyring generated.
    ///
    /// # Errors
    ///
    /// [`Error::DataKeyUnavailable`] with the error of the key provider.
    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>>;

    /// Tries the encrypted data keys in order, and returns the first that it can unwrap.
    ///
    /// # Errors
    ///
    /// One error per attempt. Empty if no encrypted data key belongs to this keyring.
    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>>;

    /// Does what [`generate`](Self::generate) does, unless that has to wait. Default: `None`, which
    /// means that it has to.
    ///
    /// With this and [`try_unwrap`](Self::try_unwrap), `try_encrypt` and `try_decrypt` work without
    /// a cache of data keys. A keyring that wraps another one forwards these, and
    /// [`try_wrap`](Self::try_wrap).
    fn try_generate(&self, request: KeyringRequest<'_>) -> Option<Result<GeneratedDataKey, Error>> {
        let _ = request;
        None
    }

    /// Does what [`wrap`](Self::wrap) does, unless that has to wait. Default: `None`, which means
    /// that it has to.
    fn try_wrap(
        &self,
        request: KeyringRequest<'_>,
        data_key: &DataKey,
    ) -> Option<Result<Vec<EncryptedDataKey>, Error>> {
        let _ = (request, data_key);
        None
    }

    /// Does what [`unwrap`](Self::unwrap) does, unless that has to wait. Default: `None`, which
    /// means that it has to.
    fn try_unwrap(
        &self,
        request: KeyringRequest<'_>,
        encrypted_data_keys: &[EncryptedDataKey],
    ) -> Option<Result<DataKey, Vec<KeyringError>>> {
        let _ = (request, encrypted_data_keys);
        None
    }

    /// Returns the wrapping key that [`generate`](Self::generate) would use for `request`, under
    /// the name in its errors. Requests with the same wrapping key share one back-off. Default:
    /// `None`, for keyrings without a remote provider.
    fn wrapping_key(&self, request: KeyringRequest<'_>) -> Option<Arc<str>> {
        let _ = request;
        None
    }

    /// Returns text that identifies the wrapping keys, and how the keyring uses them.
    ///
    /// Two keyrings may have the same identity only if each may use data keys that the other one
    /// obtained. The identity is part of the cache key, so that a keyring with another wrapping key
    /// does not get data keys of the previous one. Errors show it: it must not contain secrets.
    /// Default: `None`, which means unknown. [`CachingBuilder::partition_id`] then cannot be set.
    ///
    /// [`CachingBuilder::partition_id`]: crate::materials::CachingBuilder::partition_id
    fn identity(&self) -> Option<String> {
        None
    }

    /// Returns a number that increases when the identity that calls the key provider changes. The
    /// cache then drops what it obtained under the previous identity. Default: always 0.
    fn tenure(&self) -> u64 {
        0
    }
}

/// The algorithm suite and the encryption context of a requested data key.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct KeyringRequest<'a> {
    /// The algorithm suite that the data key is for.
    pub suite: AlgorithmSuite,
    /// The encryption context that the wrapping authenticates.
    pub encryption_context: &'a EncryptionContext,
    /// Whether this is a background request (refresh ahead) that no caller waits for. Default:
    /// `false`.
    pub background: bool,
}

impl<'a> KeyringRequest<'a> {
    /// Creates a request for a data key of `suite`, bound to `encryption_context`.
    #[must_use]
    pub fn new(suite: AlgorithmSuite, encryption_context: &'a EncryptionContext) -> Self {
        Self { suite, encryption_context, background: false }
    }
}

/// A new data key, in plaintext and wrapped.
#[derive(Debug)]
pub struct GeneratedDataKey {
    /// The plaintext data key.
    pub data_key: DataKey,
    /// The same data key under each wrapping key. At least one.
    pub encrypted_data_keys: Vec<EncryptedDataKey>,
}

/// Checks the namespace and the name of a raw keyring: their lengths, and that the namespace is not
/// reserved for AWS KMS (specification: `framework/keyring-interface.md#key-provider-id`).
///
/// # Errors
///
/// [`Error::InvalidSetting`].
fn check_key_names(namespace: &str, name: &str, max_name: usize) -> Result<(), Error> {
    if namespace.starts_with("aws-kms") {
        let problem = format!("{namespace:?}: names that start with `aws-kms` are reserved");
        return Err(Error::invalid_setting("namespace", problem));
    }
    for (setting, value, max) in
        [("namespace", namespace, usize::from(u16::MAX)), ("name", name, max_name)]
    {
        if !(1..=max).contains(&value.len()) {
            let problem = format!("{} bytes, expected 1 to {max}", value.len());
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

/// Unwraps without waiting with the first of `keyrings` that can, or returns the failures of all.
/// Returns `None` if one must wait before that.
fn try_unwrap_with_any<'a>(
    keyrings: impl Iterator<Item = &'a dyn Keyring>,
    request: KeyringRequest<'_>,
    encrypted_data_keys: &[EncryptedDataKey],
) -> Option<Result<DataKey, Vec<KeyringError>>> {
    let mut failures = vec![];
    for keyring in keyrings {
        match keyring.try_unwrap(request, encrypted_data_keys)? {
            Ok(data_key) => return Some(Ok(data_key)),
            Err(more) => failures.extend(more),
        }
    }
    Some(Err(failures))
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
