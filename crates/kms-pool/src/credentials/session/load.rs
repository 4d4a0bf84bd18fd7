//! Calls a principal's provider, for one load.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials as _};
use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::signer::SessionCredentials;
use super::{Session, Sessions};
use crate::background::Lease;
use crate::credentials::files::Stamps;
use crate::credentials::fingerprint::Fingerprint;
use crate::credentials::principal::{Principal, Provider};
use crate::credentials::reason::Reason;
use crate::credentials::sts::RoleSessions;
use crate::error::{KmsError, KmsErrorKind};

/// The result of a load.
pub(super) struct Loaded {
    /// The rotation that the credentials belong to.
    pub(super) rotation: u64,
    /// The metadata of the principal's files before the call.
    pub(super) stamps: Option<Stamps>,
    pub(super) outcome: Result<Credentials, KmsError>,
}

/// The parts of a session that a call needs. A call does not keep its session alive, because a
/// provider may block its thread for ever.
struct Call {
    principal: Principal,
    sessions: Arc<Sessions>,
    base: Arc<OnceLock<Arc<Session>>>,
}

impl Session {
    /// Returns the credentials set by `rotate`, or else calls the provider: within `limit`, and on
    /// a separate thread if the provider may block its thread. Must be called on a runtime.
    pub(super) async fn load_within(
        &self,
        limit: Duration,
        date: SystemTime,
        lease: Lease,
    ) -> Loaded {
        let call = Call {
            principal: self.principal.clone(),
            sessions: Arc::clone(&self.sessions),
            base: Arc::clone(&self.base),
        };
        let rotation = self.principal.rotation();
        let load = async {
            let Some(thread) = self.principal.provider_thread() else {
                // A task of the runtime ends with it, so it needs no lease.
                drop(lease);
                let (rotation, outcome) = call.load(date).await;
                return Some(Loaded { rotation, stamps: None, outcome });
            };
            // Waits while an earlier call of the provider still blocks its thread.
            let permit = thread.acquire_owned().await;
            call.load_on_thread(date, permit, lease).await
        };
        let what = match tokio::time::timeout(limit, load).await {
            Ok(Some(loaded)) => return loaded,
            Ok(None) => "could not be called".to_owned(),
            Err(_elapsed) => format!("did not respond within {limit:?}"),
        };
        let outcome = Err(unavailable(&self.principal, &what, None));
        Loaded { rotation, stamps: None, outcome }
    }
}

impl Call {
    /// Returns the credentials set by `rotate`, or else calls the provider; with the rotation that
    /// the credentials belong to.
    async fn load(&self, date: SystemTime) -> (u64, Result<Credentials, KmsError>) {
        let (rotation, rotated) = self.principal.rotated(date);
        if let Some(credentials) = rotated {
            return (rotation, Ok(credentials));
        }
        let provider = self.principal.provider();
        // A provider may also panic in its first, synchronous step, which is inside this future.
        let call = AssertUnwindSafe(self.call(&provider)).catch_unwind();
        let outcome = match call.await {
            Ok(Ok(credentials)) => Ok(credentials),
            Ok(Err(cause)) => Err(unavailable(&self.principal, "failed", Some(cause))),
            Err(_panic) => Err(unavailable(&self.principal, "panicked", None)),
        };
        (rotation, outcome)
    }

    async fn call(&self, provider: &Provider) -> provider::Result {
        let http = &self.sessions.http;
        match provider {
            Provider::Custom(provider) => provider.provide_credentials().await,
            Provider::DefaultChain(chain) => chain.load(http).await,
            Provider::Profile(profile) => profile.load(http).await,
            Provider::Role { role, base } => self.assume(role, base).await,
            Provider::WebIdentity { role, token_file } => {
                role.assume_with_web_identity(http, &self.sessions.clock, token_file).await
            }
        }
    }

    /// Requests a session of a role with the credentials of `base`. If STS rejects them, they are
    /// refreshed once.
    async fn assume(&self, role: &RoleSessions, base: &Principal) -> provider::Result {
        let base = self.base.get_or_init(|| self.sessions.of(base));
        // The request is signed with these, unless they are replaced in between.
        let signer = base.credentials(base.clock.now()).await;
        let signer = Fingerprint::of(&signer.map_err(CredentialsError::provider_error)?);
        let assume = || {
            let signer = SessionCredentials(Arc::clone(base));
            role.assume(&self.sessions.http, &self.sessions.clock, signer)
        };
        let mut session = assume().await;
        match &session {
            Ok(_) => base.accepted(signer),
            Err(refusal) if refusal.is_of_credentials => {
                if base.rejected(signer, base.clock.now()).await {
                    session = assume().await;
                }
            }
            Err(_) => {}
        }
        session.map_err(|refusal| refusal.error)
    }

    /// Like [`load`](Self::load), on a separate thread, which the provider may block.
    async fn load_on_thread<P: Send + 'static>(
        self,
        date: SystemTime,
        permit: P,
        mut lease: Lease,
    ) -> Option<Loaded> {
        // Dropped with this future, which cancels the provider at its next `.await`.
        let (_cancel, cancelled) = oneshot::channel::<()>();
        let load = move || {
            let _permit = permit;
            let stamps = Stamps::of(self.principal.files());
            // Check the ends first: afterwards the provider must not be polled.
            let end = std::pin::pin!(lease.end());
            let end = select(cancelled, end);
            let load = std::pin::pin!(self.load(date));
            match Handle::current().block_on(select(end, load)) {
                Either::Right(((rotation, outcome), _)) => {
                    Some(Loaded { rotation, stamps: Some(stamps), outcome })
                }
                Either::Left(_) => None,
            }
        };
        tokio::task::spawn_blocking(load).await.ok().flatten()
    }
}

fn unavailable(principal: &Principal, what: &str, cause: Option<CredentialsError>) -> KmsError {
    let whose = principal.label().map(|label| format!(" of `{label}`")).unwrap_or_default();
    let reason =
        cause.as_ref().and_then(Reason::of).map(|reason| format!(": {reason}")).unwrap_or_default();
    let message = format!("the credentials provider{whose} {what}{reason}");
    let cause = cause.map(|cause| Box::new(cause) as _);
    KmsError::local(KmsErrorKind::CredentialsUnavailable, &message, cause)
}
