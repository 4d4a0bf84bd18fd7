//! The AWS KMS keyring (specification: `framework/aws-kms/aws-kms-keyring.md`).

use std::sync::Arc;

use kms_pool::{ClientSupplier, KmsPool, Principal};

use super::{key_arn::KmsKeyArn, requests::Requests};
use crate::{
    data_key::DataKey,
    keyring::{
        EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringFuture, KeyringRequest,
    },
};

/// Has AWS KMS generate, wrap and unwrap data keys under one KMS key (specification:
/// `framework/aws-kms/aws-kms-keyring.md`).
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use envelope::keyring::AwsKmsKeyring;
/// use kms_pool::{KmsPool, Principal};
///
/// let pool = KmsPool::builder().build()?;
/// let principal = Principal::from_default_chain();
/// let arn = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// let keyring = AwsKmsKeyring::new(pool, principal, arn.parse()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AwsKmsKeyring {
    requests: Requests,
    key: KmsKeyArn,
}

impl AwsKmsKeyring {
    /// A keyring for the KMS key `key`, used as `principal` in the key's own region.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "the signature is older than `with_clients`")]
    pub fn new(pool: KmsPool, principal: Principal, key: KmsKeyArn) -> Self {
        Self::with_clients(pool.clients(&principal), key)
    }

    /// A keyring for the KMS key `key`, used by the client that `clients` supplies for the key's
    /// own region.
    ///
    /// ```
    /// # fn example(pool: kms_pool::KmsPool, principal: kms_pool::Principal) -> Result<(), envelope::Error> {
    /// use envelope::keyring::AwsKmsKeyring;
    ///
    /// let arn = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    /// let keyring = AwsKmsKeyring::with_clients(pool.clients(&principal), arn.parse()?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_clients(clients: impl ClientSupplier + 'static, key: KmsKeyArn) -> Self {
        Self::from_requests(Requests::new(Arc::new(clients)), key)
    }

    pub(super) fn from_requests(requests: Requests, key: KmsKeyArn) -> Self {
        Self { requests, key }
    }

    /// Grant tokens to send with every request. Default: none.
    #[must_use]
    pub fn with_grant_tokens(
        mut self,
        grant_tokens: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.requests = self.requests.with_grant_tokens(grant_tokens);
        self
    }
}

impl Keyring for AwsKmsKeyring {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> KeyringFuture<'a, GeneratedDataKey> {
        Box::pin(self.requests.generate(&self.key, request))
    }

    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> KeyringFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(self.requests.wrap(&self.key, request, data_key))
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> KeyringFuture<'a, DataKey, Vec<KeyringError>> {
        let key_to_ask = |stored: &KmsKeyArn| (*stored == self.key).then(|| self.key.clone());
        Box::pin(self.requests.unwrap(self.key.as_str(), request, encrypted_data_keys, key_to_ask))
    }

    fn wrapping_key(&self, _request: KeyringRequest<'_>) -> Option<Arc<str>> {
        Some(self.key.shared())
    }

    fn identity(&self) -> Option<String> {
        Some(format!("AWS KMS {}", self.key))
    }

    fn tenure(&self) -> u64 {
        self.requests.tenure()
    }
}
