//! Where entries are stored: bounded in number and bytes, and sharded.
//!
//! Evicts the entries that are used least. Many entries that are used once do not displace those
//! that are used often.

use std::{
    cell::Cell,
    fmt,
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::{ArcSwapOption, Guard};
use quick_cache::{
    DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter,
    sync::{Cache, EntryAction, GuardResult},
};

use super::{
    entry::Entry,
    key::{Key, OwnedKey},
    policy::Bounds,
    telemetry::Telemetry,
};
use crate::{
    observer::{EventKind, MissReason},
    sync::switch_point,
    time::Moment,
};

/// The minimum number of entries of a shard. Keys are assigned to shards at random, so with n
/// entries per shard, the spare room of a quarter is √n/4 standard deviations: with more than five
/// and a half, no shard ever lacks room for an entry that the bounds allow.
const SHARD: usize = 512;
/// The binary logarithm of the maximum number of shards.
const MAX_SHARDS: u32 = 6;
/// The share of a store that is reserved for frequently used entries.
const HOT: f64 = 0.97;

/// The approximate size of an entry in bytes, without its key and its values.
const OVERHEAD: u64 = 512;
/// An entry larger than this part of its shard is not stored, because it would displace too many
/// others.
const MAX_PART: u64 = 8;

/// The maximum number of entries in the front.
const FRONT: usize = 64;
/// The maximum size of an entry in the front, which keeps it in memory after its eviction.
const MAX_FRONT_BYTES: u64 = 16 << 10;

/// A bounded set of entries. An evicted entry drops its values at once, even if it is still in use.
pub(crate) struct Store<V> {
    entries: Cache<OwnedKey, Arc<Entry<V>>, Rules, DefaultHashBuilder, Rules>,
    /// Some frequently used entries, which are found without a lock and without changing their
    /// reference counts, so that threads do not contend for them. Entries whose keys fall on the
    /// same cell replace each other. An entry that has left the store may still be here: it is
    /// retired.
    front: Box<[ArcSwapOption<Entry<V>>]>,
    hasher: DefaultHashBuilder,
    /// How many entries were put in so far.
    created: AtomicU64,
    /// The approximate size of all entries in bytes.
    bytes: Arc<AtomicU64>,
    /// The maximum size of one entry in bytes.
    max_entry_bytes: u64,
}

impl<V> Store<V> {
    /// Returns an empty store.
    ///
    /// It holds up to a quarter more entries than `bounds` say: a large store has shards, to which
    /// keys are assigned at random, and all the entries must find room with near certainty. It
    /// holds fewer if entries exceed their share of the bytes.
    pub(super) fn new(bounds: impl Into<Bounds>, telemetry: Arc<Telemetry>) -> Self {
        let Bounds { entries: capacity, bytes } = bounds.into();
        let shards: usize = 1 << (capacity / SHARD).checked_ilog2().unwrap_or(0).min(MAX_SHARDS);
        let room = if shards == 1 {
            capacity
        } else {
            capacity.saturating_add(capacity / 4) / shards * shards
        };
        let part = bytes.checked_div(room as u64).unwrap_or(0).max(1);
        let weight_capacity = part.saturating_mul(room as u64).min(bytes);
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(room)
            .weight_capacity(weight_capacity)
            // If there is room for only one entry, it may be a hot one.
            .hot_allocation(if room == 1 { 1.0 } else { HOT })
            .build()
            .expect("both capacities are set");
        let hasher = DefaultHashBuilder::default();
        let held = Arc::<AtomicU64>::default();
        let rules = Rules { part, telemetry, bytes: Arc::clone(&held) };
        Self {
            entries: Cache::with_options(options, rules.clone(), hasher.clone(), rules),
            front: (0..capacity.clamp(1, FRONT)).map(|_| ArcSwapOption::empty()).collect(),
            hasher,
            created: AtomicU64::new(0),
            bytes: held,
            max_entry_bytes: (weight_capacity / shards as u64 / MAX_PART).max(part),
        }
    }

    /// Returns the approximate size in bytes of an entry whose values take `values` bytes.
    pub(crate) fn bytes_with(key: &OwnedKey, values: usize) -> u64 {
        OVERHEAD + size_of::<Entry<V>>() as u64 + (key.len() + values) as u64
    }

    /// Returns whether an entry of this size is stored.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        bytes <= self.max_entry_bytes
    }

    /// Returns the entry under `key`.
    pub(crate) fn find(&self, key: &Key<'_>) -> Option<Arc<Entry<V>>> {
        switch_point();
        self.entries.get(key)
    }

    /// Returns the entry under `key`, if it is in the front.
    #[inline]
    pub(crate) fn find_in_front(&self, key: &Key<'_>) -> Option<Guard<Option<Arc<Entry<V>>>>> {
        let entry = self.cell(key).load();
        entry.as_ref().is_some_and(|entry| entry.key() == *key).then_some(entry)
    }

    /// Puts an entry in the front, unless it is large.
    pub(crate) fn put_in_front(&self, entry: Arc<Entry<V>>) {
        if entry.bytes() <= MAX_FRONT_BYTES {
            self.cell(&entry.key()).store(Some(entry));
        }
    }

    fn cell(&self, key: &Key<'_>) -> &ArcSwapOption<Entry<V>> {
        // Scales the hash to the number of cells: a multiplication is faster than a division.
        let scaled = u128::from(self.hasher.hash_one(key)) * self.front.len() as u128;
        &self.front[usize::try_from(scaled >> 64).expect("less than the number of cells")]
    }

    /// Returns the entry under `key`, created with this size if it does not exist.
    pub(crate) fn entry(
        &self,
        key: &OwnedKey,
        bytes: u64,
        now: Moment,
        evicted: &mut Evicted,
    ) -> Arc<Entry<V>> {
        switch_point();
        let entry = match self.entries.get_value_or_guard(key, None) {
            GuardResult::Value(entry) => entry,
            GuardResult::Guard(guard) => {
                self.created.fetch_add(1, Relaxed);
                self.bytes.fetch_add(bytes, Relaxed);
                let entry = Arc::new(Entry::empty(key.clone(), bytes, now));
                if guard.insert_with_lifecycle(Arc::clone(&entry), evicted).is_err() {
                    // Another thread removed it before it was inserted.
                    entry.retire();
                    self.left(&entry);
                }
                entry
            }
            GuardResult::Timeout => unreachable!("it waits without a timeout"),
        };
        if entry.bytes() < bytes {
            // No other thread can find the entry while this closure runs.
            let grown = self.entries.entry(key, None, |_, entry| {
                self.bytes.fetch_add(entry.grow(bytes), Relaxed);
                EntryAction::Retain(())
            });
            drop(grown);
        }
        entry
    }

    /// Evicts entries until the bounds hold again after an entry has grown.
    ///
    /// Reports them, so no lock may be held.
    pub(crate) fn trim(&self) {
        let capacity = self.entries.capacity();
        if self.entries.weight() > capacity {
            self.entries.set_capacity(capacity);
        }
    }

    /// Records that an entry was removed.
    fn left(&self, entry: &Entry<V>) {
        self.bytes.fetch_sub(entry.bytes(), Relaxed);
    }

    /// Returns the approximate size of all entries in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Puts a retired entry back in its place, with the values of the entry that has replaced it.
    ///
    /// Must not be called concurrently.
    pub(crate) fn put_back(&self, entry: &Arc<Entry<V>>, evicted: &mut Evicted) {
        // Taken out first: an entry that another one replaces counts as evicted, and is retired.
        let there = self
            .entries
            .remove(&entry.key())
            .map(|(_, there)| there)
            .inspect(|there| self.left(there))
            .filter(|it| !Arc::ptr_eq(it, entry));
        switch_point();
        if let Some(there) = &there {
            entry.grow(there.bytes());
        }
        self.bytes.fetch_add(entry.bytes(), Relaxed);
        entry.revive(there.as_deref());
        self.created.fetch_add(1, Relaxed);
        let key = entry.owned_key().clone();
        self.entries.insert_with_lifecycle(key, Arc::clone(entry), evicted);
        if let Some(there) = there {
            there.retire();
        }
    }

    /// Removes the entries that `doomed` selects, and returns how many.
    ///
    /// A value that is in use lives until its last user drops it.
    pub(crate) fn remove_where(&self, doomed: impl Fn(&Entry<V>) -> bool) -> u64 {
        switch_point();
        let removed = Cell::new(0);
        self.entries.retain(|_, entry| {
            let is_doomed = doomed(entry);
            if is_doomed {
                entry.retire();
                self.left(entry);
                removed.set(removed.get() + 1);
            }
            !is_doomed
        });
        if removed.get() > 0 {
            // Keep nothing of them in memory.
            self.front.iter().for_each(|cell| {
                if cell.load().as_deref().is_some_and(Entry::is_retired) {
                    cell.store(None);
                }
            });
        }
        removed.get()
    }

    /// Removes the entry under `key`, and returns whether there was one.
    pub(crate) fn remove(&self, key: &Key<'_>) -> bool {
        switch_point();
        let removed = self.entries.remove_if(key, |entry| {
            // Retire it while other threads can still find it: a concurrent clear must not miss it.
            entry.retire();
            self.left(entry);
            true
        });
        let cell = self.cell(key);
        if removed.is_some() && cell.load().as_deref().is_some_and(Entry::is_retired) {
            cell.store(None);
        }
        removed.is_some()
    }

    /// Counts a use of an entry that was not looked up here.
    ///
    /// Once after each new entry is enough, since only new entries need room.
    #[inline]
    pub(crate) fn touch(&self, entry: &Entry<V>) {
        if entry.touch(self.created.load(Relaxed)) {
            let _ = self.entries.get(&entry.key());
        }
    }

    /// Returns all entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Arc<Entry<V>>> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl<V> fmt::Debug for Store<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// How much an entry weighs, and what happens when it is evicted.
#[derive(Debug, Clone)]
struct Rules {
    /// Each entry's share of the bytes, and its minimum weight: this enforces both bounds.
    part: u64,
    telemetry: Arc<Telemetry>,
    bytes: Arc<AtomicU64>,
}

impl<V> Weighter<OwnedKey, Arc<Entry<V>>> for Rules {
    fn weight(&self, _: &OwnedKey, entry: &Arc<Entry<V>>) -> u64 {
        entry.bytes().max(self.part)
    }
}

impl<V> Lifecycle<OwnedKey, Arc<Entry<V>>> for Rules {
    type RequestState = Evicted;

    /// Called while a shard is locked.
    fn on_evict(&self, evicted: &mut Evicted, key: OwnedKey, entry: Arc<Entry<V>>) {
        entry.retire();
        self.bytes.fetch_sub(entry.bytes(), Relaxed);
        evicted.add(&self.telemetry, key);
    }
}

/// Entries that were evicted, which are reported when this is dropped.
///
/// Observers may use the cache, so this must be created before a lock is taken, or be dropped after
/// it is released.
#[derive(Default)]
pub(crate) struct Evicted {
    telemetry: Option<Arc<Telemetry>>,
    keys: Vec<OwnedKey>,
}

impl Evicted {
    /// Adds the entry under `key`.
    pub(super) fn add(&mut self, telemetry: &Arc<Telemetry>, key: OwnedKey) {
        telemetry.left(&key.borrow(), MissReason::Evicted);
        self.telemetry.get_or_insert_with(|| Arc::clone(telemetry));
        self.keys.push(key);
    }
}

impl Drop for Evicted {
    fn drop(&mut self) {
        if let Some(telemetry) = &self.telemetry {
            for key in &self.keys {
                telemetry.report(&key.borrow(), EventKind::Evicted);
            }
        }
    }
}

#[cfg(test)]
mod tests;
