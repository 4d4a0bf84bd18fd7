//! A minimal AWS STS, so that tests can assume roles: the Query protocol over HTTP, verified
//! signatures, and sessions that the KMS accepts.

mod actions;
mod endpoint;
mod query;
mod roles;
mod xml;

pub(crate) use self::endpoint::Sts;
pub use self::roles::RoleSession;
