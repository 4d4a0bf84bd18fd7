//! Builds a key store.

use std::sync::Arc;
use std::time::Duration;

use kms_pool::{ClientSupplier, Region};

use super::seen::Seen;
use super::{Inner, KeyStore};
use crate::error::BuildError;
use crate::kms::Kms;
use crate::kms_keys::KmsKeys;
use crate::storage::Storage;
use crate::tier::Tier;

/// A hundred years: past the life of anything that is stored.
const MAX_AGE: Duration = Duration::from_hours(100 * 365 * 24);

/// Settings of a [`KeyStore`].
///
/// [`KeyStore::builder`] creates it, with an example.
#[must_use = "it does nothing until `build` is called"]
#[derive(Debug)]
pub struct KeyStoreBuilder {
    storage: Arc<dyn Storage>,
    logical_name: String,
    kms_keys: KmsKeys,
    clients: Arc<dyn ClientSupplier>,
    grant_tokens: Vec<String>,
    home_region: Option<Region>,
    max_active_age: Option<Duration>,
}

impl KeyStore {
    /// Returns the settings of a key store.
    ///
    /// `logical_name` is bound to every item: it may never change, even if the table is restored
    /// under another name. Each table needs a logical name of its own.
    ///
    /// ```no_run
    /// # use branch_keys::{BuildError, KeyStore, KmsKeys, MemoryStorage};
    /// # use kms_pool::PooledClients;
    /// # fn example(clients: PooledClients, kms_keys: KmsKeys) -> Result<(), BuildError> {
    /// use std::time::Duration;
    ///
    /// let store = KeyStore::builder(MemoryStorage::new(), "payments", kms_keys, clients)
    ///     .grant_tokens(["AQpAM2RhZ…"])
    ///     .max_active_age(Duration::from_hours(400 * 24))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(
        storage: impl Storage + 'static,
        logical_name: impl Into<String>,
        kms_keys: KmsKeys,
        clients: impl ClientSupplier + 'static,
    ) -> KeyStoreBuilder {
        KeyStoreBuilder {
            storage: Arc::new(storage),
            logical_name: logical_name.into(),
            kms_keys,
            clients: Arc::new(clients),
            grant_tokens: vec![],
            home_region: None,
            max_active_age: None,
        }
    }
}

impl KeyStoreBuilder {
    /// Sets the grant tokens to send with every request to AWS KMS. Default: none.
    pub fn grant_tokens(mut self, tokens: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.grant_tokens = tokens.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the one region in which branch keys are created, rotated and shredded. Default: any.
    ///
    /// Set it for a table that is replicated to several regions, such as a DynamoDB global table.
    /// If two regions create a branch key with the same id at the same time, both succeed. One of
    /// the two keys is then lost, after data may have been encrypted under it.
    pub fn home_region(mut self, region: Region) -> Self {
        self.home_region = Some(region);
        self
    }

    /// Sets the maximum age of an active item that is used. Default: none. Range: 1 min to 100
    /// years.
    ///
    /// It bounds how old an item can be that somebody restores. Rotate more often than this.
    pub fn max_active_age(mut self, age: Duration) -> Self {
        self.max_active_age = Some(age);
        self
    }

    /// Builds the key store. This sends no request.
    ///
    /// # Errors
    ///
    /// [`BuildError::InvalidSetting`] if the logical name is empty, an age is out of its range, or
    /// there is a home region but the storage is in no region.
    pub fn build(self) -> Result<KeyStore, BuildError> {
        if self.logical_name.is_empty() {
            return Err(BuildError::new("logical_name", "expected a name that is not empty"));
        }
        let allowed = Duration::from_mins(1)..=MAX_AGE;
        let age = self.max_active_age;
        let max_active_age = age.filter(|age| allowed.contains(age)).map(TryFrom::try_from);
        let max_active_age = max_active_age.and_then(Result::ok);
        if max_active_age.is_some() != age.is_some() {
            return Err(BuildError::new("max_active_age", "expected 1 min to 100 years"));
        }
        if self.home_region.is_some() && self.storage.region().is_none() {
            let problem = "the storage is in no region: omit this setting";
            return Err(BuildError::new("home_region", problem));
        }
        Ok(KeyStore(Arc::new(Inner {
            storage: self.storage,
            kms: Kms {
                keys: self.kms_keys,
                clients: self.clients,
                grant_tokens: self.grant_tokens,
                logical_name: self.logical_name,
            },
            home_region: self.home_region.map(|region| region.to_string()),
            max_active_age,
            seen: Arc::new(Seen::default()),
            root: None,
            tier: Tier::Kms,
            reads_both: false,
        })))
    }
}
