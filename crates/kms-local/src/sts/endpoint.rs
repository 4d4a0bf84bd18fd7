//! The STS, from an HTTP request to its response.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use hyper::body::Incoming;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    actions::Action,
    query::Query,
    roles::Roles,
    xml::{self, Fault},
};
use crate::{
    counters,
    error::Refusal,
    faults::Fate,
    listener::{Body, Reset},
    principals::Principals,
    service::{Service, check_target, read_body},
    signature::Scope,
    time,
};

/// The state of the STS. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sts {
    account: Arc<str>,
    pub(crate) roles: Arc<Roles>,
    pub(crate) service: Service,
}

impl Sts {
    pub(crate) fn new(account: &str, principals: Arc<Principals>) -> Self {
        let roles = Arc::new(Roles::new(Arc::clone(&principals)));
        // There is one STS for all regions, so a signature can name any of them.
        let service = Service::new(Scope { service: "sts", region: None }, principals);
        Self { account: account.into(), roles, service }
    }

    /// Responds to one request and counts it.
    ///
    /// # Errors
    ///
    /// [`Reset`] if a fault resets the connection, or if the server stops while a fault delays the
    /// request.
    pub(crate) async fn respond(
        self,
        request: Request<Incoming>,
        stop: watch::Receiver<bool>,
    ) -> Result<Response<Body>, Reset> {
        let (head, body) = request.into_parts();
        // The body names the action, so it is read before anything is counted.
        let body = read_body(body).await;
        let query = body.as_ref().map_or_else(|_| Query::default(), |body| Query::parse(body));
        let action = Action::named(&query);
        let (visit, fate) = self.service.begin(name_of(action), stop).await?;
        let outcome = self.outcome(&head, body, &query, action, fate);
        visit.end(outcome.as_ref().map_or_else(|fault| fault.code, |_| counters::OK));
        let id = Uuid::new_v4();
        let (status, body) = xml::response(id, action.map_or("", |action| action.name), outcome);
        Ok(self.service.response(id, status, xml::CONTENT_TYPE, body.into_bytes()))
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
        check_target(&head.method, &head.uri)?;
        let caller = match action {
            Some(action) if !action.signed => None,
            _ => {
                let name = name_of(action);
                let principal = self.service.authenticate(name, &head.headers, &body)?;
                Some(principal.caller(&self.account))
            }
        };
        self.service.check_faults(fate)?;
        let action = action.ok_or(Refusal::UnknownOperation)?;
        if self.service.faults.plan().access_denied {
            return Err(Refusal::AccessDenied(
                "The principal is not authorized to perform this action: this is simulated",
            )
            .into());
        }
        action.run(&self.roles, query, caller.as_ref(), time::now())
    }
}

/// Returns the name under which a request is counted.
fn name_of(action: Option<&Action>) -> &'static str {
    action.map_or("Unknown", |action| action.name)
}
