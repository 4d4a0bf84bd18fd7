//! How loads run: driven by their waiters, or on the cache's own threads.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc};

use futures_channel::oneshot;
use futures_util::{
    FutureExt as _,
    future::{Either, select},
};

use super::{
    Cache, Outcome,
    flight::{Landing, Load},
    gate::{Pass, Priority, Visitor},
    refusals::backed_off,
    source::{Settings as _, Source, Task},
    store::OwnedKey,
};
use crate::{error::Error, observer::in_current_span};

/// What a load does before it starts.
pub(super) enum Turn {
    /// Waits at the gate, because a caller waits for the load.
    Foreground,
    /// Nothing: this refresh ahead has already passed the gate.
    Ahead(Pass),
}

impl<V: Send + Sync + 'static> Cache<V> {
    /// A load that its waiters drive.
    pub(super) fn driven<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: OwnedKey,
        source: S,
        turn: Turn,
        landing: Landing<Option<Outcome<V>>>,
    ) -> Load<Option<Outcome<V>>> {
        let cache = Arc::clone(self);
        Box::pin(async move {
            let _landing = landing;
            let ahead = matches!(turn, Turn::Ahead(_));
            Some(match cache.turn(&key, &source, turn).await {
                Ok(pass) => cache.load(key, source, pass, ahead).await,
                Err(error) => Err(error),
            })
        })
    }

    /// A load as two futures: one to wait on, and a task that runs it. Before its turn, the task
    /// ends when the last waiter is gone; after that it runs to its end.
    pub(super) fn apart<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: OwnedKey,
        source: S,
        turn: Turn,
        landing: Landing<Option<Outcome<V>>>,
    ) -> (Load<Option<Outcome<V>>>, Task) {
        let cache = Arc::clone(self);
        let (mut publish, published) = oneshot::channel();
        let run = async move {
            let ahead = matches!(turn, Turn::Ahead(_));
            let run = async {
                let turn = pin!(cache.turn(&key, &source, turn));
                let pass = match select(turn, publish.cancellation()).await {
                    Either::Left((pass, _)) => pass,
                    Either::Right(((), _)) => return None,
                };
                let pass = match pass {
                    Ok(pass) => pass,
                    Err(error) => return Some(Err(error)),
                };
                landing.hold();
                if publish.is_canceled() {
                    return None;
                }
                Some(cache.load(key.clone(), source.clone(), pass, ahead).await)
            };
            let ended = AssertUnwindSafe(run).catch_unwind().await;
            drop(landing);
            if let Some(outcome) = ended.unwrap_or(Some(Err(Error::Panicked))) {
                let _ = publish.send(outcome);
            }
        };
        (Box::pin(published.map(Result::ok)), in_current_span(run))
    }

    /// A load whose value is not kept, and that no other caller shares. It waits at the gate like
    /// other loads, and ends with its caller.
    pub(crate) async fn load_apart<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: OwnedKey,
        source: S,
        load: impl Future<Output = Result<Arc<V>, Error>> + Send + 'static,
    ) -> Result<Arc<V>, Error> {
        let cache = Arc::clone(self);
        let settings_source = source.clone();
        let load = async move {
            let _pass = cache.enter(&key, &source, Priority::Foreground).await?;
            load.await
        };
        let settings = settings_source.settings();
        if !settings.loads_in_background()? {
            return load.await;
        }
        let (mut publish, published) = oneshot::channel();
        settings.run(in_current_span(async move {
            let load = pin!(AssertUnwindSafe(load).catch_unwind());
            let ended = select(load, publish.cancellation()).await;
            if let Either::Left((outcome, _)) = ended {
                let _ = publish.send(outcome.unwrap_or(Err(Error::Panicked)));
            }
        }));
        // The threads run as long as the cache exists.
        published.await.unwrap_or(Err(Error::Panicked))
    }

    /// Waits until the load may start.
    async fn turn<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        source: &S,
        turn: Turn,
    ) -> Result<Pass, Error> {
        if let Turn::Ahead(pass) = turn {
            return Ok(pass);
        }
        let pass = self.enter(key, source, Priority::Foreground).await?;
        // A load that went first may have failed in a way that makes this one pointless.
        match backed_off(source, source.settings().now()) {
            Some((cause, retry_after)) => Err(cause.remembered(retry_after)),
            None => Ok(pass),
        }
    }

    /// Waits at the gate.
    pub(super) async fn enter<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        source: &S,
        priority: Priority,
    ) -> Result<Pass, Error> {
        let share = source.share();
        let visitor = Visitor {
            partition: key.borrow().partition,
            context: share.context,
            priority,
            // Kept values were proven, or generated by this process.
            proven: !S::IN_PLACE
                || self.slots.find(&key.borrow()).is_some_and(|it| it.holds(|_| true)),
            requests: share.requests,
            bytes: share.bytes,
        };
        let deadline = source.settings().sleep(self.gate.max_wait());
        self.gate.enter(visitor, deadline).await
    }
}
