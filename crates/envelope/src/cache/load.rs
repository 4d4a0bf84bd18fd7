//! How values are loaded: for callers that wait, and ahead of need.

use std::{
    hash::BuildHasher as _, ops::ControlFlow, panic::AssertUnwindSafe, pin::pin, sync::Arc,
    time::Duration,
};

use futures_channel::oneshot;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either, select},
};

use super::{
    Cache,
    entry::{Entry, Taken},
    key::{Key, OwnedKey},
    loaded::Outcome,
    shared_loads::Landing,
    source::{Settings as _, Source, Task},
};
use crate::{
    error::Error,
    gate::{Pass, Visit},
    observer::{EventKind, MissReason, in_current_span},
};

impl<V: Send + Sync + 'static> Cache<V> {
    /// Returns a value of the entry under `key`, and loads it if there is none.
    ///
    /// Callers that miss the same key at the same time share a load. If the others have used the
    /// value up, this starts another load.
    ///
    /// # Errors
    ///
    /// The load's error, which all its callers get, or the remembered one of an earlier load.
    pub(crate) async fn obtain<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: Key<'_>,
        source: S,
    ) -> Result<Arc<V>, Error> {
        let key = key.to_owned();
        let settings = source.settings();
        let policy = settings.policy();
        let bytes = source.bytes();
        // Before any lock: in a forked process, the thread that holds it may be missing.
        settings.loads_in_background()?;
        let look = || {
            let entry = self.store.find(&key.borrow()).ok_or(MissReason::Absent)?;
            entry.take(settings.now(), policy, bytes, Arc::clone)
        };
        let report_hit = |taken: &Taken<_>| {
            if source.is_use() {
                self.telemetry.taken(&key.borrow(), taken);
            }
        };
        let load_key = (key.clone(), self.hasher.hash_one(source.supplied_context()));
        // An operation misses once, however many loads it waits for.
        let mut has_missed = !source.is_use();
        loop {
            let mut reason = MissReason::Absent;
            let backed_off =
                settings.backoffs().backed_off(|| source.wrapping_keys(), settings.now());
            let find_or_refuse = || match look() {
                Ok(taken) => Some(Ok(taken)),
                Err(why) => {
                    reason = why;
                    self.remembered(&key, &source, backed_off).map(Err)
                }
            };
            let in_background = settings.loads_in_background()?;
            let mut task = None;
            let start = |landing| {
                let (load, running) =
                    self.start(key.clone(), source.clone(), None, in_background, landing);
                task = running;
                load
            };
            let (load, started) = match self.loads.join_or_start(&load_key, find_or_refuse, start) {
                ControlFlow::Continue(joined) => joined,
                ControlFlow::Break(Ok(taken)) => {
                    report_hit(&taken);
                    if taken.wants_refresh {
                        self.refresh(&key.borrow(), &source.replacing(&taken.outcome));
                    }
                    return Ok(taken.outcome);
                }
                ControlFlow::Break(Err((cause, retry_after))) => {
                    if !has_missed {
                        self.telemetry.missed(&key.borrow(), reason);
                    }
                    return Err(self.refused(&key, cause.remembered(retry_after)));
                }
            };
            if !std::mem::replace(&mut has_missed, true) {
                self.telemetry.missed(&key.borrow(), reason);
            }
            if !started {
                self.telemetry.report(&key.borrow(), EventKind::Coalesced);
            }
            if let Some(task) = task {
                settings.run(task);
            }
            // The task that ran the load has ended early: start again.
            let Some(outcome) = load.await else { continue };
            match outcome {
                // The caller that started the load uses its value, however long the load took.
                Ok(loaded) => {
                    let usable = started || loaded.is_fresh(settings.now(), policy.max_age);
                    if usable && loaded.reserve(policy, bytes) {
                        self.keep_if_proven(&key, &loaded, &source);
                        return Ok(Arc::clone(loaded.value()));
                    }
                }
                // Another caller has waited too long; this one has not waited as long.
                Err(Error::Overloaded { .. }) if !started => {}
                Err(error) => {
                    let Ok(taken) = look() else { return Err(self.refused(&key, error)) };
                    report_hit(&taken);
                    return Ok(taken.outcome);
                }
            }
        }
    }

    /// Loads the next value in the background, unless that is under way or has just been done.
    pub(crate) fn refresh<S: Source<Value = V>>(self: &Arc<Self>, key: &Key<'_>, source: &S) {
        let policy = source.settings().policy();
        let now = source.settings().now();
        self.load_ahead(key, source, |entry| !entry.is_refreshed(now, policy, S::IN_PLACE));
    }

    /// Loads a value in the background to see whether that is still allowed, unless a refresh is
    /// under way.
    pub(crate) fn probe<S: Source<Value = V>>(self: &Arc<Self>, key: &Key<'_>, source: &S) {
        self.load_ahead(key, source, |_| true);
    }

    fn load_ahead<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: &Key<'_>,
        source: &S,
        is_wanted: impl FnOnce(&Entry<V>) -> bool,
    ) {
        let settings = source.settings();
        let now = settings.now();
        // Before any lock, as in `obtain`.
        if settings.loads_in_background().is_err()
            || settings.backoffs().backed_off(|| source.wrapping_keys(), now).is_some()
        {
            return;
        }
        let entry = self.store.find(key);
        let Some(refresh) = entry.and_then(|entry| entry.begin_refresh(now)) else { return };
        // Checked here, because no other refresh can end from now on.
        if !is_wanted(refresh.entry()) {
            return;
        }
        let cache = Arc::clone(self);
        let key = (*key).to_owned();
        let task_source = source.clone();
        settings.spawn(Box::pin(async move {
            // Kept until the task ends or is dropped, so that an operation that looked before the
            // value arrived does not start another refresh.
            let _refresh = refresh;
            // Wait for the turn before other callers can join the load. Refreshes come last, so a
            // caller that joined earlier would wait longer than for its own load.
            let Ok(pass) = cache.enter(&key, &task_source, true).await else { return };
            let Ok(in_background) = task_source.settings().loads_in_background() else { return };
            let load_key = (key.clone(), cache.hasher.hash_one(task_source.supplied_context()));
            let mut task = None;
            let start = |landing| {
                let (load, running) =
                    cache.start(key, task_source, Some(pass), in_background, landing);
                task = running;
                load
            };
            let joined = cache.loads.join_or_start(&load_key, || None::<()>, start);
            // The load itself records a failure.
            match (task, joined) {
                (Some(task), _) => task.await,
                (None, ControlFlow::Continue((load, _))) => drop(load.await),
                (None, ControlFlow::Break(())) => {}
            }
        }));
    }

    /// Returns a load, and the task that runs it, unless its callers drive it.
    ///
    /// `pass` is the right to run, if the load has waited for its turn already. Otherwise it waits
    /// first, and ends when its last caller is gone. After that, a task runs to its end.
    fn start<S: Source<Value = V>>(
        self: &Arc<Self>,
        key: OwnedKey,
        source: S,
        pass: Option<Pass>,
        in_background: bool,
        mut landing: Landing<Outcome<V>>,
    ) -> (BoxFuture<'static, Outcome<V>>, Option<Task>) {
        let cache = Arc::clone(self);
        let ahead = pass.is_some();
        if !in_background {
            let load = async move {
                let _landing = landing;
                Some(match cache.turn(&key, &source, pass).await {
                    Ok(pass) => cache.load(key, source, pass, ahead).await,
                    Err(error) => Err(error),
                })
            };
            return (Box::pin(load), None);
        }
        let (mut publish, published) = oneshot::channel();
        let run = async move {
            let run = async {
                let turn = pin!(cache.turn(&key, &source, pass));
                let pass = match select(turn, publish.cancellation()).await {
                    Either::Left((Ok(pass), _)) => pass,
                    Either::Left((Err(error), _)) => return Some(Err(error)),
                    Either::Right(((), _)) => return None,
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
        (Box::pin(published.map(Result::ok)), Some(in_current_span(run)))
    }

    /// Runs a load whose value is not kept, and which no other caller shares.
    ///
    /// It starts after `pause`, waits for its turn like other loads, and ends with its caller.
    pub(crate) async fn load_apart<S: Source<Value = V>, T: Send + 'static>(
        self: &Arc<Self>,
        key: OwnedKey,
        source: S,
        pause: Duration,
        load: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let cache = Arc::clone(self);
        let settings_source = source.clone();
        let load = async move {
            if !pause.is_zero() {
                source.settings().sleep(pause).await;
            }
            let _pass = cache.enter(&key, &source, false).await?;
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

    /// Waits until the load may run.
    async fn turn<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        source: &S,
        pass: Option<Pass>,
    ) -> Result<Pass, Error> {
        if let Some(pass) = pass {
            return Ok(pass);
        }
        let pass = self.enter(key, source, false).await?;
        // An earlier load may have failed in a way that makes this one pointless.
        let settings = source.settings();
        match settings.backoffs().backed_off(|| source.wrapping_keys(), settings.now()) {
            Some((cause, retry_after)) => Err(cause.remembered(retry_after)),
            None => Ok(pass),
        }
    }

    /// Waits at the gate.
    async fn enter<S: Source<Value = V>>(
        &self,
        key: &OwnedKey,
        source: &S,
        ahead: bool,
    ) -> Result<Pass, Error> {
        let key = key.borrow();
        let visit = Visit {
            partition: self.hasher.hash_one(key.partition),
            context: self.hasher.hash_one(source.supplied_context()),
            ahead,
            // A kept value was proven, or generated by this process.
            proven: source.is_ours() || self.store.find(&key).is_some_and(|it| it.holds(|_| true)),
            requests: source.requests(),
            bytes: source.held_bytes(),
        };
        let deadline = source.settings().sleep(self.gate.max_wait());
        self.gate.enter(visit, deadline).await
    }
}
