//! The credentials that roles are assumed with.

use std::sync::{Arc, Weak};
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};

use super::fingerprint::Fingerprint;
use super::generation::Generation;
use super::principal::Principal;
use super::session::{Renewals, Session};
use crate::background::Background;
use crate::time::Clock;

/// How the base of a role is renewed. The settings of a pool are its own: a role may be used with
/// many.
const RENEWALS: Renewals = Renewals {
    lead: Duration::from_mins(5),
    jitter: Duration::from_mins(1),
    provider_timeout: Duration::from_mins(1),
    files_every: Duration::from_secs(5),
};

/// A principal's session for all roles that it assumes, so that a thousand tenants' roles do not
/// each ask its provider. It belongs to no pool, and has a thread of its own.
#[derive(Clone)]
pub(super) struct Base(Arc<Inner>);

struct Inner {
    session: Arc<Session>,
    _background: Background,
}

/// Finds a [`Base`] as long as a role uses it.
#[derive(Clone, Default)]
pub(super) struct WeakBase(Weak<Inner>);

impl Base {
    pub(super) fn of(principal: &Principal) -> Self {
        principal.base(|| {
            let background = Background::with_workers(1);
            let clock = Clock::of_this_machine();
            let weak = background.downgrade();
            let session = Session::new(principal.clone(), RENEWALS, Arc::default(), weak, clock);
            Self(Arc::new(Inner { session: Arc::new(session), _background: background }))
        })
    }

    pub(super) fn downgrade(&self) -> WeakBase {
        WeakBase(Arc::downgrade(&self.0))
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.session.clock
    }

    /// What the next request is signed with, unless it changes before that.
    pub(super) fn signer(&self) -> Option<Arc<Generation>> {
        self.0.session.current()
    }

    /// STS has accepted these credentials.
    pub(super) fn accepted(&self, signer: &Generation) {
        self.0.session.accepted(Fingerprint::of(&signer.credentials));
    }

    /// STS has refused these credentials. Whether there are others now.
    pub(super) async fn refused(&self, signer: &Generation) -> bool {
        let session = &self.0.session;
        session.refused(Fingerprint::of(&signer.credentials), session.clock.now()).await
    }
}

impl WeakBase {
    pub(super) fn upgrade(&self) -> Option<Base> {
        self.0.upgrade().map(Base)
    }
}

impl ProvideCredentials for Base {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let session = &self.0.session;
            let credentials = session.credentials(session.clock.now()).await;
            credentials.map_err(CredentialsError::provider_error)
        })
    }
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Base").field(&self.0.session.principal).finish()
    }
}
