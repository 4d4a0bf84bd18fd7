//! A generic cache with usage limits and single flight. Knows neither keys nor clocks.

pub(crate) mod entry;
pub(crate) mod flight;
pub(crate) mod limits;
pub(crate) mod store;

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use futures_util::FutureExt;

use self::{
    entry::Entry,
    flight::{Boarding, Flights},
    store::{Key, OwnedKey, Store},
};
use crate::error::Error;

/// Entries, the loads under way for those that are missing, and counts of what happened.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    entries: Store<V>,
    flights: Flights<Result<Arc<Entry<V>>, Error>>,
    counters: Counters,
}

impl<V: Send + Sync + 'static> Cache<V> {
    /// An empty cache of at most `capacity` entries.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: Store::new(capacity), flights: Flights::new(), counters: Counters::default() }
    }

    /// What `take` gets from the entry under `key`; never waits for a load.
    pub(crate) fn find(&self, key: &Key<'_>, take: impl FnOnce(&Entry<V>) -> Option<Arc<V>>) -> Option<Arc<V>> {
        let found = take(&*self.entries.find(key)?);
        if found.is_some() {
            self.counters.hits.fetch_add(1, Relaxed);
        }
        found
    }

    /// What `take` gets from the entry under `key`, which is loaded as often as it takes: a load may be
    /// used up by others who waited for it.
    ///
    /// `take` gets an entry and whose it is. A load that panics is a failure like any other.
    ///
    /// # Errors
    ///
    /// The load's, shared by all who waited for it.
    pub(crate) async fn obtain<L>(
        self: &Arc<Self>,
        key: Key<'_>,
        take: impl Fn(&Entry<V>, Loaded) -> Option<Arc<V>>,
        load: impl Fn() -> (Instant, L),
    ) -> Result<Arc<V>, Error>
    where
        L: Future<Output = Result<Arc<V>, Error>> + Send + 'static,
    {
        let key = key.to_owned();
        let find = || self.find(&key.borrow(), |entry| take(entry, Loaded::ByOthers));
        let mut missed = false;
        loop {
            let (flight, loaded) = match self.flights.board(&key, find, || self.loading(key.clone(), load())) {
                Boarding::Landed(value) => return Ok(value),
                Boarding::Wait { flight, started } => {
                    self.counters.waiting(started, !std::mem::replace(&mut missed, true));
                    (flight, if started { Loaded::ByCaller } else { Loaded::ByOthers })
                }
            };
            let entry = flight.await?;
            if let Some(value) = take(&entry, loaded) {
                return Ok(value);
            }
        }
    }

    /// Tells how the value under `key` served one that waited for it. A value that never served is dropped at
    /// the first failure; one that has is not, or else a bad message could drop what good ones need.
    pub(crate) fn served(&self, key: &Key<'_>, well: bool) {
        if well {
            self.entries.find(key).inspect(|entry| entry.prove());
        } else {
            self.entries.remove_if(key, |entry| !entry.is_proven());
        }
    }

    /// Counts an operation that may not use the cache.
    pub(crate) fn bypass(&self) {
        self.counters.bypasses.fetch_add(1, Relaxed);
    }

    /// Drops every entry.
    pub(crate) fn clear(&self) {
        self.entries.clear();
    }

    /// What happened so far.
    pub(crate) fn counts(&self) -> Counts {
        let Counters { hits, misses, loads, load_failures, coalesced, bypasses } = &self.counters;
        Counts {
            entries: self.entries.len(),
            hits: hits.load(Relaxed),
            misses: misses.load(Relaxed),
            loads: loads.load(Relaxed),
            load_failures: load_failures.load(Relaxed),
            coalesced: coalesced.load(Relaxed),
            bypasses: bypasses.load(Relaxed),
        }
    }

    /// A load that leaves its entry in the cache before it ends.
    fn loading<L>(
        self: &Arc<Self>,
        key: OwnedKey,
        (asked, load): (Instant, L),
    ) -> impl Future<Output = Result<Arc<Entry<V>>, Error>> + Send + use<L, V>
    where
        L: Future<Output = Result<Arc<V>, Error>> + Send,
    {
        let cache = Arc::clone(self);
        async move {
            let outcome = AssertUnwindSafe(load).catch_unwind().await;
            let loaded = outcome.unwrap_or(Err(Error::Panicked)).inspect_err(|_| {
                cache.counters.load_failures.fetch_add(1, Relaxed);
            });
            let entry = Arc::new(Entry::new(loaded?, asked));
            cache.entries.insert(key, Arc::clone(&entry));
            Ok(entry)
        }
    }
}

/// Whose load brought an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// One that the caller began and waited for: as young as it can be, however long that took.
    ByCaller,
    /// Another's.
    ByOthers,
}

/// What happened in one half of a cache since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Entries held now, expired ones that nobody asked for since included.
    pub entries: usize,
    /// Operations served from an entry without waiting.
    pub hits: u64,
    /// Operations that found no usable entry.
    pub misses: u64,
    /// Requests to the underlying materials manager: one `GenerateDataKey` or `Decrypt` each.
    pub loads: u64,
    /// Loads that failed.
    pub load_failures: u64,
    /// Times an operation waited for a load that another had begun.
    pub coalesced: u64,
    /// Operations that may not use the cache: too long for `max_bytes`, of unknown length, or without key
    /// derivation.
    pub bypasses: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    loads: AtomicU64,
    load_failures: AtomicU64,
    coalesced: AtomicU64,
    bypasses: AtomicU64,
}

impl Counters {
    fn waiting(&self, started: bool, first_time: bool) {
        let kind = if started { &self.loads } else { &self.coalesced };
        kind.fetch_add(1, Relaxed);
        self.misses.fetch_add(first_time.into(), Relaxed);
    }
}
