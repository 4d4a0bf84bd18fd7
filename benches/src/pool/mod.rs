//! What the pool of KMS clients costs, and what callers notice of rotations, outages and limits.

pub(crate) mod budget;
pub(crate) mod data_keys;
pub(crate) mod failover;
pub(crate) mod get;
pub(crate) mod provider_outage;
pub(crate) mod rotation;
mod sessions;
pub(crate) mod table;
