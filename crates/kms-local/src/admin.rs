//! The admin endpoint: counters and faults over plain HTTP and JSON, for tests in other languages.
//! [`KmsLocalBuilder::admin`](crate::KmsLocalBuilder::admin) documents its requests.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::Refusal,
    faults::FaultPlan,
    listener::{Body, Handler},
    operations::{NamedKey, disable_key},
    region::Region,
    service::read_body,
    time,
};

type Regions = BTreeMap<String, Region>;

/// The body of a response, or the status and text of an error.
type Outcome = Result<Option<Vec<u8>>, (StatusCode, String)>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disable {
    region: String,
    key_id: String,
}

/// Returns the handler of the admin endpoint for these regions.
pub(crate) fn handler(regions: Regions) -> Handler {
    let regions = Arc::new(regions);
    Arc::new(move |request| {
        let regions = Arc::clone(&regions);
        Box::pin(async move { Ok(respond(&regions, request).await) })
    })
}

async fn respond(regions: &Regions, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let outcome = match read_body(body).await {
        Ok(body) => route(regions, &head, &body).await,
        Err(refusal) => Err(refused(&refusal)),
    };
    let (status, content_type, body) = match outcome {
        Ok(Some(body)) => (StatusCode::OK, "application/json", body),
        Ok(None) => (StatusCode::NO_CONTENT, "application/json", vec![]),
        Err((status, text)) => (status, "text/plain; charset=utf-8", text.into_bytes()),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

async fn route(regions: &Regions, head: &Parts, body: &[u8]) -> Outcome {
    let path = head.uri.path();
    match (&head.method, path) {
        (&Method::GET, "/counters") => json(
            &regions
                .iter()
                .map(|(name, region)| (name, region.service.tally.snapshot()))
                .collect::<BTreeMap<_, _>>(),
        ),
        (&Method::POST, "/counters/reset") => {
            for region in regions.values() {
                region.service.tally.reset();
            }
            Ok(None)
        }
        (&Method::GET, "/faults") => json(
            &regions
                .iter()
                .map(|(name, region)| (name, region.service.faults.plan()))
                .collect::<BTreeMap<_, _>>(),
        ),
        (&Method::PUT, "/faults") => set_faults(regions, &parse(head, body)?),
        (&Method::DELETE, "/faults") => {
            for region in regions.values() {
                region.service.faults.clear();
            }
            Ok(None)
        }
        (&Method::POST, "/credentials/expire") => {
            let now = time::now();
            for region in regions.values() {
                region.service.principals.expire_sessions(now);
            }
            Ok(None)
        }
        (&Method::POST, "/keys/disable") => disable(regions, parse(head, body)?).await,
        (method, _) => {
            Err((StatusCode::NOT_FOUND, format!("unknown admin request `{method} {path}`")))
        }
    }
}

fn set_faults(regions: &Regions, plans: &BTreeMap<String, FaultPlan>) -> Outcome {
    // Check every name before setting any plan: the request succeeds or fails as a whole.
    if let Some(unknown) = plans.keys().find(|name| !regions.contains_key(*name)) {
        return Err(unknown_region(unknown));
    }
    for (name, plan) in plans {
        if let Some(region) = regions.get(name) {
            region.service.faults.set(*plan);
        }
    }
    Ok(None)
}

async fn disable(regions: &Regions, request: Disable) -> Outcome {
    let region = regions.get(&request.region).ok_or_else(|| unknown_region(&request.region))?;
    let store = region.store.clone();
    let key = NamedKey { key_id: Some(request.key_id) };
    tokio::task::spawn_blocking(move || disable_key(&store, key, time::now()))
        .await
        .unwrap_or_else(|error| Err(Refusal::Internal(error.to_string())))
        .map(|()| None)
        .map_err(|refusal| refused(&refusal))
}

fn json(value: &impl Serialize) -> Outcome {
    serde_json::to_vec(value)
        .map(Some)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// Parses a JSON body. Requires the JSON content type, which browsers do not let web pages send to
/// other origins without permission.
fn parse<T: DeserializeOwned>(head: &Parts, body: &[u8]) -> Result<T, (StatusCode, String)> {
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    if content_type.and_then(|it| it.split(';').next()).map(str::trim) != Some("application/json") {
        let text = "invalid content type: expected application/json".to_owned();
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    serde_json::from_slice(body)
        .map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, format!("invalid body: {error}")))
}

fn refused(refusal: &Refusal) -> (StatusCode, String) {
    (refusal.status(), refusal.to_string())
}

fn unknown_region(name: &str) -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, format!("unknown region `{name}`: not started on this server"))
}
