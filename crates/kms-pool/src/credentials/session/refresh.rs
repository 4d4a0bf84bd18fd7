//! Decides when a principal's provider is called, without tasks, locks and clocks.
//!
//! Pauses are measured with the monotonic clock, so that changes of the wall clock cannot lengthen
//! them. Only the expiry of credentials is a date.

use std::time::Duration;

use tokio::time::Instant;

use crate::credentials::generation::Generation;
use crate::error::KmsError;
use crate::time::Now;

/// The pause after the provider has failed or returned nothing new. It doubles each consecutive
/// time, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Without valid credentials, a failure is repeated to callers for this time before the provider is
/// called again.
const REPEAT_FAILURE_FOR: Duration = Duration::from_millis(100);
/// The maximum number of consecutive refreshes because KMS rejected the credentials. After that,
/// one is allowed each [`REJECTION_EVERY`].
pub(super) const MAX_REJECTIONS: u32 = 5;
const REJECTION_EVERY: Duration = Duration::from_secs(10);

/// The state of earlier refreshes.
pub(super) struct Refresh {
    /// The last failure, and until when callers get it.
    failed: Option<(KmsError, Instant)>,
    /// How many refreshes rejections may still cause.
    rejections_left: u32,
    /// Since when `rejections_left` grows back; `None` before the first rejection.
    rejections_since: Option<Instant>,
    /// Consecutive refreshes that returned nothing new.
    fruitless: u32,
    /// Whether the last call of the provider succeeded.
    answered: bool,
    /// When the next refresh may start. Before that, valid credentials are used as they are.
    not_before: Option<Instant>,
}

/// The next action of a caller that needs credentials.
#[derive(Debug)]
pub(super) enum Step {
    /// Sign with the current credentials.
    Use,
    /// Sign with the current credentials, and start a load in the background.
    UseAndLoad,
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
            rejections_left: MAX_REJECTIONS,
            rejections_since: None,
            fruitless: 0,
            answered: false,
            not_before: None,
        }
    }
}

impl Refresh {
    /// Decides what to do with the `current` credentials, if any, depending on whether a load is in
    /// progress.
    pub(super) fn step(&self, current: Option<&Generation>, is_loading: bool, now: Now) -> Step {
        if current.is_some_and(|current| current.is_fresh(now.date)) {
            return Step::Use;
        }
        let waits = !self.pause(now).is_zero();
        // Credentials that were returned just now are used even if they look expired: this
        // machine's clock may be wrong.
        let just_now = waits && self.answered && !is_loading;
        match current.filter(|current| just_now || !current.is_expired(now.date)) {
            Some(good) if is_loading && good.is_rejected() => Step::AwaitOrUse,
            Some(good) if !is_loading && good.is_due(now.date) && !waits => Step::UseAndLoad,
            Some(_) => Step::Use,
            None => match &self.failed {
                Some((error, until)) if !is_loading && now.instant < *until => {
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
    pub(super) fn returned_new(&mut self, new: &Generation, now: Now) {
        self.failed = None;
        self.answered = true;
        if new.is_expired(now.date) {
            // They look expired to this clock. If the clock is wrong, the next credentials will
            // look expired too, so wait longer before the next refresh.
            return self.pause_longer(now);
        }
        self.fruitless = 0;
        self.not_before = Some(now.instant + MIN_PAUSE);
    }

    /// Records that the load returned the credentials that are already in use.
    pub(super) fn returned_nothing_new(&mut self, now: Now) {
        self.failed = None;
        self.answered = true;
        self.pause_longer(now);
    }

    /// Records that the load failed.
    pub(super) fn failed(&mut self, error: &KmsError, now: Now) {
        self.failed = Some((error.clone(), now.instant + REPEAT_FAILURE_FOR));
        self.answered = false;
        self.pause_longer(now);
    }

    fn pause_longer(&mut self, now: Now) {
        self.fruitless = self.fruitless.saturating_add(1);
        self.not_before = Some(now.instant + pause_after(self.fruitless));
    }

    /// Whether a rejection by KMS may cause a refresh. Their number is limited: somebody who can
    /// cause rejections in one region must not keep the provider busy and all callers waiting.
    pub(super) fn take_rejection(&mut self, now: Now) -> bool {
        if self.fruitless > 0 && !self.pause(now).is_zero() {
            return false;
        }
        let since = self.rejections_since.unwrap_or(now.instant);
        let passed = now.instant.saturating_duration_since(since);
        let periods = passed.as_secs() / REJECTION_EVERY.as_secs();
        let grown = u32::try_from(periods).unwrap_or(u32::MAX);
        let left = self.rejections_left.saturating_add(grown).min(MAX_REJECTIONS);
        let since =
            if left == MAX_REJECTIONS { now.instant } else { since + REJECTION_EVERY * grown };
        self.rejections_left = left.saturating_sub(1);
        self.rejections_since = Some(since);
        left > 0
    }
}

fn pause_after(failures: u32) -> Duration {
    let doubled = MIN_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(MAX_PAUSE)
}
