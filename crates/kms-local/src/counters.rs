//! What a region has been asked, and how it went.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// What a region has counted since it started or since the counters were last reset.
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
    /// For each operation, how many requests ended in each outcome. An outcome is `ok`, the type of
    /// an error, `ConnectionReset`, or `Abandoned` when the caller went away or the server stopped.
    /// Unknown operations count as `Unknown`.
    pub operations: BTreeMap<String, BTreeMap<String, u64>>,
    /// Requests that have arrived and are not answered yet.
    pub in_flight: u64,
    /// The most requests there have been in flight at once.
    pub max_in_flight: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections that are open now. A reset of the counters leaves it as it is.
    pub open_connections: u64,
    /// TLS handshakes completed.
    pub tls_handshakes: u64,
    /// How many TLS handshakes agreed on each key exchange group, such as `X25519MLKEM768`.
    /// Handshakes that resumed a session without a key exchange are under no group.
    pub key_exchange_groups: BTreeMap<String, u64>,
    /// How many requests named each access key id that the server knows.
    pub access_keys: BTreeMap<String, u64>,
    /// The same for each operation by itself: who asked for what.
    pub callers: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Counters {
    /// How many requests for `operation` have ended, however they did.
    pub fn requests(&self, operation: &str) -> u64 {
        self.operations.get(operation).map_or(0, |outcomes| outcomes.values().sum())
    }

    /// How many requests for `operation` were answered without an error.
    pub fn succeeded(&self, operation: &str) -> u64 {
        self.outcomes(operation, OK)
    }

    /// How many requests for `operation` ended in `outcome`, such as `ThrottlingException`.
    pub fn outcomes(&self, operation: &str, outcome: &str) -> u64 {
        self.operations
            .get(operation)
            .and_then(|outcomes| outcomes.get(outcome))
            .copied()
            .unwrap_or_default()
    }

    /// How many requests have ended, for any operation and with any outcome.
    pub fn total(&self) -> u64 {
        self.operations.values().flat_map(BTreeMap::values).sum()
    }
}

/// Outcome of a request that was answered as it wished.
pub(crate) const OK: &str = "ok";
/// Outcome of a request whose connection was reset instead.
pub(crate) const RESET: &str = "ConnectionReset";
const ABANDONED: &str = "Abandoned";

/// The counters while they count. Each is touched for a moment, so one lock serves them all.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    /// By names of our own, so that no caller can make this grow.
    operations: BTreeMap<(&'static str, &'static str), u64>,
    /// Of each access key the operations.
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

/// A request in flight. Counts as abandoned unless it [`end`](Self::end)s.
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
        let (in_flight, open_connections) = (counts.in_flight, counts.open_connections);
        *counts =
            Counts { in_flight, max_in_flight: in_flight, open_connections, ..Counts::default() };
    }

    /// Counts a connection, which is open until the answer is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        let mut counts = self.counts();
        counts.connections += 1;
        counts.open_connections += 1;
        OpenConnection { tally: self.clone() }
    }

    /// Counts a handshake and the group, named by the TLS library, that its keys were exchanged in.
    pub(crate) fn tls_handshake(&self, group: Option<&'static str>) {
        let mut counts = self.counts();
        counts.tls_handshakes += 1;
        if let Some(group) = group {
            *counts.key_exchange_groups.entry(group).or_default() += 1;
        }
    }

    /// Counts a request for `operation` that names an access key. Only for access keys that are
    /// known.
    pub(crate) fn access_key(&self, operation: &'static str, id: &str) {
        let mut counts = self.counts();
        match counts.access_keys.get_mut(id) {
            Some(operations) => *operations.entry(operation).or_default() += 1,
            None => {
                counts.access_keys.insert(id.to_owned(), BTreeMap::from([(operation, 1)]));
            }
        }
    }

    /// Begins a request.
    pub(crate) fn begin(&self, operation: &'static str) -> Visit {
        let mut counts = self.counts();
        counts.in_flight += 1;
        counts.max_in_flight = counts.max_in_flight.max(counts.in_flight);
        Visit { tally: self.clone(), operation, outcome: ABANDONED }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Additions do not panic half-way.
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
    fn a_visit_that_does_not_end_is_abandoned() {
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
    fn a_reset_keeps_what_is_in_flight() {
        let tally = Tally::default();
        let visit = tally.begin("Encrypt");
        tally.begin("Decrypt").end(OK);
        tally.reset();
        assert_eq!(tally.snapshot().max_in_flight, 1);
        visit.end(OK);
        assert_eq!(tally.snapshot().total(), 1);
    }
}
