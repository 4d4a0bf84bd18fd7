//! Limits how many loads run at once: first loads that a caller waits for, then refreshes ahead.

mod lane;

use std::{
    future::{Future, poll_fn},
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::{Arc, PoisonError},
    task::Poll,
    time::Duration,
};

use futures_channel::oneshot;
use futures_util::future::{Either, select};

pub(crate) use self::lane::Priority;
use self::lane::{Admission, Lane, Visit, Widths};
use super::sync::{Mutex, MutexGuard};
use crate::error::Error;

/// How many loads may run, how many may wait, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How many loads run at once.
    pub(crate) width: usize,
    /// How many loads of one context may wait.
    pub(crate) waiting: usize,
    /// How long each load may wait.
    pub(crate) wait: Duration,
}

/// Lets a limited number of loads run at once, and schedules the others [fairly](lane).
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lane: Mutex<Lane<oneshot::Sender<Turn>>>,
    bounds: Bounds,
    /// Keyed at random, so that nobody can predict which contexts share a number.
    numbers: RandomState,
}

/// The result of waiting: the pass, or the error for a load that may not run.
type Turn = Result<Pass, Error>;

/// A load that wants to pass the gate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visitor<'a> {
    pub(crate) partition: &'a str,
    /// The encryption context that the caller supplied. A sender of messages cannot choose it.
    pub(crate) context: &'a [u8],
    pub(crate) priority: Priority,
    /// Whether the loaded value is known to be useful. Unproven loads leave some room for others.
    pub(crate) proven: bool,
    /// How many requests to the key provider the load may take.
    pub(crate) requests: usize,
    /// How many bytes the load holds while it waits.
    pub(crate) bytes: usize,
}

/// The right to run. Dropping it lets the next load run.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Gate,
    visit: Visit,
}

impl Gate {
    /// A gate of this width, with unlimited waiting.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn new(width: usize) -> Self {
        Self::bounded(Bounds { width, waiting: usize::MAX, wait: Duration::MAX })
    }

    /// A gate with these bounds.
    pub(crate) fn bounded(bounds: Bounds) -> Self {
        let lane = Mutex::new(Lane::new(Widths::new(bounds.width, bounds.waiting)));
        Self(Arc::new(Inner { lane, bounds, numbers: RandomState::new() }))
    }

    /// How long each load may wait.
    pub(crate) fn max_wait(&self) -> Duration {
        self.0.bounds.wait
    }

    /// The number that identifies an encryption context in the lane.
    pub(crate) fn number(&self, context: &[u8]) -> u64 {
        self.0.numbers.hash_one(context)
    }

    /// Waits until there is room, or until `deadline`, which fires after
    /// [`max_wait`](Self::max_wait).
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] if too many loads wait, or if the deadline passes first.
    pub(crate) fn enter<D: Future<Output = ()>>(
        &self,
        visitor: Visitor<'_>,
        deadline: D,
    ) -> impl Future<Output = Turn> + use<D> {
        let visit = Visit {
            partition: self.0.numbers.hash_one(visitor.partition),
            context: self.number(visitor.context),
            priority: visitor.priority,
            proven: visitor.proven,
            cost: u64::try_from(visitor.requests).unwrap_or(u64::MAX).clamp(1, MAX_COST),
            room: 1 + visitor.bytes / BYTES_AS_ONE,
        };
        let gate = self.clone();
        async move {
            let (call, mut turn) = oneshot::channel();
            let admission = gate.lock().come(visit, call);
            let number = match admission {
                Admission::Waits(number) => number,
                Admission::Replaces(number, other) => {
                    let _ = other.send(Err(full()));
                    number
                }
                Admission::Full(_) => return Err(full()),
            };
            let _place = Place { gate: &gate, visit, number };
            gate.call();
            if let Ok(Some(turn)) = turn.try_recv() {
                return turn;
            }
            let pass = match select(turn, pin!(deadline)).await {
                // A sender is dropped only with the gate, which this future keeps alive.
                Either::Left((turn, _)) => turn.unwrap_or_else(|_| Err(full()))?,
                Either::Right(((), _)) => {
                    return Err(Error::Overloaded { setting: "max_wait", waited: gate.max_wait() });
                }
            };
            yield_once().await;
            Ok(pass)
        }
    }

    /// Lets loads pass while there is room.
    fn call(&self) {
        loop {
            // Send without the lock: a returned pass takes it when it is dropped.
            let next = self.lock().next();
            let Some((visit, waiter)) = next else { return };
            let _ = waiter.send(Ok(Pass { gate: self.clone(), visit }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lane<oneshot::Sender<Turn>>> {
        self.0.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A waiting load counts as one more for each of these many bytes that it holds.
const BYTES_AS_ONE: usize = 4096;
/// Limits each cost so that sums cannot overflow.
const MAX_COST: u64 = 1 << 16;

/// A place in the waiting room. Dropping it gives the place up.
struct Place<'a> {
    gate: &'a Gate,
    visit: Visit,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let given_up = self.gate.lock().give_up(&self.visit, self.number);
        drop(given_up);
    }
}

fn full() -> Error {
    Error::Overloaded { setting: "max_waiting", waited: Duration::ZERO }
}

/// Lets a caller whose deadline has passed be dropped before its load starts: a timeout polls its
/// future first, and then the clock.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.lock().leave(&self.visit);
        self.gate.call();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{
        FutureExt,
        future::{pending, poll_immediate, ready},
    };

    use super::*;

    fn gate(width: usize, waiting: usize) -> Gate {
        Gate::bounded(Bounds { width, waiting, wait: Duration::from_secs(7) })
    }

    fn enter(gate: &Gate, priority: Priority) -> impl Future<Output = Pass> + use<> {
        let visitor =
            Visitor { partition: "p", context: b"", priority, proven: true, requests: 1, bytes: 0 };
        gate.enter(visitor, pending()).map(Result::unwrap)
    }

    #[tokio::test]
    async fn limits_the_width_and_runs_foreground_first() {
        let gate = gate(2, 10);
        let one = enter(&gate, Priority::Foreground).await;
        let _two = enter(&gate, Priority::Background).await;
        let mut background = Box::pin(enter(&gate, Priority::Background));
        let mut foreground = Box::pin(enter(&gate, Priority::Foreground));
        assert!(poll_immediate(&mut background).await.is_none());
        assert!(poll_immediate(&mut foreground).await.is_none());
        drop(one);
        assert!(poll_immediate(&mut background).await.is_none());
        let pass = foreground.await;
        assert!(poll_immediate(&mut background).await.is_none());
        drop(pass);
        background.await;
    }

    #[tokio::test]
    async fn no_load_starts_for_a_caller_that_is_cancelled_when_its_turn_comes() {
        let gate = gate(1, 10);
        let pass = enter(&gate, Priority::Foreground).await;
        let mut begun = false;
        let mut late = Box::pin(async {
            let _pass = enter(&gate, Priority::Foreground).await;
            begun = true;
        });
        assert!(poll_immediate(&mut late).await.is_none());
        drop(pass);
        // Like a timeout: it polls once more, and is then dropped.
        assert!(poll_immediate(&mut late).await.is_none());
        drop(late);
        assert!(!begun && gate.lock().is_empty());
    }

    #[tokio::test]
    async fn cancelled_waiters_take_no_room() {
        let gate = gate(1, 10);
        let pass = enter(&gate, Priority::Foreground).await;
        let mut gone = Box::pin(enter(&gate, Priority::Foreground));
        assert!(poll_immediate(&mut gone).await.is_none());
        let mut called = Box::pin(enter(&gate, Priority::Foreground));
        assert!(poll_immediate(&mut called).await.is_none());
        drop(gone);
        drop(pass);
        // Its turn has come, but it is dropped before it is polled.
        drop(called);
        assert!(enter(&gate, Priority::Background).now_or_never().is_some());
        assert!(gate.lock().is_empty());
    }

    #[tokio::test]
    async fn waiting_is_limited_in_time_and_number() {
        let gate = gate(1, 1);
        let pass = enter(&gate, Priority::Foreground).await;
        let visitor = Visitor {
            partition: "p",
            context: b"",
            priority: Priority::Foreground,
            proven: true,
            requests: 1,
            bytes: 0,
        };
        let late = gate.enter(visitor, ready(())).await;
        let Err(Error::Overloaded { setting: "max_wait", waited }) = late else {
            panic!("{late:?}")
        };
        assert_eq!(waited, Duration::from_secs(7));
        let mut waiting = Box::pin(gate.enter(visitor, pending()));
        assert!(poll_immediate(&mut waiting).await.is_none());
        let refused = gate.enter(visitor, pending()).await;
        assert!(matches!(refused, Err(Error::Overloaded { setting: "max_waiting", .. })));
        // Other contexts still have room.
        let other = Visitor { context: b"other", ..visitor };
        let mut other = Box::pin(gate.enter(other, pending()));
        assert!(poll_immediate(&mut other).await.is_none());
        drop(pass);
        // It had no turn yet.
        drop(other.await.unwrap());
        drop(waiting.await.unwrap());
        assert!(gate.lock().is_empty());
    }
}
