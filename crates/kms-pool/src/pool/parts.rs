//! The parts that the clients of a pool share.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use tokio::task::AbortHandle;

use crate::connection::{Connections, HttpsClient};
use crate::credentials::Session;
use crate::request::{Budget, BudgetSettings};
use crate::time::{self, Clock};

/// The parts that clients share. A part lives as long as the clients that use it; these maps only
/// find it.
#[derive(Default)]
pub(super) struct Parts {
    https: HashMap<Site, Weak<HttpsClient>>,
    budgets: HashMap<(BudgetOwner, Site), Weak<Budget>>,
    clocks: HashMap<Site, Clock>,
    pub(super) janitor: Option<AbortHandle>,
}

/// A service in a region. Sites share nothing: neither connections, nor budgets, nor clocks.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Site {
    pub(super) service: Box<str>,
    pub(super) region: Box<str>,
}

/// The owner of a budget: requests count against the caller's account.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum BudgetOwner {
    /// An account that was set on the principal.
    Account(Box<str>),
    /// An account that a provider returned. A provider may return any account, so this shares no
    /// budget with [`Account`](Self::Account). The account in the access key id is not used: a
    /// tenant that invents an id would share the budget of that account.
    ProviderAccount(Box<str>),
    Principal(u64),
}

impl Parts {
    pub(super) fn https(&mut self, site: &Site, connections: &Connections) -> Arc<HttpsClient> {
        find_or_create(&mut self.https, site.clone(), || connections.client())
    }

    pub(super) fn budget(
        &mut self,
        owner: BudgetOwner,
        site: &Site,
        settings: BudgetSettings,
    ) -> Arc<Budget> {
        find_or_create(&mut self.budgets, (owner, site.clone()), || {
            Budget::new(settings, time::monotonic())
        })
    }

    /// The clock of a site. Each site learns the date separately, so that one with a wrong clock
    /// misleads no other.
    pub(super) fn clock(&mut self, site: &Site, clock: &Clock) -> Clock {
        self.clocks.entry(site.clone()).or_insert_with(|| clock.copy()).clone()
    }

    pub(super) fn remove_unused(&mut self) {
        self.https.retain(|_, it| it.strong_count() > 0);
        self.budgets.retain(|_, it| it.strong_count() > 0);
        self.clocks.retain(|site, _| self.https.contains_key(site));
    }
}

impl BudgetOwner {
    pub(super) fn of(session: &Session) -> Self {
        let principal = &session.principal;
        let returned = session
            .current()
            .and_then(|it| it.credentials.account_id().map(|id| id.as_str().into()));
        match (principal.account(), returned) {
            (Some(account), _) => Self::Account(account.into()),
            (None, Some(account)) => Self::ProviderAccount(account),
            (None, None) => Self::Principal(principal.id()),
        }
    }
}

fn find_or_create<K: Eq + Hash, V>(
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
