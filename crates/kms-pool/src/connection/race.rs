//! Resolves the addresses of a host, and uses the first one that connects.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::time::sleep;

/// If an address makes no progress for this time, the next one is tried as well: the "Connection
/// Attempt Delay" that RFC 8305, section 5, recommends.
const STAGGER: Duration = Duration::from_millis(250);

/// TCP keepalive probes an idle connection after this time, and then at this interval: much more
/// often than the 350 s after which load balancers of AWS and NAT gateways drop it.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// Resolves and remembers the addresses of hosts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    /// Addresses that were set, instead of the system resolver's.
    set: HashMap<String, Vec<IpAddr>>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The address that last connected.
    good: HashMap<String, IpAddr>,
    /// Lookups in progress. A lookup cannot be cancelled and holds a thread, so all callers that
    /// resolve the same host share one.
    lookups: HashMap<String, Lookup>,
}

type Lookup = Shared<BoxFuture<'static, Result<Vec<IpAddr>, Arc<io::Error>>>>;

impl Hosts {
    pub(crate) fn set(&mut self, host: &str, addresses: Vec<IpAddr>) {
        self.set.insert(host.to_ascii_lowercase(), addresses);
    }

    /// Connects to a host, and runs `finish` on the connection, for example a TLS handshake. The
    /// first address for which both succeed wins.
    ///
    /// The address that last succeeded is tried first, and then the others in the order of RFC
    /// 8305. The next address is tried after [`STAGGER`] without progress of the previous ones, or
    /// at once when one of them fails.
    ///
    /// # Errors
    ///
    /// Why the host has no address, or why the last address failed.
    pub(super) async fn connect<T, F>(
        &self,
        host: &str,
        port: u16,
        finish: impl Fn(TcpStream) -> F,
    ) -> Result<T, BoxError>
    where
        F: Future<Output = Result<T, BoxError>>,
    {
        let host = host.to_ascii_lowercase();
        let mut addresses = self.resolve(&host).await?;
        if let Some(good) = self.known().good.get(&host) {
            // A stable sort: the other addresses keep their order.
            addresses.sort_by_key(|address| address != good);
        }
        let mut next = interleaved(addresses).into_iter();
        let progress = Notify::new();
        let try_one = async |address: IpAddr| {
            let stream = open(SocketAddr::new(address, port)).await?;
            progress.notify_one();
            finish(stream).await.map(|done| (done, address))
        };
        let mut tries = FuturesUnordered::new();
        let mut failure: BoxError = "the host has no address".into();
        loop {
            match next.next() {
                Some(address) => tries.push(try_one(address)),
                None if tries.is_empty() => return Err(failure),
                None => {}
            }
            let stagger = async {
                if next.len() == 0 {
                    std::future::pending::<()>().await;
                }
                loop {
                    tokio::select! {
                        biased;
                        () = progress.notified() => {}
                        () = sleep(STAGGER) => break,
                    }
                }
            };
            tokio::select! {
                biased;
                Some(ended) = tries.next() => match ended {
                    Ok((done, address)) => {
                        self.known().good.insert(host, address);
                        return Ok(done);
                    }
                    Err(error) => failure = error,
                },
                () = stagger => {}
            }
        }
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, BoxError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if let Some(set) = self.set.get(host) {
            return Ok(set.clone());
        }
        let lookup = self
            .known()
            .lookups
            .entry(host.to_owned())
            .or_insert_with(|| self.clone().look_up(host.to_owned()))
            .clone();
        let found = lookup.clone().await;
        self.forget(host, &lookup);
        found.map_err(Into::into)
    }

    /// Resolves a host in a task, which continues even if all callers are cancelled.
    fn look_up(self, host: String) -> Lookup {
        let task = tokio::spawn(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await;
            // Later callers start a new lookup.
            self.known().lookups.remove(&host);
            found.map(|found| found.map(|it| it.ip()).collect()).map_err(Arc::new)
        });
        task.map(|ended| ended.unwrap_or_else(|ended| Err(Arc::new(ended.into())))).boxed().shared()
    }

    /// Removes a lookup whose task may have ended before it could do so.
    fn forget(&self, host: &str, lookup: &Lookup) {
        let mut known = self.known();
        if known.lookups.get(host).is_some_and(|it| it.ptr_eq(lookup)) {
            known.lookups.remove(host);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Single insertions and removals: a panic cannot leave them inconsistent.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY);
    SockRef::from(&socket).set_tcp_keepalive(&probes)?;
    socket.connect(address).await
}

/// The address families alternate, beginning with the family of the first address: RFC 8305,
/// section 4, with a "First Address Family Count" of 1. Within a family the order is kept.
fn interleaved(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let total = addresses.len();
    let is_first_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_first_v6);
    let mut first = first.into_iter();
    let mut second = second.into_iter();
    let mut ordered = Vec::with_capacity(total);
    while ordered.len() < total {
        ordered.extend(first.next());
        ordered.extend(second.next());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn families_take_turns() {
        let order = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|it| it.parse().unwrap()).collect();
            interleaved(addresses).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(order(&[]).is_empty());
        assert_eq!(
            order(&["::1", "::2", "::3", "1.1.1.1", "1.1.1.2"]),
            ["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"]
        );
        assert_eq!(order(&["1.1.1.1", "1.1.1.2", "::1"]), ["1.1.1.1", "::1", "1.1.1.2"]);
    }

    #[allow(clippy::unused_async, reason = "the race expects a future")]
    async fn done(stream: TcpStream) -> Result<TcpStream, BoxError> {
        Ok(stream)
    }

    #[tokio::test]
    async fn the_next_address_is_tried_at_once_when_one_has_failed() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let mut hosts = Hosts::default();
        // Nothing listens on these addresses.
        let refusing = (2..20).map(|last| IpAddr::from([127, 0, 0, last]));
        let good = IpAddr::from([127, 0, 0, 1]);
        hosts.set("Some.example", refusing.clone().chain([good]).collect());
        hosts.set("none.example", refusing.collect());
        hosts.set("empty.example", vec![]);
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        let stream = hosts.connect("some.EXAMPLE", port, done).await.unwrap();
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), PROBE_AFTER);
        let refused = hosts.connect("none.example", port, done).await.unwrap_err();
        let refused = refused.downcast::<io::Error>().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        hosts.connect("empty.example", port, done).await.unwrap_err();
        // Waiting for each of the 36 addresses would take 9 s of the paused clock.
        assert!(begun.elapsed() < STAGGER * 4, "{:?}", begun.elapsed());
        assert_eq!(hosts.known().good.get("some.example"), Some(&good));
    }

    #[tokio::test]
    async fn an_address_that_only_accepts_does_not_win_and_is_not_tried_first_again() {
        let mute = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = mute.local_addr().unwrap().port();
        let _server = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let mut hosts = Hosts::default();
        let good = IpAddr::from([127, 0, 0, 1]);
        hosts.set("some.example", vec![IpAddr::from([127, 0, 0, 2]), good]);
        let tried = Mutex::new(vec![]);
        let handshake = async |stream: TcpStream| {
            let address = stream.peer_addr()?.ip();
            tried.lock().unwrap().push(address);
            if address != good {
                std::future::pending::<()>().await;
            }
            Ok(address)
        };
        for _ in 0..2 {
            let won = hosts.connect("some.example", port, &handshake).await.unwrap();
            assert_eq!(won, good);
        }
        assert_eq!(tried.into_inner().unwrap(), [IpAddr::from([127, 0, 0, 2]), good, good]);
    }

    #[tokio::test]
    async fn concurrent_lookups_of_a_host_are_shared() {
        let hosts = Hosts::default();
        let both = tokio::join!(hosts.resolve("localhost"), async {
            let lookup = hosts.known().lookups.get("localhost").cloned();
            let again = hosts.resolve("localhost").await;
            (lookup.is_some(), again)
        });
        assert_eq!(both.0.unwrap(), both.1.1.unwrap());
        assert!(both.1.0 && hosts.known().lookups.is_empty());
        // A cancelled lookup is not kept either.
        assert!(hosts.resolve("no such host").now_or_never().is_none());
        let lookup = hosts.known().lookups.get("no such host").cloned().unwrap();
        lookup.await.unwrap_err();
        assert!(hosts.known().lookups.is_empty());
    }
}
