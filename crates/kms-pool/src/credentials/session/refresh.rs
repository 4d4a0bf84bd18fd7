//! Decides when a principal's provider is called: only the rules, without tasks, locks and clocks.
//!
//! Pauses are measured with the monotonic clock, so that changes of the wall clock cannot lengthen
//! them. Only the expiry of credentials is a date.

use std::time::Duration;

use tokio::time::Instant;

use crate::credentials::generation::Generation;
use crate::error::KmsError;
use crate::time::Now;

/// The minimum pause after the provider has failed or returned nothing new. It doubles each time in
/// a row, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Without valid credentials, a failure is repeated to callers for this time before the provider is
/// called again.
const TELL_FAILURE_FOR: Duration = Duration::from_millis(100);
/// The maximum number of refreshes in a row that refusals by KMS may cause; after that, one is
/// allowed each [`REFUSAL_EVERY`].
pub(super) const REFUSALS: u32 = 5;
const REFUSAL_EVERY: Duration = Duration::from_secs(10);

/// State that is remembered of earlier refreshes.
pub(super) struct Refresh {
    /// The last failure, and until when callers get it.
    failed: Option<(KmsError, Instant)>,
    /// How many refreshes may still be caused by refusals.
    refusals_left: u32,
    /// Since when `refusals_left` grows back; `None` before the first refusal.
    refusals_since: Option<Instant>,
    /// Consecutive refreshes that brought nothing new.
    fruitless: u32,
    /// Whether the last call of the provider succeeded.
    answered: bool,
    /// Until then, valid credentials are used without another refresh.
    not_before: Option<Instant>,
}

/// What a caller that needs credentials does.
#[derive(Debug)]
pub(super) enum Step {
    /// Sign with the current credentials.
    Use,
    /// Sign with the current credentials, and start a load in the background.
    UseAndAsk,
    /// Wait for the load in progress, or start one.
    Await,
    /// Like `Await`, but sign with the current credentials if the load fails.
    AwaitOrUse,
    /// Fail: the provider has just failed.
    Fail(KmsError),
}

impl Default for Refresh {
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

impl Refresh {
    /// Decides what to do with the `current` credentials, if any, depending on whether a load is in
    /// progress.
    pub(super) fn step(&self, current: Option<&Generation>, is_asking: bool, now: Now) -> Step {
        if current.is_some_and(|current| current.is_fresh(now.date)) {
            return Step::Use;
        }
        let waits = !self.pause(now).is_zero();
        // Credentials that were returned just now are used even if they look expired: this
        // machine's clock may be wrong.
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

    /// How long valid credentials are still used without another refresh.
    pub(super) fn pause(&self, now: Now) -> Duration {
        self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now.instant))
    }

    /// Records the start of a load.
    pub(super) fn began(&mut self, now: Now) {
        self.not_before = Some(now.instant + MIN_PAUSE);
    }

    /// Records that the load returned new credentials.
    pub(super) fn brought(&mut self, new: &Generation, now: Now) {
        self.failed = None;
        self.answered = true;
        if new.is_expired(now.date) {
            // Expired by this clock. If the clock is wrong, the next ones look expired too.
            return self.pause_longer(now);
        }
        self.fruitless = 0;
        self.not_before = Some(now.instant + MIN_PAUSE);
    }

    /// Records that the load returned the credentials that are already in use.
    pub(super) fn brought_nothing(&mut self, now: Now) {
        self.failed = None;
        self.answered = true;
        self.pause_longer(now);
    }

    /// Records that the load failed.
    pub(super) fn failed(&mut self, error: &KmsError, now: Now) {
        self.failed = Some((error.clone(), now.instant + TELL_FAILURE_FOR));
        self.answered = false;
        self.pause_longer(now);
    }

    fn pause_longer(&mut self, now: Now) {
        self.fruitless = self.fruitless.saturating_add(1);
        self.not_before = Some(now.instant + pause_after(self.fruitless));
    }

    /// Whether a refusal by KMS may cause a refresh. This is limited: somebody who can get requests
    /// refused, in a region where nothing else works, must not be able to keep the provider busy
    /// and all other callers waiting.
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
