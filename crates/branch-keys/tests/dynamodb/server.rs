//! A DynamoDB in this process, behind a proxy that counts requests and causes faults.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use branch_keys::DynamoDbStorage;
use bytes::Bytes;
use dynoxide::Database;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kms_local::KmsLocal;
use kms_pool::{Credentials, KmsPool, KmsPoolBuilder, Principal};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Notify};

pub(crate) const REGION: &str = "us-east-1";
pub(crate) const TABLE: &str = "branch-keys";

/// What the proxy does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Responds with an error of this code, without forwarding the request.
    Refuse { status: u16, code: &'static str },
    /// Responds that the transaction was cancelled for these reasons, one for each item.
    Cancel(&'static [&'static str]),
    /// Closes the connection, without forwarding the request.
    Lose,
    /// Forwards the request, and closes the connection instead of responding.
    LoseResponse,
    /// Responds with this body, without forwarding the request.
    Answer(serde_json::Value),
    /// Forwards the request without its token.
    ForgetToken,
    /// Forwards the request when so many requests wait.
    Meet(Arc<Barrier>),
    /// Does not respond until [`Server::release`] is called.
    Hang,
}

/// A DynamoDB and a KMS, which end with the runtime of their test.
pub(crate) struct Server {
    pub(crate) kms: Arc<KmsLocal>,
    endpoint: String,
    shared: Arc<Shared>,
}

struct Shared {
    engine: String,
    faults: Mutex<HashMap<String, Vec<Fault>>>,
    counts: Mutex<HashMap<String, u64>>,
    /// The access keys that signed requests, in order, each once in a row.
    signers: Mutex<Vec<String>>,
    released: Notify,
}

impl Server {
    /// Starts a server without a table.
    pub(crate) async fn start() -> Self {
        let engine = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let engine_address = engine.local_addr().unwrap().to_string();
        tokio::spawn(dynoxide::server::serve_on(engine, Database::memory().unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            engine: engine_address,
            faults: Mutex::default(),
            counts: Mutex::default(),
            signers: Mutex::default(),
            released: Notify::new(),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        let kms = KmsLocal::builder().region(REGION).start().await.unwrap();
        let kms = Arc::new(kms);
        Self { kms, endpoint, shared }
    }

    /// Starts a server with the table.
    pub(crate) async fn with_table() -> Self {
        let server = Self::start().await;
        server.storage().create_table().await.unwrap();
        server
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The settings of a pool for this server.
    pub(crate) fn pool(&self) -> KmsPoolBuilder {
        KmsPool::builder()
            .trust_root_pem(self.kms.ca_pem())
            .endpoint_url(self.kms.endpoint(REGION))
            .service_endpoint_url("dynamodb", &self.endpoint)
            .connect_timeout(Duration::from_secs(10))
            .attempt_timeout(Duration::from_secs(30))
            .operation_timeout(Duration::from_mins(1))
            .circuit_opens_after(0)
    }

    pub(crate) fn storage(&self) -> DynamoDbStorage {
        self.storage_of(self.pool())
    }

    pub(crate) fn storage_of(&self, pool: KmsPoolBuilder) -> DynamoDbStorage {
        let principal = Principal::new(self.kms.issue_credentials());
        DynamoDbStorage::new(pool.build().unwrap(), principal, REGION, TABLE)
    }

    /// A client of the engine itself, for items that the storage does not write.
    pub(crate) async fn client(&self) -> Client {
        let pool = KmsPool::builder()
            .trust_root_pem(self.kms.ca_pem())
            .service_endpoint_url("dynamodb", format!("http://{}", self.shared.engine));
        let principal = Principal::new(Credentials::new("AKIATEST", "secret", None, None, "test"));
        let pool = pool.build().unwrap();
        let config = pool.service_config("dynamodb", REGION, &principal).await.unwrap();
        Client::new(config.sdk_config())
    }

    /// The access keys that signed requests, in order, each once in a row.
    pub(crate) fn signers(&self) -> Vec<String> {
        self.shared.signers.lock().unwrap().clone()
    }

    /// Causes these faults, one for each of the next requests for an operation.
    pub(crate) fn fail(&self, operation: &str, faults: impl IntoIterator<Item = Fault>) {
        let mut queue: Vec<_> = faults.into_iter().collect();
        queue.reverse();
        self.shared.faults().insert(operation.to_owned(), queue);
    }

    /// The number of requests for an operation so far.
    pub(crate) fn count(&self, operation: &str) -> u64 {
        self.shared.counts().get(operation).copied().unwrap_or(0)
    }

    /// Ends the waiting of all requests that hang.
    pub(crate) fn release(&self) {
        self.shared.released.notify_waiters();
    }
}

impl Shared {
    fn faults(&self) -> MutexGuard<'_, HashMap<String, Vec<Fault>>> {
        self.faults.lock().unwrap()
    }

    fn note_signer(&self, access_key: &str) {
        let mut signers = self.signers.lock().unwrap();
        if signers.last().is_none_or(|last| last != access_key) {
            signers.push(access_key.to_owned());
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.counts.lock().unwrap()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let handler = |request| respond(Arc::clone(&shared), request);
            // An error is a fault that a test wants, or the end of the client.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(handler))
                .await;
        });
    }
}

async fn respond(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let mut body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let target = head.headers["x-amz-target"].to_str().unwrap().to_owned();
    let operation = target.rsplit('.').next().unwrap();
    *shared.counts().entry(operation.to_owned()).or_default() += 1;
    let authorization = head.headers["authorization"].to_str().unwrap();
    let (_, signer) = authorization.split_once("Credential=").unwrap();
    shared.note_signer(signer.split('/').next().unwrap());
    let fault = shared.faults().get_mut(operation).and_then(Vec::pop);
    match &fault {
        Some(Fault::Refuse { status, code }) => return Ok(refusal(*status, code, &[])),
        Some(Fault::Cancel(reasons)) => {
            return Ok(refusal(400, "TransactionCanceledException", reasons));
        }
        Some(Fault::Answer(body)) => {
            return Ok(Response::new(Full::new(body.to_string().into())));
        }
        Some(Fault::Lose) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::Meet(barrier)) => {
            barrier.wait().await;
        }
        Some(Fault::Hang) => shared.released.notified().await,
        Some(Fault::ForgetToken) => {
            let mut fields: serde_json::Value = serde_json::from_slice(&body).unwrap();
            fields.as_object_mut().unwrap().remove("ClientRequestToken").unwrap();
            body = fields.to_string().into();
        }
        Some(Fault::LoseResponse) | None => {}
    }
    let mut forwarded = Request::new(Full::new(body));
    *forwarded.method_mut() = head.method;
    *forwarded.uri_mut() = head.uri;
    *forwarded.headers_mut() = head.headers;
    forwarded.headers_mut().remove("content-length");
    let response = forward(&shared.engine, forwarded).await?;
    match fault {
        Some(Fault::LoseResponse) => Err(io::ErrorKind::ConnectionReset.into()),
        _ => Ok(response),
    }
}

async fn forward(engine: &str, request: Request<Full<Bytes>>) -> io::Result<Response<Full<Bytes>>> {
    let stream = TokioIo::new(TcpStream::connect(engine).await?);
    let handshake = hyper::client::conn::http1::handshake(stream).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    hyper::rt::Executor::execute(&TokioExecutor::new(), connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Response::from_parts(head, Full::new(body)))
}

fn refusal(status: u16, code: &str, reasons: &[&str]) -> Response<Full<Bytes>> {
    let reasons: Vec<_> = reasons.iter().map(|it| serde_json::json!({ "Code": it })).collect();
    let body = serde_json::json!({
        "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"),
        "Message": "simulated",
        "CancellationReasons": reasons,
    });
    let mut response = Response::new(Full::new(body.to_string().into()));
    *response.status_mut() = status.try_into().unwrap();
    response
}
