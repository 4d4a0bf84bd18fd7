//! The AWS KMS discovery keyring and the AWS KMS MRK discovery keyring (specification:
//! `framework/aws-kms/aws-kms-discovery-keyring.md`, `aws-kms-mrk-discovery-keyring.md`).

use std::sync::Arc;

use kms_pool::{ClientSupplier, KmsKeyArn, Region};

use super::{filter::Filter, requests::Requests};
use crate::{
    data_key::DataKey,
    error::{Error, ResultFuture},
    keyring::{
        EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringRequest,
    },
};

/// Decrypts messages under any KMS key that the principal may use. It does not encrypt.
///
/// The message names the KMS keys to call, so always set a [filter](Self::with_filter), and use
/// clients that are [limited](kms_pool::PooledClients::limited_to) to your regions. Without a
/// filter, anyone who owns a KMS key and lets this principal use it can write messages that decrypt
/// here. A message costs at most one request for each of its encrypted data keys, one after the
/// other; `EnvelopeBuilder::max_encrypted_data_keys` limits their number.
///
/// This decrypts backups of two regions, under any key of the account:
///
/// ```no_run
/// # async fn example(message: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
/// use envelope::kms_pool::{KmsPool, Principal};
/// use envelope::{EncryptionContext, Envelope, keyring::AwsKmsDiscoveryKeyring};
///
/// let clients = KmsPool::builder().build()?.clients(&Principal::from_default_chain());
/// let clients = clients.limited_to(["eu-west-1", "us-east-1"]);
/// let keyring = AwsKmsDiscoveryKeyring::new(clients).with_filter("aws", ["111122223333"])?;
/// let decrypted = Envelope::new(keyring)?.decrypt(message, &EncryptionContext::empty()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AwsKmsDiscoveryKeyring {
    requests: Requests,
    filter: Option<Filter>,
    calls: Calls,
}

/// The keys that a discovery keyring calls.
#[derive(Debug, Clone)]
enum Calls {
    /// The key that the message names, in any region.
    AnyRegion,
    /// The key that the message names, if it is in this region.
    OneRegion(Region),
    /// The key that the message names, or the related key, in this region.
    MrkAware(Region),
}

impl AwsKmsDiscoveryKeyring {
    /// Creates a keyring that calls each key in its own region, with the client for that region
    /// (specification: `framework/aws-kms/aws-kms-discovery-keyring.md`).
    #[must_use]
    pub fn new(clients: impl ClientSupplier + 'static) -> Self {
        let requests = Requests::new(Arc::new(clients));
        Self { requests, filter: None, calls: Calls::AnyRegion }
    }

    /// Creates a keyring that calls only keys in `region`, and decrypts messages under multi-Region
    /// keys of all regions with the related keys there (specification:
    /// `framework/aws-kms/aws-kms-mrk-discovery-keyring.md`).
    ///
    /// Messages under keys that are not multi-Region keys are decrypted only if these are in
    /// `region`.
    ///
    /// ```
    /// # fn example(clients: envelope::kms_pool::PooledClients) -> Result<(), envelope::Error> {
    /// use envelope::keyring::AwsKmsDiscoveryKeyring;
    ///
    /// let keyring = AwsKmsDiscoveryKeyring::mrk_aware(clients, "eu-west-1".parse()?)
    ///     .with_filter("aws", ["111122223333"])?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn mrk_aware(clients: impl ClientSupplier + 'static, region: Region) -> Self {
        Self { calls: Calls::MrkAware(region), ..Self::new(clients) }
    }

    /// Limits the keyring to the keys of these accounts in one AWS partition (`aws`, `aws-cn`,
    /// `aws-us-gov`, …): the *discovery filter* of the specification. No request is sent for other
    /// keys. Default: no filter.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if `accounts` is empty or contains an account that does not have
    /// 12 digits, or if `partition` is invalid.
    ///
    /// ```
    /// # use envelope::{Error, keyring::AwsKmsDiscoveryKeyring};
    /// # fn example(keyring: AwsKmsDiscoveryKeyring) -> Result<(), Error> {
    /// let keyring = keyring.with_filter("aws", ["111122223333", "444455556666"])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_filter(
        self,
        partition: impl Into<String>,
        accounts: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, Error> {
        Ok(Self { filter: Some(Filter::new(partition, accounts)?), ..self })
    }

    /// Limits the keyring to the keys of one region. Default: keys of all regions.
    ///
    /// ```
    /// # use envelope::{Error, keyring::AwsKmsDiscoveryKeyring};
    /// # fn example(keyring: AwsKmsDiscoveryKeyring) -> Result<(), Error> {
    /// let keyring = keyring.in_region("eu-west-1".parse()?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn in_region(self, region: Region) -> Self {
        let calls = match self.calls {
            Calls::AnyRegion | Calls::OneRegion(_) => Calls::OneRegion(region),
            Calls::MrkAware(_) => Calls::MrkAware(region),
        };
        Self { calls, ..self }
    }

    /// Sets the grant tokens to send with every request. Default: none.
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

    /// Returns the key to call for a message that names the key `stored`.
    fn key_for(&self, stored: &KmsKeyArn) -> Option<KmsKeyArn> {
        if self.filter.as_ref().is_some_and(|filter| !filter.allows(stored)) {
            return None;
        }
        match &self.calls {
            Calls::MrkAware(region) if stored.is_multi_region() => Some(stored.in_region(region)),
            Calls::MrkAware(region) | Calls::OneRegion(region)
                if stored.region() != region.as_str() =>
            {
                None
            }
            _ => Some(stored.clone()),
        }
    }

    /// Returns the name of the keyring in errors that concern no key.
    fn name(&self) -> &'static str {
        match self.calls {
            Calls::AnyRegion | Calls::OneRegion(_) => "AWS KMS discovery keyring",
            Calls::MrkAware(_) => "AWS KMS MRK discovery keyring",
        }
    }

    fn cannot_encrypt(&self) -> Error {
        let problem = "it only decrypts: encrypt with an `AwsKmsKeyring`";
        let error = KeyringError::new(self.name(), KeyringErrorKind::Other, problem);
        Error::DataKeyUnavailable(error)
    }
}

impl Keyring for AwsKmsDiscoveryKeyring {
    /// Fails: the keyring has no key to encrypt with.
    fn generate<'a>(&'a self, _request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        Box::pin(async { Err(self.cannot_encrypt()) })
    }

    /// Fails: the keyring has no key to encrypt with.
    fn wrap<'a>(
        &'a self,
        _request: KeyringRequest<'a>,
        _data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(async { Err(self.cannot_encrypt()) })
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        let key_for = |stored: &KmsKeyArn| self.key_for(stored);
        Box::pin(self.requests.unwrap(self.name(), request, encrypted_data_keys, key_for))
    }

    fn identity(&self) -> Option<String> {
        let calls = match &self.calls {
            Calls::AnyRegion => "any region".to_owned(),
            Calls::OneRegion(region) => format!("only {region}"),
            Calls::MrkAware(region) => format!("MRK-aware in {region}"),
        };
        let filter = self.filter.as_ref().map(ToString::to_string).unwrap_or_default();
        Some(format!("AWS KMS discovery, {calls}{filter}"))
    }

    fn tenure(&self) -> u64 {
        self.requests.tenure()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::NoClients, *};

    const ACCOUNT: &str = "111122223333";
    const OTHER_ACCOUNT: &str = "444455556666";

    fn key_for(keyring: &AwsKmsDiscoveryKeyring, stored: &str) -> Option<String> {
        keyring.key_for(&stored.parse().unwrap()).map(|key| key.to_string())
    }

    #[test]
    fn the_named_key_is_called_if_the_filter_and_the_region_allow_it() {
        let ours = "arn:aws:kms:eu-west-1:111122223333:key/a";
        let theirs = "arn:aws:kms:eu-west-1:444455556666:key/a";
        let any = AwsKmsDiscoveryKeyring::new(NoClients);
        assert_eq!(key_for(&any, ours).as_deref(), Some(ours));
        assert_eq!(key_for(&any, theirs).as_deref(), Some(theirs));
        let filtered = any.clone().with_filter("aws", [ACCOUNT]).unwrap();
        assert_eq!(key_for(&filtered, ours).as_deref(), Some(ours));
        assert_eq!(key_for(&filtered, theirs), None);
        let here = filtered.clone().in_region("eu-west-1".parse().unwrap());
        assert_eq!(key_for(&here, ours).as_deref(), Some(ours));
        assert_eq!(key_for(&here, theirs), None);
        let elsewhere = any.clone().in_region("us-east-1".parse().unwrap());
        assert_eq!(key_for(&elsewhere, ours), None);
        // Related keys are only called by an MRK-aware keyring.
        let multi_region = "arn:aws:kms:eu-west-1:111122223333:key/mrk-a";
        assert_eq!(key_for(&elsewhere, multi_region), None);
        assert_eq!(key_for(&any, multi_region).as_deref(), Some(multi_region));
    }

    #[test]
    fn an_mrk_aware_keyring_calls_related_keys_in_its_region() {
        let keyring = AwsKmsDiscoveryKeyring::mrk_aware(NoClients, "eu-west-1".parse().unwrap());
        let here = "arn:aws:kms:eu-west-1:111122223333:key/mrk-a";
        for stored in [here, "arn:aws:kms:us-east-1:111122223333:key/mrk-a"] {
            assert_eq!(key_for(&keyring, stored).as_deref(), Some(here));
        }
        let single = "arn:aws:kms:eu-west-1:111122223333:key/a";
        assert_eq!(key_for(&keyring, single).as_deref(), Some(single));
        assert_eq!(key_for(&keyring, "arn:aws:kms:us-east-1:111122223333:key/a"), None);
        let filtered = keyring.clone().with_filter("aws", [OTHER_ACCOUNT]).unwrap();
        assert_eq!(key_for(&filtered, here), None);
        assert_eq!(key_for(&filtered, single), None);
        let moved = keyring.in_region("us-east-1".parse().unwrap());
        assert_eq!(
            key_for(&moved, here).as_deref(),
            Some("arn:aws:kms:us-east-1:111122223333:key/mrk-a")
        );
    }

    #[test]
    fn each_way_to_discover_keys_has_its_own_identity() {
        let any = AwsKmsDiscoveryKeyring::new(NoClients);
        let here = any.clone().in_region("eu-west-1".parse().unwrap());
        let mrk_aware = AwsKmsDiscoveryKeyring::mrk_aware(NoClients, "eu-west-1".parse().unwrap());
        let filtered = any.clone().with_filter("aws", [ACCOUNT]).unwrap();
        let mut identities =
            [any, here, mrk_aware, filtered].map(|keyring| keyring.identity()).to_vec();
        identities.sort();
        identities.dedup();
        assert_eq!(identities.len(), 4);
    }
}
