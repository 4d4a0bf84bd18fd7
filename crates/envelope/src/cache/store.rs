//! Where entries are kept: bounded, concurrent, with an eviction that a scan does not flush.

use std::{
    cell::Cell,
    convert::Infallible,
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use quick_cache::{
    DefaultHashBuilder, Equivalent, Lifecycle, OptionsBuilder, Weighter,
    sync::{Cache, EntryAction},
};

use super::{sight::Sight, slot::Slot, sync::turn};
use crate::{context::ContextKeys, time::Moment};

/// What an entry is found by: everything that the materials depend on, byte for byte
/// (specification: `framework/caching-cmm.md#appendix-a-cache-entry-identifier-formulas`, without
/// the hash: equal bytes, not equal digests, decide). Nothing in it is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key<'a> {
    pub(crate) partition: &'a str,
    pub(crate) suite_id: u16,
    /// The encryption context's canonical serialization.
    pub(crate) encryption_context: &'a [u8],
    /// The same of the part of it that the message does not store.
    pub(crate) required_context: &'a [u8],
    /// The serialized encrypted data keys; empty for encryption.
    pub(crate) encrypted_data_keys: &'a [u8],
}

impl Key<'_> {
    /// The same key, independent of what it was made from.
    pub(crate) fn to_owned(self) -> OwnedKey {
        OwnedKey {
            partition: self.partition.into(),
            suite_id: self.suite_id,
            encryption_context: self.encryption_context.into(),
            required_context: self.required_context.into(),
            encrypted_data_keys: self.encrypted_data_keys.into(),
        }
    }
}

impl Equivalent<OwnedKey> for Key<'_> {
    fn equivalent(&self, other: &OwnedKey) -> bool {
        *self == other.borrow()
    }
}

/// A [`Key`] that the cache holds. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct OwnedKey {
    partition: Arc<str>,
    suite_id: u16,
    encryption_context: Arc<[u8]>,
    required_context: Arc<[u8]>,
    encrypted_data_keys: Arc<[u8]>,
}

impl OwnedKey {
    /// The key as it is looked up.
    pub(crate) fn borrow(&self) -> Key<'_> {
        Key {
            partition: &self.partition,
            suite_id: self.suite_id,
            encryption_context: &self.encryption_context,
            required_context: &self.required_context,
            encrypted_data_keys: &self.encrypted_data_keys,
        }
    }
}

/// The keys of the encryption context, not their values.
impl fmt::Debug for OwnedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context_keys = ContextKeys::of_serialized(&self.encryption_context);
        f.debug_struct("OwnedKey").field("context_keys", &context_keys).finish_non_exhaustive()
    }
}

impl PartialEq for OwnedKey {
    fn eq(&self, other: &Self) -> bool {
        self.borrow() == other.borrow()
    }
}

impl Eq for OwnedKey {}

impl Hash for OwnedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrow().hash(state);
    }
}

/// A slot, and the key it is at.
#[derive(Debug)]
pub(crate) struct Place<V> {
    key: OwnedKey,
    slot: Slot<V>,
    /// How many slots had been made when it was last noted that this one is in use.
    touched: AtomicU64,
    /// The approximate size in bytes. Changed only while nobody else can see the slot in a store.
    bytes: AtomicU64,
}

impl<V> Place<V> {
    fn new(key: OwnedKey, bytes: u64, now: Moment) -> Self {
        let (touched, bytes) = (AtomicU64::new(0), AtomicU64::new(bytes));
        Self { key, slot: Slot::empty(now), touched, bytes }
    }

    /// The approximate size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The key it is at.
    pub(crate) fn key(&self) -> Key<'_> {
        self.key.borrow()
    }
}

impl<V> Deref for Place<V> {
    type Target = Slot<V>;

    fn deref(&self) -> &Slot<V> {
        &self.slot
    }
}

/// How many slots a shard has, at the least. Keys are spread over shards by chance, so that with n
/// slots to a shard, its quarter of spare room is √n/4 standard deviations: from five and a half
/// on, none that should find room ever lacks it.
const SHARD: usize = 512;
/// The binary logarithm of the most shards.
const MOST_SHARDS: u32 = 6;
/// The share of a store that is reserved for frequently used entries.
const HOT: f64 = 0.97;

/// The default limit of a store in bytes: the minimum, and the number per entry.
const BYTES: (u64, u64) = (16 << 20, 4 << 10);
/// The approximate size of an entry in bytes, without its key and its values.
const OVERHEAD: u64 = 512;
/// An entry larger than one over this part of its shard is not kept, because it would displace too
/// many others.
const LARGEST_PART: u64 = 8;

/// The bounds of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) entries: usize,
    pub(crate) bytes: u64,
}

/// This many entries, and the default number of bytes for them.
impl From<usize> for Bounds {
    fn from(entries: usize) -> Self {
        let (least, each) = BYTES;
        Self { entries, bytes: (entries as u64).saturating_mul(each).max(least) }
    }
}

/// A bounded set of slots. An evicted slot is emptied at once, even if it is still in use.
#[derive(Debug)]
pub(crate) struct Store<V> {
    slots: Cache<OwnedKey, Arc<Place<V>>, Weights, DefaultHashBuilder, Evictions>,
    /// How many slots were put in so far.
    made: AtomicU64,
    /// The approximate size of all slots in bytes.
    bytes: Arc<AtomicU64>,
    /// The maximum size of one slot in bytes.
    largest: u64,
}

impl<V> Store<V> {
    /// A store for this many slots, and up to a quarter more: a large store has shards, to which
    /// keys are assigned at random, and all the slots must find room with near certainty. If slots
    /// exceed their share of the bytes, it holds fewer.
    pub(super) fn new(bounds: impl Into<Bounds>, sight: Arc<Sight>) -> Self {
        let Bounds { entries: capacity, bytes } = bounds.into();
        let shards: usize = 1 << (capacity / SHARD).checked_ilog2().unwrap_or(0).min(MOST_SHARDS);
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
            // If there is room for only one slot, it may be a hot one.
            .hot_allocation(if room == 1 { 1.0 } else { HOT })
            .build()
            .expect("both capacities are there");
        let hasher = DefaultHashBuilder::default();
        let held = Arc::<AtomicU64>::default();
        let evictions = Evictions { sight, bytes: Arc::clone(&held) };
        let slots = Cache::with_options(options, Weights { part }, hasher, evictions);
        let largest = (weight_capacity / shards as u64 / LARGEST_PART).max(part);
        Self { slots, made: AtomicU64::new(0), bytes: held, largest }
    }

    /// The approximate size in bytes of a slot whose values take `values` bytes.
    pub(crate) fn bytes_with(key: &OwnedKey, values: usize) -> u64 {
        let Key {
            partition,
            suite_id: _,
            encryption_context,
            required_context,
            encrypted_data_keys,
        } = key.borrow();
        let parts = [encryption_context, required_context, encrypted_data_keys].map(<[u8]>::len);
        let key = partition.len() + parts.iter().sum::<usize>();
        OVERHEAD + size_of::<Place<V>>() as u64 + (key + values) as u64
    }

    /// Whether a slot of this size is kept.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        bytes <= self.largest
    }

    /// The slot under `key`.
    pub(crate) fn find(&self, key: &Key<'_>) -> Option<Arc<Place<V>>> {
        turn();
        self.slots.get(key)
    }

    /// The slot under `key`, created with this size if it does not exist.
    pub(crate) fn slot(&self, key: &OwnedKey, bytes: u64, now: Moment) -> Arc<Place<V>> {
        turn();
        let make = || {
            self.made.fetch_add(1, Relaxed);
            self.bytes.fetch_add(bytes, Relaxed);
            Ok::<_, Infallible>(Arc::new(Place::new(key.clone(), bytes, now)))
        };
        let place = self.slots.get_or_insert_with(key, make).unwrap_or_else(|never| match never {});
        if place.bytes() < bytes {
            self.grow(key, bytes);
        }
        place
    }

    /// Grows the slot under `key` to this size.
    fn grow(&self, key: &OwnedKey, bytes: u64) {
        // Nobody else can see the slot inside this closure.
        let grown = self.slots.entry(key, None, |_, place| {
            let before = place.bytes.fetch_max(bytes, Relaxed);
            self.bytes.fetch_add(bytes.saturating_sub(before), Relaxed);
            EntryAction::Retain(())
        });
        drop(grown);
        let capacity = self.slots.capacity();
        if self.slots.weight() > capacity {
            self.slots.set_capacity(capacity);
        }
    }

    /// Records that a slot was removed.
    fn left(&self, place: &Place<V>) {
        self.bytes.fetch_sub(place.bytes(), Relaxed);
    }

    /// The approximate size of all slots in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Puts a retired slot back in its place, with its current content. Must not be called
    /// concurrently.
    pub(crate) fn put_back(&self, place: &Arc<Place<V>>) {
        // Taken out first: a slot that another one replaces counts as evicted, and is retired.
        let there = self
            .slots
            .remove(&place.key())
            .map(|(_, there)| there)
            .inspect(|there| self.left(there))
            .filter(|it| !Arc::ptr_eq(it, place));
        turn();
        if let Some(there) = &there {
            place.bytes.fetch_max(there.bytes(), Relaxed);
        }
        self.bytes.fetch_add(place.bytes(), Relaxed);
        place.succeed(there.as_ref().map(|there| &there.slot));
        self.made.fetch_add(1, Relaxed);
        self.slots.insert(place.key.clone(), Arc::clone(place));
        if let Some(there) = there {
            there.retire();
        }
    }

    /// Drops the slots that `doomed` picks, and tells how many. Values still in use live until
    /// their last user drops them.
    pub(crate) fn remove_where(&self, doomed: impl Fn(&OwnedKey, &Slot<V>) -> bool) -> u64 {
        turn();
        let removed = Cell::new(0);
        self.slots.retain(|key, slot| {
            let goes = doomed(key, slot);
            if goes {
                slot.retire();
                self.left(slot);
                removed.set(removed.get() + 1);
            }
            !goes
        });
        removed.get()
    }

    /// Drops the slot under `key` if it is `unwanted`, and tells whether it was.
    pub(crate) fn remove_if(&self, key: &Key<'_>, unwanted: impl FnOnce(&Slot<V>) -> bool) -> bool {
        turn();
        let removed = self.slots.remove_if(key, |slot| {
            let goes = unwanted(slot);
            if goes {
                // Before it becomes unreachable: a concurrent clear must not miss it.
                slot.retire();
                self.left(slot);
            }
            goes
        });
        removed.is_some()
    }

    /// Notes that a slot was used without having been looked up: once after each new one, since
    /// those alone need room.
    #[inline]
    pub(crate) fn touch(&self, place: &Place<V>) {
        let made = self.made.load(Relaxed);
        if place.touched.load(Relaxed) != made {
            place.touched.store(made, Relaxed);
            let _ = self.slots.get(&place.key());
        }
    }

    /// All the slots there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Arc<Place<V>>> {
        self.slots.iter().map(|(_, slot)| slot)
    }

    /// How many slots there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

/// The weight of a slot: its bytes, but at least the share of one entry. This enforces both bounds.
#[derive(Debug, Clone)]
struct Weights {
    part: u64,
}

impl<V> Weighter<OwnedKey, Arc<Place<V>>> for Weights {
    fn weight(&self, _: &OwnedKey, place: &Arc<Place<V>>) -> u64 {
        place.bytes().max(self.part)
    }
}

/// Empties the slots that make room for others, and tells of them.
#[derive(Debug, Clone)]
struct Evictions {
    sight: Arc<Sight>,
    bytes: Arc<AtomicU64>,
}

impl<V> Lifecycle<OwnedKey, Arc<Place<V>>> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), key: OwnedKey, place: Arc<Place<V>>) {
        place.retire();
        self.bytes.fetch_sub(place.bytes(), Relaxed);
        self.sight.evicted(&key.borrow());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Mutex, Weak},
        time::Duration,
    };

    use super::*;
    use crate::{
        cache::{entry::Entry, policy::tests::policy},
        observer::Operation,
        time::Clock,
    };

    fn key<'a>(partition: &'a str, context: &'a [u8], keys: &'a [u8]) -> Key<'a> {
        Key {
            partition,
            suite_id: 1,
            encryption_context: context,
            required_context: b"",
            encrypted_data_keys: keys,
        }
    }

    fn now() -> Moment {
        Clock::system().now()
    }

    fn store(capacity: usize) -> (Store<u8>, Arc<Sight>) {
        let sight = Arc::new(Sight::new(capacity, Operation::Encryption, None));
        (Store::new(capacity, Arc::clone(&sight)), sight)
    }

    #[test]
    fn parts_do_not_run_together() {
        let (store, now) = (store(10).0, Clock::system().now());
        store.slot(&key("p", b"ab", b"c").to_owned(), 1, now);
        assert!(store.find(&key("p", b"ab", b"c")).is_some());
        assert!(store.find(&key("p", b"a", b"bc")).is_none());
        assert!(store.find(&key("pa", b"b", b"c")).is_none());
    }

    #[test]
    fn the_capacity_holds() {
        let ((store, sight), now) = (store(50), Clock::system().now());
        for number in 0..1_000u32 {
            store.slot(&key("p", &number.to_be_bytes(), b"").to_owned(), 1, now);
        }
        assert!((1..=50).contains(&store.len()), "{}", store.len());
        assert_eq!(sight.counts(0, 0).evictions + store.len() as u64, 1_000);
    }

    #[test]
    fn as_many_as_the_capacity_find_room() {
        for capacity in [1, 100, 511, 512, 1_000, 1_024, 10_000, 50_000] {
            let ((store, _), now) = (store(capacity), Clock::system().now());
            for number in 0..capacity {
                store.slot(&key("p", &number.to_be_bytes(), b"").to_owned(), 1, now);
            }
            assert_eq!(store.len(), capacity);
            for number in capacity..3 * capacity {
                store.slot(&key("p", &number.to_be_bytes(), b"").to_owned(), 1, now);
            }
            assert!(store.len() <= capacity + capacity / 4, "{} of {capacity}", store.len());
        }
    }

    /// Large entries reduce the number of entries, and too large ones are not kept.
    #[test]
    fn the_bound_on_bytes_holds() {
        for (entries, bytes) in [(50, 10_000), (1_000_000, 10_000), (2_000, 400_000)] {
            let sight = Arc::new(Sight::new(entries, Operation::Encryption, None));
            let (store, now) = (Store::<u8>::new(Bounds { entries, bytes }, sight), now());
            let (mut random, mut most) = (fastrand::Rng::with_seed(1), 0);
            for number in 0..20_000u32 {
                let key = key("p", &random.u32(..5_000).to_be_bytes(), b"").to_owned();
                let size = u64::from(number % 500);
                if store.has_room_for(size) {
                    store.slot(&key, size, now);
                }
                if number % 7 == 0 {
                    store.remove_if(&key.borrow(), |_| true);
                }
                most = most.max(store.bytes());
            }
            let held: u64 = store.iter().map(|place| place.bytes()).sum();
            assert_eq!(store.bytes(), held);
            assert!(most <= bytes && most > bytes / 8, "{most} of {bytes} bytes");
            assert!(!store.has_room_for(bytes / 4));
            store.remove_where(|_, _| true);
            assert_eq!((store.bytes(), store.len()), (0, 0));
        }
    }

    /// Large entries that are used once do not displace small ones that are used often.
    #[test]
    fn large_entries_used_once_do_not_displace_small_used_ones() {
        for entries in [1_000, 10_000] {
            let (store, now) = (store(entries).0, now());
            let small = |number: u32| key("p", &number.to_be_bytes(), b"").to_owned();
            let used = u32::try_from(entries / 2).unwrap();
            (0..used).for_each(|number| drop(store.slot(&small(number), 1_500, now)));
            (0..used).for_each(|number| drop(store.find(&small(number).borrow())));
            let large = store.largest;
            for number in 0..1_000_u32 {
                store.slot(&key("large", &number.to_be_bytes(), b"").to_owned(), large, now);
                (0..used).step_by(97).for_each(|number| drop(store.find(&small(number).borrow())));
            }
            let left = (0..used)
                .step_by(97)
                .filter(|number| store.find(&small(*number).borrow()).is_some());
            assert_eq!(left.count(), (0..used).step_by(97).count(), "of {entries}");
        }
    }

    /// Callers that hold a place do not look it up any more; its use must keep it in the store all
    /// the same.
    #[test]
    fn what_is_touched_stays_while_others_come_and_go() {
        let ((store, _), now) = (store(50), Clock::system().now());
        let slot =
            |number: u32| store.slot(&key("p", &number.to_be_bytes(), b"").to_owned(), 1, now);
        // The first ones stay longer than those that come when it is full.
        (0..100).for_each(|number| drop(slot(number)));
        let (touched, forgotten) = (slot(100), slot(101));
        for number in 102..1_000 {
            store.touch(&touched);
            slot(number);
        }
        assert!(!touched.is_retired() && forgotten.is_retired());
    }

    /// Slots that come back need room as new ones do.
    #[test]
    fn what_is_touched_stays_while_others_come_back() {
        let ((store, _), now) = (store(50), Clock::system().now());
        let slot =
            |number: u32| store.slot(&key("p", &number.to_be_bytes(), b"").to_owned(), 1, now);
        let others: Vec<_> = (0..900).map(slot).collect();
        store.remove_where(|_, _| true);
        (1_000..1_100).for_each(|number| drop(slot(number)));
        let touched = slot(1_100);
        for other in &others {
            store.touch(&touched);
            store.put_back(other);
            // So that it competes with the hot entries.
            (0..2).for_each(|_| drop(store.find(&other.key())));
        }
        assert!(!touched.is_retired());
    }

    /// A value that looks, as it goes, whether the store could already be seen without it.
    struct Witness {
        store: Weak<Store<Witness>>,
        key: OwnedKey,
        too_late: Arc<Mutex<Option<bool>>>,
    }

    impl Drop for Witness {
        fn drop(&mut self) {
            let Some(store) = self.store.upgrade() else { return };
            // While the store is locked nobody sees it.
            let is_missing = store.slots.try_contains_key(&self.key.borrow()) == Ok(false);
            *self.too_late.lock().unwrap() = Some(is_missing);
        }
    }

    /// A caller that finds a slot gone can rely on it: holders of the slot cannot use it any more.
    #[test]
    fn what_leaves_is_emptied_before_it_is_gone() {
        let (now, policy) = (Clock::system().now(), policy(Duration::from_secs(10), 100, 100));
        let ways: [fn(&Store<Witness>, &OwnedKey, Moment); 3] = [
            |store, key, _| assert!(store.remove_if(&key.borrow(), |_| true)),
            |store, key, _| assert_eq!(store.remove_where(|it, _| it == key), 1),
            |store, _, now| drop(store.slot(&key("p", b"c", b"").to_owned(), 1, now)),
        ];
        for (way, leave) in ways.into_iter().enumerate() {
            let store =
                Arc::new(Store::new(2, Arc::new(Sight::new(2, Operation::Encryption, None))));
            // The first one stays when room is needed.
            store.slot(&key("p", b"b", b"").to_owned(), 1, now);
            let (key, too_late) = (key("p", b"a", b"").to_owned(), Arc::default());
            let slot = store.slot(&key, 1, now);
            let value = Witness {
                store: Arc::downgrade(&store),
                key: key.clone(),
                too_late: Arc::clone(&too_late),
            };
            slot.put(
                &Arc::new(Entry::new(Arc::new(value), (now, 0), now, &policy)),
                now,
                &policy,
                false,
            );
            leave(&store, &key, now);
            assert_eq!(*too_late.lock().unwrap(), Some(false), "way {way}");
            assert!(slot.is_retired());
        }
    }
}
