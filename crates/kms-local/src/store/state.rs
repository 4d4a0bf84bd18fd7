//! The keys and aliases of one region as plain data, and the changes to them.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use zeroize::Zeroizing;

use crate::{
    arn::KeyId,
    ciphertext::{KEY_BYTES, WrappingKey},
    random,
};

/// A KMS key and its state. To change one, replace it in the store.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: KeyId,
    /// The region of the primary key. `None` for a single-Region key.
    pub(crate) primary_region: Option<String>,
    pub(crate) description: String,
    pub(crate) created: SystemTime,
    pub(crate) state: KeyState,
    pub(crate) wrapping: Arc<WrappingKey>,
}

/// Whether a key can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyState {
    Enabled,
    Disabled,
    PendingDeletion {
        on: SystemTime,
    },
    /// A primary key whose waiting period begins when its last replica is gone.
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

/// One change to the state of a region.
pub(crate) enum Change {
    CreateKey(Key, Zeroizing<[u8; KEY_BYTES]>),
    /// Creates a replica. It has the key material of the same key in region `from`.
    ReplicateKey {
        replica: Key,
        from: String,
    },
    ReplaceKey(Key),
    PutAlias(String, Alias),
    RemoveAlias(String),
}

/// The keys and aliases of one region.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) keys: BTreeMap<KeyId, Arc<Key>>,
    pub(crate) aliases: BTreeMap<String, Alias>,
}

impl Key {
    /// Creates a key, and the change that stores it with new key material. It is a multi-Region
    /// key if it has a primary region.
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

    /// Returns the same key in another state.
    pub(crate) fn with_state(&self, state: KeyState) -> Self {
        Self { state, ..self.clone() }
    }

    /// Returns whether the waiting period before deletion is over.
    ///
    /// For callers, the key then no longer exists.
    pub(crate) fn is_gone(&self, now: SystemTime) -> bool {
        matches!(self.state, KeyState::PendingDeletion { on } if on <= now)
    }
}

impl State {
    pub(super) fn apply(&mut self, change: Change) {
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
