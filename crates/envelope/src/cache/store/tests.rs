use std::{
    hash::RandomState,
    sync::{Mutex, Weak},
    time::Duration,
};

use super::*;
use crate::{
    cache::{key::tests::key, loaded::Loaded, policy::tests::policy},
    observer::{Observers, Operation},
    time::Clock,
};

fn now() -> Moment {
    Clock::system().now()
}

fn store<V>(bounds: impl Into<Bounds>) -> Store<V> {
    let bounds = bounds.into();
    let telemetry =
        Telemetry::new(bounds, RandomState::new(), Observers::new(Operation::Encryption, None));
    Store::new(bounds, Arc::new(telemetry))
}

/// Finds or creates an entry of this size.
fn create<V>(store: &Store<V>, key: &Key<'_>, bytes: u64) -> Arc<Entry<V>> {
    let entry = store.entry(&(*key).to_owned(), bytes, now(), &mut Evicted::default());
    store.trim();
    entry
}

/// Finds or creates an entry of one byte for a number.
fn create_number(store: &Store<u8>, number: usize) -> Arc<Entry<u8>> {
    create(store, &key(&number.to_be_bytes()), 1)
}

#[test]
fn the_capacity_holds_and_evictions_are_counted() {
    let bounds = Bounds::from(50);
    let telemetry = Arc::new(Telemetry::new(
        bounds,
        RandomState::new(),
        Observers::new(Operation::Encryption, None),
    ));
    let store = Store::new(bounds, Arc::clone(&telemetry));
    (0..1_000).for_each(|number| drop(create_number(&store, number)));
    assert!((1..=50).contains(&store.len()), "{}", store.len());
    assert_eq!(telemetry.counts(0, 0).evictions + store.len() as u64, 1_000);
}

#[test]
fn as_many_as_the_capacity_find_room() {
    for capacity in [1, 100, 511, 512, 1_000, 1_024, 10_000, 50_000] {
        let store = store(capacity);
        (0..capacity).for_each(|number| drop(create_number(&store, number)));
        assert_eq!(store.len(), capacity);
        (capacity..3 * capacity).for_each(|number| drop(create_number(&store, number)));
        assert!(store.len() <= capacity + capacity / 4, "{} of {capacity}", store.len());
    }
}

/// Large entries reduce the number of entries, and too large ones are not stored.
#[test]
fn the_bound_on_bytes_holds() {
    for (entries, bytes) in [(50, 10_000), (1_000_000, 10_000), (2_000, 400_000)] {
        let store = store::<u8>(Bounds { entries, bytes });
        let mut random = fastrand::Rng::with_seed(1);
        let mut max = 0;
        for number in 0..20_000_u32 {
            let context = random.u32(..5_000).to_be_bytes();
            let size = u64::from(number % 500);
            if store.has_room_for(size) {
                create(&store, &key(&context), size);
            }
            if number % 7 == 0 {
                store.remove(&key(&context));
            }
            max = max.max(store.bytes());
        }
        let held: u64 = store.iter().map(|entry| entry.bytes()).sum();
        assert_eq!(store.bytes(), held);
        assert!(max <= bytes && max > bytes / 8, "{max} of {bytes} bytes");
        assert!(!store.has_room_for(bytes / 4));
        store.remove_where(|_| true);
        assert_eq!((store.bytes(), store.len()), (0, 0));
    }
}

/// An entry that grows displaces others, which are reported when no lock is held.
#[test]
fn an_entry_that_grows_evicts_others_later() {
    let store = store::<u8>(Bounds { entries: 50, bytes: 10_000 });
    let contexts: Vec<_> = (0..50_u32).map(u32::to_be_bytes).collect();
    for context in &contexts {
        create(&store, &key(context), 200);
    }
    assert_eq!((store.len(), store.bytes()), (50, 10_000));
    let mut evicted = Evicted::default();
    store.entry(&key(&contexts[0]).to_owned(), 1_200, now(), &mut evicted);
    assert_eq!((store.len(), store.bytes(), evicted.keys.len()), (50, 11_000, 0));
    store.trim();
    assert_eq!((store.len(), store.bytes()), (45, 10_000));
}

/// Large entries that are used once do not displace small ones that are used often.
#[test]
fn large_entries_used_once_do_not_displace_small_used_ones() {
    for entries in [1_000, 10_000] {
        let store = store::<u8>(entries);
        let used = u32::try_from(entries / 2).unwrap();
        let find = |number: u32| store.find(&key(&number.to_be_bytes()));
        (0..used).for_each(|number| drop(create(&store, &key(&number.to_be_bytes()), 1_500)));
        (0..used).for_each(|number| drop(find(number)));
        for number in 0..1_000_u32 {
            let large = Key { partition: "large", ..key(&number.to_be_bytes()) }.to_owned();
            create(&store, &large.borrow(), store.max_entry_bytes);
            (0..used).step_by(97).for_each(|number| drop(find(number)));
        }
        let left = (0..used).step_by(97).filter(|number| find(*number).is_some());
        assert_eq!(left.count(), (0..used).step_by(97).count(), "of {entries}");
    }
}

/// Callers that hold an entry do not look it up any more. Its use keeps it in the store all the
/// same.
#[test]
fn an_entry_in_use_stays_while_new_ones_are_created() {
    let store = store(50);
    // The first ones stay longer than those that are created when the store is full.
    (0..100).for_each(|number| drop(create_number(&store, number)));
    let used = create_number(&store, 100);
    let unused = create_number(&store, 101);
    for number in 102..1_000 {
        store.touch(&used);
        create_number(&store, number);
    }
    assert!(!used.is_retired() && unused.is_retired());
}

/// Entries that are put back need room as new ones do.
#[test]
fn an_entry_in_use_stays_while_others_are_put_back() {
    let store = store(50);
    let others: Vec<_> = (0..900).map(|number| create_number(&store, number)).collect();
    store.remove_where(|_| true);
    (1_000..1_100).for_each(|number| drop(create_number(&store, number)));
    let used = create_number(&store, 1_100);
    for other in &others {
        store.touch(&used);
        store.put_back(other, &mut Evicted::default());
        // So that it competes with the hot entries.
        (0..2).for_each(|_| drop(store.find(&other.key())));
    }
    assert!(!used.is_retired());
}

#[test]
fn a_key_finds_its_own_entry_in_the_front_or_none() {
    let store = store::<u8>(1_000);
    let contexts: Vec<_> = (0..1_000_u32).map(u32::to_be_bytes).collect();
    for context in &contexts {
        let entry = create(&store, &key(context), 1);
        assert!(store.find_in_front(&key(context)).is_none());
        store.put_in_front(Arc::clone(&entry));
        let found = store.find_in_front(&key(context)).unwrap();
        assert!(Arc::ptr_eq(found.as_ref().unwrap(), &entry));
    }
    let found = contexts.iter().filter(|it| store.find_in_front(&key(*it)).is_some()).count();
    assert!((1..=FRONT).contains(&found), "{found}");
    let large = create(&store, &key(b"large"), MAX_FRONT_BYTES + 1);
    store.put_in_front(large);
    assert!(store.find_in_front(&key(b"large")).is_none());
    // Whichever way an entry is removed, the front lets go of it.
    let last = key(contexts.last().unwrap());
    assert!(store.find_in_front(&last).is_some() && store.remove(&last));
    assert!(store.find_in_front(&last).is_none());
    store.remove_where(|_| true);
    assert!(store.front.iter().all(|cell| cell.load().is_none()));
}

/// When it is dropped, this value records whether its entry could no longer be found.
struct Witness {
    store: Weak<Store<Witness>>,
    key: OwnedKey,
    was_missing: Arc<Mutex<Option<bool>>>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        let Some(store) = self.store.upgrade() else { return };
        // While the shard is locked, no thread can find the entry.
        let is_missing = store.entries.try_contains_key(&self.key.borrow()) == Ok(false);
        *self.was_missing.lock().unwrap() = Some(is_missing);
    }
}

/// A caller that does not find an entry can rely on it: no holder of the entry can use it any more.
#[test]
fn an_entry_is_retired_before_it_cannot_be_found() {
    let now = now();
    let policy = policy(Duration::from_secs(10), 100, 100);
    let ways: [fn(&Store<Witness>, &OwnedKey); 3] = [
        |store, key| assert!(store.remove(&key.borrow())),
        |store, key| assert_eq!(store.remove_where(|it| it.owned_key() == key), 1),
        |store, _| drop(create(store, &key(b"c"), 1)),
    ];
    for (way, remove) in ways.into_iter().enumerate() {
        let store = Arc::new(store(2));
        // The first one stays when room is needed.
        create(&store, &key(b"b"), 1);
        let key = key(b"a").to_owned();
        let was_missing = Arc::default();
        let entry = create(&store, &key.borrow(), 1);
        let value = Witness {
            store: Arc::downgrade(&store),
            key: key.clone(),
            was_missing: Arc::clone(&was_missing),
        };
        let value = Arc::new(Loaded::new(Arc::new(value), (now, 0), now, &policy));
        entry.put(&value, now, &policy, false);
        drop(value);
        remove(&store, &key);
        assert_eq!(*was_missing.lock().unwrap(), Some(false), "way {way}");
        assert!(entry.is_retired());
    }
}
