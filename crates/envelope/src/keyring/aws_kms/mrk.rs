//! The AWS KMS MRK keyring (specification: `framework/aws-kms/aws-kms-mrk-keyring.md`).

use std::sync::Arc;

use kms_pool::{ClientSupplier, Replicas};

use super::{key_arn::KmsKeyArn, requests::Requests};
use crate::{
    data_key::DataKey,
    keyring::{
        EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringFuture, KeyringRequest,
    },
};

/// An [`AwsKmsKeyring`](super::AwsKmsKeyring) that also decrypts messages of related multi-Region
/// keys in any region: it always calls its own key, in its own key's region (specification:
/// `framework/aws-kms/aws-kms-mrk-keyring.md`).
///
/// Related keys have one ARN but for the region, and one key material. Under a key that is not
/// multi-Region it does just what `AwsKmsKeyring` does.
///
/// A message that Virginia sealed, opened in Ireland:
///
/// ```no_run
/// # async fn example(message: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
/// use envelope::{EncryptionContext, Envelope, keyring::AwsKmsMrkKeyring};
/// use kms_pool::{KmsPool, Principal};
///
/// let (pool, principal) = (KmsPool::builder().build()?, Principal::from_default_chain());
/// let in_ireland = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab".parse()?;
/// let envelope = Envelope::new(AwsKmsMrkKeyring::new(pool.clients(&principal), in_ireland))?;
///
/// // Its encrypted data key names arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab.
/// let opened = envelope.decrypt(message, &EncryptionContext::new([("tenant", "42")])?).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AwsKmsMrkKeyring {
    requests: Requests,
    key: KmsKeyArn,
}

impl AwsKmsMrkKeyring {
    /// A keyring for the KMS key `key`, used by the client that `clients` supplies for the key's
    /// own region.
    #[must_use]
    pub fn new(clients: impl ClientSupplier + 'static, key: KmsKeyArn) -> Self {
        Self::from_requests(Requests::new(Arc::new(clients)), key)
    }

    pub(super) fn from_requests(requests: Requests, key: KmsKeyArn) -> Self {
        Self { requests, key }
    }

    /// Asks the related keys in these regions instead: whichever of them answers generates, wraps
    /// and unwraps, as [`Replicas`] say. Default: the key's own region alone.
    ///
    /// The key's own region is asked only if it is among them. A key that is not multi-Region has
    /// no stand-in.
    ///
    /// ```
    /// # fn example(pool: kms_pool::KmsPool, principal: kms_pool::Principal, key: envelope::keyring::KmsKeyArn)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use envelope::keyring::AwsKmsMrkKeyring;
    /// use kms_pool::Replicas;
    ///
    /// let clients = pool.clients(&principal);
    /// let regions = Replicas::new(clients.clone(), ["eu-west-1", "us-east-1"])?.hedge_after(Duration::from_millis(200));
    /// let keyring = AwsKmsMrkKeyring::new(clients, key).with_replicas(regions);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_replicas(mut self, replicas: Replicas) -> Self {
        self.requests = self.requests.with_replicas(replicas);
        self
    }

    /// Grant tokens to send with every request. Default: none.
    ///
    /// ```
    /// # fn example(keyring: envelope::keyring::AwsKmsMrkKeyring) {
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
}

impl Keyring for AwsKmsMrkKeyring {
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
        let key_to_ask =
            |stored: &KmsKeyArn| self.key.mrk_match_for_decrypt(stored).then(|| self.key.clone());
        Box::pin(self.requests.unwrap(self.key.as_str(), request, encrypted_data_keys, key_to_ask))
    }

    fn wrapping_key(&self, _request: KeyringRequest<'_>) -> Option<Arc<str>> {
        Some(self.key.shared())
    }

    fn identity(&self) -> Option<String> {
        Some(format!("AWS KMS MRK {}", self.key))
    }

    fn tenure(&self) -> u64 {
        self.requests.tenure()
    }
}
