//! Connections: accept them, speak TLS, hand their requests on, close them as asked.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response};
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

/// How long a client may take for its handshake, and for saying goodbye.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may wait for the next request to arrive in full.
const IDLE: Duration = Duration::from_mins(5);
/// How long to wait when the operating system has no connection to give, such as out of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers requests.
pub(crate) type Handler = Arc<dyn Fn(Request<Incoming>) -> Answer + Send + Sync>;

/// An answer on its way.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Reset>> + Send>>;

/// The connection is to be reset instead of answered.
#[derive(Debug, Error)]
#[error("the connection is reset")]
pub(crate) struct Reset;

/// A bound port.
pub(crate) struct Listener {
    pub(crate) tcp: TcpListener,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// How far away the clients of new connections are.
    pub(crate) round_trip: RoundTrip,
    pub(crate) tally: Tally,
    /// Becomes true when the server stops gracefully.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Listener {
    /// Serves until told to stop, then until the open connections have answered what they were
    /// asked. Dropping the future closes everything at once.
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
            let (acceptor, tally, round_trip) =
                (acceptor.clone(), tally.clone(), round_trip.time());
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
            return match self.converse(socket, acceptor, tally).await? {
                (_, Ending::Orderly) => Ok(()),
                (socket, Ending::Reset) => socket.set_zero_linger(),
            };
        }
        let (stream, line) = DelayLine::new(round_trip);
        let mut carry = Box::pin(line.carry(&mut socket));
        let conversation = self.converse(stream, acceptor, tally);
        let ended = tokio::select! {
            ended = conversation => ended,
            carried = &mut carry => return carried,
        };
        if let Ok((_stream, Ending::Reset)) = ended {
            // It is as far to the client for a reset as for anything else.
            let _ = timeout(round_trip / 2, &mut carry).await;
            drop(carry);
            return socket.set_zero_linger();
        }
        // What was said last is still under way, also when it was that there is no understanding.
        let ended = ended.map(drop);
        timeout(HANDSHAKE, carry).await??;
        ended
    }

    /// Shakes hands if it has to, answers requests, says goodbye unless it is a reset.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        stream: S,
        acceptor: Option<TlsAcceptor>,
        tally: &Tally,
    ) -> io::Result<(S, Ending)> {
        let Some(acceptor) = acceptor else {
            let (mut stream, ending) = self.speak(stream).await;
            if ending == Ending::Orderly {
                stream.shutdown().await?;
            }
            return Ok((stream, ending));
        };
        let mut handshake = pin!(timeout(HANDSHAKE, acceptor.accept(stream)));
        let stream = tokio::select! {
            stream = &mut handshake => stream??,
            _ = self.stop.wait_for(|stop| *stop) => return Err(io::ErrorKind::Interrupted.into()),
        };
        let group = stream.get_ref().1.negotiated_key_exchange_group();
        tally.tls_handshake(group.and_then(|group| group.name().as_str()));
        let (mut stream, ending) = self.speak(stream).await;
        if ending == Ending::Orderly {
            timeout(HANDSHAKE, stream.shutdown()).await??;
        }
        Ok((stream.into_inner().0, ending))
    }

    /// Answers requests until the connection is at its end, and gives the stream back.
    async fn speak<S: AsyncRead + AsyncWrite + Unpin>(mut self, stream: S) -> (S, Ending) {
        let service = service_fn(move |request| (self.handler)(request));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
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

/// How a connection is closed: with a goodbye, or by dropping it with a TCP reset.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Orderly,
    Reset,
}
