//! The store of one region.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    time::SystemTime,
};

use super::{
    disk::Disk,
    state::{Change, Key, KeyState, State},
};
use crate::{
    arn::{Home, KeyId, KeyName},
    error::Refusal,
};

/// The state of a region behind a lock, and the disk that keeps it, if there is one.
pub(crate) struct KeyStore {
    pub(crate) home: Home,
    state: RwLock<State>,
    /// Held from reading the state to changing it, so that changes are made one after another.
    changing: Mutex<()>,
    disk: Option<Arc<Disk>>,
}

impl KeyStore {
    pub(crate) fn new(home: Home, state: State, disk: Option<Arc<Disk>>) -> Self {
        Self { home, state: RwLock::new(state), changing: Mutex::new(()), disk }
    }

    /// Returns whether changes wait for a disk. They must then run on a thread that may block.
    pub(crate) fn is_persistent(&self) -> bool {
        self.disk.is_some()
    }

    /// Returns the current state. Do not hold the guard while waiting for anything.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        // A change is one insertion or removal, so a panic cannot leave half of one behind.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a change on the current state, commits it to the disk, then makes it visible to
    /// readers. Blocks for the commit.
    ///
    /// # Errors
    ///
    /// The error of `plan`, or [`Refusal::Internal`] if the commit failed. After an error, nothing
    /// has changed.
    pub(crate) fn change<T>(
        &self,
        plan: impl FnOnce(&State) -> Result<(Change, T), Refusal>,
    ) -> Result<T, Refusal> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (change, response) = plan(&self.read())?;
        if let Some(disk) = &self.disk {
            disk.commit(&self.home.region, &change)
                .map_err(|error| Refusal::Internal(error.to_string()))?;
        }
        self.state.write().unwrap_or_else(PoisonError::into_inner).apply(change);
        Ok(response)
    }

    /// Returns whether the key exists, in any state.
    pub(crate) fn holds(&self, id: KeyId, now: SystemTime) -> bool {
        self.read().keys.get(&id).is_some_and(|key| !key.is_gone(now))
    }

    /// Finds a key by any of its four names.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub(crate) fn find(&self, name: &str, now: SystemTime) -> Result<Arc<Key>, Refusal> {
        let state = self.read();
        let id = match self.home.parse(name)? {
            KeyName::Id(id) => id,
            KeyName::Alias(alias) => {
                let not_found = || {
                    Refusal::NotFound(format!("Alias {} is not found.", self.home.alias_arn(alias)))
                };
                state.aliases.get(alias).ok_or_else(not_found)?.target
            }
        };
        self.find_id(&state, id, now)
    }

    /// Finds a key by key id or key ARN, for operations that take no alias.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`], also for an alias.
    pub(crate) fn find_without_alias(
        &self,
        state: &State,
        name: &str,
        now: SystemTime,
    ) -> Result<Arc<Key>, Refusal> {
        match self.home.parse(name)? {
            KeyName::Id(id) => self.find_id(state, id, now),
            KeyName::Alias(_) => Err(Refusal::NotFound(format!("Invalid keyId '{name}'"))),
        }
    }

    fn find_id(&self, state: &State, id: KeyId, now: SystemTime) -> Result<Arc<Key>, Refusal> {
        state.keys.get(&id).filter(|key| !key.is_gone(now)).cloned().ok_or_else(|| {
            Refusal::NotFound(format!("Key '{}' does not exist", self.home.key_arn(id)))
        })
    }

    /// Checks that a key can be used for cryptography now.
    ///
    /// # Errors
    ///
    /// [`Refusal::Disabled`] or [`Refusal::InvalidState`].
    pub(crate) fn check_usable(&self, key: &Key) -> Result<(), Refusal> {
        match key.state {
            KeyState::Enabled => Ok(()),
            KeyState::Disabled => Err(Refusal::Disabled(self.home.key_arn(key.id))),
            KeyState::PendingDeletion { .. } | KeyState::PendingReplicaDeletion { .. } => {
                Err(self.pending_deletion(key))
            }
        }
    }

    /// Returns the refusal for a key that is pending deletion.
    pub(crate) fn pending_deletion(&self, key: &Key) -> Refusal {
        Refusal::InvalidState(format!("{} is pending deletion.", self.home.key_arn(key.id)))
    }
}
