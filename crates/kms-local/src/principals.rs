//! Who may sign requests: access keys, their secrets, session tokens and ends.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::identity::Identity;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use crate::{error::Refusal, random};

const PROVIDER: &str = "kms-local";

/// Every access key that the server knows, by its id.
#[derive(Default)]
pub(crate) struct Principals {
    by_access_key: RwLock<HashMap<String, Arc<Principal>>>,
}

/// One access key.
pub(crate) struct Principal {
    /// Access key id and secret, in the form that the signer takes.
    identity: Identity,
    session_token: Option<SecretString>,
    expires: Option<SystemTime>,
}

impl Principals {
    /// Makes a long-lived access key.
    pub(crate) fn issue(&self) -> Credentials {
        let id = format!("AKIA{}", random::base32(16));
        self.accept(id, random_text(30), None, None)
    }

    /// Makes a session that ends `lifetime` from `now`.
    pub(crate) fn issue_session(&self, lifetime: Duration, now: SystemTime) -> Credentials {
        let id = format!("ASIA{}", random::base32(16));
        // A lifetime past the end of the clock never ends.
        let expires = now.checked_add(lifetime);
        self.accept(id, random_text(30), Some(random_text(192)), expires)
    }

    /// Takes an access key that somebody else made, in place of one with the same id.
    pub(crate) fn accept(
        &self,
        access_key_id: String,
        secret: String,
        session_token: Option<String>,
        expires: Option<SystemTime>,
    ) -> Credentials {
        let key = Credentials::new(&access_key_id, &secret, None, None, PROVIDER);
        let principal =
            Principal { identity: key.into(), session_token: session_token.clone().map(SecretString::from), expires };
        self.by_access_key
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(access_key_id.clone(), Arc::new(principal));
        Credentials::new(access_key_id, secret, session_token, expires, PROVIDER)
    }

    /// Ends every session now. Access keys without a session token go on.
    pub(crate) fn expire_sessions(&self, now: SystemTime) {
        let mut principals = self.by_access_key.write().unwrap_or_else(PoisonError::into_inner);
        for principal in principals.values_mut().filter(|known| known.session_token.is_some()) {
            *principal = Arc::new(Principal {
                identity: principal.identity.clone(),
                session_token: principal.session_token.clone(),
                expires: Some(now),
            });
        }
    }

    /// The principal with this access key id.
    pub(crate) fn find(&self, access_key_id: &str) -> Option<Arc<Principal>> {
        let principals = self.by_access_key.read().unwrap_or_else(PoisonError::into_inner);
        principals.get(access_key_id).cloned()
    }
}

impl Principal {
    /// What to sign with.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether a request with this session token may be made at `now`.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnrecognizedClient`] for a token that is wrong, missing or too many, and
    /// [`Refusal::ExpiredToken`].
    pub(crate) fn check_session(&self, token: Option<&str>, now: SystemTime) -> Result<(), Refusal> {
        let matches = match (&self.session_token, token) {
            (None, None) => true,
            (Some(known), Some(given)) => known.expose_secret().as_bytes().ct_eq(given.as_bytes()).into(),
            _ => false,
        };
        if !matches {
            return Err(Refusal::UnrecognizedClient);
        }
        match self.expires {
            Some(expires) if expires <= now => Err(Refusal::ExpiredToken),
            _ => Ok(()),
        }
    }
}

/// `bytes` random bytes as base64.
fn random_text(bytes: usize) -> String {
    STANDARD.encode(&*random::secret(bytes))
}
