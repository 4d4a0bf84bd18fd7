//! Builds a cache of branch keys.

use std::{sync::Arc, time::Duration};

use super::{
    BranchKeySource,
    cached::{BranchKeys, Inner},
    unknown_versions::UnknownVersions,
};
use crate::{
    background::Background,
    cache::{Cache, failures::Failures, policy::Policy, tenure::Tenure},
    error::Error,
    gate::Gate,
    observer::{Observer, Observers, Operation},
    time::Clock,
};

/// The maximum number of branch keys whose failures are remembered.
const FAILURES: usize = 1_000;

impl BranchKeys {
    /// Creates a cache of the branch keys of `source`, with the default settings of
    /// [`builder`](Self::builder).
    #[must_use]
    pub fn new(source: impl BranchKeySource + 'static) -> Self {
        Self::builder(source).finish()
    }

    /// Returns a builder for a cache of the branch keys of `source`.
    pub fn builder(source: impl BranchKeySource + 'static) -> BranchKeysBuilder {
        let policy = Policy {
            max_age: Duration::from_mins(5),
            check_every: None,
            max_messages: u64::MAX,
            max_bytes: u64::MAX,
            stale: Duration::ZERO,
            refuse_for: Duration::from_secs(1),
            max_backoff: Duration::from_secs(5),
            refresh_ahead: true,
            jitter: fastrand::f64(),
        };
        BranchKeysBuilder {
            source: Arc::new(source),
            policy,
            capacity: 1_000,
            max_loads: 16,
            max_waiting: 1_000,
            max_wait: Duration::from_secs(10),
            clock: Clock::system(),
            observer: None,
        }
    }
}

/// Builds [`BranchKeys`]. Created by [`BranchKeys::builder`].
///
/// # Examples
///
/// A revoked branch key works for at most one minute, and is usually dropped within ten seconds:
///
/// ```
/// use std::time::Duration;
/// use envelope::{DataKey, branch_key::{BranchKeys, StaticBranchKeys}};
///
/// let source = StaticBranchKeys::new()
///     .with_active("tenant-42", [1; 16], DataKey::generate(32)?)?;
/// let keys = BranchKeys::builder(source)
///     .max_age(Duration::from_secs(60))
///     .check_every(Duration::from_secs(10))
///     .build()?;
/// # Ok::<(), envelope::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct BranchKeysBuilder {
    source: Arc<dyn BranchKeySource>,
    policy: Policy,
    capacity: usize,
    max_loads: usize,
    max_waiting: usize,
    max_wait: Duration,
    clock: Clock,
    observer: Option<Arc<dyn Observer>>,
}

impl BranchKeysBuilder {
    /// Sets the maximum age of a branch key, counted from its request. Default: 5 minutes. Allowed:
    /// over zero.
    ///
    /// This is also the longest time that a branch key stays in use after it was revoked or
    /// shredded, and that the previous version encrypts after a rotation.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.policy.max_age = max_age;
        self
    }

    /// Sets how often a branch key in use is requested again in the background. Default: at 70 to
    /// 80 % of [`max_age`](Self::max_age). Allowed: over zero.
    ///
    /// The next use after 90 to 100 % of this time starts the request; the exact point is random
    /// for each process. After a failure it is repeated, with pauses of up to
    /// [`max_backoff`](Self::max_backoff). Each request is one read of the store and one of KMS.
    ///
    /// With a short interval and a long `max_age`, a revocation takes effect soon, and a short
    /// outage harms nobody. Requires the feature `tokio`.
    pub fn check_every(mut self, interval: Duration) -> Self {
        self.policy.check_every = Some(interval);
        self
    }

    /// Sets how long a branch key is used past its `max_age` while its source is unavailable.
    /// Default: zero. Allowed: any.
    ///
    /// A source is unavailable if a request failed by throttling, a timeout, a connection error or
    /// an internal error; a refusal does not count. A revocation takes up to this time longer to
    /// take effect if the source is unavailable meanwhile.
    pub fn serve_stale_for(mut self, duration: Duration) -> Self {
        self.policy.stale = duration;
        self
    }

    /// Sets how long permanent failures are remembered, such as a missing branch key. Default: 1
    /// second. Allowed: any; zero remembers none.
    pub fn remember_failures_for(mut self, duration: Duration) -> Self {
        self.policy.refuse_for = duration;
        self
    }

    /// Sets the maximum pause between requests for one branch key after retryable failures.
    /// Default: 5 seconds. Allowed: any; with zero, each call sends a request.
    pub fn max_backoff(mut self, duration: Duration) -> Self {
        self.policy.max_backoff = duration;
        self
    }

    /// Sets the maximum number of active branch keys, and separately of versions. Default: 1,000.
    /// Allowed: any; zero disables the cache.
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Sets how many branch keys are loaded at once. Default: 16. Allowed: any; zero counts as
    /// one.
    ///
    /// Branch keys take turns. Forged messages may name any version, so first loads of versions
    /// never use all of `max_loads`: those of one branch key leave a quarter free.
    pub fn max_loads(mut self, max_loads: usize) -> Self {
        self.max_loads = max_loads.max(1);
        self
    }

    /// Sets how many loads of one branch key may wait. Default: 1,000. Allowed: any; zero
    /// counts as one. Sixteen times as many loads of all branch keys together may wait.
    pub fn max_waiting(mut self, max_waiting: usize) -> Self {
        self.max_waiting = max_waiting.max(1);
        self
    }

    /// Sets how long a load waits while [`max_loads`](Self::max_loads) others are running. Default:
    /// 10 seconds. Allowed: any. Its callers then get [`Error::Overloaded`]. Requires the feature
    /// `tokio`.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Sets the clock. Default: the system's.
    pub fn clock(mut self, clock: &Clock) -> Self {
        self.clock = clock.clone();
        self
    }

    /// Sets an observer of cache events. Default: none.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Builds the cache.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if `max_age` or `check_every` is zero.
    pub fn build(self) -> Result<BranchKeys, Error> {
        if self.policy.max_age.is_zero() {
            return Err(Error::invalid_setting("max_age", "expected over zero"));
        }
        if self.policy.check_every.is_some_and(|every| every.is_zero()) {
            return Err(Error::invalid_setting("check_every", "expected over zero"));
        }
        Ok(self.finish())
    }

    /// Builds the cache with valid settings.
    fn finish(self) -> BranchKeys {
        let gate = Arc::new(Gate::bounded(self.max_loads, self.max_waiting, self.max_wait));
        let cache = |operation| {
            let observers = Observers::new(operation, self.observer.clone());
            Arc::new(Cache::new(self.capacity, Arc::clone(&gate), observers))
        };
        BranchKeys(Arc::new(Inner {
            active: cache(Operation::ActiveBranchKey),
            versions: cache(Operation::BranchKeyVersion),
            tenure: Tenure::new(self.source.tenure()),
            source: self.source,
            policy: self.policy,
            backoffs: Failures::new(FAILURES),
            unknown: UnknownVersions::new(self.capacity.max(1)),
            clock: self.clock,
            background: Background::default(),
        }))
    }
}
