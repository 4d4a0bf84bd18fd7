//! Who may sign requests: access keys, their secrets, session tokens and ends.

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

use crate::{error::Refusal, random, sts::Caller};

const PROVIDER: &str = "kms-local";

/// How long a session is remembered after its end, to tell its caller that it has expired.
const REMEMBERED: Duration = Duration::from_mins(5);
/// How many access keys there are at least before it is worth looking for sessions to forget.
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
    /// How many were left when sessions were last forgotten.
    left: usize,
}

/// One access key.
pub(crate) struct Principal {
    /// Access key id and secret, in the form that the signer takes.
    identity: Identity,
    session_token: Option<SecretString>,
    expires: Option<SystemTime>,
    /// When it was ended before its time.
    ended: Option<SystemTime>,
    /// Who it is, when it is a session of a role.
    caller: Option<Caller>,
}

impl Principals {
    /// Without principals. Access keys are created for `account`, twelve digits.
    pub(crate) fn new(account: impl Into<String>) -> Self {
        Self { account: account.into(), known: RwLock::default() }
    }

    /// Makes a long-lived access key.
    pub(crate) fn issue(&self) -> Credentials {
        let id = random::access_key_id("AKIA", &self.account);
        self.accept(id, random_text(30), None, None)
    }

    /// Makes a session that ends `lifetime` from `now`.
    pub(crate) fn issue_session(&self, lifetime: Duration, now: SystemTime) -> Credentials {
        self.make_session(lifetime, now, None)
    }

    /// Makes a session of a role.
    pub(crate) fn issue_role_session(
        &self,
        lifetime: Duration,
        now: SystemTime,
        caller: Caller,
    ) -> Credentials {
        self.make_session(lifetime, now, Some(caller))
    }

    fn make_session(
        &self,
        lifetime: Duration,
        now: SystemTime,
        caller: Option<Caller>,
    ) -> Credentials {
        let account = caller.as_ref().map_or(&*self.account, Caller::account);
        let id = random::access_key_id("ASIA", account);
        // A lifetime past the end of the clock never ends.
        let expires = now.checked_add(lifetime);
        self.forget_expired(now);
        self.insert(id, random_text(30), Some(random_text(192)), expires, caller)
    }

    /// Takes an access key that somebody else made, in place of one with the same id.
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
        caller: Option<Caller>,
    ) -> Credentials {
        let key = Credentials::new(&access_key_id, &secret, None, None, PROVIDER);
        let secret_token = session_token.clone().map(SecretString::from);
        let principal = Principal {
            identity: key.into(),
            session_token: secret_token,
            expires,
            ended: None,
            caller,
        };
        self.write().by_access_key.insert(access_key_id.clone(), Arc::new(principal));
        Credentials::new(access_key_id, secret, session_token, expires, PROVIDER)
    }

    /// Ends every session now. Access keys without a session token go on.
    pub(crate) fn expire_sessions(&self, now: SystemTime) {
        let mut known = self.write();
        for principal in
            known.by_access_key.values_mut().filter(|known| known.session_token.is_some())
        {
            *principal = Arc::new(principal.ended(now));
        }
    }

    /// Ends a session now, or forgets an access key that is none.
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

    /// The principal with this access key id.
    pub(crate) fn find(&self, access_key_id: &str) -> Option<Arc<Principal>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_access_key.get(access_key_id).cloned()
    }

    /// Forgets sessions that ended a while ago. Looks only when there are twice as many access keys
    /// as were left the last time, so that it costs each of them a constant.
    fn forget_expired(&self, now: SystemTime) {
        let mut known = self.write();
        if known.by_access_key.len() < FEW.max(2 * known.left) {
            return;
        }
        known.by_access_key.retain(|_, principal| !principal.ended_before(now, REMEMBERED));
        known.left = known.by_access_key.len();
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Principal {
    /// What to sign with.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Who it is, when it is a session of a role.
    pub(crate) fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// Whether a request with this session token may be made at `now`.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnrecognizedClient`] for a token that is wrong, missing or too many, and
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

    /// The same session, ended at `now` unless it was ended before.
    fn ended(&self, now: SystemTime) -> Self {
        Self {
            identity: self.identity.clone(),
            session_token: self.session_token.clone(),
            expires: self.expires,
            ended: self.ended.or(Some(now)),
            caller: self.caller.clone(),
        }
    }

    /// Whether it is a session whose end was over `ago` before `now`.
    fn ended_before(&self, now: SystemTime, ago: Duration) -> bool {
        let long_past = |end: SystemTime| end.checked_add(ago).is_some_and(|until| until < now);
        self.session_token.is_some()
            && [self.expires, self.ended].into_iter().flatten().any(long_past)
    }
}

/// `bytes` random bytes as base64.
fn random_text(bytes: usize) -> String {
    STANDARD.encode(&*random::secret(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn sessions_that_ended_long_ago_are_forgotten() {
        let (principals, start) = (Principals::new("111122223333"), SystemTime::UNIX_EPOCH);
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
    fn a_session_is_remembered_for_five_minutes_after_its_end() {
        let (principals, start) = (Principals::new("111122223333"), SystemTime::UNIX_EPOCH);
        let session = principals.issue_session(SECOND, start);
        let known = principals.find(session.access_key_id()).unwrap();
        assert!(!known.ended_before(start + SECOND + REMEMBERED, REMEMBERED));
        assert!(known.ended_before(start + SECOND * 2 + REMEMBERED, REMEMBERED));
        principals.revoke(session.access_key_id(), start);
        let revoked = principals.find(session.access_key_id()).unwrap();
        assert!(matches!(
            revoked.check_session(session.session_token(), start),
            Err(Refusal::ExpiredToken)
        ));
        assert!(revoked.ended_before(start + SECOND + REMEMBERED, REMEMBERED));
    }
}
