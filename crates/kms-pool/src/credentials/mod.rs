//! Identities that call KMS, their credentials, and how these are refreshed.

mod account;
mod default_chain;
mod files;
mod fingerprint;
mod generation;
mod principal;
mod profile;
mod reason;
mod role;
mod session;
mod sts;

pub(crate) use fingerprint::Fingerprint;
pub use principal::Principal;
pub use role::Role;
pub(crate) use session::{RefreshSettings, Session, SessionCredentials, Sessions};
