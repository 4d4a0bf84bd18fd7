//! A payment service: encrypts and decrypts payment records over HTTP, for any number of tenants.
//!
//! Each tenant has a branch key in a SQLite file. AWS KMS protects it, and any number of instances
//! share it. An instance loads it once, and checks it again in the background: no payment waits for
//! KMS, and KMS requests do not depend on the number of payments.
//!
//! You need no AWS account: the example starts an in-process KMS.
//!
//! ```console
//! $ cargo run --release --example payment_service
//! payments on http://127.0.0.1:8080/tenants/{acme,globex,initech}/payments
//! $ curl -d '{"cents": 4200}' http://127.0.0.1:8080/tenants/acme/payments > message
//! $ curl -d @message http://127.0.0.1:8080/tenants/acme/payments/decrypt
//! {"cents": 4200}
//! $ curl -X PUT http://127.0.0.1:8080/tenants/umbrella
//! {"active_since":"2026-11-28T11:30:00.123456Z","version":"0d3c…"}
//! $ curl -X POST http://127.0.0.1:8080/tenants/acme/rotate
//! {"active_since":"2026-11-28T11:30:01.123456Z","version":"7a41…"}
//! $ curl -X DELETE http://127.0.0.1:8080/tenants/acme
//! {"items_deleted":4}
//! $ curl -d @message http://127.0.0.1:8080/tenants/acme/payments/decrypt
//! branch key was shredded: what it protected is no longer readable
//! $ curl http://127.0.0.1:8080/{healthz,stats,metrics}
//! $ curl -X POST http://127.0.0.1:8080/cleanup
//! ```
//!
//! To stop the service, press Ctrl-C or send SIGTERM. It then prints how often it used a branch
//! key, and how many requests that took.
//!
//! To use AWS KMS instead, with credentials from the default chain, run any number of instances on
//! one machine, or on several with a `postgres:` or `mysql:` URL and the feature of that name:
//!
//! ```console
//! $ cargo run --release --example payment_service -- --key-id arn:aws:kms:REGION:ACCOUNT:key/ID
//! ```
//!
//! `payment_load` runs two instances under load, while a tenant is rotated and another one deleted.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{borrow::Cow, iter, net::SocketAddr, sync::Arc, time::Duration};

use aws_credential_types::provider::{ProvideCredentials, future};
use axum::extract::{Path, State};
use axum::routing::{get, post, put};
use axum::{Json, Router, body::Bytes, http::StatusCode};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use branch_keys::{BranchKeyInfo, CreateBranchKey, KeyStore, KmsKeys, SqlStorage};
use clap::Parser;
use envelope::branch_key::{BranchKeys, MissingBranchKey};
use envelope::{EncryptionContext, Envelope, keyring::HierarchicalKeyring};
use envelope::{Error, materials::DefaultMaterialsManager};
use kms_local::KmsLocal;
use kms_pool::{ClientStats, KmsPool, Principal};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

const REGION: &str = "us-east-1";
const DAY: f64 = 24.0 * 60.0 * 60.0;

/// Encrypts and decrypts payment records over HTTP.
#[derive(Parser)]
struct Options {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// Names of the tenants to create at the start, unless they exist
    #[arg(long, value_delimiter = ',', default_value = "acme,globex,initech")]
    tenants: Vec<String>,

    /// Database of the branch keys [default: `sqlite:payments.db` with `--key-id`, otherwise a
    /// temporary file]
    #[arg(long, value_name = "URL")]
    store: Option<String>,

    /// Seconds after which a branch key in use is checked again. A deleted tenant is refused after
    /// this time, and after a minute if it was not in use
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    check_every: u64,

    /// Lifetime of a session at the in-process KMS, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    session: u64,

    /// ARN of a KMS key in AWS [default: a key of an in-process KMS]
    #[arg(long, value_name = "ARN")]
    key_id: Option<String>,
}

struct Service {
    pool: KmsPool,
    store: KeyStore,
    keys: BranchKeys,
    envelope: Envelope,
    metrics: PrometheusHandle,
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
    let Options { listen, tenants, store, check_every, session, key_id } = Options::parse();
    let active_age = Matcher::Full("branch_keys_active_age_seconds".to_owned());
    let metrics = PrometheusBuilder::new()
        .set_buckets(&[0.001, 0.01, 0.1, 1.0, 10.0])?
        .set_buckets_for_metric(active_age, &[DAY, 30.0 * DAY, 90.0 * DAY, 365.0 * DAY])?
        .install_recorder()?;

    // Its file lasts as long as the keys of an in-process KMS.
    let folder = tempfile::tempdir()?;
    let (pool, principal, key, local) = if let Some(key) = key_id {
        (KmsPool::builder().with_environment()?, Principal::from_default_chain(), key, None)
    } else {
        let kms = Arc::new(KmsLocal::builder().start().await?);
        let pool =
            KmsPool::builder().endpoint_url(kms.endpoint(REGION)).trust_root_pem(kms.ca_pem());
        let lifetime = Duration::from_secs(session);
        let principal = Principal::new(Sessions { kms: Arc::clone(&kms), lifetime });
        (pool, principal, kms.create_key(REGION), Some(kms))
    };
    let store = store.unwrap_or_else(|| match local {
        Some(_) => format!("sqlite:{}", folder.path().join("payments.db").display()),
        None => "sqlite:payments.db".to_owned(),
    });

    let pool = pool.build()?;
    let clients = pool.clients(&principal.with_label("payments"));
    let storage = SqlStorage::connect(store).await?;
    let kms_keys = KmsKeys::exact(key.parse()?);
    let store = KeyStore::builder(storage, "payments", kms_keys, clients).build()?;
    let keys = BranchKeys::builder(store.clone())
        .max_age(Duration::from_mins(1))
        .check_every(Duration::from_secs(check_every))
        .build()?;
    let keyring = HierarchicalKeyring::with_supplier(keys.clone(), |context| {
        let problem = "no pair `tenant`";
        context.get("tenant").map(Cow::Borrowed).ok_or(Error::InvalidEncryptionContext { problem })
    });
    let manager = DefaultMaterialsManager::new(keyring);
    let envelope = Envelope::builder(manager).required_keys(["tenant"]).build()?;

    let mut names = vec![];
    for tenant in tenants {
        match create_branch_key(&store, &tenant).await {
            // Load it now, so that the first payment does not wait.
            Ok(_) => drop(keys.active(&tenant).await?),
            Err(branch_keys::Error::Shredded { .. }) => continue,
            Err(error) => return Err(error.into()),
        }
        names.push(tenant);
    }

    let service = Service { pool: pool.clone(), store, keys: keys.clone(), envelope, metrics };
    let app = Router::new()
        .route("/tenants/{tenant}", put(create).delete(shred))
        .route("/tenants/{tenant}/rotate", post(rotate))
        .route("/tenants/{tenant}/payments", post(encrypt))
        .route("/tenants/{tenant}/payments/decrypt", post(decrypt))
        // Cached branch keys outlive an outage: restarting the service would only lose them.
        .route("/healthz", get(async || "ready"))
        .route("/stats", get(stats))
        .route("/metrics", get(metrics_page))
        .route("/cleanup", post(clean_up))
        .with_state(Arc::new(service));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let names = format!("{{{}}}", names.join(","));
    println!("payments on http://{}/tenants/{names}/payments", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(stop_signal()).await?;

    // The service has no requests in flight any more. Wait for those of the pool.
    pool.shutdown(Duration::from_secs(5)).await;
    let stats = keys.stats();
    let uses = stats.active.hits + stats.versions.hits;
    println!("branch keys: used {uses} times, requested {} times", stats.requests());
    if let Some(kms) = local {
        let counters = kms.counters(REGION);
        println!(
            "KMS requests, as the server counted them: {} Decrypt, {} for new branch keys; \
             {} TLS handshakes",
            counters.requests("Decrypt"),
            counters.total() - counters.requests("Decrypt"),
            counters.tls_handshakes
        );
    }
    Ok(())
}

type Shared = State<Arc<Service>>;
type Failure = (StatusCode, String);

/// Creates the tenant, unless it exists.
async fn create(
    State(service): Shared,
    Path(tenant): Path<String>,
) -> Result<Json<Value>, Failure> {
    let created = create_branch_key(&service.store, &tenant).await;
    // Forget that it was missing.
    service.keys.invalidate(&tenant);
    created.map(|info| described(&info)).map_err(|error| store_failure(&error))
}

/// Makes a new version of the tenant's branch key. Earlier payments stay readable.
async fn rotate(
    State(service): Shared,
    Path(tenant): Path<String>,
) -> Result<Json<Value>, Failure> {
    let rotated = service.store.rotate(&tenant).await;
    // This instance uses the new version at once. Others do when they check.
    service.keys.invalidate(&tenant);
    rotated.map(|info| described(&info)).map_err(|error| store_failure(&error))
}

/// Deletes the tenant's branch key. Its payments are no longer readable.
async fn shred(State(service): Shared, Path(tenant): Path<String>) -> Result<Json<Value>, Failure> {
    let shredded = service.store.shred(&tenant).await;
    service.keys.invalidate(&tenant);
    let deleted = shredded.map_err(|error| store_failure(&error))?;
    Ok(Json(json!({ "items_deleted": deleted })))
}

async fn encrypt(
    State(service): Shared,
    Path(tenant): Path<String>,
    payment: Bytes,
) -> Result<String, Failure> {
    let context = context(&tenant)?;
    let message = service.envelope.encrypt(&payment, &context).await;
    Ok(BASE64_STANDARD.encode(message.map_err(|error| failure(&error))?))
}

async fn decrypt(
    State(service): Shared,
    Path(tenant): Path<String>,
    message: String,
) -> Result<Vec<u8>, Failure> {
    let context = context(&tenant)?;
    let message = BASE64_STANDARD
        .decode(message.trim())
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("invalid Base64: {error}")))?;
    let decrypted = service.envelope.decrypt(&message, &context).await;
    Ok(decrypted.map_err(|error| failure(&error))?.plaintext().to_vec())
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
        "branch_keys": service.keys.stats(),
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
    let _ = service.keys.stats();
    service.metrics.run_upkeep();
    service.metrics.render()
}

/// Drops all KMS clients, connections and branch keys. The next payments load their own.
async fn clean_up(State(service): Shared) -> Json<Value> {
    service.pool.clear();
    Json(json!({ "branch_keys_dropped": service.keys.clear() }))
}

/// Creates the branch key of a tenant, unless it exists. Instances may do this at the same time.
async fn create_branch_key(
    store: &KeyStore,
    tenant: &str,
) -> Result<BranchKeyInfo, branch_keys::Error> {
    store.ensure(CreateBranchKey::new(tenant, [("tenant", tenant)])).await
}

fn described(info: &BranchKeyInfo) -> Json<Value> {
    let version = format!("{:032x}", u128::from_be_bytes(info.version));
    Json(json!({ "version": version, "active_since": info.create_time }))
}

/// Authenticated with each payment, and stored in it in the clear. It also chooses the branch key.
fn context(tenant: &str) -> Result<EncryptionContext, Failure> {
    let context = EncryptionContext::new([("tenant", tenant), ("purpose", "payment")]);
    context.map_err(|error| failure(&error))
}

/// Returns 404 or 410 if the tenant is missing, 503 if KMS or the key store is the cause, and 400
/// if the message is.
fn failure(error: &Error) -> Failure {
    let missing = error.keyring_errors().iter().find_map(MissingBranchKey::in_error);
    match missing {
        Some(missing @ MissingBranchKey::NotFound) => (StatusCode::NOT_FOUND, missing.to_string()),
        Some(missing @ MissingBranchKey::Shredded) => (StatusCode::GONE, missing.to_string()),
        _ if error.is_retryable() || error.kms().is_some() => {
            (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
        _ => (StatusCode::BAD_REQUEST, error.to_string()),
    }
}

/// Returns the error of a key store with its causes, because an operator reads it.
fn store_failure(error: &branch_keys::Error) -> Failure {
    use branch_keys::Error as E;
    let status = match error {
        E::NotFound { .. } => StatusCode::NOT_FOUND,
        E::Shredded { .. } => StatusCode::GONE,
        E::VersionRace { .. } => StatusCode::CONFLICT,
        E::InvalidArgument { .. } => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let chain = iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    (status, chain.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// Returns when the process receives Ctrl-C or SIGTERM.
async fn stop_signal() {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
