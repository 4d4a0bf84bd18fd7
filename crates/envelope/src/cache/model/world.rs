//! The cache, and its environment: a manual clock, a scripted KMS, and background tasks that run on
//! command.

use std::{
    future::{self, Future},
    panic,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_channel::oneshot;

use super::expected::{Answer, End, Half, KEYS, Number, Request, Seen, wrapping_key};
use crate::{
    cache::{
        Cache, Entry, Key,
        failures::Failures,
        policy::Policy,
        source::{Settings, Source, Task},
    },
    error::{Error, KeyringError, KeyringErrorKind},
    gate::Gate,
    observer::{Observers, Operation},
    time::{Clock, Moment},
};

/// A future that the test drives, and that records its outcome; a background task ends without one.
pub(super) type Waiting = Pin<Box<dyn Future<Output = Option<End>>>>;

pub(super) struct World {
    sealing: Arc<Cache<Value>>,
    opening: Arc<Cache<Value>>,
    prepared: Mutex<[Option<Arc<Entry<Value>>>; KEYS]>,
    clock: Clock,
    backoffs: Failures<Arc<str>>,
    state: Mutex<State>,
}

struct State {
    answer: Answer,
    slow: bool,
    /// How many loads have begun.
    loads: Number,
    /// How many of them the model has seen.
    loads_seen: Number,
    /// The loads that wait for their response.
    asked: Vec<(Number, oneshot::Sender<Answer>)>,
    tasks: Vec<Task>,
    /// Whether loads continue when all their callers are cancelled.
    outlive: bool,
    /// The tasks that run such loads.
    held: Vec<Task>,
}

/// The cached value.
pub(super) struct Value {
    number: Number,
    key: usize,
}

/// The source of one operation.
#[derive(Clone)]
struct Loader<const OPENING: bool> {
    world: Arc<World>,
    request: Request,
    /// Whether this is a refresh, which is cancelled together with its load.
    ahead: bool,
}

impl World {
    pub(super) fn new() -> Arc<Self> {
        // Wide enough that no load waits: the gate has its own tests.
        let gate = Arc::new(Gate::new(10_000));
        let clock = Clock::manual();
        let state = State {
            answer: Answer::Granted,
            slow: false,
            loads: 0,
            loads_seen: 0,
            asked: vec![],
            tasks: vec![],
            outlive: false,
            held: vec![],
        };
        Arc::new(Self {
            sealing: Arc::new(Cache::new(
                100,
                Arc::clone(&gate),
                Observers::new(Operation::Encryption, None),
            )),
            opening: Arc::new(Cache::new(100, gate, Observers::new(Operation::Decryption, None))),
            prepared: Mutex::default(),
            clock,
            backoffs: Failures::new(100),
            state: Mutex::new(state),
        })
    }

    pub(super) fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    pub(super) fn set_answer(&self, answer: Answer) {
        self.state().answer = answer;
    }

    pub(super) fn set_slow(&self, slow: bool) {
        self.state().slow = slow;
    }

    pub(super) fn set_outlive(&self, outlive: bool) {
        self.state().outlive = outlive;
    }

    /// Responds to one of the waiting loads, and returns which.
    pub(super) fn answer(&self, index: usize) -> Option<Number> {
        let mut state = self.state();
        state.asked.retain(|(_, answer)| !answer.is_canceled());
        let waiting = state.asked.len();
        let (number, sender) = (waiting > 0).then(|| state.asked.remove(index % waiting))?;
        sender.send(state.answer).expect("somebody waits for it");
        Some(number)
    }

    pub(super) fn invalidate(&self, doomed: impl Fn(usize) -> bool) {
        let _ = self.sealing.invalidate(|_, value| doomed(value.key));
        let _ = self.opening.invalidate(|_, value| doomed(value.key));
    }

    /// Returns an existing value, and starts a refresh if it is wanted.
    pub(super) fn find(self: &Arc<Self>, request: &Request, prepared: bool) -> Option<Number> {
        match request.half {
            Half::Sealing => self.find_in::<false>(&self.sealing, request, prepared),
            Half::Opening => self.find_in::<true>(&self.opening, request, prepared),
        }
    }

    fn find_in<const OPENING: bool>(
        self: &Arc<Self>,
        cache: &Arc<Cache<Value>>,
        request: &Request,
        prepared: bool,
    ) -> Option<Number> {
        let context = [key_byte(request.key)];
        let (key, now, policy) = (cache_key(&context), self.clock.now(), &request.policy);
        let taken = if prepared {
            let mut entries = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = entries[request.key].get_or_insert_with(|| cache.entry(key, now));
            cache.find_at(entry, now, policy, request.bytes, Arc::clone)
        } else {
            cache.find(&key, now, policy, request.bytes, Arc::clone)
        };
        let taken = taken.ok()?;
        if taken.wants_refresh {
            let (world, request) = (Arc::clone(self), request.clone());
            let loader = Loader::<OPENING> { world, request, ahead: true };
            cache.refresh(&key, &loader.replacing(&taken.outcome));
        }
        Some(taken.outcome.number)
    }

    /// Returns an operation that waits for a value.
    pub(super) fn obtain(self: &Arc<Self>, request: &Request) -> Waiting {
        let (world, request) = (Arc::clone(self), request.clone());
        let ahead = false;
        match request.half {
            Half::Sealing => Box::pin(Loader::<false> { world, request, ahead }.obtain()),
            Half::Opening => Box::pin(Loader::<true> { world, request, ahead }.obtain()),
        }
    }

    /// Drives an operation or task as far as it goes.
    pub(super) fn drive(&self, waiting: &mut Waiting) -> Seen {
        loop {
            if let Poll::Ready(end) = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                return Seen { has_ended: true, ..self.seen(end) };
            }
            if !self.drive_held() {
                return self.seen(None);
            }
        }
    }

    /// Drives the loads that continue without callers. Returns whether any of them ended.
    pub(super) fn drive_held(&self) -> bool {
        let mut held = std::mem::take(&mut self.state().held);
        let before = held.len();
        held.retain_mut(|task| {
            task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
        });
        let ended = held.len() < before;
        self.state().held.extend(held);
        ended
    }

    /// Drops the loads that continue without callers, because they hold the world.
    pub(super) fn let_go(&self) {
        let held = std::mem::take(&mut self.state().held);
        drop(held);
    }

    /// Returns what has happened since the last call, with this end of an operation.
    pub(super) fn seen(&self, end: Option<End>) -> Seen {
        let mut state = self.state();
        let loads = state.loads - state.loads_seen;
        state.loads_seen = state.loads;
        Seen { end, has_ended: end.is_some(), loads, refreshes: state.tasks.len() }
    }

    /// Returns the tasks that were handed to the background.
    pub(super) fn tasks(&self) -> Vec<Waiting> {
        let tasks = std::mem::take(&mut self.state().tasks);
        let waiting = |task: Task| -> Waiting {
            Box::pin(async move {
                task.await;
                None
            })
        };
        tasks.into_iter().map(waiting).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const OPENING: bool> Loader<OPENING> {
    async fn obtain(self) -> Option<End> {
        let cache = Arc::clone(if OPENING { &self.world.opening } else { &self.world.sealing });
        let context = [key_byte(self.request.key)];
        Some(match cache.obtain(cache_key(&context), self).await {
            Ok(value) => End::Value(value.number),
            Err(Error::Remembered { cause, retry_after }) => {
                End::Remembered(number_of(&cause), retry_after)
            }
            Err(Error::Panicked) => End::Panicked,
            Err(error) => End::Failed(number_of(&error)),
        })
    }
}

impl<const OPENING: bool> Source for Loader<OPENING> {
    type Value = Value;
    const IN_PLACE: bool = OPENING;

    fn settings(&self) -> &impl Settings {
        self
    }

    fn bytes(&self) -> Option<u64> {
        self.request.bytes
    }

    fn supplied_context(&self) -> &[u8] {
        &[]
    }

    fn wrapping_keys(&self) -> Vec<Arc<str>> {
        vec![wrapping_key_name(self.request.key).into()]
    }

    fn proves(&self, _: &Arc<Value>) -> bool {
        self.request.authentic
    }

    fn replacing(&self, _: &Arc<Value>) -> Self {
        // Each caller that polls a refresh drives its load, in any order of tasks.
        let request = Request { authentic: true, ..self.request.clone() };
        Self { request, ahead: true, ..self.clone() }
    }

    /// Acts like the caching materials manager, but without the probe after a denial.
    fn failed(&self, error: &Error, is_ours: bool) {
        for failure in error.keyring_errors() {
            if is_ours && failure.kind() == KeyringErrorKind::Unusable {
                let refused = |key: usize| wrapping_key_name(key) == failure.wrapping_key();
                self.world.sealing.drop_refused(|_, value| refused(value.key));
                self.world.opening.drop_refused(|_, value| refused(value.key));
            }
        }
    }

    async fn load(self, _ahead: bool) -> Result<Arc<Value>, Error> {
        let (number, answer) = {
            let mut state = self.world.state();
            let number = state.loads;
            state.loads += 1;
            let (sender, answer) = oneshot::channel();
            if state.slow {
                state.asked.push((number, sender));
            } else {
                sender.send(state.answer).expect("it is still here");
            }
            (number, answer)
        };
        let key = self.request.key;
        let fail = |kind| {
            let cause = KeyringError::new(wrapping_key_name(key), kind, number.to_string());
            Err(if OPENING {
                Error::data_key_not_unwrapped(vec![cause], [], None, vec![])
            } else {
                Error::DataKeyUnavailable(cause)
            })
        };
        match answer.await.expect("each load is answered") {
            Answer::Granted => Ok(Arc::new(Value { number, key })),
            Answer::Throttled => fail(KeyringErrorKind::Throttled),
            Answer::Damaged => fail(KeyringErrorKind::InvalidCiphertext),
            Answer::Denied => fail(KeyringErrorKind::Denied),
            Answer::Disabled => fail(KeyringErrorKind::Unusable),
            // Without the panic hook, which ends a fuzzer.
            Answer::Panics => panic::resume_unwind(Box::new("as it was told")),
        }
    }
}

impl<const OPENING: bool> Settings for Loader<OPENING> {
    fn now(&self) -> Moment {
        self.world.clock.now()
    }

    fn chance(&self) -> f64 {
        0.0
    }

    fn policy(&self) -> &Policy {
        &self.request.policy
    }

    fn backoffs(&self) -> &Failures<Arc<str>> {
        &self.world.backoffs
    }

    fn loads_in_background(&self) -> Result<bool, Error> {
        Ok(!self.ahead && self.world.state().outlive)
    }

    fn run(&self, load: Task) {
        self.world.state().held.push(load);
    }

    fn spawn(&self, task: Task) {
        self.world.state().tasks.push(task);
    }

    fn sleep(&self, _duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        future::pending()
    }
}

/// Returns the load that failed with this error.
fn number_of(error: &Error) -> Number {
    let number = error.keyring_errors().first().map(|failure| failure.cause().to_string());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("not of a load: {error}"))
}

fn wrapping_key_name(key: usize) -> String {
    format!("wrapping key {}", wrapping_key(key))
}

fn key_byte(key: usize) -> u8 {
    u8::try_from(key).expect("there are few keys")
}

fn cache_key(context: &[u8]) -> Key<'_> {
    Key {
        partition: "p",
        suite_id: 1,
        encryption_context: context,
        required_context: b"",
        encrypted_data_keys: b"",
    }
}
