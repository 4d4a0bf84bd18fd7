//! A bound on how many loads run at once: those that somebody waits for first, then those ahead of
//! need.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, PoisonError},
    task::Poll,
};

use futures_channel::oneshot;

use super::sync::{Mutex, MutexGuard};

/// Lets so many through at a time.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    queues: Arc<Mutex<Queues>>,
}

#[derive(Debug)]
struct Queues {
    free: usize,
    foreground: VecDeque<oneshot::Sender<Pass>>,
    background: VecDeque<oneshot::Sender<Pass>>,
}

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Somebody waits for it.
    Foreground,
    /// Nobody waits for it yet.
    Background,
}

/// The right to run. When it is dropped, the next one goes.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Option<Gate>,
}

impl Gate {
    /// A gate for `width` loads at once.
    pub(crate) fn new(width: usize) -> Self {
        let queues =
            Queues { free: width, foreground: VecDeque::new(), background: VecDeque::new() };
        Self { queues: Arc::new(Mutex::new(queues)) }
    }

    /// Waits until there is room.
    pub(crate) async fn enter(&self, priority: Priority) -> Pass {
        let turn = {
            let mut queues = self.lock();
            if queues.free > 0 {
                queues.free -= 1;
                return Pass { gate: Some(self.clone()) };
            }
            let (call, turn) = oneshot::channel();
            match priority {
                Priority::Foreground => queues.foreground.push_back(call),
                Priority::Background => queues.background.push_back(call),
            }
            turn
        };
        // Senders are dropped with the gate alone, which this call holds.
        let pass = turn.await.unwrap_or_else(|_| Pass { gate: None });
        yield_once().await;
        pass
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        let Some(gate) = self.gate.take() else { return };
        loop {
            let next = {
                let mut queues = gate.lock();
                let next = queues.foreground.pop_front().or_else(|| queues.background.pop_front());
                if next.is_none() {
                    queues.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Pass { gate: Some(gate.clone()) }) {
                Ok(()) => return,
                // Whoever waited has gone: the pass comes back, and must not ask for the next one
                // by itself.
                Err(mut pass) => pass.gate = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::poll_immediate};

    use super::*;

    #[tokio::test]
    async fn no_more_than_its_width_and_foreground_first() {
        let gate = Gate::new(2);
        let (one, _two) =
            (gate.enter(Priority::Foreground).await, gate.enter(Priority::Background).await);
        let mut background = Box::pin(gate.enter(Priority::Background));
        let mut foreground = Box::pin(gate.enter(Priority::Foreground));
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
        let gate = Gate::new(1);
        let pass = gate.enter(Priority::Foreground).await;
        let mut begun = false;
        let mut late = Box::pin(async {
            let _pass = gate.enter(Priority::Foreground).await;
            begun = true;
        });
        assert!(poll_immediate(&mut late).await.is_none());
        drop(pass);
        // As a time-out does: it looks once more, and then goes.
        assert!(poll_immediate(&mut late).await.is_none());
        drop(late);
        assert!(!begun && gate.lock().free == 1);
    }

    #[tokio::test]
    async fn whoever_gives_up_takes_no_room() {
        let gate = Gate::new(1);
        let pass = gate.enter(Priority::Foreground).await;
        let mut gone = Box::pin(gate.enter(Priority::Foreground));
        assert!(poll_immediate(&mut gone).await.is_none());
        let mut called = Box::pin(gate.enter(Priority::Foreground));
        assert!(poll_immediate(&mut called).await.is_none());
        drop(gone);
        drop(pass);
        // Was called, and gives up before it looks.
        drop(called);
        assert!(gate.enter(Priority::Background).now_or_never().is_some());
        assert_eq!(gate.lock().free, 1);
    }
}
