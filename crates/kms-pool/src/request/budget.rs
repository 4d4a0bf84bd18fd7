//! The budget: how many requests an account sends to a region at once, and in a second.
//!
//! The rate is learned. Until KMS throttles, only the configured rate applies. When KMS throttles,
//! the rate drops to nine tenths of the requests that KMS accepted in the last second. It grows
//! again until KMS throttles: by a hundredth of that in the first second, and by twice as much in
//! each further second. It therefore stays near a good rate for a while, and soon leaves a rate
//! that is too low.
//!
//! A request knows at once when it can start, from the number of requests before it, and whether
//! that is too late. Existing rate limiters, such as `governor`, can only say when to ask again. A
//! request waits in a queue and takes its turn only when it starts: a cancelled request therefore
//! leaves no gap, and a lower rate also applies to requests that already wait. Each class has its
//! own queue, and the two queues alternate: many waiting decryptions do not delay one encryption.

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
/// The rate grows by this share, of what it was after it dropped, in the first second that it
/// limits, or else by one.
const INCREASE: f64 = 0.01;
const MIN_PER_SECOND: f64 = 1.0;
/// This much of a second may be sent at once.
const BURST: f64 = 0.05;
/// A learned rate is forgotten when KMS has throttled nothing for so long.
const FORGET_AFTER: Duration = Duration::from_mins(5);
const SECOND: Duration = Duration::from_secs(1);

/// The budget of one account in one region.
pub(crate) struct Budget {
    settings: BudgetSettings,
    in_flight: Arc<Semaphore>,
    by_class: [Arc<Semaphore>; 2],
    background: Arc<Semaphore>,
    /// Its holder is the first of all waiters, and of each class.
    first: [Arc<Semaphore>; 3],
    rate: Mutex<Rate>,
}

/// A place in a line, until it is dropped.
struct Place<'a> {
    budget: &'a Budget,
    class: Class,
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
    /// How long it has, while it limited.
    grown_for: Duration,
    grown_at: Instant,
    /// When the next turn is, over all and by class.
    next: [Instant; 3],
    /// How many wait for a turn, by class.
    waiting: [u32; 2],
    /// When a request last had to wait for its turn over all.
    limited_at: Option<Instant>,
    decreased_at: Option<Instant>,
    /// Accepted in this second and in the one before.
    accepted: [u32; 2],
    second_began: Instant,
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
        let rate = Rate {
            limit: settings.max_per_second,
            grows_from: settings.max_per_second.unwrap_or_default(),
            grown_for: Duration::ZERO,
            grown_at: now,
            next: [now; 3],
            waiting: [0; 2],
            limited_at: None,
            decreased_at: None,
            accepted: [0; 2],
            second_began: now,
        };
        Self {
            settings,
            in_flight: share(1.0),
            by_class: [share(settings.decrypt_share), share(settings.encrypt_share)],
            background: share(0.5),
            first: [(); 3].map(|()| Arc::new(Semaphore::new(1))),
            rate: Mutex::new(rate),
        }
    }

    /// The learned or set limit, in requests a second.
    pub(crate) fn limit(&self) -> Option<f64> {
        self.rate().limit
    }

    /// Waits for its turn, which must come before `start_by`.
    ///
    /// # Errors
    ///
    /// [`TooLate`], at once where that can be known at once.
    pub(crate) async fn enter(
        &self,
        class: Class,
        priority: Priority,
        start_by: Instant,
    ) -> Result<Permit, TooLate> {
        match priority {
            Priority::Foreground => self.wait_in_line(class, start_by).await?,
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

    /// KMS accepted the request, with any response.
    pub(crate) fn accepted(&self, now: Instant) {
        self.rate().accept(now, self.settings.max_per_second);
    }

    /// KMS throttled the request.
    pub(crate) fn throttled(&self, permit: &Permit, now: Instant) {
        self.rate().decrease(permit.entered, now);
    }

    async fn wait_in_line(&self, class: Class, start_by: Instant) -> Result<(), TooLate> {
        let Some(_place) = self.line_up(class, start_by)? else { return Ok(()) };
        let (of_class, of_all) = (1 + class as usize, 0);
        let taken = async {
            let _first_of_class = self.turn(of_class, self.share(class), start_by).await?;
            self.turn(of_all, 1.0, start_by).await
        };
        // Who comes again has to line up again.
        let late = |_| TooLate {
            retry_after: self.rate().expected(class, self.share(class), monotonic()),
        };
        taken.await.map(drop).map_err(late)
    }

    /// A place in line, or none where there is no rate to wait for.
    fn line_up(&self, class: Class, start_by: Instant) -> Result<Option<Place<'_>>, TooLate> {
        let (mut rate, now) = (self.rate(), monotonic());
        if rate.limit.is_none() {
            return Ok(None);
        }
        let retry_after = rate.expected(class, self.share(class), now);
        if now + retry_after > start_by.max(now) {
            return Err(TooLate { retry_after });
        }
        rate.waiting[class as usize] += 1;
        Ok(Some(Place { budget: self, class }))
    }

    /// Becomes the first, and takes a turn. Gives what keeps it the first.
    async fn turn(
        &self,
        line: usize,
        share: f64,
        start_by: Instant,
    ) -> Result<OwnedSemaphorePermit, TooLate> {
        let first = permit(&self.first[line], start_by).await?;
        self.once_taken(line == 0, start_by, |rate, now| rate.take(line, share, now)).await?;
        Ok(first)
    }

    /// Takes a turn only when there is one that nobody waits for.
    async fn wait_for_a_gap(&self, class: Class, start_by: Instant) -> Result<(), TooLate> {
        let take = |rate: &mut Rate, now| {
            // The timer of the first may be late.
            let is_wanted = self.first[0].available_permits() == 0;
            rate.take_unwanted(is_wanted, class, self.share(class), now)
        };
        self.once_taken(true, start_by, take).await
    }

    /// Waits until a turn can be taken, and notes if it was the rate over all that it waited for.
    async fn once_taken(
        &self,
        over_all: bool,
        start_by: Instant,
        mut take: impl FnMut(&mut Rate, Instant) -> Result<(), Duration>,
    ) -> Result<(), TooLate> {
        let mut waited = false;
        loop {
            let now = monotonic();
            let retry_after = {
                let mut rate = self.rate();
                let Err(retry_after) = take(&mut rate, now) else {
                    if waited && over_all {
                        rate.limited_at = Some(now);
                    }
                    return Ok(());
                };
                retry_after
            };
            if now + retry_after > start_by.max(now) {
                return Err(TooLate { retry_after });
            }
            waited = true;
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

/// How far apart turns are.
fn spacing(limit: f64) -> Duration {
    Duration::from_secs_f64(1.0 / limit.max(f64::EPSILON))
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.budget.rate().waiting[self.class as usize] -= 1;
    }
}

impl Rate {
    /// How long a request would wait that came now.
    fn expected(&self, class: Class, share: f64, now: Instant) -> Duration {
        let Some(mut limit) = self.limit else { return Duration::ZERO };
        if self.decreased_at.is_some() {
            // It may fall twice more while this one waits, which must not make it late.
            limit *= DECREASE * DECREASE;
        }
        let mine = self.waiting[class as usize];
        let others = self.waiting.iter().sum::<u32>() - mine;
        let of_all = self.due(0, now) + spacing(limit) * (mine + mine.min(others));
        let of_class = self.due(1 + class as usize, now) + spacing(limit * share) * mine;
        of_all.max(of_class).saturating_duration_since(now)
    }

    /// Takes the next turn if it is due; says how long it is until then if not.
    fn take(&mut self, line: usize, share: f64, now: Instant) -> Result<(), Duration> {
        let Some(limit) = self.limit else { return Ok(()) };
        if line > 0 && share >= 1.0 {
            // A class that may take all has no turns of its own.
            return Ok(());
        }
        let due = self.due(line, now);
        if due > now {
            return Err(due - now);
        }
        self.next[line] = due + spacing(limit * share);
        Ok(())
    }

    /// The same over all and of a class at once, and only if nobody waits for it.
    fn take_unwanted(
        &mut self,
        is_wanted: bool,
        class: Class,
        share: f64,
        now: Instant,
    ) -> Result<(), Duration> {
        let Some(limit) = self.limit else { return Ok(()) };
        let mut wait = self.expected(class, share, now);
        if is_wanted {
            wait = wait.max(spacing(limit));
        }
        if !wait.is_zero() {
            return Err(wait);
        }
        self.take(0, 1.0, now)?;
        self.take(1 + class as usize, share, now)
    }

    /// When the next turn is. What was not used for a while may be sent at once.
    fn due(&self, line: usize, now: Instant) -> Instant {
        let earliest = now.checked_sub(SECOND.mul_f64(BURST)).unwrap_or(now);
        self.next[line].max(earliest)
    }

    fn accept(&mut self, now: Instant, most: Option<f64>) {
        self.turn_seconds(now);
        self.accepted[0] = self.accepted[0].saturating_add(1);
        let Some(decreased_at) = self.decreased_at else { return };
        if now.saturating_duration_since(decreased_at) > FORGET_AFTER {
            (self.limit, self.decreased_at) = (most, None);
        } else if let Some(limit) = &mut self.limit {
            // It grows only while it limits: the capacity beyond the sent requests is unknown.
            let limits =
                self.limited_at.is_some_and(|at| now.saturating_duration_since(at) < SECOND);
            let passed = now.saturating_duration_since(self.grown_at).min(SECOND);
            self.grown_at = now;
            if limits {
                let doubled = self.grown_for.as_secs_f64().exp2();
                let grown =
                    *limit + (self.grows_from * INCREASE).max(1.0) * doubled * passed.as_secs_f64();
                *limit = most.map_or(grown, |most| grown.min(most));
                self.grown_for += passed;
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
        let limit = (from * DECREASE).max(MIN_PER_SECOND);
        self.limit = Some(limit);
        (self.grows_from, self.grown_for) = (limit, Duration::ZERO);
        (self.grown_at, self.decreased_at) = (now, Some(now));
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use tokio::task::{JoinHandle, yield_now};
    use tokio::time::advance;

    use super::*;
    use Class::{Decrypt, Encrypt};
    use Priority::{Background, Foreground};

    const LONG: Duration = Duration::from_mins(1);
    const UNLIMITED: BudgetSettings = BudgetSettings {
        max_in_flight: 1_000,
        max_per_second: None,
        decrypt_share: 1.0,
        encrypt_share: 1.0,
    };

    fn of(per_second: f64) -> BudgetSettings {
        BudgetSettings { max_per_second: Some(per_second), ..UNLIMITED }
    }

    fn budget(settings: BudgetSettings) -> Arc<Budget> {
        Arc::new(Budget::new(settings, monotonic()))
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    async fn enter(budget: &Budget, within: Duration) -> Result<Permit, TooLate> {
        budget.enter(Encrypt, Foreground, monotonic() + within).await
    }

    /// Lines up, and tells when it got its turn.
    async fn line_up(
        budget: &Arc<Budget>,
        class: Class,
        priority: Priority,
    ) -> JoinHandle<Result<Duration, TooLate>> {
        let (budget, begun) = (Arc::clone(budget), monotonic());
        let task = tokio::spawn(async move {
            budget.enter(class, priority, begun + LONG).await.map(|_| monotonic() - begun)
        });
        yield_now().await;
        task
    }

    /// A learned limit of 90: KMS has taken 100 requests in this second and throttles one.
    fn throttled_at_100(budget: &Budget, permit: &Permit) {
        (0..100).for_each(|_| budget.accepted(monotonic()));
        budget.throttled(permit, monotonic());
        assert_eq!(budget.limit(), Some(90.0));
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_order_and_evenly_spaced() {
        let budget = budget(of(10.0));
        let mut tasks = vec![];
        for _ in 0..5 {
            tasks.push(line_up(&budget, Encrypt, Foreground).await);
        }
        for (number, task) in (0..).zip(tasks) {
            assert_eq!(task.await.unwrap(), Ok(millis(100 * number)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_a_twentieth_of_a_second_may_be_sent_at_once() {
        let budget = budget(of(100.0));
        sleep(SECOND).await;
        let begun = monotonic();
        for number in 0..8 {
            enter(&budget, LONG).await.unwrap();
            // Five that were left over, and the one that is due.
            assert_eq!(monotonic() - begun, millis(10 * u64::saturating_sub(number, 5)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_start_in_time_fails_at_once_and_takes_nothing() {
        let (budget, begun) = (budget(of(10.0)), monotonic());
        for _ in 0..5 {
            line_up(&budget, Encrypt, Foreground).await;
        }
        for _ in 0..3 {
            assert_eq!(
                enter(&budget, millis(499)).await.err(),
                Some(TooLate { retry_after: millis(500) })
            );
        }
        assert_eq!(monotonic(), begun);
        assert!(enter(&budget, millis(500)).await.is_ok());
        assert_eq!(monotonic() - begun, millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_give_up_leave_no_gap() {
        let (budget, begun) = (budget(of(10.0)), monotonic());
        enter(&budget, LONG).await.unwrap();
        let mut tasks = vec![];
        for class in [Encrypt, Decrypt].repeat(100) {
            tasks.push(line_up(&budget, class, Foreground).await);
        }
        assert!(enter(&budget, SECOND).await.is_err());
        for task in tasks {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
        enter(&budget, SECOND).await.unwrap();
        assert_eq!(monotonic() - begun, millis(100));
        assert_eq!(budget.rate().waiting, [0; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_for_an_answer_to_end_and_give_up_keep_no_permit() {
        let budget = budget(BudgetSettings { max_in_flight: 2, ..UNLIMITED });
        let held = [enter(&budget, LONG).await.unwrap(), enter(&budget, LONG).await.unwrap()];
        assert_eq!(enter(&budget, SECOND).await.err(), Some(TooLate { retry_after: SECOND }));
        for priority in [Foreground, Background] {
            let waiting = line_up(&budget, Encrypt, priority).await;
            waiting.abort();
            assert!(waiting.await.unwrap_err().is_cancelled());
        }
        drop(held);
        assert_eq!(budget.in_flight.available_permits(), 2);
        assert_eq!(budget.background.available_permits(), 1);
        assert!(budget.by_class.iter().all(|class| class.available_permits() == 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_class_takes_no_more_than_its_share() {
        let settings = BudgetSettings { max_in_flight: 4, decrypt_share: 0.5, ..of(10.0) };
        let (budget, begun) = (budget(settings), monotonic());
        let passed = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        for class in [Decrypt, Encrypt].repeat(50) {
            let (budget, passed) = (Arc::clone(&budget), Arc::clone(&passed[class as usize]));
            tokio::spawn(async move {
                budget.enter(class, Foreground, begun + LONG).await.unwrap();
                passed.fetch_add(1, Relaxed);
            });
        }
        sleep(millis(1_990)).await;
        assert_eq!(passed.map(|passed| passed.load(Relaxed)), [10, 10]);

        // One class alone gets no more, and leaves the rest to the other.
        let budget = self::budget(settings);
        let mut tasks = vec![];
        for _ in 0..3 {
            tasks.push(line_up(&budget, Decrypt, Foreground).await);
        }
        let late = budget.enter(Decrypt, Foreground, monotonic() + millis(599)).await;
        assert_eq!(late.err(), Some(TooLate { retry_after: millis(600) }));
        for (number, task) in (0..).zip(tasks) {
            assert_eq!(task.await.unwrap(), Ok(millis(200 * number)));
        }
        let decrypt = || budget.enter(Decrypt, Foreground, monotonic() + SECOND);
        let held = [decrypt().await.unwrap(), decrypt().await.unwrap()];
        assert!(decrypt().await.is_err());
        assert!(enter(&budget, SECOND).await.is_ok());
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn many_of_one_class_do_not_hold_up_one_of_the_other() {
        let budget = budget(of(10.0));
        for _ in 0..100 {
            line_up(&budget, Decrypt, Foreground).await;
        }
        let begun = monotonic();
        enter(&budget, millis(200)).await.unwrap();
        assert_eq!(monotonic() - begun, millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn the_background_takes_what_nobody_waits_for() {
        let budget = budget(of(10.0));
        enter(&budget, LONG).await.unwrap();
        let background = line_up(&budget, Encrypt, Background).await;
        let mut foreground = vec![];
        for _ in 0..3 {
            foreground.push(line_up(&budget, Encrypt, Foreground).await);
        }
        for (number, task) in (1..).zip(foreground) {
            assert_eq!(task.await.unwrap(), Ok(millis(100 * number)));
        }
        assert!(background.await.unwrap().unwrap() >= millis(400));
        let late = budget.enter(Encrypt, Background, monotonic() + millis(50)).await;
        assert_eq!(late.err(), Some(TooLate { retry_after: millis(100) }));

        // A turn whose owner is late is not free, and one that the owner's class may not have is.
        let budget = self::budget(BudgetSettings { decrypt_share: 0.1, ..of(2_000.0) });
        enter(&budget, LONG).await.unwrap();
        line_up(&budget, Encrypt, Foreground).await;
        advance(Duration::from_micros(600)).await;
        assert!(budget.enter(Decrypt, Background, monotonic()).await.is_err());
        sleep(millis(1)).await;
        for _ in 0..3 {
            line_up(&budget, Decrypt, Foreground).await;
        }
        sleep(millis(1)).await;
        assert!(budget.enter(Encrypt, Background, monotonic()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_falls_once_for_all_that_were_sent_before_it_fell() {
        let budget = budget(UNLIMITED);
        let mut sent = vec![];
        for _ in 0..10 {
            sent.push(enter(&budget, LONG).await.unwrap());
        }
        sleep(millis(10)).await;
        throttled_at_100(&budget, &sent[0]);
        for permit in &sent {
            budget.throttled(permit, monotonic());
        }
        assert_eq!(budget.limit(), Some(90.0));
        sleep(millis(10)).await;
        let later = enter(&budget, LONG).await.unwrap();
        budget.throttled(&later, monotonic());
        assert_eq!(budget.limit(), Some(81.0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_lines_up_is_in_time_even_if_the_rate_falls_twice_more() {
        let budget = budget(UNLIMITED);
        let permit = enter(&budget, LONG).await.unwrap();
        sleep(millis(1)).await;
        throttled_at_100(&budget, &permit);
        sleep(millis(1)).await;
        let later = loop {
            // What may be sent at once.
            let permit = enter(&budget, LONG).await.unwrap();
            if monotonic() < budget.rate().next[0] {
                break permit;
            }
        };
        let (mut tasks, begun) = (vec![], monotonic());
        while budget.rate().expected(Encrypt, 1.0, begun) <= SECOND {
            let budget = Arc::clone(&budget);
            tasks.push(tokio::spawn(async move { enter(&budget, SECOND).await.map(drop) }));
            yield_now().await;
        }
        assert_eq!(
            enter(&budget, SECOND).await.err().map(|late| late.retry_after > SECOND),
            Some(true)
        );
        assert_eq!((tasks.len(), monotonic()), (73, begun));
        budget.throttled(&later, monotonic());
        advance(Duration::from_micros(1)).await;
        budget.throttled(&Permit { _held: [None, None, None], entered: monotonic() }, monotonic());
        assert_eq!(budget.limit(), Some(72.9));
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lower_rate_holds_for_those_who_wait_already() {
        let (budget, begun) = (budget(of(100.0)), monotonic());
        let first = enter(&budget, LONG).await.unwrap();
        let mut tasks = vec![];
        for _ in 0..3 {
            tasks.push(line_up(&budget, Encrypt, Foreground).await);
        }
        (0..10).for_each(|_| budget.accepted(begun));
        budget.throttled(&first, begun);
        assert_eq!(budget.limit(), Some(9.0));
        let mut waited = vec![];
        for task in tasks {
            waited.push(task.await.unwrap().unwrap().as_millis());
        }
        // The turn after the first was agreed before.
        assert_eq!(waited, [10, 122, 233]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_grows_only_where_it_limits() {
        let budget = budget(UNLIMITED);
        let permit = enter(&budget, LONG).await.unwrap();
        throttled_at_100(&budget, &permit);
        for _ in 0..30 {
            sleep(SECOND).await;
            enter(&budget, LONG).await.unwrap();
            budget.accepted(monotonic());
        }
        assert_eq!(budget.limit(), Some(90.0));

        // As many as it lets pass: by one, which is more than a hundredth, in the first second,
        // then two, then four.
        let begun = monotonic();
        for seconds in 1..=3 {
            while monotonic() - begun < SECOND * seconds {
                enter(&budget, LONG).await.unwrap();
                budget.accepted(monotonic());
            }
            let grown = budget.limit().unwrap() - 90.0;
            let about = f64::from(2_u32.pow(seconds) - 1) / std::f64::consts::LN_2;
            assert!((grown / about - 1.0).abs() < 0.1, "{seconds}: {grown} and not {about}");
        }

        // When it has dropped again, it starts over.
        let permit = enter(&budget, LONG).await.unwrap();
        budget.throttled(&permit, monotonic());
        let (fallen, begun) = (budget.limit().unwrap(), monotonic());
        while monotonic() - begun < SECOND {
            enter(&budget, LONG).await.unwrap();
            budget.accepted(monotonic());
        }
        assert!(
            (1.0..2.0).contains(&(budget.limit().unwrap() - fallen)),
            "{:?} after {fallen}",
            budget.limit()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_never_grows_beyond_the_one_that_was_set() {
        let budget = budget(of(50.0));
        let permit = enter(&budget, LONG).await.unwrap();
        (0..50).for_each(|_| budget.accepted(monotonic()));
        budget.throttled(&permit, monotonic());
        assert_eq!(budget.limit(), Some(45.0));
        for _ in 0..1_000 {
            enter(&budget, LONG).await.unwrap();
            budget.accepted(monotonic());
        }
        assert_eq!(budget.limit(), Some(50.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_learnt_rate_is_forgotten_after_five_quiet_minutes() {
        for set in [None, Some(500.0)] {
            let budget = budget(BudgetSettings { max_per_second: set, ..UNLIMITED });
            let permit = enter(&budget, LONG).await.unwrap();
            throttled_at_100(&budget, &permit);
            sleep(FORGET_AFTER).await;
            budget.accepted(monotonic());
            assert_eq!(budget.limit(), Some(90.0));
            sleep(millis(1)).await;
            budget.accepted(monotonic());
            assert_eq!(budget.limit(), set);
        }
    }
}
