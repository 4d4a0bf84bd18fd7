//! Connections: the HTTPS client behind all KMS clients of a pool for a region, and the HTTPS
//! client of its credentials providers.
//!
//! An idle connection may die without a sign: a NAT gateway or load balancer drops it and notifies
//! neither side. When a request fails on a *reused* connection, which was open before the request,
//! the failure therefore says little about the server. The pool then closes all idle connections,
//! and may try the request again at once.

use std::error::Error;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use futures_util::future::{Either, select};
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::client::legacy::{self, Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout};

use self::connector::{Connector, Opened, Parts};
pub(crate) use self::proxy::Proxies;
pub(crate) use self::race::Hosts;
use self::sdk::SdkClient;
pub(crate) use self::sdk::metadata;
pub(crate) use self::tls::TrustRoots;
use crate::error::BuildError;
use crate::stats::Counters;
use crate::time;

mod connector;
mod proxy;
mod race;
mod sdk;
mod tls;

/// How connections are opened and kept.
#[derive(Clone)]
pub(crate) struct ConnectionSettings {
    pub(crate) roots: TrustRoots,
    pub(crate) proxies: Proxies,
    pub(crate) hosts: Hosts,
    /// Limit for TCP, a proxy's tunnel and TLS together.
    pub(crate) connect_timeout: Duration,
    /// An idle connection closes after this time.
    pub(crate) idle_timeout: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            roots: TrustRoots::default(),
            proxies: Proxies::default(),
            hosts: Hosts::default(),
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(90),
        }
    }
}

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
        let first = self.generation(time::suspended());
        HttpsClient {
            connections: self.clone(),
            current: ArcSwap::from_pointee(first),
            credit: AtomicU32::new(0),
        }
    }

    /// Builds the same as a client of the AWS SDK.
    pub(crate) fn shared_client(&self) -> SharedHttpClient {
        SharedHttpClient::new(SdkClient(Arc::new(self.client())))
    }

    fn generation(&self, suspended: Duration) -> Generation {
        let hyper = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(self.idle_timeout)
            .pool_max_idle_per_host(MAX_IDLE)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .build(self.connector.clone());
        Generation { hyper, suspended, answered: Mutex::default() }
    }
}

const MAX_IDLE: usize = 1024;
/// HTTP/2 is pinged at this interval, because all requests of an HTTP/2 connection share one path.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Suspensions of the machine longer than this are noticed.
const NAP: Duration = Duration::from_secs(10);

/// If a caller drops a request after this time, and neither it nor another request on a reused
/// connection got a response, the other idle connections may be dead too.
const SILENCE: Duration = Duration::from_millis(500);

/// Maximum of [`HttpsClient::credit`].
const MAX_CREDIT: u32 = 1024;

/// Connections that are closed together once they are idle.
struct Generation {
    hyper: Client<Connector, SdkBody>,
    /// How long the machine had been suspended when this generation began.
    suspended: Duration,
    /// When a response last arrived over a reused connection.
    answered: Mutex<Option<Instant>>,
}

/// An HTTPS client with all its connections.
pub(crate) struct HttpsClient {
    connections: Connections,
    current: ArcSwap<Generation>,
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
    /// Like `Failure`, but another failure of the same generation has already been reported.
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
        let over = self.generation(time::suspended());
        let began = time::monotonic();
        let answer = over.hyper.request(request);
        Ok(Exchange { answer, connection, began, over, client: self, has_ended: false })
    }

    /// The connections to use. Connections from before a suspension are not reused, because nobody
    /// knows how long they were idle.
    fn generation(&self, suspended: Duration) -> Arc<Generation> {
        let current = self.current.load_full();
        if suspended <= current.suspended + NAP {
            return current;
        }
        self.replace(&current, suspended);
        self.current.load_full()
    }

    /// Closes all idle connections now, and the ones in use when their requests end. Does nothing
    /// if that has already happened to `old`. Running requests are not disturbed.
    fn replace(&self, old: &Arc<Generation>, suspended: Duration) -> bool {
        let fresh = Arc::new(self.connections.generation(suspended));
        let was = self.current.compare_and_swap(old, fresh);
        Arc::ptr_eq(&was, old)
    }
}

/// A request in flight.
pub(crate) struct Exchange<'a> {
    answer: ResponseFuture,
    connection: CaptureConnection,
    began: Instant,
    over: Arc<Generation>,
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
    async fn head_within(
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

impl Generation {
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
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn https() -> HttpsClient {
        let settings = ConnectionSettings::default();
        Connections::new(settings, Arc::default()).unwrap().client()
    }

    async fn server() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (listener, url)
    }

    fn request(url: &str) -> HttpRequest {
        let mut request = HttpRequest::empty();
        request.set_uri(url.to_owned()).unwrap();
        request
    }

    async fn answer(stream: &mut TcpStream) {
        let request = stream.read(&mut [0; 4096]).await.unwrap();
        assert!(request > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    }

    #[tokio::test]
    async fn plain_http_requests_to_other_machines_are_not_sent() {
        let (listener, url) = server().await;
        let mut settings = ConnectionSettings::default();
        settings.hosts.set("kms.example", vec![listener.local_addr().unwrap().ip()]);
        let https = Connections::new(settings, Arc::default()).unwrap().client();
        let url = url.replace("127.0.0.1", "kms.example");
        let mut exchange = https.send(request(&url)).unwrap();
        let (head, none) = tokio::join!(exchange.head(), async {
            timeout(Duration::from_millis(50), listener.accept()).await.is_err()
        });
        let error = format!("{:?}", head.unwrap_err());
        assert!(error.contains("plain http://") && none, "{error}");
    }

    /// Or the retries after the first failures would lose the connections that they have just made.
    #[tokio::test]
    async fn failures_at_once_close_what_was_idle_once() {
        let https = https();
        let old = https.current.load_full();
        assert!(https.replace(&old, Duration::ZERO));
        let fresh = https.current.load_full();
        assert!(!https.replace(&old, Duration::ZERO));
        assert!(Arc::ptr_eq(&fresh, &https.current.load_full()));
    }

    #[tokio::test]
    async fn running_requests_survive_the_close_of_idle_connections() {
        let https = https();
        let (listener, url) = server().await;
        let mut first = https.send(request(&url)).unwrap();
        let serve = async {
            let mut stream = listener.accept().await.unwrap().0;
            answer(&mut stream).await;
            stream
        };
        let (head, mut stream) = tokio::join!(first.head(), serve);
        head.unwrap();
        assert!(!first.is_on_reused());

        let mut second = https.send(request(&url)).unwrap();
        assert!(https.replace(&second.over, Duration::ZERO));
        let (head, ()) = tokio::join!(second.head(), answer(&mut stream));
        head.unwrap();
        assert!(second.is_on_reused());
        drop(second);
        drop(first);
        // The connection closes once its request has ended.
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_request_may_set_shorter_limits() {
        let https = https();
        let (listener, url) = server().await;
        let short = Some(Duration::from_millis(20));
        let mut exchange = https.send(request(&url)).unwrap();
        let error = exchange.head_within(None, short).await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        let mut exchange = https.send(request(&url)).unwrap();
        let serve = async { answer(&mut listener.accept().await.unwrap().0).await };
        // The first of the two connections belongs to the cancelled request.
        let _given_up = listener.accept().await.unwrap();
        let (head, ()) = tokio::join!(exchange.head_within(None, None), serve);
        assert_eq!(head.unwrap().status().as_u16(), 200);
    }

    #[tokio::test]
    async fn the_meaning_of_a_failure_depends_on_responses_to_other_requests() {
        let https = https();
        let (listener, url) = server().await;
        let mut first = https.send(request(&url)).unwrap();
        let serve = async {
            let mut stream = listener.accept().await.unwrap().0;
            answer(&mut stream).await;
            stream
        };
        let (head, stream) = tokio::join!(first.head(), serve);
        head.unwrap();
        let timed_out = ConnectorError::timeout("late".into());
        let broken = ConnectorError::io("reset".into());
        assert_eq!(first.failed(&broken), None);

        let mut second = https.send(request(&url)).unwrap();
        second.head_within(None, Some(Duration::from_millis(1))).await.unwrap_err();
        // Another request on a reused connection got a response meanwhile: the server is slow.
        *second.over.answered() = Some(time::monotonic() + Duration::from_millis(1));
        assert_eq!(second.failed(&timed_out), Some(Stale::Failure));
        assert_eq!(second.failed(&timed_out), Some(Stale::FailureAgain));
        // A reset concerns only that connection, as long as there is credit.
        assert_eq!(second.failed(&broken), Some(Stale::TryAgain));
        assert_eq!(second.failed(&broken), Some(Stale::FailureAgain));
        *second.over.answered() = None;
        https.credit.store(1, Relaxed);
        assert_eq!(second.failed(&timed_out), Some(Stale::TryAgain));
        drop(stream);
    }

    #[tokio::test]
    async fn a_cancelled_request_without_response_closes_the_idle_connections() {
        for (waited, others_are_answered, ends) in
            [(Duration::ZERO, false, false), (SILENCE, true, false), (SILENCE, false, true)]
        {
            let https = https();
            let (listener, url) = server().await;
            let mut first = https.send(request(&url)).unwrap();
            let serve = async {
                let mut stream = listener.accept().await.unwrap().0;
                answer(&mut stream).await;
                stream
            };
            let (head, _stream) = tokio::join!(first.head(), serve);
            head.unwrap();
            let before = https.current.load_full();

            let mut second = https.send(request(&url)).unwrap();
            // Waits until the request has a connection.
            let connected = second.head_within(None, Some(Duration::ZERO)).await;
            assert!(connected.unwrap_err().is_timeout());
            if others_are_answered {
                *before.answered() = Some(time::monotonic());
            }
            tokio::time::pause();
            tokio::time::advance(waited).await;
            drop(second);
            tokio::time::resume();
            assert_eq!(!Arc::ptr_eq(&before, &https.current.load_full()), ends, "{waited:?}");
        }
    }

    #[tokio::test]
    async fn connections_from_before_a_suspension_are_not_reused() {
        let https = https();
        let suspended = time::suspended();
        let before = https.generation(suspended);
        assert!(Arc::ptr_eq(&before, &https.generation(suspended + NAP)));
        let after = https.generation(suspended + NAP * 2);
        assert!(!Arc::ptr_eq(&before, &after));
        assert!(Arc::ptr_eq(&after, &https.generation(suspended + NAP * 2)));
    }
}
