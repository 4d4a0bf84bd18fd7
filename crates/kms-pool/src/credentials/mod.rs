//! Who calls KMS, and with what: identities, their credentials, and how those are refreshed.

mod account;
mod default_chain;
mod files;
mod fingerprint;
mod generation;
mod principal;
mod profile;
mod role;
mod session;
mod sessions;
mod watcher;

pub(crate) use fingerprint::Fingerprint;
pub use principal::Principal;
pub use role::Role;
pub(crate) use session::{RefreshSettings, Session, SessionCredentials};
pub(crate) use sessions::Sessions;
