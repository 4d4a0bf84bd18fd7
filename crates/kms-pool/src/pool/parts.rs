//! What the slots of a pool have in common.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use tokio::task::AbortHandle;

use crate::connection::{Connections, HttpsClient};
use crate::credentials::Session;
use crate::request::{Budget, BudgetSettings};
use crate::time::{self, Clock};

/// What slots have in common. It lives as long as a slot that uses it, and is found here meanwhile.
#[derive(Default)]
pub(super) struct Parts {
    https: HashMap<Box<str>, Weak<HttpsClient>>,
    budgets: HashMap<(BudgetOwner, Box<str>), Weak<Budget>>,
    clocks: HashMap<Box<str>, Clock>,
    pub(super) janitor: Option<AbortHandle>,
}

/// Whose budget: requests count against the caller's account.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum BudgetOwner {
    /// As the principal was told.
    Account(Box<str>),
    /// As a provider says, who may say anything: it gets no share of what others were told. Where
    /// it says nothing, the account in the access key id is not taken for it: a tenant who makes
    /// one up would share the budget of whom it names.
    SaidAccount(Box<str>),
    Principal(u64),
}

impl Parts {
    pub(super) fn https(&mut self, region: &str, connections: &Connections) -> Arc<HttpsClient> {
        find_or_make(&mut self.https, region.into(), || connections.client())
    }

    pub(super) fn budget(
        &mut self,
        owner: BudgetOwner,
        region: &str,
        settings: BudgetSettings,
    ) -> Arc<Budget> {
        find_or_make(&mut self.budgets, (owner, region.into()), || {
            Budget::new(settings, time::monotonic())
        })
    }

    /// Regions learn the date each for itself: one whose clock is wrong misleads no other.
    pub(super) fn clock(&mut self, region: &str, clock: &Clock) -> Clock {
        self.clocks.entry(region.into()).or_insert_with(|| clock.copy()).clone()
    }

    /// Ends what goes on by itself. Clients that somebody keeps keep their sessions.
    pub(super) fn stop(&mut self) {
        if let Some(janitor) = self.janitor.take() {
            janitor.abort();
        }
    }

    pub(super) fn forget_the_unused(&mut self) {
        self.https.retain(|_, it| it.strong_count() > 0);
        self.budgets.retain(|_, it| it.strong_count() > 0);
        self.clocks.retain(|region, _| self.https.contains_key(region));
    }
}

impl BudgetOwner {
    pub(super) fn of(session: &Session) -> Self {
        let principal = &session.principal;
        let said = session
            .current()
            .and_then(|it| it.credentials.account_id().map(|id| id.as_str().into()));
        match (principal.account(), said) {
            (Some(account), _) => Self::Account(account.into()),
            (None, Some(account)) => Self::SaidAccount(account),
            (None, None) => Self::Principal(principal.id()),
        }
    }
}

fn find_or_make<K: Eq + Hash, V>(
    map: &mut HashMap<K, Weak<V>>,
    key: K,
    make: impl FnOnce() -> V,
) -> Arc<V> {
    if let Some(known) = map.get(&key).and_then(Weak::upgrade) {
        return known;
    }
    let new = Arc::new(make());
    map.insert(key, Arc::downgrade(&new));
    new
}
