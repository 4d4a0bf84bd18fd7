//! Faults: a test can make a server slow, throttle, fail, reset connections, hang or deny access.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::watch;

use crate::context::EncryptionContext;

/// The maximum clock offset. The protocol's formats can represent all dates within it.
const MAX_CLOCK_OFFSET: Duration = Duration::from_hours(10 * 365 * 24);

/// The faults of a service, except the denied encryption contexts. Default: no faults.
///
/// This is also the JSON that the admin endpoint uses. `KmsLocalBuilder::admin` documents it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FaultPlan {
    /// The delay of each request, before anything else.
    #[serde(rename = "latency_ms", serialize_with = "to_millis", deserialize_with = "from_millis")]
    pub(crate) latency: Duration,
    /// The share of requests, 0 to 1, that wait for `slow_latency` in addition.
    pub(crate) slow_share: f64,
    /// The additional delay of a slow request.
    #[serde(
        rename = "slow_latency_ms",
        serialize_with = "to_millis",
        deserialize_with = "from_millis"
    )]
    pub(crate) slow_latency: Duration,
    /// The rate of signed requests above which `ThrottlingException` is returned. `None`: no limit.
    pub(crate) max_requests_per_second: Option<u32>,
    /// The share of requests, 0 to 1, that fail with `KMSInternalException` and status 500.
    pub(crate) internal_error_share: f64,
    /// The share of requests, 0 to 1, whose connection is reset without a response.
    pub(crate) connection_reset_share: f64,
    /// Whether requests get no response until this fault is cleared.
    pub(crate) hang: bool,
    /// Whether signed requests get `AccessDeniedException`, as after a change of the key policy.
    pub(crate) access_denied: bool,
    /// Whether responses contain the `KeyId` of another key, which does not exist.
    pub(crate) wrong_key_id: bool,
    /// By how many milliseconds the server's clock is ahead of the true time. Negative: behind.
    pub(crate) clock_offset_ms: i64,
    /// The seed of the random generator that picks the requests of a share.
    pub(crate) seed: u64,
}

/// Controls the faults of one region, or of the STS. Clones control the same faults.
///
/// There are no faults at first. A share of requests is a number from 0 to 1, and a value outside
/// counts as the nearest one inside. Which requests a share picks depends on the
/// [`seed`](Self::seed).
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
/// // … run the code under test …
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
    /// The encryption context pairs for which access is denied.
    denied_contexts: Mutex<Vec<(String, String)>>,
}

/// The random decisions about requests.
struct Dice {
    random: fastrand::Rng,
    /// Separate from `random`, so that slowness does not change the other decisions.
    slowness: fastrand::Rng,
    /// How many requests were still allowed, and when that was counted.
    allowance: Option<(f64, Instant)>,
}

/// The random decision about one request.
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

    /// Returns the current faults.
    pub(crate) fn plan(&self) -> FaultPlan {
        *self.shared.plan.borrow()
    }

    /// Sets all faults at once, and restarts the random generator from the seed.
    pub(crate) fn set(&self, plan: FaultPlan) {
        *self.dice() = Dice::new(plan.seed);
        self.shared.plan.send_replace(plan);
    }

    /// Ends all faults. Hanging requests get their response.
    pub fn clear(&self) {
        self.denied_contexts().clear();
        self.set(FaultPlan::default());
    }

    /// Delays each request by `latency`.
    pub fn latency(&self, latency: Duration) {
        self.change(|plan| plan.latency = latency);
    }

    /// Delays a `share` of requests, 0 to 1, by `latency` in addition to the delay of all requests.
    pub fn slow(&self, share: f64, latency: Duration) {
        self.change(|plan| {
            plan.slow_share = share;
            plan.slow_latency = latency;
        });
    }

    /// Sets the server's clock ahead of the true time, by at most ten years. `Duration::ZERO`
    /// corrects it.
    ///
    /// The server checks signatures and sessions by that clock, and shows it in the `Date` header
    /// of responses. `aws-sdk-kms` learns the offset from that header.
    pub fn clock_ahead(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.change(|plan| plan.clock_offset_ms = by);
    }

    /// Sets the server's clock behind the true time, by at most ten years. See
    /// [`clock_ahead`](Self::clock_ahead).
    pub fn clock_behind(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.change(|plan| plan.clock_offset_ms = -by);
    }

    /// Returns `ThrottlingException` for signed requests above this rate. 0 throttles all of them.
    pub fn throttle_above(&self, requests_per_second: u32) {
        self.change(|plan| plan.max_requests_per_second = Some(requests_per_second));
    }

    /// Fails a `share` of requests, 0 to 1, with `KMSInternalException` and status 500.
    pub fn internal_errors(&self, share: f64) {
        self.change(|plan| plan.internal_error_share = share);
    }

    /// Resets the connection of a `share` of requests, 0 to 1, without a response.
    pub fn connection_resets(&self, share: f64) {
        self.change(|plan| plan.connection_reset_share = share);
    }

    /// Accepts requests but does not respond until `hang(false)` or [`clear`](Self::clear).
    pub fn hang(&self, hang: bool) {
        self.change(|plan| plan.hang = hang);
    }

    /// Returns `AccessDeniedException` for every signed request, as after a change of the key
    /// policy, until `deny_access(false)` or [`clear`](Self::clear).
    pub fn deny_access(&self, deny: bool) {
        self.change(|plan| plan.access_denied = deny);
    }

    /// Returns `AccessDeniedException` for signed requests whose encryption context contains any of
    /// these pairs, like a key policy with a condition on `kms:EncryptionContext`.
    ///
    /// Replaces the pairs of earlier calls. An empty list, or [`clear`](Self::clear), ends it.
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

    /// Returns whether access is denied for this context.
    pub(crate) fn denies(&self, context: &EncryptionContext) -> bool {
        self.denied_contexts().iter().any(|(key, value)| context.get(key) == Some(value))
    }

    /// Returns whether access is denied for any context.
    pub(crate) fn denies_some_contexts(&self) -> bool {
        !self.denied_contexts().is_empty()
    }

    fn denied_contexts(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.shared.denied_contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the `KeyId` in responses with the id of a key that does not exist, until
    /// `wrong_key_ids(false)` or [`clear`](Self::clear). The rest of the response does not change.
    pub fn wrong_key_ids(&self, wrong: bool) {
        self.change(|plan| plan.wrong_key_id = wrong);
    }

    /// Restarts the random generator from `seed`. Default: 0.
    ///
    /// The same seed makes the same decisions.
    pub fn seed(&self, seed: u64) {
        self.change(|plan| plan.seed = seed);
        let mut dice = self.dice();
        *dice = Dice { allowance: dice.allowance, ..Dice::new(seed) };
    }

    /// Waits while requests hang, and then for the delay of all requests.
    async fn delay(&self) {
        let mut plan = self.shared.plan.subscribe();
        // The sender is in `self`, so this ends only when requests no longer hang.
        let _ = plan.wait_for(|plan| !plan.hang).await;
        let latency = self.plan().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    /// Delays one request and decides what happens to it.
    pub(crate) async fn meet(&self) -> Fate {
        self.delay().await;
        let fate = self.draw();
        self.delay_slow().await;
        fate
    }

    /// Decides whether one request is slow, and waits if it is.
    async fn delay_slow(&self) {
        let plan = self.plan();
        let slow = self.dice().slowness.f64() < plan.slow_share;
        if slow && !plan.slow_latency.is_zero() {
            tokio::time::sleep(plan.slow_latency).await;
        }
    }

    /// Returns the time on the server's clock when the true time is `now`.
    pub(crate) fn clock(&self, now: SystemTime) -> SystemTime {
        let offset = self.plan().clock_offset_ms;
        let by = Duration::from_millis(offset.unsigned_abs()).min(MAX_CLOCK_OFFSET);
        if offset < 0 { now - by } else { now + by }
    }

    /// Decides what happens to one request. Every request draws the same number of random numbers,
    /// so that one share does not change the decisions of another.
    fn draw(&self) -> Fate {
        let plan = self.plan();
        let mut dice = self.dice();
        let reset = dice.random.f64();
        let internal = dice.random.f64();
        if reset < plan.connection_reset_share {
            Fate::Reset
        } else if internal < plan.internal_error_share {
            Fate::InternalError
        } else {
            Fate::Pass
        }
    }

    /// Returns whether the rate allows one more request.
    ///
    /// It is a token bucket with the requests of one second.
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

    fn dice(&self) -> MutexGuard<'_, Dice> {
        // Every state of the dice is valid, so a panic cannot have damaged it.
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
    fn the_same_seed_makes_the_same_decisions() {
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
    fn shares_of_zero_and_one_are_exact() {
        let all = FaultPlan { internal_error_share: 1.0, ..FaultPlan::default() };
        assert!(fates(all).iter().all(|fate| *fate == Fate::InternalError));
        assert!(fates(FaultPlan::default()).iter().all(|fate| *fate == Fate::Pass));
    }

    #[test]
    fn slowness_does_not_change_the_other_decisions() {
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
    fn a_clock_is_set_ahead_and_behind_and_stays_within_dates() {
        let faults = Faults::new();
        let now = time::now();
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
    fn a_rate_of_zero_admits_nothing() {
        let faults = Faults::new();
        faults.throttle_above(0);
        assert!(!faults.admits(time::monotonic()));
    }
}
