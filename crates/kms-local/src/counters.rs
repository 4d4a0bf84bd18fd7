//! Counters of requests, their outcomes, and connections.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// Counts of requests and connections since the start, or since the last reset of the counters.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let kms = kms_local::KmsLocal::builder().start().await?;
/// let counters = kms.counters("us-east-1");
/// assert_eq!(counters.requests("GenerateDataKey"), 0);
/// assert_eq!(counters.connections, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// For each operation, the number of requests with each outcome. An outcome is `ok`, an error
    /// type, `ConnectionReset`, or `Abandoned` if the caller disconnected or the server stopped.
    /// Unknown operations count as `Unknown`.
    pub operations: BTreeMap<String, BTreeMap<String, u64>>,
    /// Requests without a response yet.
    pub in_flight: u64,
    /// The maximum of `in_flight`.
    pub max_in_flight: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections that are open now. A reset of the counters does not change it.
    pub open_connections: u64,
    /// TLS handshakes completed.
    pub tls_handshakes: u64,
    /// TLS handshakes by key exchange group, such as `X25519MLKEM768`. Handshakes that resume a
    /// session without a key exchange are not counted.
    pub key_exchange_groups: BTreeMap<String, u64>,
    /// Requests by access key id, for access keys that the server knows.
    pub access_keys: BTreeMap<String, u64>,
    /// For each operation, requests by access key id.
    pub callers: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Counters {
    /// Returns the number of requests for `operation` that have ended, with any outcome.
    pub fn requests(&self, operation: &str) -> u64 {
        self.operations.get(operation).map_or(0, |outcomes| outcomes.values().sum())
    }

    /// Returns the number of requests for `operation` that succeeded.
    pub fn succeeded(&self, operation: &str) -> u64 {
        self.outcomes(operation, OK)
    }

    /// Returns the number of requests for `operation` with this outcome, such as
    /// `ThrottlingException`.
    pub fn outcomes(&self, operation: &str, outcome: &str) -> u64 {
        self.operations
            .get(operation)
            .and_then(|outcomes| outcomes.get(outcome))
            .copied()
            .unwrap_or_default()
    }

    /// Returns the number of requests that have ended, for any operation and with any outcome.
    pub fn total(&self) -> u64 {
        self.operations.values().flat_map(BTreeMap::values).sum()
    }
}

/// The outcome of a request that succeeded.
pub(crate) const OK: &str = "ok";
/// The outcome of a request whose connection was reset.
pub(crate) const RESET: &str = "ConnectionReset";
const ABANDONED: &str = "Abandoned";

/// The running counters. The lock is only held for a moment, so they share one.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    /// The names are constants, so callers cannot make this map grow.
    operations: BTreeMap<(&'static str, &'static str), u64>,
    /// By access key id, then by operation.
    access_keys: BTreeMap<String, BTreeMap<&'static str, u64>>,
    in_flight: u64,
    max_in_flight: u64,
    connections: u64,
    open_connections: u64,
    tls_handshakes: u64,
    key_exchange_groups: BTreeMap<&'static str, u64>,
}

/// A connection that is open until this is dropped.
pub(crate) struct OpenConnection {
    tally: Tally,
}

/// A request in flight. Its outcome is `Abandoned` unless [`end`](Self::end) is called.
pub(crate) struct Visit {
    tally: Tally,
    operation: &'static str,
    outcome: &'static str,
}

impl Tally {
    pub(crate) fn snapshot(&self) -> Counters {
        let counts = self.counts();
        let mut operations: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for ((operation, outcome), count) in &counts.operations {
            let outcomes = operations.entry((*operation).to_owned()).or_default();
            outcomes.insert((*outcome).to_owned(), *count);
        }
        let mut callers: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (id, operations) in &counts.access_keys {
            for (operation, count) in operations {
                callers.entry((*operation).to_owned()).or_default().insert(id.clone(), *count);
            }
        }
        Counters {
            operations,
            in_flight: counts.in_flight,
            max_in_flight: counts.max_in_flight,
            connections: counts.connections,
            open_connections: counts.open_connections,
            tls_handshakes: counts.tls_handshakes,
            key_exchange_groups: counts
                .key_exchange_groups
                .iter()
                .map(|(&group, n)| (group.to_owned(), *n))
                .collect(),
            access_keys: counts
                .access_keys
                .iter()
                .map(|(id, by)| (id.clone(), by.values().sum()))
                .collect(),
            callers,
        }
    }

    /// Resets all counters except requests in flight and open connections.
    pub(crate) fn reset(&self) {
        let mut counts = self.counts();
        let in_flight = counts.in_flight;
        let open_connections = counts.open_connections;
        *counts =
            Counts { in_flight, max_in_flight: in_flight, open_connections, ..Counts::default() };
    }

    /// Counts a connection. It counts as open until the returned value is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        let mut counts = self.counts();
        counts.connections += 1;
        counts.open_connections += 1;
        OpenConnection { tally: self.clone() }
    }

    /// Counts a handshake and its key exchange group, as the TLS library names it.
    pub(crate) fn tls_handshake(&self, group: Option<&'static str>) {
        let mut counts = self.counts();
        counts.tls_handshakes += 1;
        if let Some(group) = group {
            *counts.key_exchange_groups.entry(group).or_default() += 1;
        }
    }

    /// Counts a request for `operation` under an access key. Call it only for known access keys, so
    /// that callers cannot make the map grow.
    pub(crate) fn access_key(&self, operation: &'static str, id: &str) {
        let mut counts = self.counts();
        match counts.access_keys.get_mut(id) {
            Some(operations) => *operations.entry(operation).or_default() += 1,
            None => {
                counts.access_keys.insert(id.to_owned(), BTreeMap::from([(operation, 1)]));
            }
        }
    }

    /// Counts a request as in flight until the returned value is dropped.
    pub(crate) fn begin(&self, operation: &'static str) -> Visit {
        let mut counts = self.counts();
        counts.in_flight += 1;
        counts.max_in_flight = counts.max_in_flight.max(counts.in_flight);
        Visit { tally: self.clone(), operation, outcome: ABANDONED }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A panic cannot interrupt an addition.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visit {
    /// Ends the request with `outcome`.
    pub(crate) fn end(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.tally.counts().open_connections -= 1;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut counts = self.tally.counts();
        counts.in_flight -= 1;
        *counts.operations.entry((self.operation, self.outcome)).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_without_an_end_is_abandoned() {
        let tally = Tally::default();
        let first = tally.begin("Encrypt");
        let second = tally.begin("Encrypt");
        assert_eq!(tally.snapshot().in_flight, 2);
        first.end(OK);
        drop(second);
        let counters = tally.snapshot();
        assert_eq!(counters.requests("Encrypt"), 2);
        assert_eq!(counters.succeeded("Encrypt"), 1);
        assert_eq!(counters.outcomes("Encrypt", "Abandoned"), 1);
        assert_eq!((counters.in_flight, counters.max_in_flight), (0, 2));
    }

    #[test]
    fn a_connection_is_open_until_it_is_dropped() {
        let tally = Tally::default();
        let first = tally.connection();
        drop(tally.connection());
        tally.tls_handshake(Some("X25519"));
        tally.tls_handshake(None);
        let counters = tally.snapshot();
        assert_eq!((counters.connections, counters.open_connections), (2, 1));
        assert_eq!((counters.tls_handshakes, counters.key_exchange_groups["X25519"]), (2, 1));
        tally.reset();
        assert_eq!(tally.snapshot(), Counters { open_connections: 1, ..Counters::default() });
        drop(first);
        assert_eq!(tally.snapshot(), Counters::default());
    }

    #[test]
    fn a_reset_keeps_requests_in_flight() {
        let tally = Tally::default();
        let visit = tally.begin("Encrypt");
        tally.begin("Decrypt").end(OK);
        tally.reset();
        assert_eq!(tally.snapshot().max_in_flight, 1);
        visit.end(OK);
        assert_eq!(tally.snapshot().total(), 1);
    }
}
