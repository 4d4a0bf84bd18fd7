//! Branch keys: keys that hosts share, one for each tenant or purpose (specification:
//! `framework/branch-key-store.md`).
//!
//! A branch key is protected by a KMS key and kept in a table. Each process fetches and caches it,
//! then wraps any number of data keys under it locally, with a
//! [`HierarchicalKeyring`](crate::keyring::HierarchicalKeyring). The number of KMS requests
//! therefore depends on how many branch keys a process uses, and no longer on its traffic or its
//! encryption contexts.
//!
//! A [`BranchKeySource`] supplies branch keys, and [`BranchKeys`] caches them.
//!
//! # Revocation
//!
//! After KMS has stopped allowing a branch key, or after it was shredded, a process uses it at most
//! this long:
//!
//! | cached | encryption and decryption |
//! | --- | --- |
//! | branch keys | [`max_age`](BranchKeysBuilder::max_age) of the branch keys |
//! | the same, in use all the time | 100 % of [`check_every`](BranchKeysBuilder::check_every), or 80 % of `max_age` by default, plus the duration of the refused request |
//! | branch keys, and data keys above them in a [`CachingMaterialsManager`] | the sum of both `max_age` |
//! | with [`serve_stale_for`](BranchKeysBuilder::serve_stale_for) on branch keys | as above plus that time, but only while their source is unavailable, never after a denial |
//! | with [`serve_stale_for`](crate::materials::CachingBuilder::serve_stale_for) on data keys | as above plus that time, in the same case |
//! | branch keys, after [`BranchKeys::invalidate`] has returned | not at all, except in running operations and data keys above |
//!
//! A data key in a cache above was unwrapped under a branch key that was up to its `max_age` old.
//! That is why the ages add up. A process that needs a short bound caches branch keys only.
//!
//! [`CachingMaterialsManager`]: crate::materials::CachingMaterialsManager

mod builder;
mod cached;
mod key;
mod source;
mod static_keys;
mod unknown_versions;
mod wrapping;

pub use self::{
    builder::BranchKeysBuilder,
    cached::{BranchKeyStats, BranchKeys},
    key::BranchKey,
    source::{BranchKeySource, MissingBranchKey},
    static_keys::StaticBranchKeys,
    wrapping::WrappedBranchKey,
};
pub(crate) use self::{
    key::check_id,
    wrapping::{RANDOM_LENGTH, Wrapped, wrap},
};
