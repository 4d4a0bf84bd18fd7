//! A slot: the client of one region and principal, and what its requests go through.

use std::sync::{Arc, OnceLock};

use aws_sdk_kms::Client;
use aws_sdk_kms::config::{self, Region};

use crate::credentials::SessionCredentials;
use crate::request::{Lane, LaneClient, NoteAttempt, Priority, Retries};
use crate::stats::SlotStats;
use crate::time::Now;

/// The client of one region and principal.
///
/// The client is built once. What rotates are the credentials below it: each attempt of a request
/// asks the [`Session`] for those of the moment, so that clients kept for long and requests tried
/// again get new ones too.
pub(crate) struct Slot {
    lane: Arc<Lane>,
    config: config::Builder,
    /// One for each [`Purpose`], built when it is first asked for.
    clients: [OnceLock<Client>; 3],
}

/// The purpose of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Requests with waiting callers.
    Foreground,
    /// Requests without waiting callers, such as refreshes ahead: they use only the part of the
    /// [rate](crate::KmsPoolBuilder::max_requests_per_second) that other requests leave, and at
    /// most half of the requests in flight.
    Background,
    /// Requests that are not retried in this region, because another region is called instead.
    OneAttempt,
}

impl Slot {
    pub(crate) fn new(common: config::Builder, lane: Lane) -> Self {
        let lane = Arc::new(lane);
        let config = common
            .region(Region::new(lane.region.to_string()))
            .credentials_provider(SessionCredentials(Arc::clone(&lane.session)))
            .interceptor(NoteAttempt(Arc::clone(&lane.counters)));
        Self { lane, config, clients: Default::default() }
    }

    pub(crate) fn client(&self, purpose: Purpose) -> &Client {
        self.clients[purpose as usize].get_or_init(|| {
            let (priority, attempts) = match purpose {
                Purpose::Foreground => (Priority::Foreground, self.lane.max_attempts),
                Purpose::Background => (Priority::Background, self.lane.max_attempts),
                Purpose::OneAttempt => (Priority::Foreground, 1),
            };
            let http = LaneClient {
                lane: Arc::clone(&self.lane),
                priority,
                races: purpose == Purpose::OneAttempt,
            };
            let config =
                self.config.clone().http_client(http).retry_classifier(Retries::new(attempts));
            Client::from_conf(config.retry_config(Retries::config(attempts)).build())
        })
    }

    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    pub(crate) fn stats(&self, now: Now) -> SlotStats {
        let generation = self.lane.session.current();
        let generation = generation.as_ref();
        SlotStats {
            region: Arc::clone(&self.lane.region),
            principal: self.lane.session.principal.label().map(Into::into),
            generation: generation.map_or(0, |it| it.number),
            generation_age: generation
                .map(|it| now.instant.saturating_duration_since(it.since))
                .unwrap_or_default(),
            credentials_left: generation
                .and_then(|it| it.credentials.expiry())
                .map(|end| end.duration_since(now.date).unwrap_or_default()),
            circuit: self.lane.circuit.state(),
            requests_per_second: self.lane.budget.limit(),
        }
    }
}
