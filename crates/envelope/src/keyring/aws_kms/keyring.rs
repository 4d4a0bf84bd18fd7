//! The AWS KMS keyring and the AWS KMS MRK keyring (specification:
//! `framework/aws-kms/aws-kms-keyring.md`, `aws-kms-mrk-keyring.md`).

use std::{any::Any, sync::Arc};

use kms_pool::{ClientSupplier, KmsKeyArn, Replicas};

use super::{
    related::{check_unrelated, mrk_match_for_decrypt},
    requests::Requests,
};
use crate::{
    data_key::DataKey,
    error::{Error, ResultFuture},
    keyring::{EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringRequest},
};

/// Generates, wraps and unwraps data keys with one KMS key.
///
/// Every request names the KMS key, also on decryption, and a response for another key is an error.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use envelope::keyring::AwsKmsKeyring;
/// use envelope::kms_pool::{KmsPool, Principal};
///
/// let clients = KmsPool::builder().build()?.clients(&Principal::from_default_chain());
/// let key = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// let keyring = AwsKmsKeyring::new(clients, key.parse()?);
/// # Ok(())
/// # }
/// ```
///
/// # Multi-Region keys
///
/// [Related](KmsKeyArn::is_multi_region) multi-Region keys have the same key material, in different
/// regions. A keyring from [`new`](Self::new) decrypts only messages that name exactly its key. Use
/// [`mrk_aware`](Self::mrk_aware) for messages that were encrypted in another region.
#[derive(Debug, Clone)]
pub struct AwsKmsKeyring {
    requests: Requests,
    key: KmsKeyArn,
    is_mrk_aware: bool,
}

impl AwsKmsKeyring {
    /// Creates a keyring for `key`, which is called with the client for its region (specification:
    /// `framework/aws-kms/aws-kms-keyring.md`).
    #[must_use]
    pub fn new(clients: impl ClientSupplier + 'static, key: KmsKeyArn) -> Self {
        Self { requests: Requests::new(Arc::new(clients)), key, is_mrk_aware: false }
    }

    /// Creates a keyring that also decrypts messages under related multi-Region keys
    /// (specification: `framework/aws-kms/aws-kms-mrk-keyring.md`).
    ///
    /// It always calls `key`, in the region of `key`. If `key` is not a multi-Region key, this is
    /// the same as [`new`](Self::new).
    ///
    /// This decrypts in Ireland what was encrypted in Virginia:
    ///
    /// ```no_run
    /// # async fn example(message: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    /// use envelope::kms_pool::{KmsPool, Principal};
    /// use envelope::{EncryptionContext, Envelope, keyring::AwsKmsKeyring};
    ///
    /// let clients = KmsPool::builder().build()?.clients(&Principal::from_default_chain());
    /// let ireland = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";
    /// let envelope = Envelope::new(AwsKmsKeyring::mrk_aware(clients, ireland.parse()?))?;
    ///
    /// // The message names the same key in us-east-1.
    /// let decrypted = envelope.decrypt(message, &EncryptionContext::empty()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn mrk_aware(clients: impl ClientSupplier + 'static, key: KmsKeyArn) -> Self {
        Self { is_mrk_aware: true, ..Self::new(clients, key) }
    }

    /// Sets the regions whose related keys are called instead of the key: the first one that
    /// responds generates, wraps or unwraps the data key, as [`Replicas`] describes. Default: only
    /// the region of the key.
    ///
    /// This makes the keyring [MRK-aware](Self::mrk_aware). The region of the key itself is called
    /// only if it is one of `replicas`. For a key that is not a multi-Region key, `replicas` has no
    /// effect.
    ///
    /// ```
    /// # use envelope::kms_pool::{BuildError, KmsKeyArn, PooledClients};
    /// # fn example(clients: PooledClients, key: KmsKeyArn) -> Result<(), BuildError> {
    /// use std::time::Duration;
    /// use envelope::keyring::AwsKmsKeyring;
    /// use envelope::kms_pool::Replicas;
    ///
    /// let replicas = Replicas::new(clients.clone(), ["eu-west-1", "us-east-1"])?
    ///     .hedge_after(Duration::from_millis(200));
    /// let keyring = AwsKmsKeyring::mrk_aware(clients, key).with_replicas(replicas);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_replicas(self, replicas: Replicas) -> Self {
        let requests = self.requests.with_replicas(replicas);
        Self { requests, is_mrk_aware: true, ..self }
    }

    /// Sets the grant tokens to send with every request. Default: none.
    ///
    /// ```
    /// # fn example(keyring: envelope::keyring::AwsKmsKeyring) {
    /// let keyring = keyring.with_grant_tokens(["AQpAM2RhZ…"]);
    /// # }
    /// ```
    #[must_use]
    pub fn with_grant_tokens(
        mut self,
        grant_tokens: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.requests = self.requests.with_grant_tokens(grant_tokens);
        self
    }

    /// Returns the key to call for a message that names the key `stored`.
    fn key_for(&self, stored: &KmsKeyArn) -> Option<KmsKeyArn> {
        let matches =
            *stored == self.key || (self.is_mrk_aware && mrk_match_for_decrypt(&self.key, stored));
        matches.then(|| self.key.clone())
    }
}

impl Keyring for AwsKmsKeyring {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        Box::pin(self.requests.generate(&self.key, request))
    }

    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(self.requests.wrap(&self.key, request, data_key))
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        let key_for = |stored: &KmsKeyArn| self.key_for(stored);
        Box::pin(self.requests.unwrap(self.key.as_str(), request, encrypted_data_keys, key_for))
    }

    fn wrapping_key(&self, _request: KeyringRequest<'_>) -> Option<Arc<str>> {
        Some(self.key.clone().into())
    }

    fn identity(&self) -> Option<String> {
        let kind = if self.is_mrk_aware { "AWS KMS MRK" } else { "AWS KMS" };
        Some(format!("{kind} {}", self.key))
    }

    fn tenure(&self) -> u64 {
        self.requests.tenure()
    }
}

/// The keys of the MRK-aware keyrings in a multi-keyring.
#[derive(Debug)]
pub(in crate::keyring) struct MrkAwareKeys(Vec<KmsKeyArn>);

impl MrkAwareKeys {
    /// Returns the key of the first keyring, if that is an MRK-aware AWS KMS keyring.
    pub(in crate::keyring) fn of(first: &dyn Any) -> Self {
        Self(mrk_aware_key(first).into_iter().collect())
    }

    /// Adds the key of another keyring, if that is an MRK-aware AWS KMS keyring.
    ///
    /// Refuses related keys (specification: `framework/aws-kms/aws-kms-mrk-multi-keyrings.md`).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`].
    pub(in crate::keyring) fn add(&mut self, keyring: &dyn Any) -> Result<(), Error> {
        self.0.extend(mrk_aware_key(keyring));
        check_unrelated(&self.0.iter().collect::<Vec<_>>())
    }
}

fn mrk_aware_key(keyring: &dyn Any) -> Option<KmsKeyArn> {
    let keyring = keyring.downcast_ref::<AwsKmsKeyring>()?;
    keyring.is_mrk_aware.then(|| keyring.key.clone())
}

#[cfg(test)]
mod tests {
    use super::{super::tests::NoClients, *};
    use crate::keyring::MultiKeyring;

    #[test]
    fn only_an_mrk_aware_keyring_matches_related_keys() {
        let key: KmsKeyArn = "arn:aws:kms:eu-west-1:1:key/mrk-a".parse().unwrap();
        let related = key.in_region(&"us-east-1".parse().unwrap());
        let strict = AwsKmsKeyring::new(NoClients, key.clone());
        let mrk_aware = AwsKmsKeyring::mrk_aware(NoClients, key.clone());
        let replicas = Replicas::new(NoClients, ["us-east-1"]).unwrap();
        let with_replicas = strict.clone().with_replicas(replicas);
        for keyring in [&strict, &mrk_aware, &with_replicas] {
            assert_eq!(keyring.key_for(&key), Some(key.clone()));
        }
        assert_eq!(strict.key_for(&related), None);
        assert_eq!(mrk_aware.key_for(&related), Some(key.clone()));
        assert_eq!(with_replicas.key_for(&related), Some(key));
        assert_ne!(strict.identity(), mrk_aware.identity());
    }

    #[test]
    fn related_keys_are_refused_where_one_decrypts_for_all() {
        let here: KmsKeyArn = "arn:aws:kms:us-east-1:1:key/mrk-a".parse().unwrap();
        let there = here.in_region(&"eu-west-1".parse().unwrap());
        let mrk_aware = |key: &KmsKeyArn| AwsKmsKeyring::mrk_aware(NoClients, key.clone());
        let strict = |key: &KmsKeyArn| AwsKmsKeyring::new(NoClients, key.clone());
        let error = MultiKeyring::new(mrk_aware(&here)).with_child(mrk_aware(&there));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(here.as_str()) && error.contains(there.as_str()), "{error}");
        for second in [&here, &there] {
            let children = || MultiKeyring::without_generator(mrk_aware(&here));
            assert!(children().with_child(mrk_aware(second)).is_err());
            let between = children().with_child(strict(second)).unwrap();
            assert!(between.with_child(mrk_aware(second)).is_err());
        }
        MultiKeyring::new(strict(&here)).with_child(strict(&there)).unwrap();
        MultiKeyring::new(mrk_aware(&here)).with_child(strict(&there)).unwrap();
    }
}
