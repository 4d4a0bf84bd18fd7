//! The stores of all regions together, because multi-Region keys are related across them.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::{keys::KeyStore, state::Key};
use crate::arn::Home;

/// The stores of all regions, by region name.
pub(crate) struct Stores {
    stores: BTreeMap<String, Arc<KeyStore>>,
    /// Held while the keys of several regions are read in order to change one of them.
    relating: Mutex<()>,
}

/// A handle on the store of one region, which also reaches the stores of the others. Cheap to
/// clone.
#[derive(Clone)]
pub(crate) struct StoreHandle {
    store: Arc<KeyStore>,
    all: Arc<Stores>,
}

impl Stores {
    /// Returns one handle for each store, in the same order.
    pub(crate) fn handles(stores: Vec<KeyStore>) -> Vec<StoreHandle> {
        let stores: Vec<_> = stores.into_iter().map(Arc::new).collect();
        let by_region = stores.iter().map(|store| (store.home.region.clone(), Arc::clone(store)));
        let all = Arc::new(Self { stores: by_region.collect(), relating: Mutex::new(()) });
        stores.into_iter().map(|store| StoreHandle { store, all: Arc::clone(&all) }).collect()
    }
}

impl StoreHandle {
    /// Returns the store of a region, which may be this one.
    pub(crate) fn region(&self, region: &str) -> Option<&KeyStore> {
        self.all.stores.get(region).map(|store| &**store)
    }

    /// Locks the relations between keys. Every other change to related keys waits.
    pub(crate) fn relate(&self) -> MutexGuard<'_, ()> {
        self.all.relating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the regions that have a replica of a multi-Region key.
    pub(crate) fn replicas(&self, key: &Key, now: SystemTime) -> Vec<&Home> {
        let stores = self.all.stores.values();
        let others = stores.filter(|store| key.primary_region.as_ref() != Some(&store.home.region));
        others.filter(|store| store.holds(key.id, now)).map(|store| &store.home).collect()
    }
}

impl Deref for StoreHandle {
    type Target = KeyStore;

    fn deref(&self) -> &KeyStore {
        &self.store
    }
}
