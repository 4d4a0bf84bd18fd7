//! Multi-keyrings of AWS KMS keyrings (specification:
//! `framework/aws-kms/aws-kms-multi-keyrings.md`, `aws-kms-mrk-multi-keyrings.md`).

use std::sync::Arc;

use kms_pool::ClientSupplier;

use super::{
    discovery::AwsKmsDiscoveryKeyring,
    filter::DiscoveryFilter,
    key_arn::{KmsKeyArn, assert_mrk_are_unique},
    mrk::AwsKmsMrkKeyring,
    mrk_discovery::AwsKmsMrkDiscoveryKeyring,
    requests::Requests,
    strict::AwsKmsKeyring,
};
use crate::{error::Error, keyring::MultiKeyring};

impl MultiKeyring {
    /// Begins a multi-keyring of [`AwsKmsKeyring`]s, whose clients `clients` supplies, for each the
    /// one of its key's region (specification:
    /// `framework/aws-kms/aws-kms-multi-keyrings.md#aws-kms-multi-keyring`).
    ///
    /// Seals under keys of two regions, so that either opens while the other region is down:
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use envelope::keyring::MultiKeyring;
    /// use kms_pool::{KmsPool, Principal};
    ///
    /// let (pool, principal) = (KmsPool::builder().build()?, Principal::from_default_chain());
    /// let keyring = MultiKeyring::aws_kms(pool.clients(&principal))
    ///     .generator("arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab".parse()?)
    ///     .child("arn:aws:kms:eu-west-1:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321".parse()?)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn aws_kms(clients: impl ClientSupplier + 'static) -> AwsKmsMultiKeyringBuilder {
        AwsKmsMultiKeyringBuilder::new(Arc::new(clients), false)
    }

    /// Begins a multi-keyring of [`AwsKmsMrkKeyring`]s, whose clients `clients` supplies, for each
    /// the one of its key's region (specification:
    /// `framework/aws-kms/aws-kms-mrk-multi-keyrings.md#aws-kms-mrk-multi-keyring`). Related
    /// multi-Region keys can't be in it together: one of them opens what any of them sealed.
    ///
    /// Seals under a multi-Region key, which opens in each of its regions, and under a key of
    /// another account:
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use envelope::keyring::MultiKeyring;
    /// use kms_pool::{KmsPool, Principal};
    ///
    /// let (pool, principal) = (KmsPool::builder().build()?, Principal::from_default_chain());
    /// let keyring = MultiKeyring::aws_kms_mrk(pool.clients(&principal))
    ///     .generator("arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab".parse()?)
    ///     .child("arn:aws:kms:eu-west-1:444455556666:key/0987dcba-09fe-87dc-65ba-ab0987654321".parse()?)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn aws_kms_mrk(clients: impl ClientSupplier + 'static) -> AwsKmsMultiKeyringBuilder {
        AwsKmsMultiKeyringBuilder::new(Arc::new(clients), true)
    }

    /// Begins a multi-keyring of an [`AwsKmsDiscoveryKeyring`] for each of these regions, which are
    /// tried in their order (specification:
    /// `framework/aws-kms/aws-kms-multi-keyrings.md#aws-kms-discovery-multi-keyring`). Each one
    /// asks the keys of its own region alone.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use envelope::keyring::{DiscoveryFilter, MultiKeyring};
    /// use kms_pool::{KmsPool, Principal};
    ///
    /// let (pool, principal) = (KmsPool::builder().build()?, Principal::from_default_chain());
    /// let keyring = MultiKeyring::aws_kms_discovery(pool.clients(&principal), ["eu-west-1", "us-east-1"])
    ///     .filter(DiscoveryFilter::new("aws", ["111122223333"])?)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn aws_kms_discovery(
        clients: impl ClientSupplier + 'static,
        regions: impl IntoIterator<Item = impl Into<String>>,
    ) -> AwsKmsDiscoveryMultiKeyringBuilder {
        AwsKmsDiscoveryMultiKeyringBuilder::new(Arc::new(clients), regions, false)
    }

    /// Begins a multi-keyring of an [`AwsKmsMrkDiscoveryKeyring`] for each of these regions, which
    /// are tried in their order (specification:
    /// `framework/aws-kms/aws-kms-mrk-multi-keyrings.md#aws-kms-mrk-discovery-multi-keyring`). A
    /// multi-Region key is asked for in each of them until it opens: put the nearest region first.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use envelope::keyring::{DiscoveryFilter, MultiKeyring};
    /// use kms_pool::{KmsPool, Principal};
    ///
    /// let (pool, principal) = (KmsPool::builder().build()?, Principal::from_default_chain());
    /// let keyring = MultiKeyring::aws_kms_mrk_discovery(pool.clients(&principal), ["eu-west-1", "us-east-1"])
    ///     .filter(DiscoveryFilter::new("aws", ["111122223333"])?)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn aws_kms_mrk_discovery(
        clients: impl ClientSupplier + 'static,
        regions: impl IntoIterator<Item = impl Into<String>>,
    ) -> AwsKmsDiscoveryMultiKeyringBuilder {
        AwsKmsDiscoveryMultiKeyringBuilder::new(Arc::new(clients), regions, true)
    }
}

/// Builds a multi-keyring of KMS keys: see [`MultiKeyring::aws_kms`] and
/// [`MultiKeyring::aws_kms_mrk`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct AwsKmsMultiKeyringBuilder {
    requests: Requests,
    is_mrk_aware: bool,
    generator: Option<KmsKeyArn>,
    children: Vec<KmsKeyArn>,
}

impl AwsKmsMultiKeyringBuilder {
    fn new(clients: Arc<dyn ClientSupplier>, is_mrk_aware: bool) -> Self {
        Self { requests: Requests::new(clients), is_mrk_aware, generator: None, children: vec![] }
    }

    /// The key that generates data keys. Default: none, and the multi-keyring only unwraps, or
    /// wraps data keys that another keyring made. Set twice, the last one counts.
    ///
    /// ```
    /// # fn example(builder: envelope::keyring::AwsKmsMultiKeyringBuilder) -> Result<(), envelope::Error> {
    /// let builder = builder.generator("arn:aws:kms:us-east-1:111122223333:key/1234abcd".parse()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn generator(mut self, key: KmsKeyArn) -> Self {
        self.generator = Some(key);
        self
    }

    /// Adds a key that wraps what the generator made. Default: none.
    ///
    /// ```
    /// # fn example(builder: envelope::keyring::AwsKmsMultiKeyringBuilder) -> Result<(), envelope::Error> {
    /// let builder = builder.child("arn:aws:kms:eu-west-1:111122223333:key/0987dcba".parse()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn child(mut self, key: KmsKeyArn) -> Self {
        self.children.push(key);
        self
    }

    /// Grant tokens to send with every request. Default: none.
    ///
    /// ```
    /// # fn example(builder: envelope::keyring::AwsKmsMultiKeyringBuilder) {
    /// let builder = builder.grant_tokens(["AQpAM2RhZ…"]);
    /// # }
    /// ```
    pub fn grant_tokens(
        mut self,
        grant_tokens: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.requests = self.requests.with_grant_tokens(grant_tokens);
        self
    }

    /// The multi-keyring.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when it has neither a generator nor a child, or of
    /// [`MultiKeyring::aws_kms_mrk`] when two multi-Region keys have one id: the error names all
    /// that do.
    ///
    /// ```
    /// # fn example(builder: envelope::keyring::AwsKmsMultiKeyringBuilder) -> Result<(), envelope::Error> {
    /// let keyring = builder.build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn build(self) -> Result<MultiKeyring, Error> {
        let Self { requests, is_mrk_aware, generator, children } = self;
        if is_mrk_aware {
            assert_mrk_are_unique(generator.iter().chain(&children))?;
        }
        let strict = |key| AwsKmsKeyring::from_requests(requests.clone(), key);
        let mrk_aware = |key| AwsKmsMrkKeyring::from_requests(requests.clone(), key);
        let mut builder = MultiKeyring::builder();
        if let Some(key) = generator {
            builder = if is_mrk_aware {
                builder.generator(mrk_aware(key))
            } else {
                builder.generator(strict(key))
            };
        }
        for key in children {
            builder = if is_mrk_aware {
                builder.child(mrk_aware(key))
            } else {
                builder.child(strict(key))
            };
        }
        builder.build()
    }
}

/// Builds a multi-keyring that discovers KMS keys: see [`MultiKeyring::aws_kms_discovery`] and
/// [`MultiKeyring::aws_kms_mrk_discovery`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct AwsKmsDiscoveryMultiKeyringBuilder {
    requests: Requests,
    is_mrk_aware: bool,
    regions: Vec<String>,
    filter: Option<DiscoveryFilter>,
}

impl AwsKmsDiscoveryMultiKeyringBuilder {
    fn new(
        clients: Arc<dyn ClientSupplier>,
        regions: impl IntoIterator<Item = impl Into<String>>,
        is_mrk_aware: bool,
    ) -> Self {
        let mut distinct: Vec<String> = vec![];
        for region in regions.into_iter().map(Into::into) {
            if !distinct.contains(&region) {
                distinct.push(region);
            }
        }
        Self { requests: Requests::new(clients), is_mrk_aware, regions: distinct, filter: None }
    }

    /// Asks only the keys that `filter` admits. Default: all are asked.
    ///
    /// ```
    /// # fn example(builder: envelope::keyring::AwsKmsDiscoveryMultiKeyringBuilder) -> Result<(), envelope::Error> {
    /// # use envelope::keyring::DiscoveryFilter;
    /// let builder = builder.filter(DiscoveryFilter::new("aws", ["111122223333"])?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn filter(mut self, filter: DiscoveryFilter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Grant tokens to send with every request. Default: none.
    ///
    /// ```
    /// # fn example(builder: envelope::keyring::AwsKmsDiscoveryMultiKeyringBuilder) {
    /// let builder = builder.grant_tokens(["AQpAM2RhZ…"]);
    /// # }
    /// ```
    pub fn grant_tokens(
        mut self,
        grant_tokens: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.requests = self.requests.with_grant_tokens(grant_tokens);
        self
    }

    /// The multi-keyring, which has children alone.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when there is no region, or one that can't be the name of a
    /// region.
    ///
    /// ```
    /// # fn example(builder: envelope::keyring::AwsKmsDiscoveryMultiKeyringBuilder) -> Result<(), envelope::Error> {
    /// let keyring = builder.build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn build(self) -> Result<MultiKeyring, Error> {
        let Self { requests, is_mrk_aware, regions, filter } = self;
        if regions.is_empty() {
            return Err(Error::invalid_setting("regions", "none; at least one is needed"));
        }
        let mut builder = MultiKeyring::builder();
        for region in regions {
            builder = if is_mrk_aware {
                let keyring = AwsKmsMrkDiscoveryKeyring::from_requests(requests.clone(), region)?;
                builder.child(match &filter {
                    Some(filter) => keyring.with_filter(filter.clone()),
                    None => keyring,
                })
            } else {
                let keyring =
                    AwsKmsDiscoveryKeyring::from_requests(requests.clone()).in_region(region)?;
                builder.child(match &filter {
                    Some(filter) => keyring.with_filter(filter.clone()),
                    None => keyring,
                })
            };
        }
        builder.build()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::NoClients, *};

    fn key(arn: &str) -> KmsKeyArn {
        arn.parse().unwrap()
    }

    #[test]
    fn related_keys_are_refused_where_one_opens_for_all() {
        let (here, there) =
            ("arn:aws:kms:us-east-1:1:key/mrk-a", "arn:aws:kms:eu-west-1:1:key/mrk-a");
        let both = |builder: AwsKmsMultiKeyringBuilder| {
            builder.generator(key(here)).child(key(there)).build()
        };
        let error = both(MultiKeyring::aws_kms_mrk(NoClients)).unwrap_err().to_string();
        assert!(error.contains(here) && error.contains(there), "{error}");
        both(MultiKeyring::aws_kms(NoClients)).unwrap();
        let children = MultiKeyring::aws_kms_mrk(NoClients).child(key(here)).child(key(there));
        assert!(children.build().is_err());
    }

    #[test]
    fn what_has_no_key_or_no_region_is_refused() {
        assert!(MultiKeyring::aws_kms(NoClients).build().is_err());
        assert!(MultiKeyring::aws_kms_mrk(NoClients).build().is_err());
        for regions in [&[][..], &["eu-west-1", ""], &["EU"]] {
            assert!(
                MultiKeyring::aws_kms_discovery(NoClients, regions.iter().copied())
                    .build()
                    .is_err()
            );
            assert!(
                MultiKeyring::aws_kms_mrk_discovery(NoClients, regions.iter().copied())
                    .build()
                    .is_err()
            );
        }
        let twice =
            MultiKeyring::aws_kms_discovery(NoClients, ["eu-west-1", "us-east-1", "eu-west-1"]);
        assert_eq!(twice.regions, ["eu-west-1", "us-east-1"]);
        twice.build().unwrap();
    }
}
