//! The AWS KMS MRK discovery keyring (specification:
//! `framework/aws-kms/aws-kms-mrk-discovery-keyring.md`).

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

const NAME: &str = "AWS KMS MRK discovery keyring";

/// Opens, by asking in one region alone, what any KMS key of that region sealed, and what a
/// multi-Region key of any region sealed that has a replica there. It seals nothing (specification:
/// `framework/aws-kms/aws-kms-mrk-discovery-keyring.md`).
///
/// Messages decide which keys it asks, so give it a [filter](Self::with_filter): without one,
/// anyone who owns a KMS key and lets this principal use it can write messages that decrypt here.
/// One message costs at most as many requests as the client permits encrypted data keys
/// (`EnvelopeBuilder::max_encrypted_data_keys`), one after the other.
///
/// Opens in Ireland what the account's multi-Region keys sealed anywhere, and its other keys in
/// Ireland:
///
/// ```no_run
/// # async fn example(message: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
/// use envelope::{EncryptionContext, Envelope, keyring::{AwsKmsMrkDiscoveryKeyring, DiscoveryFilter}};
/// use kms_pool::{KmsPool, Principal};
///
/// let (pool, principal) = (KmsPool::builder().build()?, Principal::from_default_chain());
/// let ours = DiscoveryFilter::new("aws", ["111122223333"])?;
/// let keyring = AwsKmsMrkDiscoveryKeyring::new(pool.clients(&principal), "eu-west-1")?.with_filter(ours);
/// let opened = Envelope::new(keyring)?.decrypt(message, &EncryptionContext::empty()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AwsKmsMrkDiscoveryKeyring {
    requests: Requests,
    region: String,
    filter: Option<DiscoveryFilter>,
}

impl AwsKmsMrkDiscoveryKeyring {
    /// A keyring that asks in `region`, by the client that `clients` supplies for it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if `region` can't be the name of one.
    pub fn new(
        clients: impl ClientSupplier + 'static,
        region: impl Into<String>,
    ) -> Result<Self, Error> {
        Self::from_requests(Requests::new(Arc::new(clients)), region.into())
    }

    pub(super) fn from_requests(requests: Requests, region: String) -> Result<Self, Error> {
        check_region(&region)?;
        Ok(Self { requests, region, filter: None })
    }

    /// Asks only the keys that `filter` admits; of others, no request is made. Default: all are
    /// asked.
    ///
    /// ```
    /// # fn example(keyring: envelope::keyring::AwsKmsMrkDiscoveryKeyring) -> Result<(), envelope::Error> {
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

    /// Grant tokens to send with every request. Default: none.
    ///
    /// ```
    /// # fn example(keyring: envelope::keyring::AwsKmsMrkDiscoveryKeyring) {
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

    /// The key here that is, or is related to, the one that the message names; if it may be asked.
    fn key_to_ask(&self, stored: &KmsKeyArn) -> Option<KmsKeyArn> {
        if self.filter.as_ref().is_some_and(|filter| !filter.admits(stored)) {
            return None;
        }
        if stored.is_multi_region() {
            return Some(stored.in_region(&self.region));
        }
        (stored.region() == self.region).then(|| stored.clone())
    }
}

impl Keyring for AwsKmsMrkDiscoveryKeyring {
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
        Some(format!("AWS KMS MRK discovery {:?} {:?}", self.region, self.filter))
    }

    fn tenure(&self) -> u64 {
        self.requests.tenure()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::NoClients, *};

    #[test]
    fn a_multi_region_key_is_asked_here_and_another_one_only_if_it_is_here() {
        let keyring = AwsKmsMrkDiscoveryKeyring::new(NoClients, "eu-west-1").unwrap();
        let asked = |keyring: &AwsKmsMrkDiscoveryKeyring, stored: &str| {
            keyring.key_to_ask(&stored.parse().unwrap()).map(|key| key.to_string())
        };
        let here = "arn:aws:kms:eu-west-1:111122223333:key/mrk-a";
        for stored in [here, "arn:aws:kms:us-east-1:111122223333:key/mrk-a"] {
            assert_eq!(asked(&keyring, stored).as_deref(), Some(here));
        }
        let single = "arn:aws:kms:eu-west-1:111122223333:key/a";
        assert_eq!(asked(&keyring, single).as_deref(), Some(single));
        assert_eq!(asked(&keyring, "arn:aws:kms:us-east-1:111122223333:key/a"), None);
        let filtered = keyring.with_filter(DiscoveryFilter::new("aws", ["444455556666"]).unwrap());
        assert_eq!(asked(&filtered, here), None);
        assert_eq!(asked(&filtered, single), None);
    }

    #[test]
    fn what_is_no_region_is_refused() {
        for region in ["", "eu-west-1:444455556666:key/a"] {
            assert!(matches!(
                AwsKmsMrkDiscoveryKeyring::new(NoClients, region),
                Err(Error::InvalidSetting { setting: "region", .. })
            ));
        }
    }
}
