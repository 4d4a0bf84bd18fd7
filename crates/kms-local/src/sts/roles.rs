//! What the STS remembers: the sessions it made, and the tokens it takes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError, RwLock},
};

use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

/// How many sessions are remembered.
const REMEMBERED: usize = 1000;

/// A session that `AssumeRole` or `AssumeRoleWithWebIdentity` made, without its secrets. Given by
/// [`KmsLocal::role_sessions`](crate::KmsLocal::role_sessions).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoleSession {
    /// The ARN of the role, as it was asked for.
    pub role_arn: String,
    /// The name that the caller gave to the session.
    pub session_name: String,
    /// The external id that the caller gave, if any.
    pub external_id: Option<String>,
    /// The session tags by their keys.
    pub tags: BTreeMap<String, String>,
    /// The access key of the session, by which
    /// [`Counters::access_keys`](crate::Counters::access_keys) tells what it was used for.
    pub access_key_id: String,
}

#[derive(Default)]
pub(super) struct Roles {
    sessions: Mutex<VecDeque<RoleSession>>,
    tokens: RwLock<Vec<SecretString>>,
}

impl Roles {
    pub(super) fn remember(&self, session: RoleSession) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() == REMEMBERED {
            sessions.pop_front();
        }
        sessions.push_back(session);
    }

    pub(super) fn sessions(&self) -> Vec<RoleSession> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(super) fn accept_token(&self, token: String) {
        self.tokens.write().unwrap_or_else(PoisonError::into_inner).push(token.into());
    }

    pub(super) fn knows_token(&self, token: &str) -> bool {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.iter().any(|known| known.expose_secret().as_bytes().ct_eq(token.as_bytes()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_thousand_sessions_are_remembered() {
        let roles = Roles::default();
        for n in 0..1500 {
            roles.remember(RoleSession {
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
