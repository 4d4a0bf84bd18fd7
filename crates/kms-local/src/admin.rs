//! The admin endpoint: counters and faults over plain HTTP and JSON, for tests in other languages.
//!
//! | request | body | does |
//! | --- | --- | --- |
//! | `GET /counters` | | the counters of each region |
//! | `POST /counters/reset` | | forgets them |
//! | `GET /faults` | | the [`FaultPlan`] of each region |
//! | `PUT /faults` | `{"us-east-1": {"latency_ms": 50}}` | sets the faults of these regions |
//! | `DELETE /faults` | | ends the faults of every region |
//! | `POST /credentials/expire` | | ends every session now |
//! | `POST /keys/disable` | `{"region": "us-east-1", "key_id": "…"}` | disables a key now |
//!
//! A plan may hold any field of a [`FaultPlan`], such as `slow_share` with `slow_latency_ms`, or
//! `clock_offset_ms`; what it leaves out is without fault.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;

use crate::{
    FaultPlan,
    counters::Counters,
    error::Refusal,
    listener::Handler,
    operations::{NamedKey, disable_key},
    region::Region,
    time,
};

type Regions = Arc<BTreeMap<String, Region>>;

/// Answers by the routes above, over these regions.
pub(crate) fn handler(regions: BTreeMap<String, Region>) -> Handler {
    let router = Router::new()
        .route("/counters", get(counters))
        .route("/counters/reset", post(reset_counters))
        .route("/faults", get(faults).put(set_faults).delete(clear_faults))
        .route("/credentials/expire", post(expire_credentials))
        .route("/keys/disable", post(disable))
        .with_state(Arc::new(regions));
    let service = TowerToHyperService::new(router);
    Arc::new(move |request| {
        let answer = service.call(request);
        Box::pin(async { answer.await.map_err(|never| match never {}) })
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disable {
    region: String,
    key_id: String,
}

async fn counters(State(regions): State<Regions>) -> Json<BTreeMap<String, Counters>> {
    Json(regions.iter().map(|(name, region)| (name.clone(), region.tally.snapshot())).collect())
}

async fn reset_counters(State(regions): State<Regions>) -> StatusCode {
    regions.values().for_each(|region| region.tally.reset());
    StatusCode::NO_CONTENT
}

async fn faults(State(regions): State<Regions>) -> Json<BTreeMap<String, FaultPlan>> {
    Json(regions.iter().map(|(name, region)| (name.clone(), region.faults.plan())).collect())
}

async fn set_faults(
    State(regions): State<Regions>,
    Json(plans): Json<BTreeMap<String, FaultPlan>>,
) -> Response {
    // All or none: every name is checked before any plan is set.
    if let Some(unknown) = plans.keys().find(|name| !regions.contains_key(*name)) {
        return no_region(unknown);
    }
    for (name, region) in &*regions {
        if let Some(plan) = plans.get(name) {
            region.faults.set(*plan);
        }
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn clear_faults(State(regions): State<Regions>) -> StatusCode {
    regions.values().for_each(|region| region.faults.clear());
    StatusCode::NO_CONTENT
}

async fn expire_credentials(State(regions): State<Regions>) -> StatusCode {
    let now = time::now();
    regions.values().for_each(|region| region.principals.expire_sessions(now));
    StatusCode::NO_CONTENT
}

async fn disable(State(regions): State<Regions>, Json(wanted): Json<Disable>) -> Response {
    let Some(region) = regions.get(&wanted.region) else { return no_region(&wanted.region) };
    let keys = region.keys.clone();
    let request = NamedKey { key_id: Some(wanted.key_id) };
    let disabled = tokio::task::spawn_blocking(move || disable_key(&keys, request, time::now()))
        .await
        .unwrap_or_else(|error| Err(Refusal::Internal(error.to_string())));
    match disabled {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => (refusal.status(), refusal.to_string()).into_response(),
    }
}

fn no_region(name: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("region `{name}` was not started")).into_response()
}
