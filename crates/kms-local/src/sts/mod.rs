//! A minimal AWS STS, so that roles can be assumed for real: the Query protocol over HTTP, verified
//! signatures, and sessions that the KMS beside it knows.

mod actions;
mod answer;
mod query;
mod roles;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, request::Parts};
use hyper::body::Incoming;
use tokio::sync::watch;

pub(crate) use self::actions::Caller;
pub use self::roles::RoleSession;
use self::{
    actions::Action,
    answer::{Fault, respond},
    query::Query,
    roles::Roles,
};
use crate::{
    Counters, Faults, KmsLocal,
    counters::{self, Tally},
    error::Refusal,
    faults::Fate,
    listener::Reset,
    principals::Principals,
    region::read,
    signature::{Authorization, Service},
    time,
};

/// All there is to the STS. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sts {
    account: Arc<str>,
    principals: Arc<Principals>,
    roles: Arc<Roles>,
    faults: Faults,
    pub(crate) tally: Tally,
}

/// The STS and where it listens.
pub(crate) struct StartedSts {
    pub(crate) sts: Sts,
    pub(crate) endpoint: String,
}

impl KmsLocal {
    /// The URL of the STS, when [`Builder::sts`](crate::Builder::sts) asked for one.
    pub fn sts_endpoint(&self) -> Option<&str> {
        self.sts.as_ref().map(|started| &*started.endpoint)
    }

    /// What the STS has counted so far, by `AssumeRole`, `AssumeRoleWithWebIdentity` and
    /// `GetCallerIdentity`. Outcomes have the names of STS, such as `AccessDenied`.
    ///
    /// # Panics
    ///
    /// When there is no STS.
    pub fn sts_counters(&self) -> Counters {
        self.started_sts().tally.snapshot()
    }

    /// A handle on the faults of the STS, which are those of a region in the words of STS.
    ///
    /// # Panics
    ///
    /// When there is no STS.
    pub fn sts_faults(&self) -> Faults {
        self.started_sts().faults.clone()
    }

    /// Has `AssumeRoleWithWebIdentity` take this token from now on, as often as it comes. Every
    /// other token is refused with `InvalidIdentityToken`.
    ///
    /// # Panics
    ///
    /// When there is no STS.
    pub fn accept_web_identity_token(&self, token: impl Into<String>) {
        self.started_sts().roles.accept_token(token.into());
    }

    /// The sessions of roles that the STS has made, the last of them last; at most a thousand.
    ///
    /// # Panics
    ///
    /// When there is no STS.
    pub fn role_sessions(&self) -> Vec<RoleSession> {
        self.started_sts().roles.sessions()
    }

    fn started_sts(&self) -> &Sts {
        &self.sts.as_ref().expect("an STS was started, by `Builder::sts`").sts
    }
}

impl Sts {
    pub(crate) fn new(account: &str, principals: Arc<Principals>) -> Self {
        let (roles, faults, tally) = (Arc::default(), Faults::new(), Tally::default());
        Self { account: account.into(), principals, roles, faults, tally }
    }

    /// Answers one request and counts it.
    ///
    /// # Errors
    ///
    /// [`Reset`] when a fault says so, or when the server stops first.
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Response<Body>, Reset> {
        let (head, body) = request.into_parts();
        // The action is in the body, so the body is read before anything is counted.
        let body = read(body).await;
        let query = body.as_ref().map_or_else(|_| Query::default(), |body| Query::parse(body));
        let action = Action::named(&query);
        let visit = self.tally.begin(name_of(action));
        let fate = tokio::select! {
            fate = self.faults.meet() => fate,
            _ = stop.wait_for(|stop| *stop) => return Err(Reset),
        };
        if fate == Fate::Reset {
            visit.end(counters::RESET);
            return Err(Reset);
        }
        let outcome = self.outcome(&head, body, &query, action, fate);
        visit.end(outcome.as_ref().map_or_else(|fault| fault.code, |_| counters::OK));
        Ok(respond(
            action.map_or("", |action| action.name),
            outcome,
            self.faults.clock(time::now()),
        ))
    }

    fn outcome(
        &self,
        head: &Parts,
        body: Result<Bytes, Refusal>,
        query: &Query,
        action: Option<&Action>,
        fate: Fate,
    ) -> Result<String, Fault> {
        let body = body?;
        if head.method != Method::POST || head.uri.path_and_query().is_none_or(|it| it != "/") {
            return Err(Refusal::UnknownOperation.into());
        }
        let caller = match action {
            Some(action) if !action.signed => None,
            _ => Some(self.authenticate(name_of(action), &head.headers, &body)?),
        };
        if !self.faults.admits(time::monotonic()) {
            return Err(Refusal::Throttling.into());
        }
        if fate == Fate::InternalError {
            return Err(Refusal::Internal("a fault was asked for".to_owned()).into());
        }
        let action = action.ok_or(Refusal::UnknownOperation)?;
        if self.faults.plan().access_denied {
            let what =
                "The principal is not authorized to perform this action: a fault was asked for";
            return Err(Refusal::AccessDenied(what).into());
        }
        action.run(self, query, caller.as_ref(), time::now())
    }

    /// Who signed the request. The region in the signature may be any: there is one STS for all.
    fn authenticate(
        &self,
        action: &'static str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Caller, Refusal> {
        let authorization = Authorization::parse(headers)?;
        let principal =
            self.principals.find(authorization.access_key_id).ok_or(Refusal::UnrecognizedClient)?;
        self.tally.access_key(action, authorization.access_key_id);
        let service = Service { name: "sts", region: None };
        authorization.verify(
            headers,
            body,
            &service,
            &self.principals,
            self.faults.clock(time::now()),
        )?;
        Ok(principal
            .caller()
            .cloned()
            .unwrap_or_else(|| Caller::user(&self.account, authorization.access_key_id)))
    }
}

/// What it counts as.
fn name_of(action: Option<&Action>) -> &'static str {
    action.map_or("Unknown", |action| action.name)
}
