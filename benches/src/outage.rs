//! What a caller sees when KMS is out of reach or refuses: each fault, met in each state of the
//! cache, by each operation.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError, future},
};
use envelope::{
    Clock, EncryptionContext, ManualClock,
    materials::{CacheCounts, CacheStats, CachingBuilder, MaterialsCache},
};
use kms_local::KmsLocal;
use kms_pool::{KmsErrorKind, KmsPoolBuilder, Principal};
use tokio::time::Instant;

use crate::kms::{Kms, REGION};

/// How long the client waits for KMS, once.
pub const TIMEOUT: Duration = Duration::from_millis(300);
/// How late KMS is where it is late: later than anybody waits.
const LATENCY: Duration = Duration::from_hours(1);
const MAX_AGE: Duration = Duration::from_mins(1);
/// How long a data key serves past [`MAX_AGE`] in [`State::InGrace`].
const GRACE: Duration = Duration::from_mins(1);
/// How often a caller tries again who waits for the end of a fault.
const POLL: Duration = Duration::from_millis(10);
/// When such a caller gives up. Within [`GRACE`], so that a stale data key can't be taken for a
/// recovery.
const PATIENCE: Duration = Duration::from_secs(30);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// KMS answers, but later than the client's timeouts.
    Timeout,
    /// KMS takes requests and never answers.
    Hang,
    /// KMS resets connections instead of answering.
    Reset,
    /// KMS answers with status 500.
    InternalError,
    /// KMS throttles every request.
    Throttle,
    /// The principal may not use the key.
    AccessDenied,
    /// The key is disabled.
    Disabled,
    /// The session has expired, and its provider has no other.
    ExpiredCredentials,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Timeout,
        Self::Hang,
        Self::Reset,
        Self::InternalError,
        Self::Throttle,
        Self::AccessDenied,
        Self::Disabled,
        Self::ExpiredCredentials,
    ];

    /// What the error must be told as.
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

    /// Whether it is an outage, which a data key past its age may bridge; the others are refusals.
    fn is_outage(self) -> bool {
        matches!(
            self,
            Self::Timeout | Self::Hang | Self::Reset | Self::InternalError | Self::Throttle
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Timeout => "timeout",
            Self::Hang => "hang",
            Self::Reset => "reset",
            Self::InternalError => "5xx",
            Self::Throttle => "throttle",
            Self::AccessDenied => "access denied",
            Self::Disabled => "disabled",
            Self::ExpiredCredentials => "expired credentials",
        })
    }
}

/// What the cache holds when the fault begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No data key.
    Cold,
    /// A data key that is fresh.
    Warm,
    /// A data key that is just past its age, and may not serve any more.
    AtExpiry,
    /// A data key that is just past its age, and may serve on while KMS is out of reach.
    InGrace,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cold, Self::Warm, Self::AtExpiry, Self::InGrace];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::AtExpiry => "at expiry",
            Self::InGrace => "in grace",
        })
    }
}

/// What the caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Sealing a message.
    Encrypt,
    /// Opening one that was sealed before.
    Decrypt,
}

impl Operation {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Encrypt, Self::Decrypt];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        })
    }
}

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Done with a fresh data key out of the cache.
    Cached,
    /// Done with a data key past its age.
    Stale,
    /// Done with a data key that KMS was asked for.
    Asked,
    /// Failed, since KMS failed so.
    Failed(KmsErrorKind),
    /// Failed at once, since KMS failed so before.
    Remembered(KmsErrorKind),
    /// Failed in a way that says nothing of KMS.
    Untyped,
}

impl Answer {
    /// Whether the caller got what it wanted.
    #[must_use]
    pub fn is_ok(self) -> bool {
        matches!(self, Self::Cached | Self::Stale | Self::Asked)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cached => "cached",
            Self::Stale => "stale",
            Self::Asked => "asked",
            Self::Untyped => "untyped error",
            Self::Failed(kind) | Self::Remembered(kind) => match kind {
                KmsErrorKind::TimedOut => "timed out",
                KmsErrorKind::Unavailable => "unavailable",
                KmsErrorKind::Throttled => "throttled",
                KmsErrorKind::AccessDenied => "denied",
                KmsErrorKind::KeyDisabled => "disabled",
                KmsErrorKind::CredentialsExpired => "expired",
                _ => "other error",
            },
        })
    }
}

/// One fault, met in one state by one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// What goes wrong.
    pub fault: Fault,
    /// What the cache holds.
    pub state: State,
    /// The call under test.
    pub operation: Operation,
}

impl Cell {
    /// The cells of one fault, in the order of the states.
    pub fn of(fault: Fault) -> impl Iterator<Item = Self> {
        let cell = move |state| Operation::ALL.map(|operation| Self { fault, state, operation });
        State::ALL.into_iter().flat_map(cell)
    }

    /// What a first and a second call have to come to.
    ///
    /// A fresh data key needs no KMS. A refusal is reported as a refusal, even if a data key was
    /// cached before; so is an outage, unless a data key past its age may be used meanwhile. A
    /// failed request is not repeated at once.
    #[must_use]
    pub fn expected(self) -> [Answer; 2] {
        match self.state {
            State::Warm => [Answer::Cached; 2],
            State::InGrace if self.fault.is_outage() => [Answer::Stale; 2],
            _ => [Answer::Failed(self.fault.kind()), Answer::Remembered(self.fault.kind())],
        }
    }

    /// Meets the fault, with a server, a client and a cache of its own.
    ///
    /// # Errors
    ///
    /// When the server can't start, or doesn't serve before there is a fault.
    pub async fn run(self) -> Result<Outcome, Box<dyn Error>> {
        let scene = Scene::set(self.state, self.operation).await?;
        scene.begin(self.fault)?;
        let started = Instant::now();
        let first = scene.call().await;
        let took = started.elapsed();
        let answers = [first, scene.call().await];
        scene.end(self.fault)?;
        Ok(Outcome { answers, took, recovery: scene.recovery(self.fault).await })
    }
}

/// What became of a cell.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// What two calls came to while the fault lasted, one after the other.
    pub answers: [Answer; 2],
    /// How long the first of them took.
    pub took: Duration,
    /// How long after the end of the fault the operation succeeded again; `None` if it did not.
    pub recovery: Option<Duration>,
}

impl Outcome {
    /// Whether this is what the caller has to see.
    #[must_use]
    pub fn is_as_expected(&self, cell: Cell) -> bool {
        self.answers == cell.expected() && self.recovery.is_some()
    }
}

/// A caller, and all that it depends on.
struct Scene {
    kms: Kms,
    hand: ManualClock,
    sessions: Sessions,
    operation: Operation,
    context: EncryptionContext,
    message: Vec<u8>,
}

impl Scene {
    /// Brings the cache into a state, while nothing is wrong.
    async fn set(state: State, operation: Operation) -> Result<Self, Box<dyn Error>> {
        let (clock, hand) = Clock::manual();
        let sessions = Sessions::default();
        let principal = |server: &KmsLocal| {
            sessions.renew(server);
            Principal::new(sessions.clone())
        };
        let grace = if state == State::InGrace { GRACE } else { Duration::ZERO };
        let set = |builder: CachingBuilder| builder.max_age(MAX_AGE).serve_stale_for(grace);
        let kms = Kms::start_with(
            principal,
            impatient,
            MaterialsCache::builder().clock(clock).build(),
            set,
        )
        .await?;
        let context = crate::context()?;
        let message = kms.envelope.encrypt(b"x", &context).await?;
        kms.cache.clear();
        let scene = Self { kms, hand, sessions, operation, context, message };
        if state != State::Cold && scene.call().await != Answer::Asked {
            return Err("KMS does not serve, with nothing wrong".into());
        }
        if matches!(state, State::AtExpiry | State::InGrace) {
            scene.hand.advance(MAX_AGE);
        }
        Ok(scene)
    }

    fn begin(&self, fault: Fault) -> Result<(), Box<dyn Error>> {
        let (server, faults) = (&self.kms.server, self.kms.faults());
        match fault {
            Fault::Timeout => faults.latency(LATENCY),
            Fault::Hang => faults.hang(true),
            Fault::Reset => faults.connection_resets(1.0),
            Fault::InternalError => faults.internal_errors(1.0),
            Fault::Throttle => faults.throttle_above(0),
            Fault::AccessDenied => faults.deny_access(true),
            Fault::Disabled => server.disable_key(REGION, self.kms.key())?,
            Fault::ExpiredCredentials => server.expire_sessions(),
        }
        Ok(())
    }

    fn end(&self, fault: Fault) -> Result<(), Box<dyn Error>> {
        match fault {
            Fault::Disabled => self.kms.server.enable_key(REGION, self.kms.key())?,
            Fault::ExpiredCredentials => self.sessions.renew(&self.kms.server),
            _ => self.kms.faults().clear(),
        }
        Ok(())
    }

    async fn call(&self) -> Answer {
        let before = self.kms.cache.stats();
        let (envelope, context) = (&self.kms.envelope, &self.context);
        let outcome = match self.operation {
            Operation::Encrypt => envelope.encrypt(b"x", context).await.map(drop),
            Operation::Decrypt => envelope.decrypt(&self.message, context).await.map(drop),
        };
        match outcome {
            Ok(()) => served(&before, &self.kms.cache.stats()),
            Err(error) => match (error.kms(), &error) {
                (None, _) => Answer::Untyped,
                (Some(kms), envelope::Error::Remembered { .. }) => Answer::Remembered(kms.kind()),
                (Some(kms), _) => Answer::Failed(kms.kind()),
            },
        }
    }

    /// Calls again and again until that succeeds. Nobody sleeps for that, between two calls the
    /// cache's clock is moved on, unless it is the pool that is waited for, which asks a provider
    /// that had nothing new again after a second.
    async fn recovery(&self, fault: Fault) -> Option<Duration> {
        let (started, mut waited) = (Instant::now(), Duration::ZERO);
        while waited < PATIENCE {
            if self.call().await.is_ok() {
                return Some(waited + started.elapsed());
            }
            if fault == Fault::ExpiredCredentials {
                tokio::time::sleep(POLL).await;
            }
            self.hand.advance(POLL);
            waited += POLL;
        }
        None
    }
}

/// Where the data key of a call that succeeded came from.
fn served(before: &CacheStats, after: &CacheStats) -> Answer {
    let grew = |count: fn(&CacheCounts) -> u64| {
        count(&after.encryption) > count(&before.encryption)
            || count(&after.decryption) > count(&before.decryption)
    };
    match (grew(|counts| counts.stale), grew(|counts| counts.hits)) {
        (true, _) => Answer::Stale,
        (false, true) => Answer::Cached,
        (false, false) => Answer::Asked,
    }
}

fn impatient(pool: KmsPoolBuilder) -> KmsPoolBuilder {
    pool.connect_timeout(TIMEOUT)
        .attempt_timeout(TIMEOUT)
        .operation_timeout(TIMEOUT)
        .max_attempts(1)
}

/// Returns the current session. The credentials claim to have expired already, so the pool calls
/// the provider for each request.
#[derive(Debug, Clone, Default)]
struct Sessions(Arc<Mutex<Option<Credentials>>>);

impl Sessions {
    /// From now on it is another session, which the server takes.
    fn renew(&self, server: &KmsLocal) {
        let mut session = server.issue_session(Duration::from_hours(1));
        *session.expiry_mut() = Some(SystemTime::UNIX_EPOCH);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }
}

impl ProvideCredentials for Sessions {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let session = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = session.ok_or_else(|| CredentialsError::not_loaded("there is no session yet"));
        future::ProvideCredentials::ready(answer)
    }
}
