//! Branch keys: keys that hosts share, one for each tenant or purpose (specification:
//! `framework/branch-key-store.md`).
//!
//! A branch key is protected by a KMS key and kept in a table. Each process fetches it once, and
//! then wraps any number of data keys under it locally. The number of KMS requests therefore
//! depends on how many branch keys a process uses, and no longer on its traffic or its encryption
//! contexts.

mod key;
mod source;
mod static_keys;

pub use self::{
    key::BranchKey,
    source::{BranchKeyFuture, BranchKeySource, MissingBranchKey},
    static_keys::StaticBranchKeys,
};
