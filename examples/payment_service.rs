//! A payment service: seals payment records under data keys of their tenants, and opens them, over
//! HTTP.
//!
//! Why: it is the job that this workspace grew out of. Each tenant is a principal whose
//! credentials, sessions of a few seconds, are renewed in the background, and has a partition of
//! the cache. No payment waits for KMS.
//!
//! Needs nothing: it starts a KMS of its own in this process. Against real AWS, with the default
//! credential chain: `cargo run --release --example payment_service -- --key-id
//! arn:aws:kms:REGION:ACCOUNT:key/ID`
//!
//! ```console
//! $ cargo run --release --example payment_service
//! payments on http://127.0.0.1:8080/tenants/{acme,globex,initech}/payments
//! $ curl -d '{"cents": 4200}' http://127.0.0.1:8080/tenants/acme/payments > sealed
//! $ curl -d @sealed http://127.0.0.1:8080/tenants/acme/payments/open
//! {"cents": 4200}
//! $ curl http://127.0.0.1:8080/{healthz,stats,metrics}
//! $ curl -X POST http://127.0.0.1:8080/cleanup
//! $ oha -z 60s -c 64 -m POST -d '{"cents": 4200}' http://127.0.0.1:8080/tenants/acme/payments
//! ```
//!
//! `oha` makes load (`cargo install --locked oha`). Ctrl-C or SIGTERM ends the service, which then
//! says, numbers aside:
//!
//! ```text
//! cache: encryption: 2014459 hits, 0 misses; decryption: 0 hits, 1 misses; 7 requests sent, …
//! KMS requests, as the server counted them: 6 GenerateDataKey, 1 Decrypt; 2 TLS handshakes
//! ```
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use aws_credential_types::provider::{ProvideCredentials, future};
use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router, body::Bytes, http::StatusCode};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Parser;
use envelope::keyring::AwsKmsKeyring;
use envelope::materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache};
use envelope::{EncryptionContext, Envelope};
use kms_local::KmsLocal;
use kms_pool::{KmsPool, Principal};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Seals and opens payment records over HTTP")]
#[rustfmt::skip]
struct Args {
    #[arg(long, default_value = "127.0.0.1:8080", help = "Where to listen")]
    listen: SocketAddr,
    #[arg(long, value_delimiter = ',', default_value = "acme,globex,initech", help = "Who has payments")]
    tenants: Vec<String>,
    #[arg(long, default_value_t = 10, help = "How many seconds a tenant's credentials live")]
    session: u64,
    #[arg(long, default_value = "", hide_default_value = true, help = "The ARN of a key of real AWS KMS")]
    key_id: String,
}

struct Service {
    pool: KmsPool,
    cache: MaterialsCache,
    tenants: HashMap<String, Tenant>,
    metrics: PrometheusHandle,
}

/// The context is authenticated with each payment, and stored in it in the clear.
type Tenant = (Envelope, EncryptionContext);

/// Hands out sessions that soon end, as STS does.
#[derive(Debug)]
struct Sessions(Arc<KmsLocal>, Duration);

impl ProvideCredentials for Sessions {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Ok(self.0.issue_session(self.1)))
    }
}

#[tokio::main]
async fn main() -> Result<(), examples::Report> {
    let Args { listen, tenants, session, key_id } = Args::parse();
    let metrics =
        PrometheusBuilder::new().set_buckets(&[0.001, 0.01, 0.1, 1.0, 10.0])?.install_recorder()?;

    // Which KMS.
    let local =
        if key_id.is_empty() { Some(Arc::new(KmsLocal::builder().start().await?)) } else { None };
    let (pool, key) = if let Some(kms) = &local {
        let pool =
            KmsPool::builder().endpoint_url(kms.endpoint("us-east-1")).trust_root_pem(kms.ca_pem());
        (pool, kms.create_key("us-east-1"))
    } else {
        (KmsPool::builder().with_environment()?, key_id)
    };
    let (pool, cache) = (pool.build()?, MaterialsCache::new(10_000));

    // A principal and a partition of the cache for each tenant, and a data key before the first
    // payment comes.
    let mut service =
        Service { pool: pool.clone(), cache: cache.clone(), tenants: HashMap::new(), metrics };
    let names = format!("{{{}}}", tenants.join(","));
    for name in tenants {
        let principal = match &local {
            Some(kms) => Principal::new(Sessions(Arc::clone(kms), Duration::from_secs(session))),
            None => Principal::from_default_chain(),
        };
        let clients = pool.clients(&principal.with_label(name.as_str()));
        let keyring = AwsKmsKeyring::new(clients, key.parse()?);
        let caching = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring));
        let caching = caching.cache(&cache).partition_id(&name).build()?;
        let context = EncryptionContext::new([("tenant", name.as_str()), ("purpose", "payment")])?;
        let envelope = Envelope::builder(caching).build()?;
        envelope.warm([&context]).await.into_iter().collect::<Result<(), _>>()?;
        service.tenants.insert(name, (envelope, context));
    }
    let app = Router::new()
        .route("/tenants/{tenant}/payments", post(seal))
        .route("/tenants/{tenant}/payments/open", post(open))
        .route("/healthz", get(health))
        .route("/stats", get(stats))
        .route("/metrics", get(metrics_page))
        .route("/cleanup", post(clean_up))
        .with_state(Arc::new(service));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("payments on http://{}/tenants/{names}/payments", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(stopped()).await?;

    // No request is left; the pool's own may be.
    pool.shutdown(Duration::from_secs(5)).await;
    println!("cache: {}", cache.stats());
    if let Some(asked) = local.map(|kms| kms.counters("us-east-1")) {
        let (generated, decrypted) = (asked.requests("GenerateDataKey"), asked.requests("Decrypt"));
        let counted = format!(
            "{generated} GenerateDataKey, {decrypted} Decrypt; {} TLS handshakes",
            asked.tls_handshakes
        );
        println!("KMS requests, as the server counted them: {counted}");
    }
    Ok(())
}

type Shared = State<Arc<Service>>;
type Refusal = (StatusCode, String);

async fn seal(
    State(service): Shared,
    Path(tenant): Path<String>,
    payment: Bytes,
) -> Result<String, Refusal> {
    let (envelope, context) = service.tenant(&tenant)?;
    let sealed = envelope.encrypt(&payment, context).await.map_err(|error| refuse(&error))?;
    Ok(BASE64_STANDARD.encode(sealed))
}

async fn open(
    State(service): Shared,
    Path(tenant): Path<String>,
    sealed: String,
) -> Result<Vec<u8>, Refusal> {
    let (envelope, context) = service.tenant(&tenant)?;
    let sealed = BASE64_STANDARD
        .decode(sealed.trim())
        .map_err(|_| (StatusCode::BAD_REQUEST, "not Base64".into()))?;
    let opened = envelope.decrypt(&sealed, context).await.map_err(|error| refuse(&error))?;
    Ok(opened.plaintext().to_vec())
}

async fn health(State(service): Shared) -> Result<&'static str, Refusal> {
    for (envelope, _) in service.tenants.values() {
        envelope
            .ready()
            .await
            .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    }
    Ok("ready")
}

async fn stats(State(service): Shared) -> Json<Value> {
    let pool = service.pool.stats();
    let client = |it: &kms_pool::ClientStats| json!({ "principal": it.principal.as_deref(), "generation": it.generation });
    Json(json!({
        "cache": service.cache.stats(),
        "pool": { "hits": pool.hits, "rotations": pool.rotations, "connections": pool.connections, "retries": pool.retries },
        "clients": service.pool.client_stats().iter().map(client).collect::<Vec<_>>(),
    }))
}

async fn metrics_page(State(service): Shared) -> String {
    let _ = service.cache.stats(); // tells the hits that the threads have counted for themselves
    service.metrics.run_upkeep();
    service.metrics.render()
}

/// Drops clients, connections and data keys. What comes next fetches its own.
async fn clean_up(State(service): Shared) -> Json<Value> {
    service.pool.clear();
    Json(json!({ "data_keys_dropped": service.cache.clear() }))
}

impl Service {
    fn tenant(&self, name: &str) -> Result<&Tenant, Refusal> {
        self.tenants.get(name).ok_or((StatusCode::NOT_FOUND, "no such tenant".into()))
    }
}

fn refuse(error: &envelope::Error) -> Refusal {
    let for_kms = error.is_retryable() || error.kms().is_some();
    (
        if for_kms { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST },
        error.to_string(),
    )
}

async fn stopped() {
    let mut terminate = signal(SignalKind::terminate()).expect("a process may handle SIGTERM");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
