//! Limits how many loads run at once: first loads that a caller waits for, then refreshes ahead.

mod fair_queue;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, PoisonError},
    task::Poll,
    time::Duration,
};

use futures_channel::oneshot;
use futures_util::future::{Either, select};

use self::fair_queue::FairQueue;
pub(crate) use self::fair_queue::Visit;
use crate::{
    error::Error,
    sync::{Mutex, MutexGuard},
};

/// Lets a limited number of loads run at once, and schedules the others [fairly](fair_queue).
#[derive(Debug)]
pub(crate) struct Gate {
    /// Each waiter gets its turn, or the error with which it is rejected.
    queue: Mutex<FairQueue<oneshot::Sender<Result<(), Error>>>>,
    max_wait: Duration,
}

/// A place in the queue, and then the right to run. Dropping it gives it up, and lets the next load
/// run.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    visit: Visit,
    number: u64,
}

impl Gate {
    /// Returns a gate for `width` loads at once, with unlimited waiting.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn new(width: usize) -> Self {
        Self::bounded(width, usize::MAX, Duration::MAX)
    }

    /// Returns a gate for `width` loads at once. `waiting` loads of each context may wait, up to
    /// `max_wait`.
    pub(crate) fn bounded(width: usize, waiting: usize, max_wait: Duration) -> Self {
        Self { queue: Mutex::new(FairQueue::new(width, waiting)), max_wait }
    }

    /// Returns how long each load may wait.
    pub(crate) fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// Waits until the load may run, or until `deadline`, which fires after
    /// [`max_wait`](Self::max_wait).
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] if too many loads wait, or if the deadline passes first.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        visit: Visit,
        deadline: impl Future<Output = ()>,
    ) -> Result<Pass, Error> {
        let (call, mut turn) = oneshot::channel();
        let pushed = self.lock().push(visit, call);
        let Ok((number, displaced)) = pushed else { return Err(full()) };
        let pass = Pass { gate: Arc::clone(self), visit, number };
        if let Some(displaced) = displaced {
            let _ = displaced.send(Err(full()));
        }
        self.call();
        if let Ok(Some(turn)) = turn.try_recv() {
            return turn.map(|()| pass);
        }
        match select(turn, pin!(deadline)).await {
            // A sender is dropped only with the gate, which this future keeps alive.
            Either::Left((turn, _)) => turn.unwrap_or_else(|_| Err(full()))?,
            Either::Right(((), _)) => {
                return Err(Error::Overloaded { setting: "max_wait", waited: self.max_wait });
            }
        }
        yield_once().await;
        Ok(pass)
    }

    /// Lets loads run while there is room.
    fn call(&self) {
        loop {
            // Sends without the lock, because that wakes a task.
            let next = self.lock().pop();
            let Some((waiter, ..)) = next else { return };
            let _ = waiter.send(Ok(()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, FairQueue<oneshot::Sender<Result<(), Error>>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let waiter = self.gate.lock().remove(&self.visit, self.number);
        drop(waiter);
        self.gate.call();
    }
}

fn full() -> Error {
    Error::Overloaded { setting: "max_waiting", waited: Duration::ZERO }
}

/// Yields once, so that a caller whose deadline has passed is dropped before its load starts. A
/// timeout polls its future first, and checks the clock after that.
async fn yield_once() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use futures_util::{
        FutureExt,
        future::{pending, poll_immediate, ready},
    };

    use super::*;

    const VISIT: Visit =
        Visit { partition: 1, context: 1, ahead: false, proven: true, requests: 1, bytes: 0 };
    const AHEAD: Visit = Visit { ahead: true, ..VISIT };

    fn gate(width: usize, waiting: usize) -> Arc<Gate> {
        Arc::new(Gate::bounded(width, waiting, Duration::from_secs(7)))
    }

    fn enter(gate: &Arc<Gate>, visit: Visit) -> impl Future<Output = Pass> {
        gate.enter(visit, pending()).map(Result::unwrap)
    }

    #[tokio::test]
    async fn limits_the_width_and_runs_loads_ahead_last() {
        let gate = gate(2, 10);
        let one = enter(&gate, VISIT).await;
        let _two = enter(&gate, AHEAD).await;
        let mut background = Box::pin(enter(&gate, AHEAD));
        let mut foreground = Box::pin(enter(&gate, VISIT));
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
        let pass = enter(&gate, VISIT).await;
        let mut begun = false;
        let mut late = Box::pin(async {
            let _pass = enter(&gate, VISIT).await;
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
        let pass = enter(&gate, VISIT).await;
        let mut gone = Box::pin(enter(&gate, VISIT));
        assert!(poll_immediate(&mut gone).await.is_none());
        let mut called = Box::pin(enter(&gate, VISIT));
        assert!(poll_immediate(&mut called).await.is_none());
        drop(gone);
        drop(pass);
        // Its turn has come, but it is dropped before it is polled.
        drop(called);
        assert!(enter(&gate, AHEAD).now_or_never().is_some());
        assert!(gate.lock().is_empty());
    }

    #[tokio::test]
    async fn waiting_is_limited_in_time_and_number() {
        let gate = gate(1, 1);
        let pass = enter(&gate, VISIT).await;
        let late = gate.enter(VISIT, ready(())).await;
        let Err(Error::Overloaded { setting: "max_wait", waited }) = late else {
            panic!("{late:?}")
        };
        assert_eq!(waited, Duration::from_secs(7));
        let mut waiting = Box::pin(gate.enter(VISIT, pending()));
        assert!(poll_immediate(&mut waiting).await.is_none());
        let refused = gate.enter(VISIT, pending()).await;
        assert!(matches!(refused, Err(Error::Overloaded { setting: "max_waiting", .. })));
        // Other contexts still have room.
        let other = Visit { context: 2, ..VISIT };
        let mut other = Box::pin(gate.enter(other, pending()));
        assert!(poll_immediate(&mut other).await.is_none());
        drop(pass);
        // It had no turn yet.
        drop(other.await.unwrap());
        drop(waiting.await.unwrap());
        assert!(gate.lock().is_empty());
    }

    #[tokio::test]
    async fn a_displaced_waiter_fails_and_leaves_no_place() {
        let gate = gate(1, 1);
        let pass = enter(&gate, VISIT).await;
        let wait = |partition, context| {
            gate.enter(Visit { partition, context, ..VISIT }, pending()).boxed()
        };
        let mut waiting: Vec<_> = (0..16).map(|context| wait(1, context)).collect();
        for waiter in &mut waiting {
            assert!(poll_immediate(waiter).await.is_none());
        }
        let mut other = wait(2, 0);
        assert!(poll_immediate(&mut other).await.is_none());
        let mut displaced = 0;
        for waiter in &mut waiting {
            if let Some(turn) = poll_immediate(waiter).await {
                assert!(matches!(turn, Err(Error::Overloaded { setting: "max_waiting", .. })));
                displaced += 1;
            }
        }
        assert_eq!(displaced, 1);
        drop(waiting);
        drop(pass);
        drop(other.await.unwrap());
        assert!(gate.lock().is_empty());
    }
}
