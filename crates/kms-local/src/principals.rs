//! The principals that can sign requests: access keys, with their secrets and session tokens.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::identity::Identity;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use crate::{error::Refusal, random};

const PROVIDER: &str = "kms-local";

/// How long an ended session is kept, to tell its holder that it has expired.
const KEPT: Duration = Duration::from_mins(5);
/// The number of access keys below which ended sessions are not removed.
const FEW: usize = 1024;

/// Every access key that the server knows.
pub(crate) struct Principals {
    /// The account of the access keys that it creates.
    account: String,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    by_access_key: HashMap<String, Arc<Principal>>,
    /// The number of access keys after the last removal of old sessions.
    left: usize,
}

/// One access key.
pub(crate) struct Principal {
    /// The access key id and secret, in the form that the signer takes.
    identity: Identity,
    session_token: Option<SecretString>,
    expires: Option<SystemTime>,
    /// When the session was ended before it expired.
    ended: Option<SystemTime>,
    /// The identity, if this is a session of a role.
    role: Option<Caller>,
}

/// The identity of a principal, as `GetCallerIdentity` returns it.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) arn: String,
    pub(crate) user_id: String,
    /// Twelve digits.
    pub(crate) account: String,
}

impl Principals {
    /// Returns an empty set. New access keys belong to `account`, twelve digits.
    pub(crate) fn new(account: &str) -> Self {
        Self { account: account.to_owned(), known: RwLock::default() }
    }

    /// Creates a long-lived access key.
    pub(crate) fn issue(&self) -> Credentials {
        let id = random::access_key_id("AKIA", &self.account);
        self.accept(id, random_text(30), None, None)
    }

    /// Creates a session that expires `lifetime` after `now`.
    pub(crate) fn issue_session(&self, lifetime: Duration, now: SystemTime) -> Credentials {
        self.make_session(lifetime, now, None)
    }

    /// Creates a session of a role.
    pub(crate) fn issue_role_session(
        &self,
        lifetime: Duration,
        now: SystemTime,
        role: Caller,
    ) -> Credentials {
        self.make_session(lifetime, now, Some(role))
    }

    fn make_session(
        &self,
        lifetime: Duration,
        now: SystemTime,
        role: Option<Caller>,
    ) -> Credentials {
        let account = role.as_ref().map_or(&self.account, |role| &role.account);
        let id = random::access_key_id("ASIA", account);
        // A session that would expire past the end of the clock never expires.
        let expires = now.checked_add(lifetime);
        self.remove_ended(now);
        self.insert(id, random_text(30), Some(random_text(192)), expires, role)
    }

    /// Accepts an access key that was created elsewhere. Replaces one with the same id.
    pub(crate) fn accept(
        &self,
        access_key_id: String,
        secret: String,
        session_token: Option<String>,
        expires: Option<SystemTime>,
    ) -> Credentials {
        self.insert(access_key_id, secret, session_token, expires, None)
    }

    fn insert(
        &self,
        access_key_id: String,
        secret: String,
        session_token: Option<String>,
        expires: Option<SystemTime>,
        role: Option<Caller>,
    ) -> Credentials {
        let key = Credentials::new(&access_key_id, &secret, None, None, PROVIDER);
        let secret_token = session_token.clone().map(SecretString::from);
        let principal = Principal {
            identity: key.into(),
            session_token: secret_token,
            expires,
            ended: None,
            role,
        };
        self.write().by_access_key.insert(access_key_id.clone(), Arc::new(principal));
        Credentials::new(access_key_id, secret, session_token, expires, PROVIDER)
    }

    /// Ends all sessions now. Access keys without a session token stay valid.
    pub(crate) fn expire_sessions(&self, now: SystemTime) {
        let mut known = self.write();
        for principal in
            known.by_access_key.values_mut().filter(|known| known.session_token.is_some())
        {
            *principal = Arc::new(principal.ended(now));
        }
    }

    /// Ends a session now, or removes a long-lived access key.
    pub(crate) fn revoke(&self, access_key_id: &str, now: SystemTime) {
        let mut known = self.write();
        match known.by_access_key.get_mut(access_key_id) {
            Some(session) if session.session_token.is_some() => {
                *session = Arc::new(session.ended(now));
            }
            _ => {
                known.by_access_key.remove(access_key_id);
            }
        }
    }

    /// Returns the principal with this access key id.
    pub(crate) fn find(&self, access_key_id: &str) -> Option<Arc<Principal>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_access_key.get(access_key_id).cloned()
    }

    /// Removes sessions that ended more than [`KEPT`] ago. Does nothing until the number of access
    /// keys has doubled since the last removal, so that the cost per session is constant.
    fn remove_ended(&self, now: SystemTime) {
        let mut known = self.write();
        if known.by_access_key.len() < FEW.max(2 * known.left) {
            return;
        }
        known.by_access_key.retain(|_, principal| !principal.ended_before(now, KEPT));
        known.left = known.by_access_key.len();
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Principal {
    /// Returns the access key, to sign with.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the identity of the principal: a session of a role, or else a user of `account`.
    pub(crate) fn caller(&self, account: &str) -> Caller {
        self.role.clone().unwrap_or_else(|| {
            let user_id = self.identity.data().map_or("", Credentials::access_key_id).to_owned();
            let arn = format!("arn:aws:iam::{account}:user/{user_id}");
            Caller { arn, user_id, account: account.to_owned() }
        })
    }

    /// Checks that a request with this session token is allowed at `now`.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnrecognizedClient`] if the token is wrong, missing or not expected, and
    /// [`Refusal::ExpiredToken`].
    pub(crate) fn check_session(
        &self,
        token: Option<&str>,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let matches = match (&self.session_token, token) {
            (None, None) => true,
            (Some(known), Some(given)) => {
                known.expose_secret().as_bytes().ct_eq(given.as_bytes()).into()
            }
            _ => false,
        };
        if !matches {
            return Err(Refusal::UnrecognizedClient);
        }
        // A session that was ended explicitly stays ended, even if a clock is wrong.
        match self.expires {
            _ if self.ended.is_some() => Err(Refusal::ExpiredToken),
            Some(expires) if expires <= now => Err(Refusal::ExpiredToken),
            _ => Ok(()),
        }
    }

    /// Returns the same session, ended at `now` unless it was ended before.
    fn ended(&self, now: SystemTime) -> Self {
        Self {
            identity: self.identity.clone(),
            session_token: self.session_token.clone(),
            expires: self.expires,
            ended: self.ended.or(Some(now)),
            role: self.role.clone(),
        }
    }

    /// Returns whether this is a session that ended more than `ago` before `now`.
    fn ended_before(&self, now: SystemTime, ago: Duration) -> bool {
        let long_past = |end: SystemTime| end.checked_add(ago).is_some_and(|until| until < now);
        self.session_token.is_some()
            && [self.expires, self.ended].into_iter().flatten().any(long_past)
    }
}

/// Returns `bytes` random bytes as base64.
fn random_text(bytes: usize) -> String {
    STANDARD.encode(&*random::secret(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn sessions_that_ended_long_ago_are_removed() {
        let principals = Principals::new("111122223333");
        let start = SystemTime::UNIX_EPOCH;
        let lasting = principals.issue();
        let first = principals.issue_session(SECOND, start);
        let endless = principals.issue_session(Duration::MAX, start);
        for n in 0..20_000 {
            let now = start + SECOND * n;
            let issued = principals.issue_session(SECOND, now);
            let found = principals.find(issued.access_key_id()).unwrap();
            assert!(found.check_session(issued.session_token(), now).is_ok());
        }
        assert!(principals.write().by_access_key.len() <= 2 * FEW);
        assert!(principals.find(first.access_key_id()).is_none());
        for kept in [lasting, endless] {
            assert!(principals.find(kept.access_key_id()).is_some());
        }
    }

    #[test]
    fn a_session_is_kept_for_five_minutes_after_its_end() {
        let principals = Principals::new("111122223333");
        let start = SystemTime::UNIX_EPOCH;
        let session = principals.issue_session(SECOND, start);
        let known = principals.find(session.access_key_id()).unwrap();
        assert!(!known.ended_before(start + SECOND + KEPT, KEPT));
        assert!(known.ended_before(start + SECOND * 2 + KEPT, KEPT));
        principals.revoke(session.access_key_id(), start);
        let revoked = principals.find(session.access_key_id()).unwrap();
        assert!(matches!(
            revoked.check_session(session.session_token(), start),
            Err(Refusal::ExpiredToken)
        ));
        assert!(revoked.ended_before(start + SECOND + KEPT, KEPT));
    }
}
