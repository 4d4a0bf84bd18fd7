//! An HTTPS client over a pool of connections, which detects connections that died unnoticed.
//!
//! An idle connection may die without a sign: a NAT gateway or load balancer drops it and notifies
//! neither side. When a request fails on a *reused* connection, which was open before the request,
//! the failure therefore says little about the server. The client then closes all idle connections,
//! and the request may be sent again at once.

use std::error::Error;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use futures_util::future::{Either, select};
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::client::legacy::{self, Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout};

use super::ConnectionSettings;
use super::connector::{self, Connector, Opened, Parts};
use crate::error::BuildError;
use crate::stats::Counters;
use crate::time;

/// Builds HTTPS clients with the same settings.
#[derive(Clone)]
pub(crate) struct Connections {
    connector: Connector,
    idle_timeout: Duration,
}

impl Connections {
    /// # Errors
    ///
    /// [`BuildError::TrustRoot`] and [`BuildError::Tls`].
    pub(crate) fn new(
        settings: ConnectionSettings,
        counters: Arc<Counters>,
    ) -> Result<Self, BuildError> {
        let parts = Parts {
            tls: settings.roots.into_config()?,
            proxies: settings.proxies,
            hosts: settings.hosts,
            timeout: settings.connect_timeout,
            counters,
        };
        Ok(Self { connector: Connector(Arc::new(parts)), idle_timeout: settings.idle_timeout })
    }

    /// Builds an HTTPS client that has no connections yet. Its connections close when it is dropped
    /// and its requests have ended.
    pub(crate) fn client(&self) -> HttpsClient {
        let first = self.group(time::suspended());
        HttpsClient {
            connections: self.clone(),
            current: ArcSwap::from_pointee(first),
            credit: AtomicU32::new(0),
        }
    }

    fn group(&self, suspended: Duration) -> ConnectionGroup {
        let hyper = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(self.idle_timeout)
            .pool_max_idle_per_host(MAX_IDLE)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .build(self.connector.clone());
        ConnectionGroup { hyper, suspended, answered: Mutex::default() }
    }
}

const MAX_IDLE: usize = 1024;
/// HTTP/2 is pinged at this interval, because all requests of an HTTP/2 connection share one path.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Suspensions of the machine that are longer than this are detected.
const NAP: Duration = Duration::from_secs(10);

/// If a caller cancels a request after this time, and neither it nor another request on a reused
/// connection got a response, the other idle connections may be dead too.
const SILENCE: Duration = Duration::from_millis(500);

/// Maximum of [`HttpsClient::credit`].
const MAX_CREDIT: u32 = 1024;

/// Connections that are closed together once they are idle.
struct ConnectionGroup {
    hyper: Client<Connector, SdkBody>,
    /// How long the machine had been suspended when this group began.
    suspended: Duration,
    /// When a response last arrived over a reused connection.
    answered: Mutex<Option<Instant>>,
}

/// An HTTPS client with all its connections.
pub(crate) struct HttpsClient {
    connections: Connections,
    current: ArcSwap<ConnectionGroup>,
    /// How many failures on reused connections may still be retried at once; each response adds
    /// one.
    credit: AtomicU32,
}

/// What a failure on a reused connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stale {
    /// The connection may have died unnoticed: try the request again at once.
    TryAgain,
    /// The server may be at fault: it responds to other requests on reused connections, or there
    /// have been too few responses since the last failures.
    Failure,
    /// Like `Failure`, but another failure of the same group has already been reported.
    FailureAgain,
}

impl HttpsClient {
    /// Sends a request, on an idle connection if there is one. Must run on a Tokio runtime, because
    /// connections are tasks.
    ///
    /// # Errors
    ///
    /// If `request` is not a valid HTTP request.
    pub(crate) fn send(&self, request: HttpRequest) -> Result<Exchange<'_>, ConnectorError> {
        let request = request.try_into_http1x();
        let mut request = request.map_err(|error| ConnectorError::user(error.into()))?;
        let connection = capture_connection(&mut request);
        let over = self.group(time::suspended());
        let began = time::monotonic();
        let answer = over.hyper.request(request);
        Ok(Exchange { answer, connection, began, over, client: self, has_ended: false })
    }

    /// The connections to use. Connections from before a suspension are not reused: they may have
    /// been idle for any time.
    fn group(&self, suspended: Duration) -> Arc<ConnectionGroup> {
        let current = self.current.load_full();
        if suspended <= current.suspended + NAP {
            return current;
        }
        self.replace(&current, suspended);
        self.current.load_full()
    }

    /// Closes all idle connections now, and the ones in use when their requests end. Does nothing
    /// if that has already happened to `old`. Running requests are not disturbed.
    fn replace(&self, old: &Arc<ConnectionGroup>, suspended: Duration) -> bool {
        let fresh = Arc::new(self.connections.group(suspended));
        let was = self.current.compare_and_swap(old, fresh);
        Arc::ptr_eq(&was, old)
    }
}

/// A request in flight.
pub(crate) struct Exchange<'a> {
    answer: ResponseFuture,
    connection: CaptureConnection,
    began: Instant,
    over: Arc<ConnectionGroup>,
    client: &'a HttpsClient,
    /// Whether the response has arrived or the request has failed.
    has_ended: bool,
}

impl Exchange<'_> {
    /// Waits for the head of the response. Must not be called again after it has returned.
    pub(crate) async fn head(&mut self) -> Result<HttpResponse, ConnectorError> {
        let answer = (&mut self.answer).await.map_err(failure)?;
        self.has_ended = true;
        let more = |credit: u32| (credit < MAX_CREDIT).then_some(credit + 1);
        // An error means that the credit is at its maximum.
        let _ = self.client.credit.fetch_update(Relaxed, Relaxed, more);
        if self.is_on_reused() {
            *self.over.answered() = Some(time::monotonic());
        }
        let answer = answer.map(SdkBody::from_body_1_x);
        HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
    }

    /// Records that the request has failed. If it used a reused connection, all idle connections
    /// are closed, and the result says what the failure means.
    pub(crate) fn failed(&mut self, error: &ConnectorError) -> Option<Stale> {
        self.has_ended = true;
        if !self.is_on_reused() {
            return None;
        }
        let is_first = self.client.replace(&self.over, time::suspended());
        let is_slow = error.is_timeout() && self.is_path_alive();
        let less = |credit: u32| credit.checked_sub(1);
        if !is_slow && self.client.credit.fetch_update(Relaxed, Relaxed, less).is_ok() {
            return Some(Stale::TryAgain);
        }
        Some(if is_first { Stale::Failure } else { Stale::FailureAgain })
    }

    /// Whether a response has arrived over a reused connection since this request began.
    fn is_path_alive(&self) -> bool {
        self.over.answered().is_some_and(|answered| answered > self.began)
    }

    /// Whether the request used a connection that was open before it.
    fn is_on_reused(&self) -> bool {
        let mut extras = http::Extensions::new();
        if let Some(connected) = &*self.connection.connection_metadata() {
            connected.get_extras(&mut extras);
        }
        extras.get::<Opened>().is_some_and(|opened| opened.0 < self.began)
    }

    /// Like [`head`](Self::head), with separate limits on the time to connect and on the time after
    /// that.
    pub(super) async fn head_within(
        &mut self,
        connect: Option<Duration>,
        read: Option<Duration>,
    ) -> Result<HttpResponse, ConnectorError> {
        let mut connection = self.connection.clone();
        let connected = async { drop(connection.wait_for_connection_metadata().await) };
        let answer = {
            let answer = pin!(self.head());
            within(connect, select(answer, pin!(connected))).await.map(|first| match first {
                Either::Left((answer, _)) => Some(answer),
                Either::Right(_) => None,
            })?
        };
        match answer {
            Some(answer) => answer,
            None => within(read, self.head()).await?,
        }
    }
}

impl Drop for Exchange<'_> {
    /// Detects dead connections even if callers cancel before the attempt times out. Otherwise
    /// their next requests would wait in vain on other connections that died with this one.
    fn drop(&mut self) {
        if !self.has_ended
            && time::monotonic() - self.began >= SILENCE
            && self.is_on_reused()
            && !self.is_path_alive()
        {
            self.client.replace(&self.over, time::suspended());
        }
    }
}

impl ConnectionGroup {
    fn answered(&self) -> MutexGuard<'_, Option<Instant>> {
        // A single value: a panic cannot leave it inconsistent.
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = T>,
) -> Result<T, ConnectorError> {
    let Some(limit) = limit else { return Ok(work.await) };
    timeout(limit, work)
        .await
        .map_err(|_| ConnectorError::timeout(format!("no response within {limit:?}").into()))
}

/// Converts a failure into the SDK's error: a timeout, a broken connection, or another error.
fn failure(error: legacy::Error) -> ConnectorError {
    if connector::is_timeout(&error) {
        return ConnectorError::timeout(error.into());
    }
    if error.is_connect() {
        return ConnectorError::io(error.into());
    }
    let causes = || std::iter::successors(Some(&error as &dyn Error), |&it| it.source());
    let hyper = causes().find_map(|cause| cause.downcast_ref::<hyper::Error>());
    match hyper {
        Some(it) if it.is_timeout() => ConnectorError::timeout(error.into()),
        Some(it) if it.is_user() => ConnectorError::user(error.into()),
        // Other errors: a broken connection, or a server that does not speak HTTP.
        Some(it) if it.is_parse() => ConnectorError::other(error.into(), None),
        _ => ConnectorError::io(error.into()),
    }
}

#[cfg(test)]
mod tests;
