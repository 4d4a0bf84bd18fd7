//! Opens one connection: TCP, a proxy's tunnel, TLS.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use futures_util::future::{BoxFuture, Ready, ready};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::proxy::{Proxies, Proxy};
use super::race::Hosts;
use super::tls::Tls;
use crate::stats::Counters;
use crate::telemetry;
use crate::time;

/// Opens connections within the connect timeout, and counts them.
#[derive(Clone)]
pub(super) struct Connector(pub(super) Arc<Parts>);

pub(super) struct Parts {
    pub(super) tls: Tls,
    pub(super) proxies: Proxies,
    pub(super) hosts: Hosts,
    pub(super) timeout: Duration,
    pub(super) counters: Arc<Counters>,
}

/// Why no connection could be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no connection to {to} within {within:?}, the connect timeout")]
    TimedOut { to: String, within: Duration },
    #[error("could not connect to {to}")]
    Failed {
        to: String,
        #[source]
        cause: BoxError,
    },
}

/// Whether a request failed because connecting timed out.
pub(super) fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&it| it.source())
        .any(|it| matches!(it.downcast_ref(), Some(ConnectError::TimedOut { .. })))
}

impl Service<Uri> for Connector {
    type Response = Transport;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Transport, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let parts = Arc::clone(&self.0);
        Box::pin(async move {
            let made = timeout(parts.timeout, parts.connect(&url)).await;
            let to = || url.authority().map(ToString::to_string).unwrap_or_default();
            match made {
                Ok(Ok((stream, is_h2))) => Ok(Transport::new(stream, is_h2, &parts.counters)),
                Ok(Err(cause)) => Err(ConnectError::Failed { to: to(), cause }),
                Err(_) => Err(ConnectError::TimedOut { to: to(), within: parts.timeout }),
            }
            .inspect_err(|error| {
                parts.counters.connections_failed.increment();
                telemetry::connection_failed(error);
            })
        })
    }
}

impl Parts {
    /// Opens a stream to a server; the flag is true if the server speaks HTTP/2.
    async fn connect(&self, url: &Uri) -> Result<(Stream, bool), BoxError> {
        let is_https = url.scheme_str() == Some("https");
        if !is_https && !is_here(host(url)) {
            return Err(
                "plain http:// is allowed only for this machine and the metadata services".into()
            );
        }
        let proxy = self.proxies.of(url);
        let first = proxy.map_or(url, |proxy| &proxy.url);
        let finish = async |stream| {
            let mut stream: Stream = Box::new(stream);
            if let Some(proxy) = proxy {
                stream = self.tunnel(proxy, url, stream).await?;
            }
            if !is_https {
                return Ok((stream, false));
            }
            let stream = handshake(&self.tls.server, url, stream).await?;
            let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Ok((Box::new(stream) as Stream, is_h2))
        };
        self.hosts.connect(host(first), port(first), finish).await
    }

    /// Asks a proxy for a tunnel, on an open connection to the proxy.
    async fn tunnel(&self, proxy: &Proxy, url: &Uri, stream: Stream) -> Result<Stream, BoxError> {
        let stream = if proxy.url.scheme_str() == Some("https") {
            Box::new(handshake(&self.tls.proxy, &proxy.url, stream).await?)
        } else {
            stream
        };
        let mut tunnel = Tunnel::new(proxy.url.clone(), Made(Some(stream)));
        if let Some(authorization) = &proxy.authorization {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        match tunnel.call(url.clone()).await {
            Ok(stream) => Ok(stream.into_inner()),
            Err(error) => {
                let error: BoxError = Box::new(error);
                let reason = std::iter::successors(Some(&*error as &dyn Error), |&it| it.source());
                let reason = reason.last().map(ToString::to_string).unwrap_or_default();
                Err(format!("could not open a tunnel through the proxy {}: {reason}", proxy.url)
                    .into())
            }
        }
    }
}

async fn handshake(
    tls: &Arc<ClientConfig>,
    url: &Uri,
    stream: Stream,
) -> io::Result<tokio_rustls::client::TlsStream<Stream>> {
    let name = ServerName::try_from(host(url).to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::clone(tls)).connect(name, stream).await
}

/// The host of a URL, without the brackets of an IPv6 address.
fn host(url: &Uri) -> &str {
    let host = url.host().unwrap_or_default();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn port(url: &Uri) -> u16 {
    let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
    url.port_u16().unwrap_or(default)
}

/// Whether a host is this machine or a metadata service that only this machine can reach: the
/// metadata services of EC2, ECS and EKS have link-local addresses, or addresses in
/// `fd00:ec2::/32`.
fn is_here(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => {
            address.is_loopback() || address.segments()[..2] == [0xfd00, 0x0ec2]
        }
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// A connector that returns a connection that is already open.
struct Made(Option<Stream>);

impl Service<Uri> for Made {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

/// TCP, TLS over TCP, or TLS inside a tunnel over either.
type Stream = Box<dyn Duplex>;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An open connection. It counts as open until it is dropped.
pub(super) struct Transport {
    stream: TokioIo<Stream>,
    is_h2: bool,
    opened: Opened,
    counters: Arc<Counters>,
}

/// When a connection was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened(pub(super) Instant);

impl Transport {
    fn new(stream: Stream, is_h2: bool, counters: &Arc<Counters>) -> Self {
        counters.connections_opened.increment();
        telemetry::connection_opened();
        Self {
            stream: TokioIo::new(stream),
            is_h2,
            opened: Opened(time::monotonic()),
            counters: Arc::clone(counters),
        }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TokioIo<Stream>> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Connection for Transport {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.opened);
        if self.is_h2 { connected.negotiated_h2() } else { connected }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.counters.connections_closed.increment();
        telemetry::connection_closed();
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("is_h2", &self.is_h2).finish_non_exhaustive()
    }
}

impl Read for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl Write for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_allowed_for_this_machine_only() {
        for here in [
            "localhost",
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "fd00:ec2::254",
            "fd00:ec2::23",
        ] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in ["10.0.0.1", "8.8.8.8", "fd00::1", "kms.example", "localhost.example", ""]
        {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }
}
