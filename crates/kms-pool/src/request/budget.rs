//! The budget: how many requests an account sends to a region at once, and in a second.
//!
//! The rate is learnt. As long as KMS throttles nothing there is none, but for the one that was set. When KMS
//! throttles, the rate drops to nine tenths of what KMS accepted in the last second (multiplicative decrease), and
//! grows by a hundredth of that each second (additive increase) until KMS throttles again.
//!
//! A request reserves its turn: it knows at once when that will be, and whether that is too late. That is why this
//! is not one of the rate limiters that exist, such as `governor`, which can only say when to ask again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use super::operation::Class;
use crate::time::monotonic;

/// What was set of a budget.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BudgetSettings {
    pub(crate) max_in_flight: usize,
    pub(crate) max_per_second: Option<f64>,
    /// The most that decrypting may take of both, 0 to 1.
    pub(crate) decrypt_share: f64,
    /// The most that everything else may take.
    pub(crate) encrypt_share: f64,
}

/// Whether somebody waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Priority {
    Foreground,
    /// Fetched ahead: it takes only what nobody else wants.
    Background,
}

/// After a throttled request the rate drops to this share of what was accepted.
const DECREASE: f64 = 0.9;
/// The rate grows by this share, of what it was after it dropped, in each second.
const INCREASE: f64 = 0.01;
const LEAST_PER_SECOND: f64 = 1.0;
/// This much of a second may be sent at once.
const BURST: f64 = 0.05;
/// A learnt rate is forgotten when KMS has throttled nothing for so long.
const FORGET_AFTER: Duration = Duration::from_mins(5);
const SECOND: Duration = Duration::from_secs(1);

/// The budget of one account in one region.
pub(crate) struct Budget {
    settings: BudgetSettings,
    in_flight: Arc<Semaphore>,
    by_class: [Arc<Semaphore>; 2],
    background: Arc<Semaphore>,
    rate: Mutex<Rate>,
}

/// Leave to send one request; given back when dropped.
pub(crate) struct Permit {
    _held: [Option<OwnedSemaphorePermit>; 3],
    entered: Instant,
}

/// It cannot start in time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLate {
    /// When it could, as far as that is known.
    pub(crate) retry_after: Duration,
}

struct Rate {
    /// Requests in a second; `None` for any number.
    limit: Option<f64>,
    /// Where the limit began to grow.
    grows_from: f64,
    grown_at: Instant,
    /// When the next turn is, over all and by class.
    next: [Instant; 3],
    decreased_at: Option<Instant>,
    /// Accepted in this second and in the one before.
    accepted: [u32; 2],
    second_began: Instant,
}

impl Budget {
    pub(crate) fn new(settings: BudgetSettings, now: Instant) -> Self {
        let share = |share: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let permits = (settings.max_in_flight as f64 * share).ceil() as usize;
            Arc::new(Semaphore::new(permits.clamp(1, settings.max_in_flight)))
        };
        let rate = Rate {
            limit: settings.max_per_second,
            grows_from: settings.max_per_second.unwrap_or_default(),
            grown_at: now,
            next: [now; 3],
            decreased_at: None,
            accepted: [0; 2],
            second_began: now,
        };
        Self {
            settings,
            in_flight: share(1.0),
            by_class: [share(settings.decrypt_share), share(settings.encrypt_share)],
            background: share(0.5),
            rate: Mutex::new(rate),
        }
    }

    /// The learnt or set limit, in requests a second.
    pub(crate) fn limit(&self) -> Option<f64> {
        self.rate().limit
    }

    /// Waits for its turn, which must come before `start_by`.
    ///
    /// # Errors
    ///
    /// [`TooLate`], at once where that can be known at once.
    pub(crate) async fn enter(&self, class: Class, priority: Priority, start_by: Instant) -> Result<Permit, TooLate> {
        match priority {
            Priority::Foreground => {
                let wait = self.rate().reserve(self.shares(class), class, monotonic(), start_by)?;
                if !wait.is_zero() {
                    sleep(wait).await;
                }
            }
            Priority::Background => self.wait_for_a_gap(class, start_by).await?,
        }
        let background = (priority == Priority::Background).then_some(&self.background);
        let wanted = [background, Some(&self.by_class[class as usize]), Some(&self.in_flight)];
        let mut held = [None, None, None];
        for (held, wanted) in held.iter_mut().zip(wanted) {
            if let Some(wanted) = wanted {
                *held = Some(permit(wanted, start_by).await?);
            }
        }
        Ok(Permit { _held: held, entered: monotonic() })
    }

    /// KMS took the request, whatever it answered.
    pub(crate) fn accepted(&self, now: Instant) {
        self.rate().accept(now, self.settings.max_per_second);
    }

    /// KMS throttled the request.
    pub(crate) fn throttled(&self, permit: &Permit, now: Instant) {
        self.rate().decrease(permit.entered, now);
    }

    /// Takes a turn only when there is one that nobody waits for.
    async fn wait_for_a_gap(&self, class: Class, start_by: Instant) -> Result<(), TooLate> {
        loop {
            let now = monotonic();
            let reserved = self.rate().reserve(self.shares(class), class, now, now);
            let Err(late) = reserved else { return Ok(()) };
            if now + late.retry_after > start_by {
                return Err(late);
            }
            sleep(late.retry_after).await;
        }
    }

    fn shares(&self, class: Class) -> f64 {
        match class {
            Class::Decrypt => self.settings.decrypt_share,
            Class::Encrypt => self.settings.encrypt_share,
        }
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn permit(semaphore: &Arc<Semaphore>, start_by: Instant) -> Result<OwnedSemaphorePermit, TooLate> {
    if let Ok(permit) = Arc::clone(semaphore).try_acquire_owned() {
        return Ok(permit);
    }
    let waited = timeout_at(start_by, Arc::clone(semaphore).acquire_owned()).await;
    // Semaphores of a budget are never closed.
    waited.ok().and_then(Result::ok).ok_or(TooLate { retry_after: SECOND })
}

impl Rate {
    /// Reserves the next turn of a class that has `share` of the limit, and says how long it is until then.
    fn reserve(&mut self, share: f64, class: Class, now: Instant, start_by: Instant) -> Result<Duration, TooLate> {
        let Some(limit) = self.limit else { return Ok(Duration::ZERO) };
        let spacings = [limit, limit * share].map(|limit| Duration::from_secs_f64(1.0 / limit.max(f64::EPSILON)));
        let places = [0, 1 + class as usize];
        let turns = places.map(|place| {
            // What was not used for a while may be sent at once.
            let earliest = now.checked_sub(SECOND.mul_f64(BURST)).unwrap_or(now);
            self.next[place].max(earliest)
        });
        let turn = turns.into_iter().max().unwrap_or(now);
        if turn > start_by.max(now) {
            return Err(TooLate { retry_after: turn - now });
        }
        for ((place, turn), spacing) in places.into_iter().zip(turns).zip(spacings) {
            self.next[place] = turn + spacing;
        }
        Ok(turn.saturating_duration_since(now))
    }

    fn accept(&mut self, now: Instant, most: Option<f64>) {
        self.turn_seconds(now);
        self.accepted[0] = self.accepted[0].saturating_add(1);
        let Some(decreased_at) = self.decreased_at else { return };
        if now.saturating_duration_since(decreased_at) > FORGET_AFTER {
            (self.limit, self.decreased_at) = (most, None);
        } else if let Some(limit) = &mut self.limit {
            // It grows only where it limits: nobody knows what lies beyond what is sent.
            let limits = self.next[0] > now;
            let passed = now.saturating_duration_since(self.grown_at).min(SECOND);
            self.grown_at = now;
            if limits {
                let grown = *limit + (self.grows_from * INCREASE).max(1.0) * passed.as_secs_f64();
                *limit = most.map_or(grown, |most| grown.min(most));
            }
        }
    }

    fn decrease(&mut self, sent: Instant, now: Instant) {
        // What was sent before the last decrease tells of the rate before it.
        if self.decreased_at.is_some_and(|at| sent <= at) {
            return;
        }
        self.turn_seconds(now);
        let share = now.saturating_duration_since(self.second_began).as_secs_f64().min(1.0);
        let accepted = f64::from(self.accepted[0]) + f64::from(self.accepted[1]) * (1.0 - share);
        let from = self.limit.map_or(accepted, |limit| limit.min(accepted));
        let limit = (from * DECREASE).max(LEAST_PER_SECOND);
        self.limit = Some(limit);
        (self.grows_from, self.grown_at, self.decreased_at) = (limit, now, Some(now));
    }

    fn turn_seconds(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.second_began);
        if passed >= SECOND {
            let last = if passed < SECOND * 2 { self.accepted[0] } else { 0 };
            self.accepted = [0, last];
            self.second_began = now;
        }
    }
}
