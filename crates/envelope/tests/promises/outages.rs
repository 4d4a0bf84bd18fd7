//! What a caller sees while KMS is out of reach or refuses: each fault, in each state of the cache,
//! for each operation; and that the caller goes on afterwards.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use envelope::{EncryptionContext, Envelope, Error, materials::CacheStats};
use futures_util::future::join_all;
use kms_local::KmsLocal;
use kms_pool::{
    Credentials, KmsErrorKind, Principal,
    provider::{ProvideCredentials, error::CredentialsError, future},
};
use tokio::time::Instant;

use crate::{MAX_AGE, REGION, Scene, support::context};

/// How long a client waits for KMS.
const TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long a data key serves beyond [`MAX_AGE`] in [`State::InGrace`].
const GRACE: Duration = Duration::from_mins(1);
/// How often the caller tries again after a fault.
const POLL: Duration = Duration::from_millis(10);
/// When the caller gives up. Shorter than [`GRACE`], so that an old data key is no recovery.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// KMS answers after the client's timeout.
    Timeout,
    /// KMS takes requests and never answers.
    Hang,
    /// KMS resets connections instead of answering.
    Reset,
    /// KMS answers with status 500.
    InternalError,
    Throttle,
    AccessDenied,
    Disabled,
    /// The session has expired, and its provider has no other.
    ExpiredCredentials,
}

impl Fault {
    fn begin(self, scene: &Scene) {
        let faults = scene.faults();
        match self {
            Self::Timeout => faults.latency(Duration::from_hours(1)),
            Self::Hang => faults.hang(true),
            Self::Reset => faults.connection_resets(1.0),
            Self::InternalError => faults.internal_errors(1.0),
            Self::Throttle => faults.throttle_above(0),
            Self::AccessDenied => faults.deny_access(true),
            Self::Disabled => scene.server.disable_key(REGION, &scene.key).unwrap(),
            Self::ExpiredCredentials => scene.server.expire_sessions(),
        }
    }

    fn end(self, scene: &Scene, sessions: &Sessions) {
        match self {
            Self::Disabled => scene.server.enable_key(REGION, &scene.key).unwrap(),
            Self::ExpiredCredentials => sessions.renew(&scene.server),
            _ => scene.faults().clear(),
        }
    }

    /// The kind of the error that it causes.
    fn kind(self) -> KmsErrorKind {
        match self {
            Self::Timeout | Self::Hang => KmsErrorKind::TimedOut,
            Self::Reset | Self::InternalError => KmsErrorKind::Unavailable,
            Self::Throttle => KmsErrorKind::Throttled,
            Self::AccessDenied => KmsErrorKind::AccessDenied,
            Self::Disabled => KmsErrorKind::KeyDisabled,
            Self::ExpiredCredentials => KmsErrorKind::CredentialsExpired,
        }
    }

    /// Whether it is an outage, during which an old data key may be used. The others are refusals.
    fn is_outage(self) -> bool {
        !matches!(self, Self::AccessDenied | Self::Disabled | Self::ExpiredCredentials)
    }
}

/// What the cache holds when the fault begins.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// No data key.
    Cold,
    /// A fresh data key.
    Warm,
    /// A data key as old as `max_age`.
    AtExpiry,
    /// The same, and it may be used during an outage.
    InGrace,
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Encrypt,
    Decrypt,
}

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    /// It succeeded with a fresh data key from the cache.
    Cached,
    /// It succeeded with a data key older than `max_age`.
    Stale,
    /// It succeeded with a data key that KMS was asked for.
    Loaded,
    /// KMS failed.
    Failed(KmsErrorKind),
    /// KMS failed before, and was not asked again.
    Remembered(KmsErrorKind),
    /// It failed with an error that says nothing of KMS.
    Untyped,
}

/// The expected outcomes of two calls during a fault.
fn expected(fault: Fault, state: State) -> [Answer; 2] {
    match state {
        State::Warm => [Answer::Cached; 2],
        State::InGrace if fault.is_outage() => [Answer::Stale; 2],
        _ => [Answer::Failed(fault.kind()), Answer::Remembered(fault.kind())],
    }
}

struct Caller {
    scene: Scene,
    envelope: Envelope,
    operation: Operation,
    context: EncryptionContext,
    message: Vec<u8>,
}

impl Caller {
    /// Fills the cache, while there is no fault.
    async fn new(state: State, operation: Operation, sessions: &Sessions) -> Self {
        let principal = |server: &KmsLocal| {
            sessions.renew(server);
            Principal::new(sessions.clone())
        };
        let scene = Scene::with(principal, TIMEOUT).await;
        let grace = if state == State::InGrace { GRACE } else { Duration::ZERO };
        let envelope = scene.client(|builder| builder.serve_stale_for(grace));
        let context = context("42");
        let message = envelope.encrypt(b"x", &context).await.unwrap();
        scene.cache.clear();
        let caller = Self { scene, envelope, operation, context, message };
        if state != State::Cold {
            assert_eq!(caller.call().await, Answer::Loaded);
        }
        if matches!(state, State::AtExpiry | State::InGrace) {
            caller.scene.clock.advance(MAX_AGE);
        }
        caller
    }

    async fn call(&self) -> Answer {
        let before = self.scene.cache.stats();
        let outcome = match self.operation {
            Operation::Encrypt => self.envelope.encrypt(b"x", &self.context).await.map(drop),
            Operation::Decrypt => {
                self.envelope.decrypt(&self.message, &self.context).await.map(drop)
            }
        };
        match outcome {
            Ok(()) => served(&before, &self.scene.cache.stats()),
            Err(error) => match (error.kms(), &error) {
                (None, _) => Answer::Untyped,
                (Some(kms), Error::Remembered { .. }) => Answer::Remembered(kms.kind()),
                (Some(kms), _) => Answer::Failed(kms.kind()),
            },
        }
    }

    /// Calls until it succeeds after a fault. The cache's clock advances between the calls. Only
    /// the pool takes real time: it asks a provider without new credentials again after a second.
    async fn recovers(&self, fault: Fault) -> bool {
        let mut waited = Duration::ZERO;
        while waited < PATIENCE {
            if matches!(self.call().await, Answer::Cached | Answer::Stale | Answer::Loaded) {
                return true;
            }
            if fault == Fault::ExpiredCredentials {
                tokio::time::sleep(POLL).await;
            }
            self.scene.clock.advance(POLL);
            waited += POLL;
        }
        false
    }
}

/// Where the data key of a successful call came from.
fn served(before: &CacheStats, after: &CacheStats) -> Answer {
    let stale = |stats: &CacheStats| stats.encryption.stale + stats.decryption.stale;
    let hits = |stats: &CacheStats| stats.encryption.hits + stats.decryption.hits;
    if stale(after) > stale(before) {
        Answer::Stale
    } else if hits(after) > hits(before) {
        Answer::Cached
    } else {
        Answer::Loaded
    }
}

/// One fault in one state, with its own server, pool and cache.
async fn check_one(fault: Fault, state: State, operation: Operation) {
    let cell = format!("{fault:?}, {state:?}, {operation:?}");
    let sessions = Sessions::default();
    let caller = Caller::new(state, operation, &sessions).await;
    fault.begin(&caller.scene);
    let began = Instant::now();
    let first = caller.call().await;
    let took = began.elapsed();
    let answers = [first, caller.call().await];
    fault.end(&caller.scene, &sessions);
    let ended = Instant::now();
    assert!(caller.recovers(fault).await, "{cell}: it never succeeds again");
    println!("{cell}: {answers:?} after {took:.1?}, recovered after {:.1?}", ended.elapsed());
    assert_eq!(answers, expected(fault, state), "{cell}");
}

async fn check(fault: Fault) {
    let states = [State::Cold, State::Warm, State::AtExpiry, State::InGrace];
    let operations = [Operation::Encrypt, Operation::Decrypt];
    let cells = states.into_iter().flat_map(|state| operations.map(|operation| (state, operation)));
    join_all(cells.map(|(state, operation)| check_one(fault, state, operation))).await;
}

macro_rules! faults {
    ($($name:ident: $fault:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            check(Fault::$fault).await;
        }
    )*};
}

faults! {
    late_answers: Timeout,
    no_answers: Hang,
    reset_connections: Reset,
    internal_errors: InternalError,
    throttling: Throttle,
    denied_access: AccessDenied,
    a_disabled_key: Disabled,
    expired_credentials: ExpiredCredentials,
}

/// Returns the current session. The session claims to have expired already, so that the pool calls
/// this provider for each request.
#[derive(Debug, Clone, Default)]
struct Sessions(Arc<Mutex<Option<Credentials>>>);

impl Sessions {
    /// Replaces the session by one that the server accepts.
    fn renew(&self, server: &KmsLocal) {
        let mut session = server.issue_session(Duration::from_hours(1));
        *session.expiry_mut() = Some(SystemTime::UNIX_EPOCH);
        *self.0.lock().unwrap() = Some(session);
    }
}

impl ProvideCredentials for Sessions {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let session = self.0.lock().unwrap().clone();
        let missing = || CredentialsError::not_loaded("there is no session yet");
        future::ProvideCredentials::ready(session.ok_or_else(missing))
    }
}
