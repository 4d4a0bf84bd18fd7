//! Compares the cache with a plain model of it. A sequence of operations is applied to both, and
//! after each one they must agree.

mod expected;
mod world;

use std::{sync::Arc, time::Duration};

use self::{
    expected::{Answer, End, Half, KEYS, Model, Refresh, Request, Seen, Ticket},
    world::{Waiting, World},
};
use super::policy::Policy;

/// An operation on the cache, or on the world around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Encrypts this many bytes, in percent of what one data key may encrypt. With `prepared`, the
    /// entry is looked up only the first time.
    Encrypt {
        key: usize,
        percent: u64,
        prepared: bool,
    },
    /// Decrypts a message, which may turn out not to be authentic.
    Decrypt {
        key: usize,
        authentic: bool,
    },
    Advance(Duration),
    /// How KMS responds from now on.
    Kms(Answer),
    /// Whether loads wait for [`Answer`](Self::Answer).
    Slow(bool),
    /// Whether loads continue when all their callers are cancelled.
    Outlive(bool),
    /// One of the waiting loads gets its response.
    Answer(usize),
    /// One of the waiting operations or background tasks is dropped.
    Cancel(usize),
    /// The background tasks run.
    RunTasks,
    Invalidate(usize),
    InvalidateAll,
    /// Operations that begin from now on have other limits.
    Limits {
        max_messages: u64,
        max_bytes: u64,
        max_age: Duration,
        stale: Duration,
        refresh_ahead: bool,
    },
}

impl Operation {
    /// Returns an operation for any numbers.
    pub(crate) fn decode((kind, which, amount): (u8, u8, u16)) -> Self {
        // Most operations use one key.
        let (key, index) = ([0, 0, 0, 0, 0, 1, 1, 2][usize::from(which) % 8], usize::from(which));
        let (amount, is_odd) = (u64::from(amount), amount % 2 == 1);
        match kind % 16 {
            0..=3 => Self::Encrypt { key, percent: amount % 101, prepared: which >= 192 },
            4 | 5 => Self::Decrypt { key, authentic: index / 64 < 3 },
            6 | 7 => {
                // In steps that meet all limits exactly.
                let (step, max) = [(50, 5), (100, 20), (1_000, 13), (1_000, 31)][index % 4];
                Self::Advance(Duration::from_millis(amount % max * step))
            }
            8 => Self::Kms(ANSWERS[index % ANSWERS.len()]),
            9 if index % 4 == 3 => Self::Outlive(is_odd),
            9 => Self::Slow(is_odd),
            10 | 11 => Self::Answer(index),
            12 => Self::RunTasks,
            13 => Self::Cancel(index),
            14 if index > 3 * KEYS => Self::InvalidateAll,
            14 => Self::Invalidate(key),
            _ => Self::Limits {
                max_messages: 1 + amount % 9,
                max_bytes: amount % 300,
                max_age: Duration::from_secs(1 + u64::from(which) % 20),
                stale: Duration::from_secs(u64::from(which) / 16 % 4 * 5),
                refresh_ahead: is_odd,
            },
        }
    }
}

const ANSWERS: [Answer; 6] = [
    Answer::Granted,
    Answer::Throttled,
    Answer::Damaged,
    Answer::Denied,
    Answer::Disabled,
    Answer::Panics,
];

/// Applies the operations to the cache and to the model.
///
/// # Panics
///
/// If they disagree.
pub(crate) fn run(operations: impl IntoIterator<Item = Operation>) {
    let mut run = Run {
        world: World::new(),
        model: Model::new(),
        policy: Arc::new(Policy {
            check_every: None,
            max_age: Duration::from_secs(10),
            max_messages: 8,
            max_bytes: 200,
            stale: Duration::from_secs(5),
            refuse_for: Duration::from_secs(1),
            max_backoff: Duration::from_millis(1500),
            refresh_ahead: true,
            jitter: 0.5,
        }),
        operations: vec![],
        refreshes: vec![],
    };
    for operation in operations {
        run.step(operation);
        run.model.forget();
    }
    run.world.let_go();
}

/// The cache and the model, side by side.
struct Run {
    world: Arc<World>,
    model: Model,
    policy: Arc<Policy>,
    /// The waiting operations, in the order in which they began.
    operations: Vec<(Waiting, Request, Ticket)>,
    /// The refreshes in the background, and whether they run: those that do wait for a load.
    refreshes: Vec<(Waiting, bool, Refresh)>,
}

impl Run {
    fn step(&mut self, operation: Operation) {
        match operation {
            Operation::Encrypt { key, percent, prepared } => {
                let bytes = self.policy.max_bytes * percent / 100;
                self.model.prepared |= prepared;
                self.begin(Half::Sealing, key, Some(bytes), prepared, true);
            }
            Operation::Decrypt { key, authentic } => {
                self.begin(Half::Opening, key, None, false, authentic);
            }
            Operation::Advance(time) => {
                self.world.advance(time);
                self.model.now += time;
            }
            Operation::Kms(answer) => {
                self.world.set_answer(answer);
                self.model.answer = answer;
            }
            Operation::Slow(slow) => {
                self.world.set_slow(slow);
                self.model.slow = slow;
            }
            Operation::Outlive(outlive) => {
                self.world.set_outlive(outlive);
                self.model.outlive = outlive;
            }
            Operation::Answer(index) => {
                if let Some(load) = self.world.answer(index) {
                    self.model.answered(load, self.model.answer);
                    self.settle();
                }
            }
            Operation::Cancel(index) => self.cancel(index),
            Operation::RunTasks => {
                self.refreshes.iter_mut().for_each(|(_, running, _)| *running = true);
                self.settle();
            }
            Operation::Invalidate(key) => {
                self.world.invalidate(|it| it == key);
                self.model.invalidate(|it| it == key);
            }
            Operation::InvalidateAll => {
                self.world.invalidate(|_| true);
                self.model.invalidate(|_| true);
            }
            Operation::Limits { max_messages, max_bytes, max_age, stale, refresh_ahead } => {
                self.policy = Arc::new(Policy {
                    check_every: None,
                    max_age,
                    max_messages,
                    max_bytes,
                    stale,
                    refresh_ahead,
                    ..(*self.policy).clone()
                });
            }
        }
    }

    /// Acts like a client: uses an existing value, or waits for a load.
    fn begin(
        &mut self,
        half: Half,
        key: usize,
        bytes: Option<u64>,
        prepared: bool,
        authentic: bool,
    ) {
        let policy = Arc::clone(&self.policy);
        let request = Request { half, key, bytes, authentic, policy };
        if let Some(value) = self.world.find(&request, prepared) {
            let seen = self.world.seen(Some(End::Value(value)));
            let ticket = self.model.obtain(&request, &seen);
            assert!(ticket.is_none());
            self.hand_over(&request, &seen);
            return;
        }
        let mut waiting = self.world.obtain(&request);
        let seen = self.world.drive(&mut waiting);
        let ticket = self.model.obtain(&request, &seen);
        self.after(waiting, request, ticket, &seen);
    }

    /// Handles an operation that was driven: it ended, or waits.
    fn after(&mut self, waiting: Waiting, request: Request, ticket: Option<Ticket>, seen: &Seen) {
        self.hand_over(&request, seen);
        self.operations.extend(ticket.map(|ticket| (waiting, request, ticket)));
    }

    /// Records the tasks that were handed to the background.
    fn hand_over(&mut self, request: &Request, seen: &Seen) {
        let tasks = self.world.tasks();
        assert_eq!(tasks.len(), seen.refreshes);
        self.refreshes
            .extend(tasks.into_iter().map(|task| (task, false, self.model.refresh(request))));
    }

    /// Drives all operations and tasks as far as they go.
    fn settle(&mut self) {
        self.world.drive_held();
        for (mut waiting, request, ticket) in std::mem::take(&mut self.operations) {
            let seen = self.world.drive(&mut waiting);
            let ticket = self.model.go_on(&request, ticket, &seen);
            self.after(waiting, request, ticket, &seen);
        }
        for (mut task, running, refresh) in std::mem::take(&mut self.refreshes) {
            if !running {
                self.refreshes.push((task, false, refresh));
                continue;
            }
            let seen = self.world.drive(&mut task);
            let refresh = self.model.run_refresh(refresh, &seen);
            self.refreshes.extend(refresh.map(|refresh| (task, true, refresh)));
        }
    }

    fn cancel(&mut self, index: usize) {
        let (operations, all) =
            (self.operations.len(), self.operations.len() + self.refreshes.len());
        if all == 0 {
            return;
        }
        let index = index % all;
        if index < operations {
            let (_, _, ticket) = self.operations.remove(index);
            self.model.leave(ticket);
        } else {
            let (_, _, refresh) = self.refreshes.remove(index - operations);
            self.model.end_refresh(refresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{expected::WRAPPING_KEYS, *};
    use crate::cache::policy::tests::policy;

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        proptest::collection::vec(any::<(u8, u8, u16)>().prop_map(Operation::decode), 0..160)
    }

    const fn encrypt(percent: u64) -> Operation {
        Operation::Encrypt { key: 0, percent, prepared: false }
    }

    const fn encrypt_prepared(percent: u64) -> Operation {
        Operation::Encrypt { key: 0, percent, prepared: true }
    }

    const fn advance(seconds: u64) -> Operation {
        Operation::Advance(Duration::from_secs(seconds))
    }

    /// Uses a value `uses` times, `every` so often, and runs the refreshes after each use. Returns
    /// how many loads began, once no use has missed.
    fn loads(half: Half, uses: u64, every: Duration, policy: Policy) -> usize {
        let (key, bytes) = (0, (half == Half::Sealing).then_some(1));
        let request = Request { half, key, bytes, authentic: true, policy: Arc::new(policy) };
        let world = World::new();
        let mut loads = world.drive(&mut world.obtain(&request)).loads;
        for number in 1..uses {
            world.advance(every);
            assert!(world.find(&request, false).is_some(), "{half:?}, {every:?}, use {number}");
            for mut task in world.tasks() {
                loads += world.drive(&mut task).loads;
            }
        }
        loads
    }

    /// Used every 25 s under a `max_age` of 60 s: nobody waits, though no use falls into the last
    /// tenths of an age.
    #[test]
    fn nobody_waits_who_comes_now_and_then() {
        for every in [7, 13, 25, 29, 40, 55_usize] {
            for half in [Half::Sealing, Half::Opening] {
                let policy = policy(Duration::from_mins(1), 1_000, 1_000);
                let loads = loads(half, 50, Duration::from_secs(every as u64), policy);
                let ages = every * 50 / 60;
                assert!((ages..=3 * ages + 3).contains(&loads), "{half:?}, {every} s: {loads}");
            }
        }
    }

    #[test]
    fn nobody_waits_for_a_successor_by_usage() {
        let policy = policy(Duration::from_mins(1), 100, u64::MAX);
        let loads = loads(Half::Sealing, 1_000, Duration::ZERO, policy);
        assert!((10..=13).contains(&loads), "{loads}");
    }

    /// Sequences that random operations rarely contain.
    #[test]
    fn rare_sequences() {
        use Operation::{Decrypt, Encrypt, InvalidateAll, Kms, RunTasks};
        // In an outage, a standby is used past its age if the current value has no room.
        run([encrypt(94), encrypt(21), advance(11), Kms(Answer::Throttled), encrypt(39)]);
        // An entry that is put back knows that there is an outage, and that an outage is over.
        let invalidated = [encrypt_prepared(1), InvalidateAll, encrypt(1)];
        let outage = [Kms(Answer::Throttled), advance(11), encrypt(1)];
        run(invalidated.into_iter().chain(outage).chain([encrypt_prepared(1)]));
        let well = [
            InvalidateAll,
            Kms(Answer::Granted),
            advance(1),
            encrypt(1),
            advance(11),
            encrypt_prepared(1),
        ];
        run([encrypt_prepared(1)].into_iter().chain(outage).chain(well));
        // A refusal for a message without a kept value does not affect entries for encryption.
        for answer in [Answer::Denied, Answer::Disabled] {
            for authentic in [true, false] {
                let decrypt = Decrypt { key: 0, authentic };
                let refused = [Kms(answer), advance(6), decrypt, encrypt(1)];
                run([decrypt, advance(5), encrypt(1)].into_iter().chain(refused));
                run([decrypt, advance(8), decrypt, Kms(answer), RunTasks, decrypt]);
            }
        }
        // A caller can keep the value of a load that a forged message started.
        let [forged, authentic] = [false, true].map(|authentic| Decrypt { key: 0, authentic });
        let load = [Operation::Slow(true), forged, authentic, Operation::Answer(0)];
        run(load.into_iter().chain([authentic, InvalidateAll, forged, authentic, authentic]));
        // A wrapping key that responds, even with an error, ends a streak of failures.
        let throttled = [Kms(Answer::Throttled), encrypt(1), advance(2)];
        let answered =
            [Kms(Answer::Damaged), encrypt(1), advance(2), Kms(Answer::Throttled), encrypt(1)];
        let under_the_same = [Encrypt { key: WRAPPING_KEYS, percent: 1, prepared: false }];
        run(throttled.into_iter().chain(throttled).chain(answered).chain(under_the_same));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn the_cache_agrees_with_the_model(operations in operations()) {
            run(operations);
        }
    }
}
