//! The key store.

mod builder;
mod create;
mod migrate;
mod read;
mod root;
mod rotate;
mod seen;
mod shred;
mod source;
mod tier;
mod verify;

use std::fmt;
use std::sync::Arc;

use ::time::Duration;

pub use self::builder::KeyStoreBuilder;
pub use self::create::CreateBranchKey;
pub use self::migrate::Migration;
use self::root::Root;
use self::seen::Seen;
pub use self::verify::{ItemProblem, Verification};
use crate::error::Error;
use crate::kms::Kms;
use crate::storage::Storage;
use crate::tier::Tier;

/// Creates, rotates and reads branch keys (specification: `framework/branch-key-store.md`).
///
/// The items are in a [`Storage`], and AWS KMS protects the secrets in them. The key stores of the
/// AWS Encryption SDKs can use them if the storage is a DynamoDB table.
///
/// Cloning is cheap: clones share everything. Give one to `BranchKeys` of `envelope`, which caches
/// branch keys: a key store itself reads the storage and calls AWS KMS each time.
///
/// # Checks
///
/// - An item has exactly the id and the type that were requested, byte by byte.
/// - The ARN in it is one that [`KmsKeys`](crate::KmsKeys) allows. Otherwise no request is sent.
/// - AWS KMS authenticates all other attributes, together with the logical name. Two tables with
///   the same logical name accept each other's items: give each table a name of its own.
/// - An active item is not older than one that this key store has seen, nor older than
///   [`max_active_age`](KeyStoreBuilder::max_active_age). Anybody who can write to the table can
///   restore an older item, and AWS KMS cannot notice it.
///
/// # Cancellation
///
/// Reads are cancel-safe. If you drop the future of a creation, a rotation or a shredding, the
/// change may have been made or not: read the branch key, or repeat [`shred`](Self::shred).
///
/// # Examples
///
/// ```no_run
/// use branch_keys::{CreateBranchKey, KeyStore, KmsKeys, MemoryStorage};
/// use kms_pool::{KmsPool, Principal};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let clients = KmsPool::builder().build()?.clients(&Principal::from_default_chain());
/// let key = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// let kms_keys = KmsKeys::exact(key.parse()?);
/// let store = KeyStore::builder(MemoryStorage::new(), "payments", kms_keys, clients).build()?;
///
/// let tenant = CreateBranchKey::new("tenant-42", [("tenant", "42")]);
/// let created = store.ensure(tenant).await?;
/// let rotated = store.rotate("tenant-42").await?;
/// assert_ne!(created.version, rotated.version);
/// assert_eq!(store.active("tenant-42").await?.version(), rotated.version);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KeyStore(Arc<Inner>);

struct Inner {
    storage: Arc<dyn Storage>,
    kms: Kms,
    home_region: Option<String>,
    max_active_age: Option<Duration>,
    seen: Arc<Seen>,
    root: Option<Root>,
    /// What protects new items.
    tier: Tier,
    /// Whether items of the other tier are read, too.
    reads_both: bool,
}

impl Inner {
    /// A key store on the tier of AWS KMS that shares everything with this one.
    fn shared(&self) -> Self {
        Self {
            storage: Arc::clone(&self.storage),
            kms: self.kms.clone(),
            home_region: self.home_region.clone(),
            max_active_age: self.max_active_age,
            seen: Arc::clone(&self.seen),
            root: None,
            tier: Tier::Kms,
            reads_both: false,
        }
    }
}

impl KeyStore {
    /// Returns the logical name.
    #[must_use]
    pub fn logical_name(&self) -> &str {
        &self.0.kms.logical_name
    }

    /// Refuses changes outside of the home region.
    fn check_region(&self) -> Result<(), Error> {
        let Some(home) = &self.0.home_region else { return Ok(()) };
        let region = self.0.storage.region().unwrap_or("no region");
        if region == home {
            return Ok(());
        }
        Err(Error::NotInHomeRegion { region: region.to_owned(), home: home.clone() })
    }
}

impl fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { storage, kms, home_region, max_active_age, root, tier, reads_both, .. } =
            &*self.0;
        // Not the grant tokens.
        f.debug_struct("KeyStore")
            .field("logical_name", &kms.logical_name)
            .field("storage", storage)
            .field("kms_keys", &kms.keys)
            .field("clients", &kms.clients)
            .field("home_region", home_region)
            .field("max_active_age", max_active_age)
            .field("root", &root.as_ref().map(|root| &root.id))
            .field("tier", tier)
            .field("reads_both", reads_both)
            .finish_non_exhaustive()
    }
}
