//! Reservation, promotion and shared loads in many orders of threads. Run by `tests/shuttle`.
//!
//! Shuttle runs one thread at a time, and chooses the next one at each lock and atomic. It finds
//! errors that depend on the order of operations, but treats every memory ordering as sequentially
//! consistent. The tests count with the standard library's atomics, where shuttle does not switch
//! threads. The file is long, because all four tests share one world.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_channel::oneshot;
use futures_util::future::{join_all, poll_immediate};
use shuttle::{
    Config, Runner,
    future::{self, JoinHandle},
    rand::{Rng, thread_rng},
    scheduler::{PctScheduler, RandomScheduler},
    thread,
};

use super::{
    Cache, Entry,
    failures::Failures,
    key::tests::key,
    loaded::{Loaded, Usage},
    policy::{Policy, tests::policy},
    source::{Settings, Source, Task},
};
use crate::{
    error::{Error, KeyringError, KeyringErrorKind},
    gate::Gate,
    observer::{Observers, Operation},
    time::{Clock, Moment},
};

const AGE: Duration = Duration::from_secs(60);

/// Runs a test under random schedules and under schedules by priority (PCT), `SHUTTLE_TIMES` times
/// as many. The test adds the number of its reservations.
fn explore(name: &str, schedules: usize, test: fn(&AtomicU64)) {
    let times = std::env::var("SHUTTLE_TIMES").map_or(1, |times| times.parse().unwrap());
    let schedules = schedules * times;
    let reservations = Arc::<AtomicU64>::default();
    let run = || {
        let reservations = Arc::clone(&reservations);
        move || test(&reservations)
    };
    let mut ran = Runner::new(RandomScheduler::new_from_seed(1, schedules), config()).run(run());
    for depth in [2, 3, 5] {
        ran +=
            Runner::new(PctScheduler::new_from_seed(1, depth, schedules / 3), config()).run(run());
    }
    println!("shuttle {name}: {} reservations in {ran} schedules", reservations.load(Relaxed));
}

fn config() -> Config {
    let mut config = Config::new();
    config.silence_warnings = true;
    config
}

/// With any number of threads, with leases, without, or with leases that are added meanwhile: no
/// limit is exceeded, everything that is not reserved can be reserved, and no thread is refused
/// while there is enough for all.
#[test]
fn reservation() {
    explore("reservation", 150_000, |reservations| {
        let mut random = thread_rng();
        let (max_messages, max_bytes) = (random.gen_range(1..40), random.gen_range(0..80));
        let limits = policy(AGE, max_messages, max_bytes);
        let usage =
            if random.r#gen() { Usage::default() } else { Usage::leased(random.gen_range(1..4)) };
        let longest = random.gen_range(0..4);
        let sizes: Vec<u64> =
            (0..random.gen_range(2..5)).map(|_| random.gen_range(0..=longest)).collect();
        let (messages, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let reserve_all = |size| {
            while usage.reserve(&limits, size) {
                messages.fetch_add(1, Relaxed);
                bytes.fetch_add(size, Relaxed);
            }
            // The others may have reserved without having counted it yet.
            let others = sizes.len() as u64 - 1;
            let (messages, bytes) =
                (messages.load(Relaxed) + others, bytes.load(Relaxed) + others * longest);
            assert!(
                messages >= max_messages || bytes + size > max_bytes,
                "refused at {messages}, {bytes} of {limits:?}"
            );
        };
        thread::scope(|scope| sizes.iter().for_each(|size| _ = scope.spawn(|| reserve_all(*size))));
        // A thread may be refused while another one tries to reserve a longer message, and succeed
        // later.
        let smallest = *sizes.iter().min().unwrap();
        if sizes.iter().any(|size| *size != smallest) {
            reserve_all(smallest);
        }
        let (messages, bytes) = (messages.into_inner(), bytes.into_inner());
        assert!(
            messages <= max_messages && bytes <= max_bytes,
            "{messages} messages, {bytes} bytes of {limits:?}"
        );
        assert!(
            messages == max_messages || bytes + smallest > max_bytes,
            "only {messages}, {bytes} of {limits:?}"
        );
        assert_eq!(usage.used(), (messages, bytes));
        reservations.fetch_add(messages, Relaxed);
    });
}

/// While threads use values and another one adds standbys: each value is used for exactly its
/// messages, unless it was replaced before its first use; no spent value comes back; and no thread
/// finds nothing while there is a value.
#[test]
fn promotion() {
    explore("promotion", 150_000, |reservations| {
        let mut random = thread_rng();
        let (messages, values, takers) =
            (random.gen_range(1..6), random.gen_range(1..6), random.gen_range(1..4));
        let is_patient = random.gen_bool(0.7);
        let (now, policy) = (Clock::system().now(), policy(AGE, messages, u64::MAX));
        let entry = Entry::empty(key(b"").to_owned(), 1, now);
        let (put, taken, all_put) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let take_all = || {
            let (mut served, mut last) = (vec![0; values], 0);
            loop {
                let (is_last_look, there) = (all_put.load(Relaxed), put.load(Relaxed) * messages);
                let there = if is_patient { there } else { 0 };
                if let Some(value) = take(&entry, now, &policy) {
                    taken.fetch_add(1, Relaxed);
                    assert!(value >= last, "value {value} came back after it was spent");
                    last = value;
                    served[value] += 1;
                } else {
                    // The others may have taken without having counted it yet.
                    let gone = taken.load(Relaxed) + takers - 1;
                    assert!(
                        gone >= there,
                        "found nothing while there were {} messages left",
                        there - gone
                    );
                    if is_last_look {
                        return served;
                    }
                    thread::yield_now();
                }
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..takers).map(|_| scope.spawn(&take_all)).collect();
            for value in 0..values {
                entry.put(
                    &Arc::new(Loaded::new(Arc::new(value), (now, 0), now, &policy)),
                    now,
                    &policy,
                    false,
                );
                put.fetch_add(1, Relaxed);
                // So that no standby is replaced by another one.
                while is_patient && entry.has_standby() {
                    thread::yield_now();
                }
            }
            all_put.store(true, Relaxed);
            let mut served = vec![0; values];
            for thread in threads {
                served
                    .iter_mut()
                    .zip(thread.join().unwrap())
                    .for_each(|(served, more)| *served += more);
            }
            let whole = |served: &u64| *served == messages || *served == 0 && !is_patient;
            assert!(served.iter().all(whole), "{served:?} of {messages}");
            assert_eq!(served.last(), Some(&messages));
        });
        reservations.fetch_add(taken.into_inner(), Relaxed);
    });
}

fn take(entry: &Entry<usize>, now: Moment, policy: &Policy) -> Option<usize> {
    entry.take(now, policy, Some(1), |value| **value).ok().map(|taken| taken.outcome)
}

/// Tasks obtain the same values, are cancelled, and see loads fail, while another one invalidates:
/// there is at most one load at a time for a key, and no load without need; all callers get a
/// failure; no task waits for ever; no task uses a value that was requested before an invalidation,
/// or before a refusal, that had ended when the task began; and the gate lets no more loads run
/// than its width.
#[test]
fn shared_loads() {
    explore("shared loads", 60_000, |reservations| {
        let mut random = thread_rng();
        let world = Arc::new(World::new());
        let cache = Arc::new(Cache::new(
            100,
            Gate::new(world.gate_width),
            Observers::new(Operation::Encryption, None),
        ));
        let tasks: Vec<_> = (0..random.gen_range(2..6))
            .map(|_| {
                let (world, cache) = (Arc::clone(&world), Arc::clone(&cache));
                future::spawn(async move {
                    let entries = world.entries(&cache);
                    for _ in 0..thread_rng().gen_range(1..4) {
                        world.operation(&cache, &entries).await;
                    }
                })
            })
            .collect();
        let invalidations = world.invalidations;
        let (invalidating, invalidated) = (Arc::clone(&world), Arc::clone(&cache));
        let invalidator = thread::spawn(move || {
            (0..invalidations).for_each(|_| invalidating.invalidate(&invalidated))
        });
        let kms = future::spawn(Arc::clone(&world).answer());
        future::block_on(async {
            join_all(tasks).await;
            // Background tasks never start further ones.
            let background = std::mem::take(&mut *lock(&world.background));
            join_all(background).await;
            world.closed.store(true, Relaxed);
            kms.await.unwrap();
        });
        invalidator.join().unwrap();
        world.check();
        reservations.fetch_add(world.served.load(Relaxed), Relaxed);
    });
}

/// While an invalidated entry is put back by a caller that had prepared it, its value is dropped:
/// no caller finds it after that.
#[test]
fn dropping() {
    explore("dropping", 5_000, |reservations| {
        let world = Arc::new(World::new());
        let cache =
            Arc::new(Cache::new(100, Gate::new(1), Observers::new(Operation::Encryption, None)));
        let (now, policy) = (world.now, &world.policy);
        let entry = cache.entry(key(b"0"), now);
        let loader = Loader::new(&world, 0, None);
        let put = |invalidations| {
            let value = Value { number: 0, asked_after: 0, served: AtomicU64::new(0) };
            let loaded = Loaded::new(Arc::new(value), (now, invalidations), now, policy);
            cache.put(&entry.key().to_owned(), &Arc::new(loaded), &loader);
        };
        let find = || cache.find(&entry.key(), now, policy, Some(1), |_| ()).is_ok();
        let find_prepared = || cache.find_at(&entry, now, policy, Some(1), |_| ()).is_ok();
        put(0);
        // Sometimes it is in the front by then.
        if thread_rng().gen_bool(0.5) {
            assert!(find());
        }
        cache.clear();
        put(1);
        thread::scope(|scope| {
            scope.spawn(|| reservations.fetch_add(find_prepared().into(), Relaxed));
            scope.spawn(|| reservations.fetch_add(find().into(), Relaxed));
            match thread_rng().gen_range(0..3) {
                0 => _ = cache.clear(),
                1 => cache.drop_refused(|_, _| true),
                _ => {
                    cache.note_failure(&entry.key().to_owned(), &failure(1, false), &loader, now, 1)
                }
            }
        });
        assert!(!find() && !find_prepared());
    });
}

/// The environment of the cache, and a record of its actions.
struct World {
    now: Moment,
    policy: Policy,
    keys: usize,
    gate_width: usize,
    invalidations: usize,
    failure_rate: f64,
    cancel_rate: f64,
    /// Whether loads continue when all their callers are cancelled.
    outlive: bool,
    prepared_rate: f64,
    backoffs: Failures<Arc<str>>,
    /// The loads that wait for their response.
    asked: Mutex<Vec<oneshot::Sender<()>>>,
    closed: AtomicBool,
    background: Mutex<Vec<JoinHandle<()>>>,
    loading: Mutex<Vec<Loading>>,
    loads: AtomicUsize,
    completed: AtomicU64,
    cancelled: AtomicU64,
    served: AtomicU64,
    /// Invalidations that have begun, and those that have returned.
    begun: AtomicUsize,
    returned: AtomicUsize,
    /// For each key, the loads that failed.
    failed: Mutex<HashMap<usize, Vec<usize>>>,
    /// For each key, the loads whose values were kept.
    kept: Mutex<HashMap<usize, Vec<usize>>>,
    /// For each load that was refused, the values that were kept at that time.
    doomed: Mutex<HashMap<usize, Vec<usize>>>,
    /// Values that must not be used any more.
    refused: Mutex<HashSet<usize>>,
}

/// A load under way.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Loading {
    number: usize,
    key: usize,
    /// After how many invalidations the operation began that started it; `None` if one was running
    /// at that time.
    undisturbed_since: Option<usize>,
}

/// The cached value: its load, the number of invalidations when it was requested, and how often it
/// was used.
struct Value {
    number: usize,
    asked_after: usize,
    served: AtomicU64,
}

/// The source of one operation.
#[derive(Clone)]
struct Loader {
    world: Arc<World>,
    key: usize,
    began: Loading,
}

impl World {
    fn new() -> Self {
        let mut random = thread_rng();
        let mut policy = policy(AGE, random.gen_range(1..6), u64::MAX);
        policy.refresh_ahead = random.gen_bool(0.3);
        // Each schedule has half of these conditions, so that their effects can be told apart.
        let mut sometimes = |rate| if random.r#gen() { rate } else { 0.0 };
        Self {
            now: Clock::system().now(),
            policy,
            failure_rate: sometimes(0.3),
            cancel_rate: sometimes(0.5),
            prepared_rate: sometimes(0.5),
            outlive: random.r#gen(),
            keys: random.gen_range(1..3),
            gate_width: random.gen_range(1..4),
            invalidations: random.gen_range(0..2) * random.gen_range(1..3),
            backoffs: Failures::new(100),
            asked: Mutex::default(),
            closed: AtomicBool::default(),
            background: Mutex::default(),
            loading: Mutex::default(),
            loads: AtomicUsize::default(),
            completed: AtomicU64::default(),
            cancelled: AtomicU64::default(),
            served: AtomicU64::default(),
            begun: AtomicUsize::default(),
            returned: AtomicUsize::default(),
            failed: Mutex::default(),
            kept: Mutex::default(),
            doomed: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Obtains a value, or is cancelled, and checks the outcome.
    async fn operation(self: &Arc<Self>, cache: &Arc<Cache<Value>>, entries: &[Arc<Entry<Value>>]) {
        let key = thread_rng().gen_range(0..self.keys);
        let (returned, begun) = (self.returned.load(Relaxed), self.begun.load(Relaxed));
        let undisturbed_since = (returned == begun).then_some(begun);
        let refused = lock(&self.refused).clone();
        let serve = |value: &Value| {
            assert!(!refused.contains(&value.number), "value {} after a refusal", value.number);
            self.serve(value, returned);
        };
        let loader = Loader::new(self, key, undisturbed_since);
        if thread_rng().gen_bool(self.prepared_rate)
            && let Ok(taken) =
                cache.find_at(&entries[key], self.now, &self.policy, Some(1), Arc::clone)
        {
            if taken.wants_refresh {
                cache.refresh(&entries[key].key(), &loader);
            }
            return serve(&taken.outcome);
        }
        let obtaining = cache.obtain(entries[key].key(), loader);
        let obtained = if thread_rng().gen_bool(self.cancel_rate) {
            give_up_after(thread_rng().gen_range(0..4), obtaining).await
        } else {
            Some(obtaining.await)
        };
        match obtained {
            Some(Ok(value)) => serve(&value),
            Some(Err(error)) => {
                let number = failed_load(&error);
                assert!(
                    lock(&self.failed)[&key].contains(&number),
                    "another key's failure: {error}"
                );
            }
            None => drop(self.cancelled.fetch_add(1, Relaxed)),
        }
    }

    /// Uses a value for an operation that began after this many invalidations had returned.
    fn serve(&self, value: &Value, returned: usize) {
        assert!(value.asked_after >= returned, "a value from before an invalidation");
        let served = value.served.fetch_add(1, Relaxed) + 1;
        assert!(served <= self.policy.max_messages, "served {served} messages");
        self.served.fetch_add(1, Relaxed);
    }

    /// Returns the entry of each key.
    fn entries(&self, cache: &Cache<Value>) -> Vec<Arc<Entry<Value>>> {
        let contexts = (0..self.keys).map(|key| key.to_be_bytes());
        contexts.map(|context| cache.entry(key(&context), self.now)).collect()
    }

    fn invalidate(&self, cache: &Cache<Value>) {
        self.begun.fetch_add(1, Relaxed);
        cache.clear();
        self.returned.fetch_add(1, Relaxed);
    }

    /// Responds to loads, in any order, until all tasks have ended.
    async fn answer(self: Arc<Self>) {
        while !self.closed.load(Relaxed) {
            let next = {
                let mut asked = lock(&self.asked);
                let waiting = asked.len();
                (waiting > 0).then(|| asked.swap_remove(thread_rng().gen_range(0..waiting)))
            };
            // The caller may have gone.
            next.map(|next| next.send(()));
            future::yield_now().await;
        }
    }

    /// Checks what must hold when all tasks have ended.
    fn check(&self) {
        assert_eq!(*lock(&self.loading), []);
        if self.invalidations > 0 || self.policy.refresh_ahead {
            return;
        }
        let failed = lock(&self.failed);
        assert!(
            failed.values().all(|loads| loads.len() <= 1),
            "asked again after a failure: {failed:?}"
        );
        let (served, completed) = (self.served.load(Relaxed), self.completed.load(Relaxed));
        if self.keys == 1 && self.cancelled.load(Relaxed) == 0 {
            assert_eq!(
                completed,
                served.div_ceil(self.policy.max_messages),
                "for {served} operations"
            );
        }
    }
}

impl Settings for World {
    fn now(&self) -> Moment {
        self.now
    }

    fn chance(&self) -> f64 {
        0.0
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn backoffs(&self) -> &Failures<Arc<str>> {
        &self.backoffs
    }

    fn loads_in_background(&self) -> Result<bool, Error> {
        Ok(self.outlive)
    }

    fn run(&self, load: Task) {
        self.spawn(load);
    }

    fn spawn(&self, task: Task) {
        let task = future::spawn(task);
        lock(&self.background).push(task);
    }

    fn sleep(&self, _duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        std::future::pending()
    }
}

impl Loader {
    fn new(world: &Arc<World>, key: usize, undisturbed_since: Option<usize>) -> Self {
        Self { world: Arc::clone(world), key, began: Loading { number: 0, key, undisturbed_since } }
    }
}

impl Source for Loader {
    type Value = Value;
    const IN_PLACE: bool = false;

    fn settings(&self) -> &impl Settings {
        &*self.world
    }

    fn bytes(&self) -> Option<u64> {
        Some(1)
    }

    fn supplied_context(&self) -> &[u8] {
        &[]
    }

    fn wrapping_keys(&self) -> Vec<Arc<str>> {
        vec![]
    }

    /// Called when all cached values have been dropped.
    fn failed(&self, error: &Error, _is_ours: bool) {
        let doomed = lock(&self.world.doomed).remove(&failed_load(error));
        lock(&self.world.refused).extend(doomed.into_iter().flatten());
    }

    fn loaded(&self, value: &Arc<Value>, _asked: Moment) -> impl FnOnce() + use<> {
        lock(&self.world.kept).entry(self.key).or_default().push(value.number);
        || ()
    }

    async fn load(self, _ahead: bool) -> Result<Arc<Value>, Error> {
        let world = &self.world;
        let asked_after = world.begun.load(Relaxed);
        let loading = Loading { number: world.loads.fetch_add(1, Relaxed), ..self.began };
        let _landing = Landing::new(world, loading);
        let (answer, answered) = oneshot::channel();
        lock(&world.asked).push(answer);
        answered.await.unwrap();
        if thread_rng().gen_bool(world.failure_rate) {
            lock(&world.failed).entry(self.key).or_default().push(loading.number);
            let may_pass = thread_rng().gen_bool(0.5);
            if !may_pass {
                let kept = lock(&world.kept).get(&self.key).cloned().unwrap_or_default();
                lock(&world.doomed).insert(loading.number, kept);
            }
            return Err(failure(loading.number, may_pass));
        }
        world.completed.fetch_add(1, Relaxed);
        Ok(Arc::new(Value { number: loading.number, asked_after, served: AtomicU64::new(0) }))
    }
}

/// Checks a load against the others under way when it begins. Dropping it ends the load.
struct Landing<'a>(&'a World, Loading);

impl<'a> Landing<'a> {
    fn new(world: &'a World, loading: Loading) -> Self {
        let mut others = lock(&world.loading);
        assert!(
            others.len() < world.gate_width,
            "{} loads at once through {}",
            others.len() + 1,
            world.gate_width
        );
        // A load from before an invalidation does not prevent new loads after it.
        let undisturbed = Some(world.begun.load(Relaxed));
        let mut of_key = others
            .iter()
            .filter(|other| other.key == loading.key && other.undisturbed_since == undisturbed);
        assert!(
            of_key.next().is_none() || loading.undisturbed_since != undisturbed,
            "two loads at once: {others:?}"
        );
        others.push(loading);
        Self(world, loading)
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        lock(&self.0.loading).retain(|other| *other != self.1);
    }
}

/// Polls a future this many times, and then drops it.
async fn give_up_after<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Some(output) = poll_immediate(&mut future).await {
            return Some(output);
        }
        future::yield_now().await;
    }
    None
}

/// Returns the failure of the load with this number.
fn failure(number: usize, may_pass: bool) -> Error {
    let kind = if may_pass { KeyringErrorKind::Throttled } else { KeyringErrorKind::Denied };
    Error::DataKeyUnavailable(KeyringError::new(number.to_string(), kind, "refused"))
}

/// Returns the number of the load that failed with this error, now or before.
fn failed_load(error: &Error) -> usize {
    error.keyring_errors()[0].wrapping_key().parse().unwrap()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
