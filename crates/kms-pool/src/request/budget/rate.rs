//! The rate of a budget: when the next request may start. It reads no clock and does not wait.

use std::time::Duration;

use tokio::time::Instant;

use crate::request::operation::Class;

/// After a throttled request, the limit drops to this share of the accepted requests.
const DECREASE: f64 = 0.9;
/// In the first second after a drop, the limit grows by this share of its value, or by one request
/// per second if that is more.
const INCREASE: f64 = 0.01;
const MIN_PER_SECOND: f64 = 1.0;
/// After a pause, as many requests may start at once as the limit allows in this share of a second.
const BURST: f64 = 0.05;
/// A learned limit is forgotten when KMS has throttled nothing for this long.
pub(super) const FORGET_AFTER: Duration = Duration::from_mins(5);
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// The queue of all requests. Each class has another one.
pub(super) const ALL: usize = 0;

/// The queue of a class.
pub(super) fn queue_of(class: Class) -> usize {
    1 + class as usize
}

pub(super) struct Rate {
    /// Requests per second; `None` if unlimited.
    pub(super) limit: Option<f64>,
    /// The limit after its last drop.
    grows_from: f64,
    /// For how long the limit has grown since then.
    grown_for: Duration,
    grown_at: Instant,
    /// When the next request may start, by queue.
    pub(super) next: [Instant; 3],
    /// How many requests wait to start, by class.
    pub(super) waiting: [u32; 2],
    /// When the limit over all requests last delayed one.
    pub(super) limited_at: Option<Instant>,
    decreased_at: Option<Instant>,
    /// Requests accepted in the current second and in the one before.
    accepted: [u32; 2],
    second_began: Instant,
}

impl Rate {
    pub(super) fn new(limit: Option<f64>, now: Instant) -> Self {
        Self {
            limit,
            grows_from: limit.unwrap_or_default(),
            grown_for: Duration::ZERO,
            grown_at: now,
            next: [now; 3],
            waiting: [0; 2],
            limited_at: None,
            decreased_at: None,
            accepted: [0; 2],
            second_began: now,
        }
    }

    /// How long a new request of a class with this share would wait.
    pub(super) fn expected_wait(&self, class: Class, share: f64, now: Instant) -> Duration {
        let Some(mut limit) = self.limit else { return Duration::ZERO };
        if self.decreased_at.is_some() {
            // The limit may drop twice while the request waits, which must not make it late.
            limit *= DECREASE * DECREASE;
        }
        let own = self.waiting[class as usize];
        let others = self.waiting.iter().sum::<u32>() - own;
        // The queues of the classes alternate.
        let of_all = self.next_start(ALL, now) + spacing(limit) * (own + own.min(others));
        let of_class = self.next_start(queue_of(class), now) + spacing(limit * share) * own;
        of_all.max(of_class).saturating_duration_since(now)
    }

    /// Starts the next request of a queue, or returns how long it must wait.
    pub(super) fn start(&mut self, queue: usize, share: f64, now: Instant) -> Result<(), Duration> {
        let Some(limit) = self.limit else { return Ok(()) };
        if queue != ALL && share >= 1.0 {
            // The class may use the whole limit, so only the queue of all requests limits it.
            return Ok(());
        }
        let start = self.next_start(queue, now);
        if start > now {
            return Err(start - now);
        }
        self.next[queue] = start + spacing(limit * share);
        Ok(())
    }

    /// Starts a request if no other one waits, or returns how long it must wait. `is_wanted` says
    /// that another request is about to take the next start.
    pub(super) fn start_spare(
        &mut self,
        is_wanted: bool,
        class: Class,
        share: f64,
        now: Instant,
    ) -> Result<(), Duration> {
        let Some(limit) = self.limit else { return Ok(()) };
        let mut wait = self.expected_wait(class, share, now);
        if is_wanted {
            wait = wait.max(spacing(limit));
        }
        if !wait.is_zero() {
            return Err(wait);
        }
        self.start(ALL, 1.0, now)?;
        self.start(queue_of(class), share, now)
    }

    /// When the next request of a queue may start. Starts that were not used lately may be used at
    /// once.
    fn next_start(&self, queue: usize, now: Instant) -> Instant {
        let earliest = now.checked_sub(SECOND.mul_f64(BURST)).unwrap_or(now);
        self.next[queue].max(earliest)
    }

    /// Records that KMS accepted a request. `max` is the configured limit.
    pub(super) fn accept(&mut self, now: Instant, max: Option<f64>) {
        self.advance_seconds(now);
        self.accepted[0] = self.accepted[0].saturating_add(1);
        let Some(decreased_at) = self.decreased_at else { return };
        if now.saturating_duration_since(decreased_at) > FORGET_AFTER {
            self.limit = max;
            self.decreased_at = None;
        } else if let Some(limit) = &mut self.limit {
            // The limit grows only while it delays requests: otherwise nobody knows whether KMS
            // accepts more.
            let limits =
                self.limited_at.is_some_and(|at| now.saturating_duration_since(at) < SECOND);
            let passed = now.saturating_duration_since(self.grown_at).min(SECOND);
            self.grown_at = now;
            if limits {
                let doubled = self.grown_for.as_secs_f64().exp2();
                let grown =
                    *limit + (self.grows_from * INCREASE).max(1.0) * doubled * passed.as_secs_f64();
                *limit = max.map_or(grown, |max| grown.min(max));
                self.grown_for += passed;
            }
        }
    }

    /// Records that KMS throttled a request that was sent at `sent`.
    pub(super) fn decrease(&mut self, sent: Instant, now: Instant) {
        // Requests from before the last drop say nothing about the limit after it.
        if self.decreased_at.is_some_and(|at| sent <= at) {
            return;
        }
        self.advance_seconds(now);
        let share = now.saturating_duration_since(self.second_began).as_secs_f64().min(1.0);
        let accepted = f64::from(self.accepted[0]) + f64::from(self.accepted[1]) * (1.0 - share);
        let from = self.limit.map_or(accepted, |limit| limit.min(accepted));
        let limit = (from * DECREASE).max(MIN_PER_SECOND);
        self.limit = Some(limit);
        self.grows_from = limit;
        self.grown_for = Duration::ZERO;
        self.grown_at = now;
        self.decreased_at = Some(now);
    }

    fn advance_seconds(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.second_began);
        if passed >= SECOND {
            let last = if passed < SECOND * 2 { self.accepted[0] } else { 0 };
            self.accepted = [0, last];
            self.second_began = now;
        }
    }
}

/// The time between two starts.
fn spacing(limit: f64) -> Duration {
    Duration::from_secs_f64(1.0 / limit.max(f64::EPSILON))
}
