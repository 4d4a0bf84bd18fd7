//! The counters of a pool.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counters of a [`KmsPool`](crate::KmsPool): see [`KmsPool::stats`](crate::KmsPool::stats).
///
/// They are read one after the other, so under load they may differ by a few calls.
///
/// # Examples
///
/// ```no_run
/// # fn example(pool: kms_pool::KmsPool) {
/// let stats = pool.stats();
/// println!("{} of {} connections are open", stats.connections, stats.connections_opened);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Clients in the pool now, one for each region and principal in use.
    pub clients: usize,
    /// Clients built so far. Credential rotations build none.
    pub builds: u64,
    /// Calls that found their client in the pool.
    pub hits: u64,
    /// Calls of credentials providers, for a first client or a refresh.
    pub refreshes: u64,
    /// Calls of credentials providers that failed, panicked or timed out.
    pub failures: u64,
    /// Times that a principal's credentials were replaced by others.
    pub rotations: u64,
    /// Attempts that were sent and have no response yet.
    pub in_flight: u64,
    /// Attempts beyond the first of an operation.
    pub retries: u64,
    /// Attempts that KMS throttled.
    pub throttles: u64,
    /// Attempts not sent because they could not start in time within the budget.
    pub over_budget: u64,
    /// Attempts not sent because the circuit of their client was open.
    pub short_circuited: u64,
    /// Times that a circuit opened.
    pub circuits_opened: u64,
    /// Clients that were dropped because they were not used for a while.
    pub idle_evictions: u64,
    /// Connections that are open now: to KMS, and to the services that credentials come from, such
    /// as STS.
    pub connections: u64,
    /// Connections opened so far, each with its TLS handshake.
    pub connections_opened: u64,
    /// Connections that could not be opened.
    pub connections_failed: u64,
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
    pub(crate) fn snapshot(&self, clients: usize) -> PoolStats {
        // Read before the opened ones, so that the difference is never negative.
        let closed = self.connections_closed.value();
        let opened = self.connections_opened.value();
        PoolStats {
            clients,
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

/// A counter. It orders no other memory access, hence relaxed. It has its own cache line, because
/// many threads increment it.
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
