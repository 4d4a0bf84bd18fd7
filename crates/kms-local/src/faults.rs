//! Faults on demand: slow, throttling, failing, cut off, silent, forbidding.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::watch;

use crate::context::EncryptionContext;

/// The farthest that a clock can be set off: what every date of the protocol can still be written
/// for.
const MOST_OFFSET: Duration = Duration::from_hours(10 * 365 * 24);

/// What goes wrong in a region, until it is cleared. The default is nothing.
///
/// As JSON, which is how the admin endpoint takes it, a latency is a number of milliseconds.
///
/// ```
/// use std::time::Duration;
/// use kms_local::FaultPlan;
///
/// let plan = FaultPlan { latency: Duration::from_millis(40), ..FaultPlan::default() };
/// assert_eq!(serde_json::to_value(plan)?["latency_ms"], 40);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultPlan {
    /// How long each request waits before anything else happens to it.
    #[serde(rename = "latency_ms", serialize_with = "to_millis", deserialize_with = "from_millis")]
    pub latency: Duration,
    /// The share of requests, 0 to 1, that wait for `slow_latency` on top of `latency`.
    pub slow_share: f64,
    /// How long a slow request waits in addition.
    #[serde(
        rename = "slow_latency_ms",
        serialize_with = "to_millis",
        deserialize_with = "from_millis"
    )]
    pub slow_latency: Duration,
    /// How many signed requests are let through in a second; the others get `ThrottlingException`.
    /// `Some(0)` throttles all of them, `None` throttles none.
    pub max_requests_per_second: Option<u32>,
    /// The share of requests, 0 to 1, that get `KMSInternalException` with status 500.
    pub internal_error_share: f64,
    /// The share of requests, 0 to 1, whose connection is reset instead of answered.
    pub connection_reset_share: f64,
    /// Whether requests are accepted and not answered until this fault is cleared.
    pub hang: bool,
    /// Whether requests that are signed right get `AccessDeniedException`, as if the key policy had
    /// been changed.
    pub access_denied: bool,
    /// Whether responses with a `KeyId` contain the id of another key, which does not exist.
    pub wrong_key_id: bool,
    /// How many milliseconds the server's clock is ahead of the true time, or behind it when this
    /// is negative. Signatures and sessions are checked by that clock, and the `Date` header of
    /// answers shows it. Past ten years either way it counts as ten years.
    pub clock_offset_ms: i64,
    /// What the shares are drawn with: the same seed draws the same faults.
    pub seed: u64,
}

/// A handle on the faults of one region. Clones are handles on the same faults.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// let kms = kms_local::KmsLocal::builder().start().await?;
/// let faults = kms.faults("us-east-1");
/// faults.latency(Duration::from_millis(20));
/// faults.internal_errors(0.5);
/// assert_eq!(faults.plan().internal_error_share, 0.5);
/// faults.clear();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

struct Shared {
    plan: watch::Sender<FaultPlan>,
    dice: Mutex<Dice>,
    /// The pairs of encryption contexts for which access is denied.
    denied_contexts: Mutex<Vec<(String, String)>>,
}

/// What chance decides about requests.
struct Dice {
    random: fastrand::Rng,
    /// Apart from the other, so that plans without slowness draw what they always drew.
    slowness: fastrand::Rng,
    /// How many requests may still pass, as of the time beside it.
    allowance: Option<(f64, Instant)>,
}

/// What chance holds for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Pass,
    Reset,
    InternalError,
}

impl Faults {
    pub(crate) fn new() -> Self {
        let dice = Dice::new(0);
        let plan = watch::Sender::new(FaultPlan::default());
        let shared = Shared { plan, dice: Mutex::new(dice), denied_contexts: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The faults as they are set now.
    pub fn plan(&self) -> FaultPlan {
        *self.shared.plan.borrow()
    }

    /// Sets all faults at once, and restarts the random generator from the plan's seed. A share
    /// outside 0 to 1 counts as the nearest value inside.
    pub fn set(&self, plan: FaultPlan) {
        *self.dice() = Dice::new(plan.seed);
        self.shared.plan.send_replace(plan);
    }

    /// Ends all faults. Requests that hang are answered.
    pub fn clear(&self) {
        self.denied_contexts().clear();
        self.set(FaultPlan::default());
    }

    /// Makes each request wait for `latency` first.
    pub fn latency(&self, latency: Duration) {
        self.change(|plan| plan.latency = latency);
    }

    /// Makes a `share` of requests, 0 to 1, wait for `latency` on top of what all of them wait.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let kms = kms_local::KmsLocal::builder().start().await?;
    /// kms.faults("us-east-1").slow(0.01, Duration::from_secs(2));
    /// assert_eq!(kms.faults("us-east-1").plan().slow_share, 0.01);
    /// # Ok(())
    /// # }
    /// ```
    pub fn slow(&self, share: f64, latency: Duration) {
        self.change(|plan| (plan.slow_share, plan.slow_latency) = (share, latency));
    }

    /// Sets the server's clock ahead of the true time, for what [`FaultPlan::clock_offset_ms`]
    /// names. `Duration::ZERO` sets it right.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let kms = kms_local::KmsLocal::builder().start().await?;
    /// kms.faults("us-east-1").clock_ahead(Duration::from_mins(10));
    /// assert_eq!(kms.faults("us-east-1").plan().clock_offset_ms, 600_000);
    /// # Ok(())
    /// # }
    /// ```
    pub fn clock_ahead(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.change(|plan| plan.clock_offset_ms = by);
    }

    /// Sets the server's clock behind the true time, as [`clock_ahead`](Self::clock_ahead) does
    /// ahead of it.
    pub fn clock_behind(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.change(|plan| plan.clock_offset_ms = -by);
    }

    /// Lets `requests_per_second` through and throttles the others; 0 throttles all of them.
    pub fn throttle_above(&self, requests_per_second: u32) {
        self.change(|plan| plan.max_requests_per_second = Some(requests_per_second));
    }

    /// Answers a `share` of requests, 0 to 1, with `KMSInternalException` and status 500.
    pub fn internal_errors(&self, share: f64) {
        self.change(|plan| plan.internal_error_share = share);
    }

    /// Resets the connection of a `share` of requests, 0 to 1, instead of answering.
    pub fn connection_resets(&self, share: f64) {
        self.change(|plan| plan.connection_reset_share = share);
    }

    /// Accepts requests and leaves them unanswered until `hang(false)` or [`clear`](Self::clear).
    pub fn hang(&self, hang: bool) {
        self.change(|plan| plan.hang = hang);
    }

    /// Answers every signed request with `AccessDeniedException` until `deny_access(false)` or
    /// [`clear`](Self::clear).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kms = kms_local::KmsLocal::builder().start().await?;
    /// kms.faults("us-east-1").deny_access(true);
    /// assert!(kms.faults("us-east-1").plan().access_denied);
    /// # Ok(())
    /// # }
    /// ```
    pub fn deny_access(&self, deny: bool) {
        self.change(|plan| plan.access_denied = deny);
    }

    /// Denies signed requests whose encryption context contains any of these pairs, with
    /// `AccessDeniedException`, like a key policy with a condition on `kms:EncryptionContext`.
    /// Replaces the pairs that were set before; an empty list, or [`clear`](Self::clear), ends it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kms = kms_local::KmsLocal::builder().start().await?;
    /// kms.faults("us-east-1").deny_contexts([("tenant", "42")]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn deny_contexts<K: Into<String>, V: Into<String>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) {
        let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        *self.denied_contexts() = pairs;
    }

    /// Whether access is denied for this context.
    pub(crate) fn denies(&self, context: &EncryptionContext) -> bool {
        self.denied_contexts().iter().any(|(key, value)| context.get(key) == Some(value))
    }

    /// Whether access is denied for any context.
    pub(crate) fn denies_some_contexts(&self) -> bool {
        !self.denied_contexts().is_empty()
    }

    fn denied_contexts(&self) -> std::sync::MutexGuard<'_, Vec<(String, String)>> {
        self.shared.denied_contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the `KeyId` in responses by the id of another key, which does not exist, until
    /// `wrong_key_ids(false)` or [`clear`](Self::clear). The rest of the response does not change.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kms = kms_local::KmsLocal::builder().start().await?;
    /// kms.faults("us-east-1").wrong_key_ids(true);
    /// assert!(kms.faults("us-east-1").plan().wrong_key_id);
    /// # Ok(())
    /// # }
    /// ```
    pub fn wrong_key_ids(&self, wrong: bool) {
        self.change(|plan| plan.wrong_key_id = wrong);
    }

    /// Restarts the random generator from `seed`. The default seed is 0.
    pub fn seed(&self, seed: u64) {
        self.change(|plan| plan.seed = seed);
        let mut dice = self.dice();
        *dice = Dice { allowance: dice.allowance, ..Dice::new(seed) };
    }

    /// Waits as long as the plan says that a request has to.
    async fn delay(&self) {
        let mut plan = self.shared.plan.subscribe();
        // The sender lives in `self`, so this ends only when the hanging does.
        let _ = plan.wait_for(|plan| !plan.hang).await;
        let latency = self.plan().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    /// Waits as long as the plan has a request wait, and draws what becomes of it.
    pub(crate) async fn meet(&self) -> Fate {
        self.delay().await;
        let fate = self.draw();
        self.dawdle().await;
        fate
    }

    /// Draws whether one request is slow, and waits if it is.
    async fn dawdle(&self) {
        let plan = self.plan();
        let slow = self.dice().slowness.f64() < plan.slow_share;
        if slow && !plan.slow_latency.is_zero() {
            tokio::time::sleep(plan.slow_latency).await;
        }
    }

    /// What the server's clock shows when the true time is `now`.
    pub(crate) fn clock(&self, now: SystemTime) -> SystemTime {
        let offset = self.plan().clock_offset_ms;
        let by = Duration::from_millis(offset.unsigned_abs()).min(MOST_OFFSET);
        if offset < 0 { now - by } else { now + by }
    }

    /// Draws what becomes of one request. Every request draws the same number of times, so that
    /// what one share is set to leaves the draws of another as they were.
    fn draw(&self) -> Fate {
        let plan = self.plan();
        let mut dice = self.dice();
        let (reset, internal) = (dice.random.f64(), dice.random.f64());
        if reset < plan.connection_reset_share {
            Fate::Reset
        } else if internal < plan.internal_error_share {
            Fate::InternalError
        } else {
            Fate::Pass
        }
    }

    /// Whether the rate leaves room for one more request: a bucket of one second's requests.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        let Some(rate) = self.plan().max_requests_per_second.map(f64::from) else { return true };
        let mut dice = self.dice();
        let (left, since) = dice.allowance.unwrap_or((rate, now));
        let refilled = left + now.saturating_duration_since(since).as_secs_f64() * rate;
        let left = refilled.min(rate);
        let admitted = left >= 1.0;
        dice.allowance = Some((if admitted { left - 1.0 } else { left }, now));
        admitted
    }

    fn change(&self, change: impl FnOnce(&mut FaultPlan)) {
        self.shared.plan.send_modify(change);
    }

    fn dice(&self) -> std::sync::MutexGuard<'_, Dice> {
        // Any value of the dice is as good as any other.
        self.shared.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dice {
    fn new(seed: u64) -> Self {
        let [random, slowness] = [seed, !seed].map(fastrand::Rng::with_seed);
        Self { random, slowness, allowance: None }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faults").field(&self.plan()).finish()
    }
}

fn to_millis<S: Serializer>(latency: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX))
}

fn from_millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    fn fates(plan: FaultPlan) -> Vec<Fate> {
        let faults = Faults::new();
        faults.set(plan);
        (0..200).map(|_| faults.draw()).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        let plan = FaultPlan {
            internal_error_share: 0.3,
            connection_reset_share: 0.2,
            seed: 42,
            ..FaultPlan::default()
        };
        let drawn = fates(plan);
        assert_eq!(drawn, fates(plan));
        assert_ne!(drawn, fates(FaultPlan { seed: 43, ..plan }));
        for fate in [Fate::Pass, Fate::Reset, Fate::InternalError] {
            assert!(drawn.contains(&fate), "{fate:?}");
        }
    }

    #[test]
    fn shares_of_none_and_all_are_exact() {
        let all = FaultPlan { internal_error_share: 1.0, ..FaultPlan::default() };
        assert!(fates(all).iter().all(|fate| *fate == Fate::InternalError));
        assert!(fates(FaultPlan::default()).iter().all(|fate| *fate == Fate::Pass));
    }

    #[test]
    fn slowness_leaves_the_other_draws_as_they_were() {
        let plan = FaultPlan { internal_error_share: 0.5, seed: 7, ..FaultPlan::default() };
        let slow = FaultPlan { slow_share: 0.5, ..plan };
        let [without, with] = [plan, slow].map(|plan| {
            let faults = Faults::new();
            faults.set(plan);
            let mut fates = Vec::new();
            for _ in 0..50 {
                fates.push(faults.draw());
                faults.dice().slowness.f64();
            }
            fates
        });
        assert_eq!(without, with);
        assert_eq!(without, fates(plan)[..50]);
    }

    #[test]
    fn a_clock_is_set_ahead_and_behind_and_stays_a_date() {
        let (faults, now) = (Faults::new(), time::now());
        assert_eq!(faults.clock(now), now);
        faults.clock_ahead(Duration::from_millis(5));
        assert_eq!(faults.clock(now), now + Duration::from_millis(5));
        faults.clock_behind(Duration::from_mins(6));
        assert_eq!(faults.clock(now), now - Duration::from_mins(6));
        for extreme in [i64::MIN, i64::MAX] {
            faults.set(FaultPlan { clock_offset_ms: extreme, ..FaultPlan::default() });
            assert!(time::format_http_date(faults.clock(now)).is_some());
        }
    }

    #[test]
    fn a_rate_admits_its_number_each_second() {
        let faults = Faults::new();
        faults.throttle_above(3);
        let start = time::monotonic();
        let admitted = |at| (0..10).filter(|_| faults.admits(at)).count();
        assert_eq!(admitted(start), 3);
        assert_eq!(admitted(start + Duration::from_secs(1)), 3);
        assert_eq!(admitted(start + Duration::from_mins(1)), 3);
    }

    #[test]
    fn a_rate_of_none_admits_none() {
        let faults = Faults::new();
        faults.throttle_above(0);
        assert!(!faults.admits(time::monotonic()));
    }
}
