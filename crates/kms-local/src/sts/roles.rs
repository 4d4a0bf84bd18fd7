//! Sessions of roles, and the web identity tokens that they can be created with.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use crate::principals::Principals;

/// The maximum number of sessions that are listed.
const MAX_SESSIONS: usize = 1000;

/// A session that `AssumeRole` or `AssumeRoleWithWebIdentity` created, without its secrets.
///
/// Returned by [`KmsLocal::role_sessions`](crate::KmsLocal::role_sessions).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let kms = kms_local::KmsLocal::builder().sts().start().await?;
/// // … run the code under test, which assumes a role …
/// for session in kms.role_sessions() {
///     let requests = kms.counters("us-east-1").access_keys.get(&session.access_key_id).copied();
///     println!("{} sent {} requests", session.role_arn, requests.unwrap_or(0));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoleSession {
    /// The ARN of the role, as in the request.
    pub role_arn: String,
    /// The name that the caller gave to the session.
    pub session_name: String,
    /// The external id that the caller gave, if any.
    pub external_id: Option<String>,
    /// The session tags.
    pub tags: BTreeMap<String, String>,
    /// The access key id of the session. [`Counters::access_keys`](crate::Counters::access_keys)
    /// counts its requests.
    pub access_key_id: String,
}

/// The sessions of roles, with the principals and tokens that create them.
pub(crate) struct Roles {
    pub(super) principals: Arc<Principals>,
    sessions: Mutex<VecDeque<RoleSession>>,
    tokens: RwLock<Vec<SecretString>>,
}

impl Roles {
    pub(super) fn new(principals: Arc<Principals>) -> Self {
        Self { principals, sessions: Mutex::default(), tokens: RwLock::default() }
    }

    pub(super) fn add(&self, session: RoleSession) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() == MAX_SESSIONS {
            sessions.pop_front();
        }
        sessions.push_back(session);
    }

    /// Returns the latest sessions, the oldest first.
    pub(crate) fn sessions(&self) -> Vec<RoleSession> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(crate) fn accept_token(&self, token: String) {
        self.tokens.write().unwrap_or_else(PoisonError::into_inner).push(token.into());
    }

    pub(super) fn accepts_token(&self, token: &str) -> bool {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.iter().any(|known| known.expose_secret().as_bytes().ct_eq(token.as_bytes()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_thousand_sessions_are_listed() {
        let roles = Roles::new(Arc::new(Principals::new("111122223333")));
        for n in 0..1500 {
            roles.add(RoleSession {
                role_arn: String::new(),
                session_name: n.to_string(),
                external_id: None,
                tags: BTreeMap::new(),
                access_key_id: String::new(),
            });
        }
        let names: Vec<_> =
            roles.sessions().into_iter().map(|session| session.session_name).collect();
        assert_eq!((names.len(), &*names[0], &*names[999]), (1000, "500", "1499"));
    }
}
