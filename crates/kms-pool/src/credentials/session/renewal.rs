//! When a principal's provider is asked: the rules alone, without tasks, locks and clocks.
//!
//! Pauses are measured with the monotonic clock, so that nobody who sets the date can lengthen one.
//! Only the expiry of credentials is a date.

use std::time::Duration;

use tokio::time::Instant;

use crate::credentials::generation::Generation;
use crate::error::KmsError;
use crate::time::Now;

/// When the provider fails, or has nothing new, it is asked again after this at the earliest; each
/// time in a row twice as long, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Where there are no good credentials, a failure is told for so long before the provider is asked
/// again.
const TELL_FAILURE_FOR: Duration = Duration::from_millis(100);
/// So many renewals may follow one another because KMS refused credentials; then one for each
/// [`REFUSAL_EVERY`].
pub(super) const REFUSALS: u32 = 5;
const REFUSAL_EVERY: Duration = Duration::from_secs(10);

/// What is remembered of earlier renewals.
pub(super) struct Renewal {
    /// How the last one failed, and until when that is told to those who come.
    failed: Option<(KmsError, Instant)>,
    /// Renewals that refusals by KMS may still cause.
    refusals_left: u32,
    /// Since when their number has grown back; `None` before the first.
    refusals_since: Option<Instant>,
    /// Renewals in a row that brought nothing new.
    fruitless: u32,
    /// Whether the last one was answered.
    answered: bool,
    /// Until then good credentials are used as they are.
    not_before: Option<Instant>,
}

/// What a caller does who needs credentials.
#[derive(Debug)]
pub(super) enum Step {
    /// Sign with the current ones.
    Use,
    /// Sign with the current ones, and have the provider asked meanwhile.
    UseAndAsk,
    /// Wait for the provider, which is asked now unless it is being asked already.
    Await,
    /// The same, but sign with the current ones if it has none.
    AwaitOrUse,
    /// Give up: the provider has just failed.
    Fail(KmsError),
}

impl Default for Renewal {
    fn default() -> Self {
        Self {
            failed: None,
            refusals_left: REFUSALS,
            refusals_since: None,
            fruitless: 0,
            answered: false,
            not_before: None,
        }
    }
}

impl Renewal {
    /// What to do with the `current` credentials, if there are any, while the provider is being
    /// asked or not.
    pub(super) fn step(&self, current: Option<&Generation>, is_asking: bool, now: Now) -> Step {
        if current.is_some_and(|current| current.is_fresh(now.date)) {
            return Step::Use;
        }
        let waits = !self.pause(now).is_zero();
        // What was handed out just now is used even if it looks expired: it may be this machine's
        // clock.
        let just_now = waits && self.answered && !is_asking;
        match current.filter(|current| just_now || !current.is_expired(now.date)) {
            Some(good) if is_asking && good.is_refused() => Step::AwaitOrUse,
            Some(good) if !is_asking && good.is_due(now.date) && !waits => Step::UseAndAsk,
            Some(_) => Step::Use,
            None => match &self.failed {
                Some((error, until)) if !is_asking && now.instant < *until => {
                    Step::Fail(error.clone())
                }
                _ => Step::Await,
            },
        }
    }

    /// How long good credentials are still used as they are.
    pub(super) fn pause(&self, now: Now) -> Duration {
        self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now.instant))
    }

    /// The provider is asked.
    pub(super) fn began(&mut self, now: Now) {
        self.not_before = Some(now.instant + MIN_PAUSE);
    }

    /// It answered with other credentials.
    pub(super) fn brought(&mut self, new: &Generation, now: Now) {
        self.failed = None;
        self.answered = true;
        if new.is_expired(now.date) {
            // By this clock. If it is wrong, the next ones will look the same.
            return self.pause_longer(now);
        }
        self.fruitless = 0;
        self.not_before = Some(now.instant + MIN_PAUSE);
    }

    /// It answered with those that are in use already.
    pub(super) fn brought_nothing(&mut self, now: Now) {
        self.failed = None;
        self.answered = true;
        self.pause_longer(now);
    }

    /// It did not answer.
    pub(super) fn failed(&mut self, error: &KmsError, now: Now) {
        self.failed = Some((error.clone(), now.instant + TELL_FAILURE_FOR));
        self.answered = false;
        self.pause_longer(now);
    }

    fn pause_longer(&mut self, now: Now) {
        self.fruitless = self.fruitless.saturating_add(1);
        self.not_before = Some(now.instant + pause_after(self.fruitless));
    }

    /// Whether a refusal by KMS may cause a renewal. Whoever can have requests refused, in a region
    /// where nothing else works, must not be able to keep the provider busy and everybody else
    /// waiting.
    pub(super) fn take_refusal(&mut self, now: Now) -> bool {
        if self.fruitless > 0 && !self.pause(now).is_zero() {
            return false;
        }
        let since = self.refusals_since.unwrap_or(now.instant);
        let passed = now.instant.saturating_duration_since(since);
        let periods = passed.as_secs() / REFUSAL_EVERY.as_secs();
        let grown = u32::try_from(periods).unwrap_or(u32::MAX);
        let left = self.refusals_left.saturating_add(grown).min(REFUSALS);
        let since = if left == REFUSALS { now.instant } else { since + REFUSAL_EVERY * grown };
        self.refusals_left = left.saturating_sub(1);
        self.refusals_since = Some(since);
        left > 0
    }
}

fn pause_after(failures: u32) -> Duration {
    let doubled = MIN_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(MAX_PAUSE)
}
