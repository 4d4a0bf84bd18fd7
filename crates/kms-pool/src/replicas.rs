//! Fails over between the regions of a multi-Region key, and hedges slow requests.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use aws_sdk_kms::Client;
use futures_util::StreamExt as _;
use futures_util::future::pending;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::background::Background;
use crate::client::Purpose;
use crate::error::{BuildError, KmsError, KmsErrorKind};
use crate::region::Region;
use crate::stats::Counter;
use crate::supplier::ClientSupplier;
use crate::telemetry;
use crate::time::monotonic;

/// The regions of a multi-Region key, any of which can serve a request.
///
/// A call goes to the first region. If that region does not respond in time, is unreachable, fails
/// internally or has an open circuit, the call goes to the next one, and so on. A refusal is final:
/// no other region is called if access is denied or a ciphertext is invalid. Each region is called
/// once, without retries, so attempts are not multiplied by the number of regions. Credentials that
/// KMS rejects are still refreshed.
///
/// # Examples
///
/// ```no_run
/// # async fn example(
/// #     pool: kms_pool::KmsPool,
/// #     principal: kms_pool::Principal,
/// #     ciphertext: kms_pool::aws_sdk_kms::primitives::Blob,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use kms_pool::{KmsError, Replicas};
///
/// let replicas = Replicas::new(pool.clients(&principal), ["eu-central-1", "eu-west-1"])?
///     .hedge_after(Duration::from_millis(200));
/// let key_id = "key/mrk-1234abcd12ab34cd56ef1234567890ab";
/// let response = replicas
///     .call(|client, region| {
///         let key = format!("arn:aws:kms:{region}:111122223333:{key_id}");
///         let request = client.decrypt().key_id(key).ciphertext_blob(ciphertext.clone());
///         async move { request.send().await.map_err(KmsError::from) }
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Replicas {
    supplier: Arc<dyn ClientSupplier>,
    regions: Arc<[Replica]>,
    fastest_first: bool,
    hedge_after: Option<Duration>,
    counts: Arc<Counts>,
    /// The pool's timers, so that callers need no runtime.
    timers: Background,
}

/// The counters of [`Replicas`]: see [`Replicas::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicasStats {
    /// Calls of a region because another one failed.
    pub failovers: u64,
    /// Calls of a second region because the first one was slow.
    pub hedges: u64,
}

#[derive(Default)]
struct Counts {
    failovers: Counter,
    hedges: Counter,
}

struct Replica {
    region: Region,
    /// The recent latency of calls, in microseconds; 0 if it is unknown.
    latency: AtomicU64,
    /// Whether the last call failed. A refused call does not change this.
    failed: AtomicBool,
    /// When the latency was last measured, in milliseconds since `epoch`.
    measured: AtomicU64,
    epoch: Instant,
}

/// The latency counts as unknown when it was not measured for this long.
const FORGET_AFTER: Duration = Duration::from_mins(5);

impl Replicas {
    /// Returns these regions, in the order in which they are called, with clients from `supplier`.
    ///
    /// # Errors
    ///
    /// - [`BuildError::Region`] if a region name is invalid.
    /// - [`BuildError::DuplicateRegion`] if a region is repeated.
    /// - [`BuildError::NoRegion`] if there is no region.
    pub fn new(
        supplier: impl ClientSupplier + 'static,
        regions: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, BuildError> {
        let epoch = monotonic();
        let mut replicas: Vec<Replica> = vec![];
        for region in regions {
            let region: Region = region.as_ref().parse()?;
            if replicas.iter().any(|replica| replica.region == region) {
                return Err(BuildError::DuplicateRegion { region: region.to_string() });
            }
            replicas.push(Replica {
                region,
                latency: AtomicU64::new(0),
                failed: AtomicBool::new(false),
                measured: AtomicU64::new(0),
                epoch,
            });
        }
        if replicas.is_empty() {
            return Err(BuildError::NoRegion);
        }
        Ok(Self {
            supplier: Arc::new(supplier),
            regions: replicas.into(),
            fastest_first: false,
            hedge_after: None,
            counts: Arc::default(),
            timers: Background::with_workers(1),
        })
    }

    /// Tries the fastest region first, based on recent latency. Default: the order in which the
    /// regions were given.
    ///
    /// Latency is a moving average over the calls to a region, including cancelled ones. A region
    /// whose last call timed out or failed, so that another region was called, comes last. A
    /// refused call changes nothing, because it concerns the request and not the region. A region
    /// without a measurement in the last five minutes is measured by the next call.
    #[must_use]
    pub fn fastest_first(mut self) -> Self {
        self.fastest_first = true;
        self
    }

    /// Calls a second region if the first one has not responded after this time. Default: never.
    ///
    /// The first successful response is used, and the other call is cancelled. Set this to the
    /// duration of nearly all calls, because each hedge is one more KMS request. A call that is
    /// cancelled because another region was faster counts as a failure for the circuit of its
    /// region: a region that always loses gets no calls for a while.
    #[must_use]
    pub fn hedge_after(mut self, delay: Duration) -> Self {
        self.hedge_after = Some(delay);
        self
    }

    /// Returns the regions, in the order in which they were given.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.regions.iter().map(|replica| replica.region.as_str())
    }

    /// Returns the counters, which all clones share.
    pub fn stats(&self) -> ReplicasStats {
        ReplicasStats {
            failovers: self.counts.failovers.value(),
            hedges: self.counts.hedges.value(),
        }
    }

    /// Returns a number that grows when the identity behind the clients changes: see
    /// [`Principal::tenure`](crate::Principal::tenure).
    pub fn tenure(&self) -> u64 {
        self.supplier.tenure()
    }

    /// Runs `operation` in one of the regions, with the region's client and name.
    ///
    /// # Errors
    ///
    /// The first refusal, or the error of the last region if all of them failed.
    pub async fn call<T, F, Fut>(&self, operation: F) -> Result<T, KmsError>
    where
        F: Fn(Client, Region) -> Fut,
        Fut: Future<Output = Result<T, KmsError>>,
    {
        let mut waiting = self.order().into_iter();
        let mut running = FuturesUnordered::new();
        let (mut refused, mut failed) = (None, None);
        let mut may_hedge = true;
        loop {
            if running.is_empty() {
                match waiting.next() {
                    Some(replica) if refused.is_none() => {
                        if failed.is_some() {
                            self.counts.failovers.increment();
                            telemetry::another_region(replica.region.as_str(), "failover");
                        }
                        running.push(self.call_region(replica, &operation));
                    }
                    _ => return Err(refused.or(failed).unwrap_or_else(no_region)),
                }
            }
            let hedge_after = self.hedge_after.filter(|_| may_hedge && waiting.len() > 0);
            let hedge = async {
                match hedge_after {
                    Some(delay) => self.timers.sleep(delay).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(outcome) = running.next() => match outcome {
                    Ok(value) => return Ok(value),
                    Err(error) if fails_over(&error) => failed = Some(error),
                    // Another region may be about to respond; no further one is called.
                    Err(error) => refused = Some(error),
                },
                () = hedge => {
                    may_hedge = false;
                    if let Some(replica) = waiting.next() {
                        self.counts.hedges.increment();
                        telemetry::another_region(replica.region.as_str(), "hedge");
                        running.push(self.call_region(replica, &operation));
                    }
                }
            }
        }
    }

    async fn call_region<T, F, Fut>(&self, replica: &Replica, operation: &F) -> Result<T, KmsError>
    where
        F: Fn(Client, Region) -> Fut,
        Fut: Future<Output = Result<T, KmsError>>,
    {
        // Measured even if it is cancelled because another region was faster.
        let mut measured = Measured { replica, began: monotonic(), counts: true };
        let outcome =
            match self.supplier.client_for(replica.region.as_str(), Purpose::OneAttempt).await {
                Ok(client) => operation(client, replica.region.clone()).await,
                Err(error) => Err(error),
            };
        match &outcome {
            // A refusal concerns the request, not the region, however fast it came.
            Err(error) if !fails_over(error) => measured.counts = false,
            outcome => replica.failed.store(outcome.is_err(), Relaxed),
        }
        outcome
    }

    fn order(&self) -> Vec<&Replica> {
        let mut order: Vec<_> = self.regions.iter().collect();
        if self.fastest_first {
            let now = monotonic();
            order.sort_by_key(|replica| replica.rank(now));
        }
        order
    }
}

/// Records the latency of a call when this is dropped.
struct Measured<'a> {
    replica: &'a Replica,
    began: Instant,
    /// Whether the call counts for the region.
    counts: bool,
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        if self.counts {
            self.replica.measure(self.began, monotonic());
        }
    }
}

impl Replica {
    /// Sorts regions: those that failed come last, and unknown latencies first.
    fn rank(&self, now: Instant) -> (bool, u64) {
        if self.is_forgotten(now) {
            (false, 0)
        } else {
            (self.failed.load(Relaxed), self.latency.load(Relaxed))
        }
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        let measured = self.epoch + Duration::from_millis(self.measured.load(Relaxed));
        now.saturating_duration_since(measured) > FORGET_AFTER
    }

    fn measure(&self, began: Instant, ended: Instant) {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let last = if self.is_forgotten(ended) { 0 } else { self.latency.load(Relaxed) };
        let new = micros(ended - began).max(1);
        // The weight of the new value is an eighth, as for the round-trip times of TCP (RFC 6298).
        let smoothed = if last == 0 { new } else { last - last / 8 + new / 8 };
        self.latency.store(smoothed.max(1), Relaxed);
        self.measured.store(micros(ended - self.epoch) / 1000, Relaxed);
    }
}

/// Whether another region may succeed.
fn fails_over(error: &KmsError) -> bool {
    matches!(error.kind(), KmsErrorKind::TimedOut | KmsErrorKind::Unavailable)
}

fn no_region() -> KmsError {
    KmsError::local(KmsErrorKind::Unavailable, "no region is left to call", None)
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas")
            .field("regions", &self.regions().collect::<Vec<_>>())
            .field("fastest_first", &self.fastest_first)
            .field("hedge_after", &self.hedge_after)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supplier::ClientFuture;

    #[derive(Debug)]
    struct NoClients;

    impl ClientSupplier for NoClients {
        fn client<'a>(&'a self, _region: &'a str) -> ClientFuture<'a> {
            Box::pin(async { Err(no_region()) })
        }
    }

    fn replicas(regions: &[&str]) -> Result<Replicas, BuildError> {
        Replicas::new(NoClients, regions.iter().copied())
    }

    #[test]
    fn regions_must_be_valid_and_different() {
        assert!(matches!(replicas(&[]), Err(BuildError::NoRegion)));
        let twice = replicas(&["us-east-1", "us-east-1"]);
        assert!(matches!(twice, Err(BuildError::DuplicateRegion { .. })));
        let invalid = replicas(&["us-east-1", "x/y"]);
        assert!(matches!(invalid, Err(BuildError::Region { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn the_fastest_region_comes_first_after_the_unknown_ones() {
        let replicas = replicas(&["a", "b", "c"]).unwrap().fastest_first();
        let order = || {
            replicas
                .order()
                .into_iter()
                .map(|replica| replica.region.to_string())
                .collect::<String>()
        };
        let now = monotonic();
        let measure = |at: usize, millis| {
            replicas.regions[at].measure(now, now + Duration::from_millis(millis));
        };
        assert_eq!(order(), "abc");
        measure(0, 30);
        measure(1, 20);
        assert_eq!(order(), "cba");
        measure(2, 25);
        assert_eq!(order(), "bca");
        // One slow call changes nothing, several do.
        measure(1, 40);
        assert_eq!(order(), "bca");
        (0..10).for_each(|_| measure(1, 40));
        assert_eq!(order(), "cab");
        tokio::time::advance(FORGET_AFTER * 2).await;
        assert_eq!(order(), "abc", "all are unknown again");
    }
}
