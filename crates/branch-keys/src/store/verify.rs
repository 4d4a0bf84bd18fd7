//! Checks all items of a branch key.

use envelope::DataKey;
use kms_pool::Purpose;
use subtle::ConstantTimeEq as _;

use super::KeyStore;
use crate::context::{CUSTOM_PREFIX, CheckedItem};
use crate::error::Error;
use crate::item::{Item, ItemType};

/// What [`KeyStore::verify`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verification {
    /// How many items were authenticated.
    pub authentic: usize,
    /// The problems. Empty if there are none.
    pub problems: Vec<ItemProblem>,
}

/// A problem of one item of a branch key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ItemProblem {
    /// The item.
    pub item_type: ItemType,
    /// The reason why it is refused.
    pub error: Error,
}

/// The items and keys that were authenticated.
#[derive(Default)]
struct Authentic {
    active: Option<(CheckedItem, DataKey)>,
    versions: Vec<(CheckedItem, DataKey)>,
    has_beacon: bool,
}

impl KeyStore {
    /// Authenticates all items of a branch key, with one request to AWS KMS for each.
    ///
    /// It also checks that the active item has the same secret as its version, that no version is
    /// newer, and that there is a beacon key. An attribute whose name is that of a custom pair
    /// without the prefix `aws-crypto-ec:` is a problem, because some readers cut the prefix off.
    ///
    /// ```no_run
    /// # async fn example(store: branch_keys::KeyStore) -> Result<(), branch_keys::Error> {
    /// let verification = store.verify("tenant-42").await?;
    /// for problem in &verification.problems {
    ///     eprintln!("{}: {}", problem.item_type, problem.error);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`] or [`Error::Shredded`] if there is no branch key, and
    ///   [`Error::RootBranchKey`] if it is the root: verify it without `under_root`.
    /// - Any error that [may pass](Error::is_retryable): the items may be right.
    /// - [`Error::Storage`] if the storage fails, or finds an item that it cannot read.
    pub async fn verify(&self, id: &str) -> Result<Verification, Error> {
        self.check_id(id)?;
        let items = self.0.storage.items(id).await.map_err(Error::Storage)?;
        let is_shredded = items.iter().any(|item| item.item_type == ItemType::Tombstone);
        if items.is_empty() {
            return Err(Error::NotFound { id: id.to_owned() });
        }
        let mut found = Verification { authentic: 0, problems: vec![] };
        let mut authentic = Authentic::default();
        for item in items {
            let item_type = item.item_type;
            if item_type == ItemType::Tombstone {
                continue;
            }
            if is_shredded {
                let problem = "it is left over from an interrupted shredding: shred again";
                found.add(id, item_type, problem);
                continue;
            }
            if clashes(&item) {
                found.add(id, item_type, "an attribute clashes with the custom context");
            }
            match self.authenticate_one(id, item, &mut authentic).await {
                Ok(()) => found.authentic += 1,
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => found.problems.push(ItemProblem { item_type, error }),
            }
        }
        if is_shredded && found.problems.is_empty() {
            return Err(Error::Shredded { id: id.to_owned() });
        }
        if !is_shredded {
            found.compare(id, &authentic);
        }
        Ok(found)
    }

    async fn authenticate_one(
        &self,
        id: &str,
        item: Item,
        authentic: &mut Authentic,
    ) -> Result<(), Error> {
        let item_type = item.item_type;
        let checked = self.checked(item, id, item_type)?;
        let secret = self.decrypt(&checked, Purpose::Foreground).await?.secret;
        match item_type {
            ItemType::Active => authentic.active = Some((checked, secret)),
            ItemType::Version(_) => authentic.versions.push((checked, secret)),
            ItemType::Beacon | ItemType::Tombstone => authentic.has_beacon = true,
        }
        Ok(())
    }
}

impl Verification {
    /// Returns whether nothing is wrong.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    /// Compares the items that were authenticated with each other.
    fn compare(&mut self, id: &str, authentic: &Authentic) {
        let has_problem =
            |it: &Self, item_type| it.problems.iter().any(|problem| problem.item_type == item_type);
        if let Some((active, secret)) = &authentic.active {
            let mut versions = authentic.versions.iter();
            match versions.clone().find(|(version, _)| version.version == active.version) {
                Some((_, of_version)) if is_equal(of_version, secret) => {}
                Some(_) => {
                    self.add(id, ItemType::Active, "its secret is not that of its version");
                }
                None if has_problem(self, ItemType::Version(active.version)) => {}
                None => self.add(id, ItemType::Version(active.version), "it is missing"),
            }
            if versions.any(|(version, _)| version.created > active.created) {
                let problem = "it is older than a version: it may have been restored";
                self.add(id, ItemType::Active, problem);
            }
        } else if !has_problem(self, ItemType::Active) {
            self.add(id, ItemType::Active, "it is missing");
        }
        if !authentic.has_beacon && !has_problem(self, ItemType::Beacon) {
            self.add(id, ItemType::Beacon, "it is missing");
        }
    }

    fn add(&mut self, id: &str, item_type: ItemType, problem: &'static str) {
        let error = Error::InvalidItem { id: id.to_owned(), item_type, problem };
        self.problems.push(ItemProblem { item_type, error });
    }
}

fn is_equal(one: &DataKey, other: &DataKey) -> bool {
    one.expose_secret().ct_eq(other.expose_secret()).into()
}

/// Whether an attribute outside of the custom context has the name of a key in it.
fn clashes(item: &Item) -> bool {
    let custom = item.attributes.keys().filter_map(|name| name.strip_prefix(CUSTOM_PREFIX));
    custom.into_iter().any(|name| item.attributes.contains_key(name))
}
