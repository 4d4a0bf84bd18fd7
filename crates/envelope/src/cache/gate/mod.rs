//! A bound on how many loads run at once: those that somebody waits for first, then those ahead of
//! need.

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

/// How many may pass, how many may wait, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How many loads at once.
    pub(crate) width: usize,
    /// How many loads of one context wait.
    pub(crate) waiting: usize,
    /// How long each waits.
    pub(crate) wait: Duration,
}

/// Lets so many through at a time. Where more want to, they take [turns](lane).
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lane: Mutex<Lane<oneshot::Sender<Turn>>>,
    bounds: Bounds,
    /// Nobody can foresee whose numbers are the same.
    numbers: RandomState,
}

/// What comes of waiting: the pass, or that it must be waited for no more.
type Turn = Result<Pass, Error>;

/// Who wants to load, and what for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visitor<'a> {
    pub(crate) partition: &'a str,
    /// The encryption context that the caller supplied: who sends messages can't choose it.
    pub(crate) context: &'a [u8],
    pub(crate) priority: Priority,
    /// Whether what is loaded is known to be of use. What is not leaves some room for others.
    pub(crate) proven: bool,
    /// How many requests to the key provider it may take.
    pub(crate) requests: usize,
    /// How many bytes it holds while it waits.
    pub(crate) bytes: usize,
}

/// The right to run. When it is dropped, the next one goes.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Gate,
    visit: Visit,
}

impl Gate {
    /// A gate of this width, at which any number wait for any time.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn new(width: usize) -> Self {
        Self::bounded(Bounds { width, waiting: usize::MAX, wait: Duration::MAX })
    }

    /// A gate with these bounds.
    pub(crate) fn bounded(bounds: Bounds) -> Self {
        let lane = Mutex::new(Lane::new(Widths::new(bounds.width, bounds.waiting)));
        Self(Arc::new(Inner { lane, bounds, numbers: RandomState::new() }))
    }

    /// How long each waits.
    pub(crate) fn max_wait(&self) -> Duration {
        self.0.bounds.wait
    }

    /// The number by which an encryption context takes turns.
    pub(crate) fn number(&self, context: &[u8]) -> u64 {
        self.0.numbers.hash_one(context)
    }

    /// Waits until there is room, or until `deadline`, which comes after
    /// [`max_wait`](Self::max_wait).
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`].
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
                // Senders are dropped with the gate alone, which is held here.
                Either::Left((turn, _)) => turn.unwrap_or_else(|_| Err(full()))?,
                Either::Right(((), _)) => {
                    return Err(Error::Overloaded { setting: "max_wait", waited: gate.max_wait() });
                }
            };
            yield_once().await;
            Ok(pass)
        }
    }

    /// Lets all pass for whom there is room.
    fn call(&self) {
        loop {
            // Not under the lock: a pass that comes back takes it.
            let next = self.lock().next();
            let Some((visit, waiter)) = next else { return };
            let _ = waiter.send(Ok(Pass { gate: self.clone(), visit }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lane<oneshot::Sender<Turn>>> {
        self.0.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of how many bytes each counts as one that waits.
const BYTES_AS_ONE: usize = 4096;
/// So that no sum of costs overflows.
const MAX_COST: u64 = 1 << 16;

/// A place to wait at, which is given up when it is dropped.
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

/// Lets a caller whose deadline has passed go before anything is begun for them: time-outs look at
/// what they wait for first, and at the clock after it.
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
    async fn no_more_than_its_width_and_foreground_first() {
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
    async fn nothing_is_begun_for_one_who_gives_up_when_called() {
        let gate = gate(1, 10);
        let pass = enter(&gate, Priority::Foreground).await;
        let mut begun = false;
        let mut late = Box::pin(async {
            let _pass = enter(&gate, Priority::Foreground).await;
            begun = true;
        });
        assert!(poll_immediate(&mut late).await.is_none());
        drop(pass);
        // As a time-out does: it looks once more, and then goes.
        assert!(poll_immediate(&mut late).await.is_none());
        drop(late);
        assert!(!begun && gate.lock().is_empty());
    }

    #[tokio::test]
    async fn whoever_gives_up_takes_no_room() {
        let gate = gate(1, 10);
        let pass = enter(&gate, Priority::Foreground).await;
        let mut gone = Box::pin(enter(&gate, Priority::Foreground));
        assert!(poll_immediate(&mut gone).await.is_none());
        let mut called = Box::pin(enter(&gate, Priority::Foreground));
        assert!(poll_immediate(&mut called).await.is_none());
        drop(gone);
        drop(pass);
        // Was called, and gives up before it looks.
        drop(called);
        assert!(enter(&gate, Priority::Background).now_or_never().is_some());
        assert!(gate.lock().is_empty());
    }

    #[tokio::test]
    async fn nobody_waits_past_the_deadline_or_behind_too_many() {
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
        // The others have room.
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
