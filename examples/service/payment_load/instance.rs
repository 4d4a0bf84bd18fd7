//! An instance of `payment_service` in a process of its own, and connections to it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, header};
use examples::Report;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use kms_local::KmsLocal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::REGION;

/// The longest time for one request, and for the start of an instance.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// A running instance. It ends when this is dropped.
pub(crate) struct Instance {
    pub(crate) address: SocketAddr,
    _process: Child,
}

impl Instance {
    /// Starts an instance that uses `key` of `kms`, and the branch keys in `folder`.
    pub(crate) async fn start(
        kms: &KmsLocal,
        key: &str,
        folder: &Path,
        options: &[&str],
    ) -> Result<Self, Report> {
        let authority = folder.join("ca.pem");
        std::fs::write(&authority, kms.ca_pem())?;
        let credentials = kms.issue_credentials();
        // In the folder of this program.
        let program = std::env::current_exe()?.with_file_name("payment_service");
        let mut process = Command::new(&program)
            .args(["--listen", "127.0.0.1:0", "--key-id", key])
            .arg("--store")
            .arg(format!("sqlite:{}", folder.join("payments.db").display()))
            .args(options)
            .env_clear()
            .env("AWS_ENDPOINT_URL_KMS", kms.endpoint(REGION))
            .env("AWS_CA_BUNDLE", &authority)
            .env("AWS_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", credentials.access_key_id())
            .env("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("could not start {}: {error}", program.display()))?;
        let output = process.stdout.take().ok_or("the process has no output")?;
        let mut line = String::new();
        timeout(LIMIT, BufReader::new(output).read_line(&mut line)).await??;
        let address = line.split('/').nth(2).and_then(|address| address.parse().ok());
        let address = address.ok_or("the instance did not print its address")?;
        Ok(Self { address, _process: process })
    }
}

/// A connection that stays open.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Report> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends when the sender is dropped.
        tokio::spawn(connection);
        Ok(Self { sender, host: address.to_string() })
    }

    /// Sends a request, and returns the status and the body of the response.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<(StatusCode, Bytes), Report> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::HOST, &self.host).body(Full::new(body.into()))?;
        let exchange = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        timeout(LIMIT, exchange).await?
    }

    /// Sends a request that must succeed, and returns the body of the response.
    pub(crate) async fn expect(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Bytes, Report> {
        match self.send(method, path, body).await? {
            (status, body) if status.is_success() => Ok(body),
            (status, body) => {
                Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&body)).into())
            }
        }
    }
}
