//! Connections: accepts them, performs the TLS handshake, passes requests to a handler, and closes
//! or resets the connection.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    counters::Tally,
    delay::{DelayLine, RoundTrip},
};

/// The time within which a client must complete its handshake, and close its connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time within which the next request on a connection must arrive.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);
/// The pause after the operating system could not accept a connection, for example because there
/// are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The body of a response.
pub(crate) type Body = Full<Bytes>;

/// Responds to requests.
pub(crate) type Handler = Arc<dyn Fn(Request<Incoming>) -> Responding + Send + Sync>;

/// The future of a response.
pub(crate) type Responding = Pin<Box<dyn Future<Output = Result<Response<Body>, Reset>> + Send>>;

/// The instruction to reset the connection instead of responding.
#[derive(Debug, Error)]
#[error("the connection is reset")]
pub(crate) struct Reset;

/// A bound port, and what to serve on it.
pub(crate) struct Listener {
    pub(crate) tcp: TcpListener,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// The simulated round trip for new connections.
    pub(crate) round_trip: RoundTrip,
    pub(crate) tally: Tally,
    /// Becomes true when the server stops gracefully.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Listener {
    /// Serves until the server stops, and then until the open connections have responded to their
    /// current requests. Dropping the future closes everything at once.
    pub(crate) async fn serve(self, handler: Handler) {
        let Self { tcp, tls, round_trip, tally, mut stop } = self;
        let acceptor = tls.map(TlsAcceptor::from);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = tcp.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Ok((stream, _)) = accepted else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let open = tally.connection();
            let connection = Connection { stop: stop.clone(), handler: Arc::clone(&handler) };
            let acceptor = acceptor.clone();
            let tally = tally.clone();
            let round_trip = round_trip.time();
            connections.spawn(async move {
                let _open = open;
                if let Err(error) = connection.run(stream, round_trip, acceptor, &tally).await {
                    tracing::debug!(%error, "connection ended");
                }
            });
        }
        drop(tcp);
        while connections.join_next().await.is_some() {}
    }
}

struct Connection {
    stop: watch::Receiver<bool>,
    handler: Handler,
}

impl Connection {
    async fn run(
        self,
        mut socket: TcpStream,
        round_trip: Duration,
        acceptor: Option<TlsAcceptor>,
        tally: &Tally,
    ) -> io::Result<()> {
        socket.set_nodelay(true)?;
        if round_trip.is_zero() {
            return match self.serve(socket, acceptor, tally).await? {
                (_, Ending::Orderly) => Ok(()),
                (socket, Ending::Reset) => socket.set_zero_linger(),
            };
        }
        let (stream, line) = DelayLine::new(round_trip);
        let mut carry = Box::pin(line.carry(&mut socket));
        let served = self.serve(stream, acceptor, tally);
        let ended = tokio::select! {
            ended = served => ended,
            carried = &mut carry => return carried,
        };
        if let Ok((_stream, Ending::Reset)) = ended {
            // A reset takes as long to reach the client as other bytes.
            let _ = timeout(round_trip / 2, &mut carry).await;
            drop(carry);
            return socket.set_zero_linger();
        }
        // The last bytes, such as a TLS alert, are still on their way to the client.
        let ended = ended.map(drop);
        timeout(HANDSHAKE_TIMEOUT, carry).await??;
        ended
    }

    /// Performs the handshake if there is one, serves requests, and closes the stream unless it is
    /// to be reset.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        stream: S,
        acceptor: Option<TlsAcceptor>,
        tally: &Tally,
    ) -> io::Result<(S, Ending)> {
        let Some(acceptor) = acceptor else {
            let (mut stream, ending) = self.serve_http(stream).await;
            if ending == Ending::Orderly {
                stream.shutdown().await?;
            }
            return Ok((stream, ending));
        };
        let mut handshake = pin!(timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)));
        let stream = tokio::select! {
            stream = &mut handshake => stream??,
            _ = self.stop.wait_for(|stop| *stop) => return Err(io::ErrorKind::Interrupted.into()),
        };
        let group = stream.get_ref().1.negotiated_key_exchange_group();
        tally.tls_handshake(group.and_then(|group| group.name().as_str()));
        let (mut stream, ending) = self.serve_http(stream).await;
        if ending == Ending::Orderly {
            timeout(HANDSHAKE_TIMEOUT, stream.shutdown()).await??;
        }
        Ok((stream.into_inner().0, ending))
    }

    /// Serves requests until the connection ends, and returns the stream.
    async fn serve_http<S: AsyncRead + AsyncWrite + Unpin>(mut self, stream: S) -> (S, Ending) {
        let service = service_fn(move |request| (self.handler)(request));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let mut stopping = false;
        let outcome = loop {
            tokio::select! {
                outcome = poll_fn(|context| connection.poll_without_shutdown(context)) => {
                    break outcome;
                }
                _ = self.stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        };
        let ending = match outcome {
            Err(error) if error.is_user() => Ending::Reset,
            _ => Ending::Orderly,
        };
        (connection.into_parts().io.into_inner(), ending)
    }
}

/// How a connection ends: closed in order, or with a TCP reset.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Orderly,
    Reset,
}
