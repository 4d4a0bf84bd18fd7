//! The pool: which slot a call belongs to.

use std::fmt;
use std::sync::Arc;

use aws_sdk_kms::Client;
use quick_cache::Equivalent;
use quick_cache::sync::Cache;

use crate::builder::KmsPoolBuilder;
use crate::error::{KmsError, KmsErrorKind};
use crate::factory::ClientFactory;
use crate::principal::Principal;
use crate::slot::Slot;
use crate::stats::PoolStats;
use crate::supplier::PooledClients;
use crate::time;

/// One KMS client per region and principal, built once and shared by the whole process.
///
/// Cheap to clone; all clones are the same pool. See the [crate's documentation](crate).
#[derive(Clone)]
pub struct KmsPool {
    factory: Arc<ClientFactory>,
    slots: Arc<Cache<SlotKey, Arc<Slot>>>,
}

impl KmsPool {
    /// Starts a pool with the defaults of the [crate's table](crate#defaults).
    pub fn builder() -> KmsPoolBuilder {
        KmsPoolBuilder::new()
    }

    pub(crate) fn new(factory: ClientFactory, max_clients: usize) -> Self {
        Self { factory: Arc::new(factory), slots: Arc::new(Cache::new(max_clients)) }
    }

    /// The client for `region` that signs as `principal`.
    ///
    /// Ask for each unit of work rather than keep the client: that is how new credentials reach it.
    /// When the client is there and its credentials are good, which is nearly always, this costs a
    /// lookup and allocates nothing. Otherwise the principal's provider is asked, once for all callers
    /// who wait, and a failure goes to each of them. Dropping the future is safe at any time: as long as
    /// anybody still waits the work goes on.
    ///
    /// Credentials are renewed [`refresh_lead`](KmsPoolBuilder::refresh_lead) before they expire. The
    /// caller who finds them due waits for the provider while others go on with the old ones; if it
    /// fails the old ones serve until they expire, and the provider is asked again every 5 s. What the
    /// provider hands out is used even if it looks expired, since it may be this machine's clock that
    /// is wrong: KMS decides.
    ///
    /// Must be called within a Tokio runtime with time and I/O enabled.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](KmsErrorKind::InvalidRequest) if `region` is not the name of a region, and
    /// [`CredentialsUnavailable`](KmsErrorKind::CredentialsUnavailable) if the provider fails, panics or
    /// takes longer than [`provider_timeout`](KmsPoolBuilder::provider_timeout), and no credentials
    /// that are still good are at hand. No request is sent to KMS.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use kms_pool::{KmsPool, Principal};
    ///
    /// let pool = KmsPool::builder().build()?;
    /// let principal = Principal::from_default_chain().await;
    /// let client = pool.client("eu-central-1", &principal).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn client(&self, region: &str, principal: &Principal) -> Result<Client, KmsError> {
        let query = SlotQuery { region, principal: principal.id() };
        let slot = match self.slots.get(&query) {
            Some(slot) => slot,
            None => self.new_slot(region, principal)?,
        };
        slot.client(time::now()).await
    }

    /// Clients of this pool that sign as `principal`, for whatever takes a
    /// [`ClientSupplier`](crate::ClientSupplier).
    pub fn clients(&self, principal: &Principal) -> PooledClients {
        PooledClients::new(self.clone(), principal.clone())
    }

    /// What the pool holds and has done so far.
    pub fn stats(&self) -> PoolStats {
        self.factory.counters.snapshot(self.slots.len())
    }

    /// Drops every slot. Clients in use and requests in flight go on; connections stay open.
    pub fn clear(&self) {
        self.slots.clear();
    }

    /// Drops the slots of one principal in all regions, as [`clear`](Self::clear) does.
    ///
    /// The next call asks the provider again: this is how to have credentials replaced that were
    /// revoked before they expired.
    pub fn remove(&self, principal: &Principal) {
        self.slots.retain(|key, _| key.principal != principal.id());
    }

    /// The slot of a region and principal that had none. If several callers race here they get one.
    fn new_slot(&self, region: &str, principal: &Principal) -> Result<Arc<Slot>, KmsError> {
        check_region(region)?;
        let key = SlotKey { region: region.into(), principal: principal.id() };
        self.slots
            .get_or_insert_with(&key, || Ok(Arc::new(Slot::new(region, principal.clone(), Arc::clone(&self.factory)))))
    }
}

impl fmt::Debug for KmsPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmsPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct SlotKey {
    region: Box<str>,
    principal: u64,
}

/// A [`SlotKey`] that borrows its region. Fields in the same order, for the same hash.
#[derive(Hash)]
struct SlotQuery<'a> {
    region: &'a str,
    principal: u64,
}

impl Equivalent<SlotKey> for SlotQuery<'_> {
    fn equivalent(&self, key: &SlotKey) -> bool {
        self.principal == key.principal && *self.region == *key.region
    }
}

/// A region becomes part of a host name, and may come out of a foreign message.
pub(crate) fn check_region(region: &str) -> Result<(), KmsError> {
    const LONGEST: usize = 32;
    let fits = (1..=LONGEST).contains(&region.len())
        && !region.starts_with('-')
        && !region.ends_with('-')
        && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        return Ok(());
    }
    let message = "a region is named by up to 32 lower-case letters, digits and inner hyphens";
    Err(KmsError::local(KmsErrorKind::InvalidRequest, message, None))
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, RandomState};

    use aws_credential_types::Credentials;

    use super::*;

    fn builder() -> KmsPoolBuilder {
        KmsPool::builder().trust_root_pem(include_bytes!("../tests/data/root.pem"))
    }

    fn principal() -> Principal {
        Principal::new(Credentials::new("id", "secret", None, None, "test"))
    }

    #[tokio::test]
    async fn a_slot_for_each_region_and_principal() {
        let pool = builder().build().unwrap();
        let (one, two) = (principal(), principal());
        for region in ["eu-west-1", "us-east-1", "eu-west-1"] {
            for who in [&one, &two, &one.clone().with_label("same")] {
                pool.clone().client(region, who).await.unwrap();
            }
        }
        let stats = pool.stats();
        assert_eq!((stats.slots, stats.builds, stats.hits), (4, 4, 5));

        pool.remove(&one);
        assert_eq!(pool.stats().slots, 2);
        pool.client("eu-west-1", &two).await.unwrap();
        assert_eq!(pool.stats().builds, 4);
        pool.clear();
        assert_eq!(pool.stats().slots, 0);
        pool.client("eu-west-1", &two).await.unwrap();
        assert_eq!(pool.stats().builds, 5);
    }

    #[test]
    fn a_slot_is_found_by_region_and_principal_together() {
        let key = SlotKey { region: "eu-west-1".into(), principal: 7 };
        let finds = |region, principal| SlotQuery { region, principal }.equivalent(&key);
        assert!(finds("eu-west-1", 7));
        let (hasher, query) = (RandomState::new(), SlotQuery { region: "eu-west-1", principal: 7 });
        assert_eq!(hasher.hash_one(&query), hasher.hash_one(&key));
        assert!(!finds("eu-west-1", 8) && !finds("eu-west-2", 7));
    }

    #[tokio::test]
    async fn an_endpoint_of_a_region_wins_over_the_general_one() {
        let pool = builder()
            .endpoint_url("https://127.0.0.1:1")
            .endpoint_url_for("eu-west-1", "https://127.0.0.1:2")
            .build()
            .unwrap();
        let who = principal();
        for (region, port) in [("eu-west-1", ":2"), ("us-east-1", ":1")] {
            let client = pool.client(region, &who).await.unwrap();
            let config = format!("{:?}", client.config());
            assert!(config.contains(&format!("https://127.0.0.1{port}")), "{config}");
        }
    }

    #[tokio::test]
    async fn the_number_of_clients_is_bounded() {
        for most in [1, 2, 3, 10, 100] {
            let pool = builder().max_clients(most).build().unwrap();
            let favourite = principal();
            for _ in 0..2 * most + 5 {
                pool.client("us-east-1", &principal()).await.unwrap();
                pool.client("us-east-1", &favourite).await.unwrap();
                assert!(pool.stats().slots <= most, "{most}: {:?}", pool.stats());
            }
        }
    }

    #[tokio::test]
    async fn a_region_cannot_name_another_host() {
        let pool = builder().build().unwrap();
        let who = principal();
        let long = "a".repeat(33);
        for region in ["", "-", "us-east-1.example.com", "US-EAST-1", "a/b", "a@b", "a-", &long] {
            let error = pool.client(region, &who).await.unwrap_err();
            assert_eq!(error.kind(), KmsErrorKind::InvalidRequest, "{region}");
        }
        assert_eq!(pool.stats(), PoolStats::default());
    }
}
