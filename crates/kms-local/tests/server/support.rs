//! Clients and requests for several tests.

use std::{
    fmt::Debug,
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_sdk_kms::{
    Client,
    config::{BehaviorVersion, Region, retry::RetryConfig},
    error::ProvideErrorMetadata,
};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use kms_local::KmsLocal;
use serde_json::Value;
use tokio::net::TcpStream;

pub(crate) const REGION: &str = "us-east-1";

/// A server with one region, its client, and the ARN of a key in the region.
pub(crate) struct Setup {
    pub(crate) kms: KmsLocal,
    pub(crate) client: Client,
    pub(crate) key: String,
}

pub(crate) async fn setup() -> Setup {
    let kms = KmsLocal::builder().account("111122223333").start().await.unwrap();
    let client = client(&kms, REGION, kms.issue_credentials());
    let key = kms.create_key(REGION);
    Setup { kms, client, key }
}

/// Returns a client that trusts the server's authority and does not retry.
pub(crate) fn client(kms: &KmsLocal, region: &str, credentials: Credentials) -> Client {
    client_of(kms.endpoint(region), kms.ca_pem(), region, credentials)
}

pub(crate) fn client_of(
    endpoint: &str,
    ca_pem: &str,
    region: &str,
    credentials: Credentials,
) -> Client {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .endpoint_url(endpoint)
        .credentials_provider(credentials)
        .retry_config(RetryConfig::disabled())
        .http_client(http_client(ca_pem))
        .build();
    Client::from_conf(config)
}

/// Returns an HTTP client that trusts only this authority.
pub(crate) fn http_client(ca_pem: &str) -> SharedHttpClient {
    let trust = TrustStore::empty().with_pem_certificate(ca_pem);
    aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(TlsContext::builder().with_trust_store(trust).build().unwrap())
        .build_https()
}

/// Returns the error type of a refused call.
pub(crate) fn code<T: Debug, E: ProvideErrorMetadata + Debug>(result: Result<T, E>) -> String {
    let error = result.expect_err("the call is refused");
    error.code().unwrap_or_else(|| panic!("not a refusal: {error:?}")).to_owned()
}

/// A raw request, in which each part can be invalid.
pub(crate) struct RawRequest {
    pub(crate) credentials: Credentials,
    pub(crate) region: String,
    pub(crate) service: &'static str,
    pub(crate) time: SystemTime,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

/// A raw response.
#[derive(Debug)]
pub(crate) struct RawResponse {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl RawRequest {
    /// Returns a valid `GenerateRandom` request.
    pub(crate) fn valid(credentials: Credentials) -> Self {
        Self {
            credentials,
            region: REGION.to_owned(),
            service: "kms",
            time: kms_time(),
            headers: vec![
                ("host", "localhost".to_owned()),
                ("content-type", "application/x-amz-json-1.1".to_owned()),
                ("x-amz-target", "TrentService.GenerateRandom".to_owned()),
            ],
            body: br#"{"NumberOfBytes":8}"#.to_vec(),
        }
    }

    pub(crate) fn target(mut self, target: &str, body: &[u8]) -> Self {
        self.headers.retain(|(name, _)| *name != "x-amz-target");
        self.headers.push(("x-amz-target", target.to_owned()));
        body.clone_into(&mut self.body);
        self
    }

    /// Signs the request. The signature does not cover later changes.
    pub(crate) fn signed(&self) -> Request<Full<bytes::Bytes>> {
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service)
            .time(self.time)
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let headers = self.headers.iter().map(|(name, value)| (*name, value.as_str()));
        let signable =
            SignableRequest::new("POST", "/", headers, SignableBody::Bytes(&self.body)).unwrap();
        let (instructions, _) = sign(signable, &params).unwrap().into_parts();
        let mut request = self.unsigned();
        instructions.apply_to_request_http1x(&mut request);
        request
    }

    pub(crate) fn unsigned(&self) -> Request<Full<bytes::Bytes>> {
        let mut request = Request::post("/");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(Full::from(self.body.clone())).unwrap()
    }
}

impl RawResponse {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns the error type in the body.
    pub(crate) fn code(&self) -> String {
        self.json()["__type"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// A plain HTTP connection.
pub(crate) struct RawConnection(SendRequest<Full<bytes::Bytes>>);

impl RawConnection {
    pub(crate) async fn open(endpoint: &str) -> Self {
        let address = endpoint.strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn send(&mut self, request: Request<Full<bytes::Bytes>>) -> RawResponse {
        self.try_send(request).await.unwrap()
    }

    pub(crate) async fn try_send(
        &mut self,
        request: Request<Full<bytes::Bytes>>,
    ) -> Result<RawResponse, hyper::Error> {
        self.0.ready().await?;
        let (head, body) = self.0.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes().to_vec();
        Ok(RawResponse { status: head.status.as_u16(), headers: head.headers, body })
    }
}

#[expect(clippy::disallowed_methods, reason = "a client has its own clock")]
pub(crate) fn kms_time() -> SystemTime {
    SystemTime::now()
}

/// Lets the server's tasks run until `done`. Fails after a timeout that no passing test reaches.
pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the condition becomes true");
}
