//! A payment service: encrypts and decrypts payment records over HTTP, for several tenants.
//!
//! Each tenant has its own credentials, which are sessions of a few seconds, and its own cache
//! partition. Sessions and data keys are refreshed in the background, so no payment waits for KMS.
//!
//! You need no AWS account: the example starts an in-process KMS.
//!
//! ```console
//! $ cargo run --release --example payment_service
//! payments on http://127.0.0.1:8080/tenants/{acme,globex,initech}/payments
//! $ curl -d '{"cents": 4200}' http://127.0.0.1:8080/tenants/acme/payments > message
//! $ curl -d @message http://127.0.0.1:8080/tenants/acme/payments/decrypt
//! {"cents": 4200}
//! $ curl http://127.0.0.1:8080/{healthz,stats,metrics}
//! $ curl -X POST http://127.0.0.1:8080/cleanup
//! $ oha -z 60s -c 64 -m POST -d '{"cents": 4200}' http://127.0.0.1:8080/tenants/acme/payments
//! ```
//!
//! `oha` generates load (`cargo install --locked oha`). To stop the service, press Ctrl-C or send
//! SIGTERM. It then prints, with other numbers:
//!
//! ```text
//! cache: encryption: 2014459 hits, 0 misses; decryption: 0 hits, 1 misses; 7 requests sent, …
//! KMS requests, as the server counted them: 6 GenerateDataKey, 1 Decrypt; 2 TLS handshakes
//! ```
//!
//! To use AWS KMS instead, with credentials from the default chain:
//!
//! ```console
//! $ cargo run --release --example payment_service -- --key-id arn:aws:kms:REGION:ACCOUNT:key/ID
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
use kms_pool::{ClientStats, KmsPool, Principal};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

const REGION: &str = "us-east-1";

/// Encrypts and decrypts payment records over HTTP.
#[derive(Parser)]
struct Options {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// Names of the tenants
    #[arg(long, value_delimiter = ',', default_value = "acme,globex,initech")]
    tenants: Vec<String>,

    /// Lifetime of a tenant's session, in seconds
    #[arg(long, default_value_t = 10)]
    session: u64,

    /// ARN of a KMS key in AWS [default: a key of an in-process KMS]
    #[arg(long, value_name = "ARN")]
    key_id: Option<String>,
}

struct Service {
    pool: KmsPool,
    cache: MaterialsCache,
    tenants: HashMap<String, Tenant>,
    metrics: PrometheusHandle,
}

struct Tenant {
    envelope: Envelope,
    /// Authenticated with each payment, and stored in it in the clear.
    context: EncryptionContext,
}

/// Provides short sessions, as STS does.
#[derive(Debug)]
struct Sessions {
    kms: Arc<KmsLocal>,
    lifetime: Duration,
}

impl ProvideCredentials for Sessions {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Ok(self.kms.issue_session(self.lifetime)))
    }
}

#[tokio::main]
async fn main() -> Result<(), examples::Report> {
    let Options { listen, tenants, session, key_id } = Options::parse();
    let metrics =
        PrometheusBuilder::new().set_buckets(&[0.001, 0.01, 0.1, 1.0, 10.0])?.install_recorder()?;

    let (pool, key, local) = if let Some(key) = key_id {
        (KmsPool::builder().with_environment()?, key, None)
    } else {
        let kms = Arc::new(KmsLocal::builder().start().await?);
        let pool =
            KmsPool::builder().endpoint_url(kms.endpoint(REGION)).trust_root_pem(kms.ca_pem());
        (pool, kms.create_key(REGION), Some(kms))
    };
    let pool = pool.build()?;
    let cache = MaterialsCache::new(10_000);

    let names = format!("{{{}}}", tenants.join(","));
    let mut service =
        Service { pool: pool.clone(), cache: cache.clone(), tenants: HashMap::new(), metrics };
    for name in tenants {
        let lifetime = Duration::from_secs(session);
        let principal = match &local {
            Some(kms) => Principal::new(Sessions { kms: Arc::clone(kms), lifetime }),
            None => Principal::from_default_chain(),
        };
        let clients = pool.clients(&principal.with_label(name.as_str()));
        let keyring = AwsKmsKeyring::new(clients, key.parse()?);
        let caching = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring));
        let caching = caching.cache(&cache).partition_id(&name).build()?;
        let envelope = Envelope::builder(caching).build()?;
        let context = EncryptionContext::new([("tenant", name.as_str()), ("purpose", "payment")])?;
        // Load the first data key now, so that the first payment does not wait for it.
        envelope.warm([&context]).await.into_iter().collect::<Result<(), _>>()?;
        service.tenants.insert(name, Tenant { envelope, context });
    }

    let app = Router::new()
        .route("/tenants/{tenant}/payments", post(encrypt))
        .route("/tenants/{tenant}/payments/decrypt", post(decrypt))
        .route("/healthz", get(health))
        .route("/stats", get(stats))
        .route("/metrics", get(metrics_page))
        .route("/cleanup", post(clean_up))
        .with_state(Arc::new(service));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("payments on http://{}/tenants/{names}/payments", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(stop_signal()).await?;

    // The service has no requests in flight any more. Wait for those of the pool.
    pool.shutdown(Duration::from_secs(5)).await;
    println!("cache: {}", cache.stats());
    if let Some(kms) = local {
        let counters = kms.counters(REGION);
        println!(
            "KMS requests, as the server counted them: {} GenerateDataKey, {} Decrypt; \
             {} TLS handshakes",
            counters.requests("GenerateDataKey"),
            counters.requests("Decrypt"),
            counters.tls_handshakes
        );
    }
    Ok(())
}

type Shared = State<Arc<Service>>;
type Failure = (StatusCode, String);

async fn encrypt(
    State(service): Shared,
    Path(tenant): Path<String>,
    payment: Bytes,
) -> Result<String, Failure> {
    let Tenant { envelope, context } = service.tenant(&tenant)?;
    let message = envelope.encrypt(&payment, context).await.map_err(|error| failure(&error))?;
    Ok(BASE64_STANDARD.encode(message))
}

async fn decrypt(
    State(service): Shared,
    Path(tenant): Path<String>,
    message: String,
) -> Result<Vec<u8>, Failure> {
    let Tenant { envelope, context } = service.tenant(&tenant)?;
    let message = BASE64_STANDARD
        .decode(message.trim())
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("invalid Base64: {error}")))?;
    let decrypted = envelope.decrypt(&message, context).await.map_err(|error| failure(&error))?;
    Ok(decrypted.plaintext().to_vec())
}

async fn health(State(service): Shared) -> Result<&'static str, Failure> {
    for tenant in service.tenants.values() {
        let ready = tenant.envelope.ready().await;
        ready.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    }
    Ok("ready")
}

async fn stats(State(service): Shared) -> Json<Value> {
    let pool = service.pool.stats();
    let client = |client: &ClientStats| {
        json!({
            "principal": client.principal.as_deref(),
            "generation": client.generation,
        })
    };
    Json(json!({
        "cache": service.cache.stats(),
        "pool": {
            "hits": pool.hits,
            "rotations": pool.rotations,
            "connections": pool.connections,
            "retries": pool.retries,
        },
        "clients": service.pool.client_stats().iter().map(client).collect::<Vec<_>>(),
    }))
}

async fn metrics_page(State(service): Shared) -> String {
    // Threads count their cache hits separately. Reading the statistics adds them up.
    let _ = service.cache.stats();
    service.metrics.run_upkeep();
    service.metrics.render()
}

/// Drops all KMS clients, connections and data keys. The next payments create their own.
async fn clean_up(State(service): Shared) -> Json<Value> {
    service.pool.clear();
    Json(json!({ "data_keys_dropped": service.cache.clear() }))
}

impl Service {
    fn tenant(&self, name: &str) -> Result<&Tenant, Failure> {
        self.tenants.get(name).ok_or((StatusCode::NOT_FOUND, "unknown tenant".into()))
    }
}

/// Returns 503 if KMS is the cause, and 400 if the message is.
fn failure(error: &envelope::Error) -> Failure {
    let is_kms = error.is_retryable() || error.kms().is_some();
    let status = if is_kms { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
    (status, error.to_string())
}

/// Returns when the process receives Ctrl-C or SIGTERM.
async fn stop_signal() {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
