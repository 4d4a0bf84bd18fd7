//! The AWS KMS discovery keyring (specification: `framework/aws-kms/aws-kms-discovery-keyring.md`).

use std::sync::Arc;

use kms_pool::ClientSupplier;

use super::{
    filter::DiscoveryFilter,
    key_arn::{KmsKeyArn, check_region},
    requests::Requests,
    seals_nothing,
};
use crate::{
    data_key::DataKey,
    error::Error,
    keyring::{
        EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringFuture, KeyringRequest,
    },
};

const NAME: &str = "AWS KMS discovery keyring";

/// Decrypts messages of any KMS key that this principal may use, in any region: it calls the key
/// that the message names, in that key's region. It does not encrypt (specification:
/// `framework/aws-kms/aws-kms-discovery-keyring.md`).
///
/// Messages decide whom it asks, so give it a [filter](Self::with_filter), and clients that are
/// [limited](kms_pool::PooledClients::limited_to) to the regions you use. Without a filter, anyone
/// who owns a KMS key and lets this principal use it can write messages that open here. One message
/// costs at most as many requests as the client permits encrypted data keys
/// (`EnvelopeBuilder::max_encrypted_data_keys`), one after the other.
///
/// Opens backups of two regions, whichever keys of the account sealed them:
///
/// ```no_run
/// # async fn example(message: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
/// use envelope::{EncryptionContext, Envelope, keyring::{AwsKmsDiscoveryKeyring, DiscoveryFilter}};
/// use kms_pool::{KmsPool, Principal};
///
/// let (pool, principal) = (KmsPool::builder().build()?, Principal::from_default_chain());
/// let clients = pool.clients(&principal).limited_to(["eu-west-1", "us-east-1"]);
/// let ours = DiscoveryFilter::new("aws", ["111122223333"])?;
/// let envelope = Envelope::new(AwsKmsDiscoveryKeyring::new(clients).with_filter(ours))?;
/// let opened = envelope.decrypt(message, &EncryptionContext::empty()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AwsKmsDiscoveryKeyring {
    requests: Requests,
    filter: Option<DiscoveryFilter>,
    region: Option<String>,
}

impl AwsKmsDiscoveryKeyring {
    /// A keyring that asks any KMS key, by the client that `clients` supplies for the key's region.
    #[must_use]
    pub fn new(clients: impl ClientSupplier + 'static) -> Self {
        Self::from_requests(Requests::new(Arc::new(clients)))
    }

    pub(super) fn from_requests(requests: Requests) -> Self {
        Self { requests, filter: None, region: None }
    }

    /// Asks only the keys that `filter` admits; of others, no request is made. Default: all are
    /// asked.
    ///
    /// ```
    /// # fn example(keyring: envelope::keyring::AwsKmsDiscoveryKeyring) -> Result<(), envelope::Error> {
    /// # use envelope::keyring::DiscoveryFilter;
    /// let keyring = keyring.with_filter(DiscoveryFilter::new("aws", ["111122223333"])?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_filter(mut self, filter: DiscoveryFilter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Asks only the keys of one region. Default: those of every region that clients are supplied
    /// for.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if `region` can't be the name of one.
    ///
    /// ```
    /// # fn example(keyring: envelope::keyring::AwsKmsDiscoveryKeyring) -> Result<(), envelope::Error> {
    /// let keyring = keyring.in_region("eu-west-1")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn in_region(mut self, region: impl Into<String>) -> Result<Self, Error> {
        let region = region.into();
        check_region(&region)?;
        self.region = Some(region);
        Ok(self)
    }

    /// Grant tokens to send with every request. Default: none.
    ///
    /// ```
    /// # fn example(keyring: envelope::keyring::AwsKmsDiscoveryKeyring) {
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

    /// The key that the message names, if it may be asked.
    fn key_to_ask(&self, stored: &KmsKeyArn) -> Option<KmsKeyArn> {
        let is_admitted = self.filter.as_ref().is_none_or(|filter| filter.admits(stored));
        let is_here = self.region.as_ref().is_none_or(|region| region == stored.region());
        (is_admitted && is_here).then(|| stored.clone())
    }
}

impl Keyring for AwsKmsDiscoveryKeyring {
    /// Fails: no key is named to seal under.
    fn generate<'a>(&'a self, _request: KeyringRequest<'a>) -> KeyringFuture<'a, GeneratedDataKey> {
        Box::pin(async { Err(seals_nothing(NAME)) })
    }

    /// Fails: no key is named to seal under.
    fn wrap<'a>(
        &'a self,
        _request: KeyringRequest<'a>,
        _data_key: &'a DataKey,
    ) -> KeyringFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(async { Err(seals_nothing(NAME)) })
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> KeyringFuture<'a, DataKey, Vec<KeyringError>> {
        let key_to_ask = |stored: &KmsKeyArn| self.key_to_ask(stored);
        Box::pin(self.requests.unwrap(NAME, request, encrypted_data_keys, key_to_ask))
    }

    fn identity(&self) -> Option<String> {
        Some(format!("AWS KMS discovery {:?} {:?}", self.region, self.filter))
    }

    fn tenure(&self) -> u64 {
        self.requests.tenure()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::NoClients, *};

    #[test]
    fn the_key_that_the_message_names_is_asked_if_it_is_admitted_and_here() {
        let ours: KmsKeyArn = "arn:aws:kms:eu-west-1:111122223333:key/a".parse().unwrap();
        let theirs: KmsKeyArn = "arn:aws:kms:eu-west-1:444455556666:key/a".parse().unwrap();
        let any = AwsKmsDiscoveryKeyring::new(NoClients);
        assert_eq!(any.key_to_ask(&ours), Some(ours.clone()));
        assert_eq!(any.key_to_ask(&theirs), Some(theirs.clone()));
        let filtered =
            any.clone().with_filter(DiscoveryFilter::new("aws", ["111122223333"]).unwrap());
        assert_eq!(filtered.key_to_ask(&ours), Some(ours.clone()));
        assert_eq!(filtered.key_to_ask(&theirs), None);
        assert_eq!(
            filtered.clone().in_region("eu-west-1").unwrap().key_to_ask(&ours),
            Some(ours.clone())
        );
        assert_eq!(filtered.in_region("us-east-1").unwrap().key_to_ask(&ours), None);
        // Not even a multi-Region key: that takes `AwsKmsMrkDiscoveryKeyring`.
        let multi_region = "arn:aws:kms:eu-west-1:111122223333:key/mrk-a".parse().unwrap();
        assert_eq!(any.clone().in_region("us-east-1").unwrap().key_to_ask(&multi_region), None);
        assert_eq!(any.key_to_ask(&multi_region), Some(multi_region));
    }
}
