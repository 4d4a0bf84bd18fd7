//! The keys and aliases of one region: state in memory, every change written through.

pub(crate) mod disk;
mod everywhere;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    time::SystemTime,
};

use zeroize::Zeroizing;

use self::disk::Disk;
pub(crate) use self::everywhere::{Everywhere, Place};
use crate::{
    arn::{Home, KeyId, KeyName},
    ciphertext::{KEY_BYTES, WrappingKey},
    error::Refusal,
    random,
};

/// A master key and its state. Changing one replaces it in the store.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: KeyId,
    /// Where the primary of a multi-Region key is; nothing for a single-Region key.
    pub(crate) primary_region: Option<String>,
    pub(crate) description: String,
    pub(crate) created: SystemTime,
    pub(crate) state: KeyState,
    pub(crate) wrapping: Arc<WrappingKey>,
}

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyState {
    Enabled,
    Disabled,
    PendingDeletion {
        on: SystemTime,
    },
    /// A primary key whose waiting period begins when it has no replicas any more.
    PendingReplicaDeletion {
        days: u32,
    },
}

/// Another name for a key.
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    pub(crate) target: KeyId,
    pub(crate) created: SystemTime,
    pub(crate) updated: SystemTime,
}

/// One step from a state to the next.
pub(crate) enum Change {
    CreateKey(Key, Zeroizing<[u8; KEY_BYTES]>),
    /// A key with the material that the same key has in another region.
    ReplicateKey {
        replica: Key,
        from: String,
    },
    ReplaceKey(Key),
    PutAlias(String, Alias),
    RemoveAlias(String),
}

/// What a region holds.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) keys: BTreeMap<KeyId, Arc<Key>>,
    pub(crate) aliases: BTreeMap<String, Alias>,
}

/// The state of a region behind a lock, and the disk behind it, if there is one.
pub(crate) struct KeyStore {
    pub(crate) home: Home,
    state: RwLock<State>,
    /// Held from reading the state to changing it, so that changes follow one another.
    changing: Mutex<()>,
    disk: Option<Arc<Disk>>,
}

impl Key {
    /// A new key, and the change that creates it with new material. It is a multi-Region key if it
    /// has a primary region.
    pub(crate) fn generate(
        description: String,
        primary_region: Option<String>,
        now: SystemTime,
    ) -> (Self, Change) {
        let id = KeyId::generate(primary_region.is_some());
        let mut material = Zeroizing::new([0; KEY_BYTES]);
        random::fill(&mut *material);
        let wrapping = Arc::new(WrappingKey::new(id, &material));
        let key = Self {
            id,
            primary_region,
            description,
            created: now,
            state: KeyState::Enabled,
            wrapping,
        };
        (key.clone(), Change::CreateKey(key, material))
    }

    /// The same key in another state.
    pub(crate) fn with_state(&self, state: KeyState) -> Self {
        Self { state, ..self.clone() }
    }

    /// Whether its waiting period is over: AWS forgets such a key, and so do we.
    pub(crate) fn is_gone(&self, now: SystemTime) -> bool {
        matches!(self.state, KeyState::PendingDeletion { on } if on <= now)
    }
}

impl State {
    fn apply(&mut self, change: Change) {
        match change {
            Change::CreateKey(key, _)
            | Change::ReplicateKey { replica: key, .. }
            | Change::ReplaceKey(key) => {
                self.keys.insert(key.id, Arc::new(key));
            }
            Change::PutAlias(name, alias) => {
                self.aliases.insert(name, alias);
            }
            Change::RemoveAlias(name) => {
                self.aliases.remove(&name);
            }
        }
    }
}

impl KeyStore {
    pub(crate) fn new(home: Home, state: State, disk: Option<Arc<Disk>>) -> Self {
        Self { home, state: RwLock::new(state), changing: Mutex::new(()), disk }
    }

    /// Whether a change waits for a disk and so belongs on a thread that may block.
    pub(crate) fn is_persistent(&self) -> bool {
        self.disk.is_some()
    }

    /// The state as it is now. Not to be held while anything waits.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        // A change is one insertion or removal, so a panic cannot leave half of one behind.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a change on the present state, commits it to the disk, then shows it to readers.
    /// Blocks for the commit.
    ///
    /// # Errors
    ///
    /// Those of `plan`, and [`Refusal::Internal`] when the disk refuses; nothing has changed then.
    pub(crate) fn change<T>(
        &self,
        plan: impl FnOnce(&State) -> Result<(Change, T), Refusal>,
    ) -> Result<T, Refusal> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (change, answer) = plan(&self.read())?;
        if let Some(disk) = &self.disk {
            disk.commit(&self.home.region, &change)
                .map_err(|error| Refusal::Internal(error.to_string()))?;
        }
        self.state.write().unwrap_or_else(PoisonError::into_inner).apply(change);
        Ok(answer)
    }

    /// The key that `name`, in any of its four forms, stands for.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub(crate) fn find(&self, name: &str, now: SystemTime) -> Result<Arc<Key>, Refusal> {
        self.find_in(&self.read(), name, now)
    }

    /// [`find`](Self::find) on a state that the caller holds.
    pub(crate) fn find_in(
        &self,
        state: &State,
        name: &str,
        now: SystemTime,
    ) -> Result<Arc<Key>, Refusal> {
        let id = match self.home.parse(name)? {
            KeyName::Id(id) => id,
            KeyName::Alias(alias) => {
                let not_found = || {
                    Refusal::NotFound(format!("Alias {} is not found.", self.home.alias_arn(alias)))
                };
                state.aliases.get(alias).ok_or_else(not_found)?.target
            }
        };
        self.find_id(state, id, now)
    }

    /// The key that a key id or key ARN stands for: for operations that take no alias.
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

    /// Refuses a key that may not be used for cryptography now.
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

    /// The refusal for a key that waits for its deletion.
    pub(crate) fn pending_deletion(&self, key: &Key) -> Refusal {
        Refusal::InvalidState(format!("{} is pending deletion.", self.home.key_arn(key.id)))
    }
}
