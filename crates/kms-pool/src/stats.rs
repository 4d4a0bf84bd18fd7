//! What a pool holds and has done so far, in numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::request::CircuitState;

/// A snapshot of what a [`KmsPool`](crate::KmsPool) holds and has done since it was built.
///
/// The counters are read one after the other, so under load they may be a few calls apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Slots held now, one for each region and principal in use; each has its KMS client.
    pub slots: usize,
    /// KMS clients built: one for each slot, and none for a rotation of credentials.
    pub builds: u64,
    /// Calls answered at once, with a client that was there already.
    pub hits: u64,
    /// Calls of credentials providers, for a first client or to refresh credentials.
    pub refreshes: u64,
    /// Times a credentials provider failed, panicked or ran out of time.
    pub failures: u64,
    /// Times the credentials of a principal were replaced by others.
    pub rotations: u64,
    /// Requests sent and without a response so far.
    pub in_flight: u64,
    /// Attempts beyond the first of an operation.
    pub retries: u64,
    /// Attempts that KMS throttled.
    pub throttles: u64,
    /// Attempts not sent because they could not start in time within the budget.
    pub over_budget: u64,
    /// Attempts not sent because the circuit of their slot was open.
    pub short_circuited: u64,
    /// Times that a circuit opened.
    pub circuits_opened: u64,
    /// Slots that were dropped because they were not used for a while.
    pub idle_evictions: u64,
    /// Connections that are open now: to KMS, and to the services that credentials come from, such
    /// as STS.
    pub connections: u64,
    /// Connections opened so far, each with its TLS handshake.
    pub connections_opened: u64,
    /// Connections that could not be opened.
    pub connections_failed: u64,
}

/// One slot of a [`KmsPool`](crate::KmsPool): a region and a principal.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SlotStats {
    /// The region.
    pub region: Arc<str>,
    /// The principal's label, if it has one.
    pub principal: Option<Arc<str>>,
    /// The number of the credential generation in use, counted from 1.
    pub generation: u64,
    /// How long this generation has been in use.
    pub generation_age: Duration,
    /// The remaining lifetime of the credentials; `None` if they do not expire, zero if they have
    /// expired.
    pub credentials_left: Option<Duration>,
    /// The state of the slot's circuit.
    pub circuit: CircuitState,
    /// Requests per second that the account's budget allows in the region, learnt or set; `None` if
    /// unlimited.
    pub requests_per_second: Option<f64>,
}

/// The live counters behind [`PoolStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) builds: Counter,
    pub(crate) hits: Counter,
    pub(crate) refreshes: Counter,
    pub(crate) failures: Counter,
    pub(crate) rotations: Counter,
    pub(crate) in_flight: Counter,
    /// Operations, from before their first attempt until after their last.
    pub(crate) operations: Counter,
    pub(crate) retries: Counter,
    pub(crate) throttles: Counter,
    pub(crate) over_budget: Counter,
    pub(crate) short_circuited: Counter,
    pub(crate) circuits_opened: Counter,
    pub(crate) idle_evictions: Counter,
    pub(crate) connections_opened: Counter,
    pub(crate) connections_closed: Counter,
    pub(crate) connections_failed: Counter,
}

impl Counters {
    pub(crate) fn snapshot(&self, slots: usize) -> PoolStats {
        // Closed before opened, so that the difference is never negative.
        let closed = self.connections_closed.value();
        let opened = self.connections_opened.value();
        PoolStats {
            slots,
            builds: self.builds.value(),
            hits: self.hits.value(),
            refreshes: self.refreshes.value(),
            failures: self.failures.value(),
            rotations: self.rotations.value(),
            in_flight: self.in_flight.value(),
            retries: self.retries.value(),
            throttles: self.throttles.value(),
            over_budget: self.over_budget.value(),
            short_circuited: self.short_circuited.value(),
            circuits_opened: self.circuits_opened.value(),
            idle_evictions: self.idle_evictions.value(),
            connections: opened.saturating_sub(closed),
            connections_opened: opened,
            connections_failed: self.connections_failed.value(),
        }
    }
}

/// A count that orders nothing else, hence relaxed. On its own cache line, because many threads add
/// to each.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn decrement(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
