//! A plain model of a cache of data keys: sets of values, and rules about which of them may be
//! used.
//!
//! It follows the promises to users, not how the cache is built. If a promise leaves a choice
//! (which of several good values is used, when exactly a refresh starts), the model accepts what
//! the cache does, and checks that this was allowed. The file is long, because a model must be read
//! as a whole.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use crate::cache::policy::Policy;

/// How many keys values are cached under, in each half.
pub(super) const KEYS: usize = 3;
/// How many wrapping keys there are.
pub(super) const WRAPPING_KEYS: usize = 2;

/// Returns the wrapping key of the values under a key.
pub(super) fn wrapping_key(key: usize) -> usize {
    key % WRAPPING_KEYS
}

/// How KMS responds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Granted,
    Throttled,
    Damaged,
    Denied,
    Disabled,
    Panics,
}

/// The number of a load, which also stands for its value or its failure.
pub(super) type Number = usize;

/// What an operation asks for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// Whether it encrypts or decrypts.
    pub(super) half: Half,
    pub(super) key: usize,
    /// What it reserves; nothing for decryption.
    pub(super) bytes: Option<u64>,
    /// Whether it can prove that a value is the right one: false for a forged message.
    pub(super) authentic: bool,
    pub(super) policy: Arc<Policy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Sealing,
    Opening,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Value(Number),
    Failed(Number),
    /// Refused with an earlier failure, for this long.
    Remembered(Number, Duration),
    Panicked,
}

/// What happened while an operation was driven as far as it went.
#[derive(Debug)]
pub(super) struct Seen {
    /// How the operation ended, if it did; `None` for a refresh.
    pub(super) end: Option<End>,
    pub(super) has_ended: bool,
    /// How many loads began.
    pub(super) loads: usize,
    /// How many refreshes were handed to the background.
    pub(super) refreshes: usize,
}

/// A load that an operation, or a refresh, waits for.
#[derive(Debug)]
pub(super) struct Ticket {
    load: Number,
    started: bool,
}

/// A refresh in the background that has not ended.
#[derive(Debug)]
pub(super) struct Refresh {
    pub(super) request: Request,
    ticket: Option<Ticket>,
    removals: usize,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) now: Duration,
    pub(super) answer: Answer,
    /// Whether loads wait for their response.
    pub(super) slow: bool,
    /// Whether loads continue when all their callers are cancelled.
    pub(super) outlive: bool,
    entries: [[Entry; KEYS]; 2],
    /// The failures that are remembered for a wrapping key.
    wrapping_keys: [Option<Memory>; WRAPPING_KEYS],
    /// The loads that have callers.
    loads: HashMap<Number, Load>,
    started: Number,
    /// What has been used of each value.
    values: HashMap<Number, Value>,
    /// Whether any entry was looked up only once. Then it is unclear when an entry was last used.
    pub(super) prepared: bool,
}

/// The state of one key.
#[derive(Debug, Default)]
struct Entry {
    /// The values that the entry may hold. It certainly holds the last one.
    kept: Vec<Number>,
    /// The last load failed in a way that may pass.
    outage: bool,
    memory: Option<Memory>,
    last_use: Duration,
    failures_since_kept: u32,
    no_refresh_before: Duration,
    /// How often its values were dropped.
    removals: usize,
    /// For each running refresh, after how many drops it began.
    refreshing: Vec<usize>,
}

#[derive(Debug)]
struct Value {
    asked: Duration,
    policy: Arc<Policy>,
    messages: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Load {
    request: Request,
    asked: Duration,
    /// Whether nothing was invalidated since its request.
    undisturbed: bool,
    callers: usize,
    /// Whether it continues without them.
    held: bool,
    /// Whether the loaded value was kept.
    kept: bool,
    end: Option<End>,
}

/// A remembered failure.
#[derive(Debug, Clone, Copy)]
struct Memory {
    cause: Number,
    noted: Duration,
    until: Duration,
    failures: u32,
    /// The same, but failures of concurrent requests count as one.
    waves: u32,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            now: Duration::ZERO,
            answer: Answer::Granted,
            slow: false,
            outlive: false,
            entries: Default::default(),
            wrapping_keys: [None; WRAPPING_KEYS],
            loads: HashMap::new(),
            started: 0,
            values: HashMap::new(),
            prepared: false,
        }
    }

    /// Records that an operation began. Returns what it waits for.
    pub(super) fn obtain(&mut self, request: &Request, seen: &Seen) -> Option<Ticket> {
        if let (Some(End::Value(value)), 0) = (seen.end, seen.loads) {
            self.serve(request, value);
            self.check_refresh(request, value, seen.refreshes);
            return None;
        }
        self.miss(request);
        assert_eq!(seen.refreshes, 0, "a refresh of a missing entry");
        if let Some((cause, left)) = self.remembered(request) {
            assert_eq!((seen.end, seen.loads), (Some(End::Remembered(cause, left)), 0));
            return None;
        }
        let ticket = self.board(request, self.outlive, seen.loads);
        self.go_on(request, ticket, seen)
    }

    /// Records that a waiting operation was driven. Returns what it waits for now.
    pub(super) fn go_on(
        &mut self,
        request: &Request,
        ticket: Ticket,
        seen: &Seen,
    ) -> Option<Ticket> {
        let Some(end) = self.loads[&ticket.load].end else {
            assert_eq!(seen.end, None, "{request:?} waits for load {}", ticket.load);
            return Some(ticket);
        };
        let started = ticket.started;
        if let End::Value(value) = end {
            self.keep_if_proven(request, &ticket, value);
        }
        self.leave(ticket);
        match end {
            // The caller that started a load uses its value, however long the load took.
            End::Value(value)
                if (started || self.is_fresh(request, value)) && self.fits(request, value) =>
            {
                assert_eq!(seen.end, Some(end));
                self.book(request, value);
                None
            }
            End::Value(_) => self.obtain(request, seen),
            failed => {
                if let Some(End::Value(value)) = seen.end {
                    self.serve(request, value);
                } else {
                    self.miss(request);
                    assert_eq!(seen.end, Some(failed));
                }
                None
            }
        }
    }

    /// Keeps a value that the first caller could not prove, if another caller can.
    fn keep_if_proven(&mut self, request: &Request, ticket: &Ticket, value: Number) {
        let usable = ticket.started || self.is_fresh(request, value);
        let there = !self.entry(request).kept.is_empty();
        let load = &self.loads[&ticket.load];
        if usable
            && self.fits(request, value)
            && request.authentic
            && load.undisturbed
            && !load.kept
            && !there
        {
            self.keep(ticket.load, request);
        }
    }

    /// Keeps the value of a load.
    fn keep(&mut self, number: Number, request: &Request) {
        self.entry(request).keep(number, request.half);
        self.loads.get_mut(&number).expect("the load has a waiter").kept = true;
    }

    /// Records that an operation was cancelled.
    pub(super) fn leave(&mut self, Ticket { load: number, .. }: Ticket) {
        let load = self.loads.get_mut(&number).expect("it was waited for");
        load.callers -= 1;
        if load.callers == 0 {
            self.loads.remove(&number);
        }
    }

    /// Records a refresh that was handed to the background.
    pub(super) fn refresh(&mut self, request: &Request) -> Refresh {
        let entry = self.entry(request);
        entry.refreshing.push(entry.removals);
        let removals = entry.removals;
        // The existing value was proven, and therefore proves its replacement.
        let request = Request { authentic: true, ..request.clone() };
        Refresh { request, ticket: None, removals }
    }

    /// Records that a refresh was driven. Returns it if it has not ended.
    pub(super) fn run_refresh(&mut self, mut refresh: Refresh, seen: &Seen) -> Option<Refresh> {
        let ticket = match refresh.ticket.take() {
            Some(ticket) => ticket,
            None => self.board(&refresh.request, false, seen.loads),
        };
        let ended = self.loads[&ticket.load].end.is_some();
        assert_eq!(seen.has_ended, ended, "a refresh waits for load {}", ticket.load);
        refresh.ticket = Some(ticket);
        if ended {
            self.end_refresh(refresh);
            return None;
        }
        Some(refresh)
    }

    /// Records that a refresh has ended, or was dropped.
    pub(super) fn end_refresh(&mut self, refresh: Refresh) {
        let entry = self.entry(&refresh.request);
        let at = entry.refreshing.iter().position(|removals| *removals == refresh.removals);
        entry.refreshing.remove(at.expect("it had not ended"));
        refresh.ticket.into_iter().for_each(|ticket| self.leave(ticket));
    }

    /// Drops the values under the keys that `doomed` selects, in both halves, and all memory of
    /// entries' failures.
    pub(super) fn invalidate(&mut self, doomed: impl Fn(usize) -> bool) {
        for load in self.loads.values_mut() {
            load.undisturbed = false;
        }
        for (key, entry) in self.entries.iter_mut().flat_map(|half| half.iter_mut().enumerate()) {
            entry.memory = None;
            if doomed(key) {
                entry.remove();
            }
        }
    }

    /// Records that a load got its response.
    pub(super) fn answered(&mut self, number: Number, answer: Answer) {
        let load = &self.loads[&number];
        let (request, asked, undisturbed) = (load.request.clone(), load.asked, load.undisturbed);
        let end = match answer {
            Answer::Granted => {
                let policy = Arc::clone(&request.policy);
                self.values.insert(number, Value { asked, policy, messages: 0, bytes: 0 });
                if undisturbed {
                    self.wrapping_keys[wrapping_key(request.key)] = None;
                    self.entry(&request).memory = None;
                    // A value that equals the existing one is also right.
                    if request.authentic || !self.entry(&request).kept.is_empty() {
                        self.keep(number, &request);
                    } else {
                        let now = self.now;
                        self.entry(&request).no_refresh_after_failure(now, &request.policy);
                    }
                }
                End::Value(number)
            }
            failed => {
                // A load from before an invalidation says nothing about the time after it.
                if undisturbed {
                    self.fail(number, &request, asked, failed);
                }
                if failed == Answer::Panics { End::Panicked } else { End::Failed(number) }
            }
        };
        let load = self.loads.get_mut(&number).expect("it was there");
        load.end = Some(end);
        if load.held {
            self.leave(Ticket { load: number, started: false });
        }
    }

    fn fail(&mut self, number: Number, request: &Request, asked: Duration, answer: Answer) {
        let (now, key, policy) = (self.now, request.key, &request.policy);
        let entry = self.entry(request);
        // Without a kept value, the sender of the message may have caused this failure.
        let ours = request.half == Half::Sealing || !entry.kept.is_empty();
        entry.no_refresh_after_failure(now, policy);
        entry.outage = answer == Answer::Throttled;
        if answer == Answer::Panics {
            return;
        }
        if matches!(answer, Answer::Disabled | Answer::Denied) {
            self.entry(request).remove();
        }
        // A key that nobody may use any more is dropped from every entry. A denial may concern only
        // one context.
        if answer == Answer::Disabled && ours {
            let entries = self.entries.iter_mut().flat_map(|half| half.iter_mut().enumerate());
            let under = entries.filter(|(other, _)| wrapping_key(*other) == wrapping_key(key));
            under.for_each(|(_, entry)| entry.remove());
        }
        let entry = self.entry(request);
        entry.memory = Some(Memory::after(entry.memory, number, asked, now, |memory| {
            if answer == Answer::Throttled {
                backoff(memory.waves, policy)
            } else {
                policy.refuse_for
            }
        }));
        let memory = &mut self.wrapping_keys[wrapping_key(key)];
        if answer == Answer::Throttled {
            *memory = Some(Memory::after(*memory, number, asked, now, |memory| {
                if memory.failures < 3 { Duration::ZERO } else { backoff(memory.waves, policy) }
            }));
        } else if answer == Answer::Disabled {
            *memory = Some(Memory::after(*memory, number, asked, now, |_| policy.refuse_for));
        } else {
            // Any response ends the streak, but not the refusal that other callers get.
            *memory = memory.map(|memory| Memory { failures: 0, waves: 0, ..memory });
        }
    }

    /// Returns what an operation is refused with: the failure of the entry, or of the wrapping key.
    fn remembered(&mut self, request: &Request) -> Option<(Number, Duration)> {
        let now = self.now;
        let memories = [self.entry(request).memory, self.wrapping_keys[wrapping_key(request.key)]];
        let left = |memory: Memory| {
            Some((memory.cause, memory.until.checked_sub(now).filter(|left| !left.is_zero())?))
        };
        let left: Vec<_> = memories.into_iter().flatten().filter_map(left).collect();
        Some((left.first()?.0, left.iter().map(|(_, left)| *left).max()?))
    }

    /// Joins the load under way, or starts one.
    fn board(&mut self, request: &Request, held: bool, began: usize) -> Ticket {
        let joined = self.loads.iter_mut().find(|(_, load)| {
            let same = load.request.half == request.half && load.request.key == request.key;
            same && load.undisturbed && load.end.is_none()
        });
        if let Some((number, load)) = joined {
            assert_eq!(began, 0, "a load beside load {number}");
            load.callers += 1;
            return Ticket { load: *number, started: false };
        }
        assert_eq!(began, 1, "no load for {request:?}");
        let load = self.started;
        self.started += 1;
        let (request, asked) = (request.clone(), self.now);
        self.loads.insert(
            load,
            Load {
                request,
                asked,
                undisturbed: true,
                callers: 1 + usize::from(held),
                held,
                kept: false,
                end: None,
            },
        );
        if !self.slow {
            self.answered(load, self.answer);
        }
        Ticket { load, started: true }
    }

    /// Records that an existing value was used.
    fn serve(&mut self, request: &Request, value: Number) {
        assert!(self.is_usable(request, value), "value {value} served {request:?}: {self:#?}");
        self.book(request, value);
    }

    /// Records that no existing value was used.
    fn miss(&mut self, request: &Request) {
        let newest = self.entry(request).kept.last().copied();
        assert!(
            newest.is_none_or(|it| !self.is_usable(request, it)),
            "missed {newest:?} for {request:?}: {self:#?}"
        );
        let now = self.now;
        self.entry(request).last_use = now;
    }

    fn book(&mut self, request: &Request, value: Number) {
        let Some(bytes) = request.bytes else { return };
        let value = self.values.get_mut(&value).expect("it was loaded");
        value.messages += 1;
        value.bytes += bytes;
    }

    /// Returns whether a value may be used: it is kept, has room, and is either fresh, or the best
    /// one while KMS is unavailable, and not older than is allowed for that.
    fn is_usable(&mut self, request: &Request, value: Number) -> bool {
        let age = self.age(value);
        let ceiling = request.policy.max_age + request.policy.stale;
        let entry = self.entry(request);
        let (kept, outage, newest) =
            (entry.kept.contains(&value), entry.outage, entry.kept.last().copied());
        let fresh = self.is_fresh(request, value);
        let stale =
            outage && age < ceiling && newest.is_some_and(|newest| !self.is_fresh(request, newest));
        kept && self.fits(request, value) && (fresh || stale)
    }

    fn is_fresh(&self, request: &Request, value: Number) -> bool {
        self.age(value) < request.policy.max_age
    }

    fn age(&self, value: Number) -> Duration {
        self.now.saturating_sub(self.values[&value].asked)
    }

    fn fits(&self, request: &Request, value: Number) -> bool {
        let (value, limits) = (&self.values[&value], &request.policy);
        let fits =
            |bytes| value.messages < limits.max_messages && value.bytes + bytes <= limits.max_bytes;
        request.bytes.is_none_or(fits)
    }

    /// Checks whether a refresh had to start, or might start, when a value was used.
    fn check_refresh(&mut self, request: &Request, value: Number, refreshes: usize) {
        let now = self.now;
        let gap = now.saturating_sub(self.entry(request).last_use);
        self.entry(request).last_use = now;
        let backing_off = self.wrapping_keys[wrapping_key(request.key)]
            .is_some_and(|memory| memory.until > now)
            || now < self.entry(request).no_refresh_before;
        let prepared = self.prepared;
        let entry = self.entry(request);
        let under_way = entry.refreshing.contains(&entry.removals) && !prepared;
        let idle = entry.refreshing.is_empty();
        let allowed = request.policy.refresh_ahead && !backing_off;
        match refreshes {
            0 => assert!(
                !(allowed && idle && self.must_refresh(request, value)),
                "no refresh: {request:?} {self:#?}"
            ),
            1 => assert!(
                allowed && !under_way && self.may_refresh(request, value, gap),
                "refresh: {request:?} {self:#?}"
            ),
            more => panic!("{more} refreshes"),
        }
    }

    /// Returns whether a refresh must start: there is no other value, and this one is past 80 % of
    /// its age, or half of its messages or bytes.
    fn must_refresh(&mut self, request: &Request, value: Number) -> bool {
        let (kept, limits) = (self.entry(request).kept.clone(), &request.policy);
        let fresh = self.is_fresh(request, value);
        let gone = |other: &Number| {
            let used = &self.values[other];
            let spent = used.messages >= limits.max_messages
                || used.bytes > limits.max_bytes - limits.max_bytes / 20;
            spent || fresh && !self.is_fresh(request, *other)
        };
        let (newest, older) = kept.split_last().expect("it was there");
        let (age, used) = (self.age(value), &self.values[&value]);
        let old = age >= limits.max_age.max(used.policy.max_age).mul_f64(0.8);
        let low =
            old || used.messages * 2 >= limits.max_messages || used.bytes > limits.max_bytes / 2;
        *newest == value && older.iter().all(gone) && low
    }

    /// Returns whether a refresh may start: there is no newer value, and this one is past half of
    /// its age, or an eighth of its messages or bytes, or will be too old two uses later, if they
    /// are as far apart as the last two.
    fn may_refresh(&self, request: &Request, value: Number, gap: Duration) -> bool {
        let (age, used, limits) = (self.age(value), &self.values[&value], &request.policy);
        // The time of the last use is known to a thirty-second of the age.
        let imprecision = limits.max_age.max(used.policy.max_age) / 8;
        let newest =
            *self.entries[request.half as usize][request.key].kept.last().expect("it was there");
        let has_successor = newest != value && self.is_fresh(request, newest);
        let old = age >= limits.max_age.min(used.policy.max_age) / 2;
        let rare = self.prepared || age + gap * 2 + imprecision >= limits.max_age;
        let low = old
            || rare
            || used.messages * 8 >= limits.max_messages
            || used.bytes * 8 >= limits.max_bytes;
        low && !has_successor
    }

    fn entry(&mut self, request: &Request) -> &mut Entry {
        &mut self.entries[request.half as usize][request.key]
    }

    /// Forgets the values that are neither kept nor waited for: they are never used again.
    pub(super) fn forget(&mut self) {
        let kept = self.entries.iter().flatten().flat_map(|entry| entry.kept.iter().copied());
        let alive: HashSet<_> = kept.chain(self.loads.keys().copied()).collect();
        self.values.retain(|value, _| alive.contains(value));
    }
}

impl Entry {
    fn keep(&mut self, value: Number, half: Half) {
        // Decryption loads the same data key again.
        if half == Half::Opening {
            self.kept.clear();
        }
        self.kept.push(value);
        (self.memory, self.outage, self.failures_since_kept, self.no_refresh_before) =
            (None, false, 0, Duration::ZERO);
    }

    fn remove(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        self.kept.clear();
        self.removals += 1;
    }

    /// Records that a load did not return a value that can be kept.
    fn no_refresh_after_failure(&mut self, now: Duration, policy: &Policy) {
        self.outage = false;
        self.failures_since_kept += 1;
        self.no_refresh_before = now + backoff(self.failures_since_kept, policy);
    }
}

impl Memory {
    fn after(
        before: Option<Self>,
        cause: Number,
        asked: Duration,
        now: Duration,
        wait: impl FnOnce(&Self) -> Duration,
    ) -> Self {
        // A failure of long ago is not part of this streak.
        let before = before.filter(|before| {
            let forgotten_after =
                before.until.saturating_sub(before.noted).max(Duration::from_secs(10));
            asked.saturating_sub(before.until) < forgotten_after
        });
        let (failures, waves) = before.map_or((0, 0), |before| (before.failures, before.waves));
        let waves = waves + u32::from(before.is_none_or(|before| asked >= before.noted));
        let memory = Self { cause, noted: now, until: now, failures: failures + 1, waves };
        Self { until: now + wait(&memory), ..memory }
    }
}

/// Returns the back-off: 100 milliseconds, doubled with each further failure.
fn backoff(failures: u32, policy: &Policy) -> Duration {
    (Duration::from_millis(100) * 2_u32.saturating_pow(failures.saturating_sub(1)))
        .min(policy.max_backoff)
}
