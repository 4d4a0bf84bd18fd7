//! The stores of every region, for what multi-Region keys have in common.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::{Key, KeyStore};
use crate::arn::{Home, KeyId};

/// The regions that were started, by name.
pub(crate) struct Everywhere {
    stores: BTreeMap<String, Arc<KeyStore>>,
    /// Held while keys of several regions are looked at to change one of them.
    relating: Mutex<()>,
}

/// The store of one region, from which the others can be seen. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Place {
    keys: Arc<KeyStore>,
    everywhere: Arc<Everywhere>,
}

impl Everywhere {
    /// Every store as a place, by region.
    pub(crate) fn places(stores: Vec<KeyStore>) -> Vec<Place> {
        let stores: Vec<_> = stores.into_iter().map(Arc::new).collect();
        let by_region = stores.iter().map(|keys| (keys.home.region.clone(), Arc::clone(keys)));
        let everywhere = Arc::new(Self { stores: by_region.collect(), relating: Mutex::new(()) });
        stores.into_iter().map(|keys| Place { keys, everywhere: Arc::clone(&everywhere) }).collect()
    }
}

impl Place {
    /// The store of a region, which may be this one.
    pub(crate) fn region(&self, region: &str) -> Option<&KeyStore> {
        self.everywhere.stores.get(region).map(|keys| &**keys)
    }

    /// Keeps every other change to related keys waiting.
    pub(crate) fn relate(&self) -> MutexGuard<'_, ()> {
        self.everywhere.relating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The regions, other than that of the primary key, in which a multi-Region key is.
    pub(crate) fn replicas(&self, key: &Key, now: SystemTime) -> Vec<&Home> {
        let elsewhere = self
            .everywhere
            .stores
            .values()
            .filter(|keys| key.primary_region.as_ref() != Some(&keys.home.region));
        elsewhere.filter(|keys| keys.holds(key.id, now)).map(|keys| &keys.home).collect()
    }
}

impl Deref for Place {
    type Target = KeyStore;

    fn deref(&self) -> &KeyStore {
        &self.keys
    }
}

impl KeyStore {
    /// Whether there is such a key, in any state.
    pub(crate) fn holds(&self, id: KeyId, now: SystemTime) -> bool {
        self.read().keys.get(&id).is_some_and(|key| !key.is_gone(now))
    }
}
