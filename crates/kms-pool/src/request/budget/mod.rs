//! The budget: how many requests an account sends to a region at once, and per second.
//!
//! The rate is learned. Until KMS throttles, only the configured rate applies. When KMS throttles,
//! the rate drops to nine tenths of the requests that KMS accepted in the last second. It grows
//! again until KMS throttles: by a hundredth of that in the first second, and by twice as much as
//! before in each further second. It therefore stays near a good rate for a while, and soon leaves
//! a rate that is too low.
//!
//! A request knows at once when it can start, from the number of requests before it, and whether
//! that is too late. Existing rate limiters, such as `governor`, can only say when to ask again. A
//! request waits in a queue and uses up its start only when it starts: a cancelled request
//! therefore leaves no gap, and a lower rate also applies to requests that already wait. Each class
//! has its own queue, and the two queues alternate: many waiting decryptions do not delay one
//! encryption.

mod rate;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use self::rate::{ALL, Rate, SECOND, queue_of};
use super::operation::Class;
use crate::time::monotonic;

/// The settings of budgets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BudgetSettings {
    pub(crate) max_in_flight: usize,
    pub(crate) max_per_second: Option<f64>,
    /// The maximum share of both limits for decryption, 0 to 1.
    pub(crate) decrypt_share: f64,
    /// The maximum share of both limits for everything else, 0 to 1.
    pub(crate) encrypt_share: f64,
}

/// Whether a caller waits for the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Priority {
    Foreground,
    /// Uses only what foreground requests leave.
    Background,
}

/// The budget of one account in one region.
pub(crate) struct Budget {
    settings: BudgetSettings,
    in_flight: Arc<Semaphore>,
    by_class: [Arc<Semaphore>; 2],
    background: Arc<Semaphore>,
    /// The holder of a permit is the first waiter of that queue.
    first: [Arc<Semaphore>; 3],
    rate: Mutex<Rate>,
}

/// Counts a request as waiting until this is dropped.
struct Waiting<'a> {
    budget: &'a Budget,
    class: Class,
}

/// Permission to send one request, which is given back when this is dropped.
pub(crate) struct Permit {
    _held: [Option<OwnedSemaphorePermit>; 3],
    entered: Instant,
}

/// A request cannot start in time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLate {
    /// When to try again, as far as that is known.
    pub(crate) retry_after: Duration,
}

impl Budget {
    pub(crate) fn new(settings: BudgetSettings, now: Instant) -> Self {
        let share = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss
            )]
            let permits = (settings.max_in_flight as f64 * share).ceil() as usize;
            Arc::new(Semaphore::new(permits.clamp(1, settings.max_in_flight)))
        };
        Self {
            settings,
            in_flight: share(1.0),
            by_class: [share(settings.decrypt_share), share(settings.encrypt_share)],
            background: share(0.5),
            first: [(); 3].map(|()| Arc::new(Semaphore::new(1))),
            rate: Mutex::new(Rate::new(settings.max_per_second, now)),
        }
    }

    /// The learned or configured limit, in requests per second.
    pub(crate) fn limit(&self) -> Option<f64> {
        self.rate().limit
    }

    /// Waits until a request may be sent.
    ///
    /// # Errors
    ///
    /// [`TooLate`] if the request cannot start by `start_by`. Does not wait if this is known from
    /// the start.
    pub(crate) async fn enter(
        &self,
        class: Class,
        priority: Priority,
        start_by: Instant,
    ) -> Result<Permit, TooLate> {
        match priority {
            Priority::Foreground => self.wait_in_queue(class, start_by).await?,
            Priority::Background => self.wait_for_spare_start(class, start_by).await?,
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

    /// Records that KMS accepted the request, with any response.
    pub(crate) fn accepted(&self, now: Instant) {
        self.rate().accept(now, self.settings.max_per_second);
    }

    /// Records that KMS throttled the request.
    pub(crate) fn throttled(&self, permit: &Permit, now: Instant) {
        self.rate().decrease(permit.entered, now);
    }

    async fn wait_in_queue(&self, class: Class, start_by: Instant) -> Result<(), TooLate> {
        let Some(_waiting) = self.enqueue(class, start_by)? else { return Ok(()) };
        let started = async {
            let _first_of_class =
                self.wait_to_start(queue_of(class), self.share(class), start_by).await?;
            self.wait_to_start(ALL, 1.0, start_by).await
        };
        // A caller that tries again starts at the end of the queue.
        let late = |_| TooLate {
            retry_after: self.rate().expected_wait(class, self.share(class), monotonic()),
        };
        started.await.map(drop).map_err(late)
    }

    /// Enters the queue; `None` if the rate is unlimited, so that there is nothing to wait for.
    fn enqueue(&self, class: Class, start_by: Instant) -> Result<Option<Waiting<'_>>, TooLate> {
        let mut rate = self.rate();
        let now = monotonic();
        if rate.limit.is_none() {
            return Ok(None);
        }
        let retry_after = rate.expected_wait(class, self.share(class), now);
        if now + retry_after > start_by.max(now) {
            return Err(TooLate { retry_after });
        }
        rate.waiting[class as usize] += 1;
        Ok(Some(Waiting { budget: self, class }))
    }

    /// Waits to be the first of a queue, and then until its next request may start. The returned
    /// permit keeps this request the first.
    async fn wait_to_start(
        &self,
        queue: usize,
        share: f64,
        start_by: Instant,
    ) -> Result<OwnedSemaphorePermit, TooLate> {
        let first = permit(&self.first[queue], start_by).await?;
        self.wait_until(queue == ALL, start_by, |rate, now| rate.start(queue, share, now)).await?;
        Ok(first)
    }

    /// Waits for a start that no foreground request waits for.
    async fn wait_for_spare_start(&self, class: Class, start_by: Instant) -> Result<(), TooLate> {
        let start = |rate: &mut Rate, now| {
            // The timer of the first request may be late.
            let is_wanted = self.first[ALL].available_permits() == 0;
            rate.start_spare(is_wanted, class, self.share(class), now)
        };
        self.wait_until(true, start_by, start).await
    }

    /// Waits until `start` succeeds. If it had to wait for the limit over all requests, this is
    /// recorded.
    async fn wait_until(
        &self,
        is_over_all: bool,
        start_by: Instant,
        mut start: impl FnMut(&mut Rate, Instant) -> Result<(), Duration>,
    ) -> Result<(), TooLate> {
        let mut has_waited = false;
        loop {
            let now = monotonic();
            let retry_after = {
                let mut rate = self.rate();
                let Err(retry_after) = start(&mut rate, now) else {
                    if has_waited && is_over_all {
                        rate.limited_at = Some(now);
                    }
                    return Ok(());
                };
                retry_after
            };
            if now + retry_after > start_by.max(now) {
                return Err(TooLate { retry_after });
            }
            has_waited = true;
            sleep(retry_after).await;
        }
    }

    fn share(&self, class: Class) -> f64 {
        match class {
            Class::Decrypt => self.settings.decrypt_share,
            Class::Encrypt => self.settings.encrypt_share,
        }
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        // A panic leaves numbers that the next response corrects.
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn permit(
    semaphore: &Arc<Semaphore>,
    start_by: Instant,
) -> Result<OwnedSemaphorePermit, TooLate> {
    if let Ok(permit) = Arc::clone(semaphore).try_acquire_owned() {
        return Ok(permit);
    }
    let waited = timeout_at(start_by, Arc::clone(semaphore).acquire_owned()).await;
    // Semaphores of a budget are never closed.
    waited.ok().and_then(Result::ok).ok_or(TooLate { retry_after: SECOND })
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.budget.rate().waiting[self.class as usize] -= 1;
    }
}
