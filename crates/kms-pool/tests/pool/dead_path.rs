//! Dead network paths: connections that a NAT dropped, and addresses that do not respond.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aws_sdk_kms::Client;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use kms_local::KmsLocal;
use kms_pool::{KmsErrorKind, KmsPool, KmsPoolBuilder, Principal, Replicas};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::support::{self, OTHER, REGION, builder, random, server, until};

/// The state of an old connection after a cut.
#[derive(Clone, Copy)]
enum Cut {
    /// It stays open, but no data passes through it any more, as if a NAT had dropped it.
    Forgets,
    /// It is reset when data is sent on it.
    Resets,
    /// The next response breaks off after a few bytes.
    BreaksOff,
}

/// Forwards connections to a server. New connections work even after a cut.
struct Path {
    address: SocketAddr,
    cuts: watch::Sender<u32>,
}

impl Path {
    async fn to(server: SocketAddr, kind: Cut) -> Self {
        Self::between("127.0.0.1:0".parse().unwrap(), server, kind).await
    }

    async fn between(address: SocketAddr, server: SocketAddr, kind: Cut) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = watch::Sender::new(0);
        let cut = cuts.subscribe();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let mut cut = cut.clone();
                cut.mark_unchanged();
                tokio::spawn(forward(client, server, kind, cut));
            }
        });
        Self { address, cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// A pool whose attempts time out after four times as long as it takes to open these
    /// connections, which depends on the machine and its load.
    async fn pool(&self, builder: KmsPoolBuilder, kms: &KmsLocal, connections: u64) -> KmsPool {
        let generous = Duration::from_mins(1);
        let other = support::builder(kms).connect_timeout(generous).attempt_timeout(generous);
        let other = other.operation_timeout(generous).build().unwrap();
        let began = Instant::now();
        open(&client(kms, &other).await, &other, kms, connections).await;
        let timeout = (began.elapsed() * 4).clamp(Duration::from_millis(500), generous / 2);
        builder
            .endpoint_url_for(REGION, format!("https://{}", self.address))
            .connect_timeout(timeout)
            .attempt_timeout(timeout)
            .operation_timeout(timeout * 10)
            .build()
            .unwrap()
    }
}

async fn forward(
    mut client: TcpStream,
    server: SocketAddr,
    kind: Cut,
    mut cut: watch::Receiver<u32>,
) {
    let mut server = TcpStream::connect(server).await.unwrap();
    tokio::select! {
        biased;
        // An error: the test has ended.
        changed = cut.changed() => if changed.is_err() { return },
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
    }
    match kind {
        Cut::Forgets => std::future::pending().await,
        Cut::Resets => {
            client.readable().await.unwrap();
            client.set_zero_linger().unwrap();
        }
        Cut::BreaksOff => {
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let answer = async {
                tokio::io::copy(&mut (&mut from_server).take(20), &mut to_client).await.unwrap();
            };
            tokio::join!(tokio::io::copy(&mut from_client, &mut to_server), answer).0.unwrap();
        }
    }
}

fn address(kms: &KmsLocal) -> SocketAddr {
    kms.endpoint(REGION).strip_prefix("https://").unwrap().parse().unwrap()
}

async fn client(kms: &KmsLocal, pool: &KmsPool) -> Client {
    pool.client(REGION, &Principal::new(kms.issue_credentials())).await.unwrap()
}

/// Opens this many connections with concurrent requests, and leaves them idle.
async fn open(client: &Client, pool: &KmsPool, kms: &KmsLocal, connections: u64) {
    // The other connections only resume its TLS session.
    random(client).await.unwrap();
    kms.faults(REGION).hang(true);
    let requests = (0..connections).map(|_| random(client));
    let all_there = async {
        until(|| kms.counters(REGION).in_flight >= connections).await;
        kms.faults(REGION).clear();
    };
    let (answers, ()) = tokio::join!(join_all(requests), all_there);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    // One more if a connection became idle while another one was being opened.
    assert!(pool.stats().connections >= connections);
}

#[tokio::test]
async fn dropped_idle_connections_fail_no_request() {
    let trials = [1, 4, 8, 32].map(|idle| async move {
        let kms = server().await;
        let path = Path::to(address(&kms), Cut::Forgets).await;
        // `max_attempts` counts neither the first failure nor the retry after it.
        let pool = path.pool(builder(&kms).max_attempts(1), &kms, idle).await;
        let client = client(&kms, &pool).await;
        open(&client, &pool, &kms, idle).await;

        path.cut();
        random(&client).await.unwrap();
        random(&client).await.unwrap();
        assert_eq!(pool.stats().retries, 1, "{idle}");
        // The dropped connections close in the background; each request may have opened one.
        until(|| pool.stats().connections <= 2).await;
    });
    join_all(trials).await;
}

#[tokio::test]
async fn dropped_connections_say_nothing_about_the_region() {
    let kms = server().await;
    let path = Path::to(address(&kms), Cut::Forgets).await;
    let pool = path.pool(builder(&kms).circuit_opens_after(1), &kms, 32).await;
    let client = client(&kms, &pool).await;
    open(&client, &pool, &kms, 32).await;

    path.cut();
    let answers = join_all((0..32).map(|_| random(&client))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let stats = pool.stats();
    assert_eq!((stats.retries, stats.circuits_opened), (32, 0), "{stats:?}");

    // A region that does not respond over a new connection either is failing.
    kms.faults(REGION).hang(true);
    let error = random(&client).await.unwrap_err();
    assert_eq!(error.kind(), KmsErrorKind::TimedOut);
    let stats = pool.stats();
    assert_eq!((stats.retries, stats.circuits_opened), (33, 1), "{stats:?}");
}

#[tokio::test]
async fn many_failures_on_reused_connections_count_as_one_if_others_respond() {
    let kms = server().await;
    let path = Path::to(address(&kms), Cut::Forgets).await;
    let pool = path.pool(builder(&kms).max_attempts(2).circuit_opens_after(2), &kms, 8).await;
    let client = client(&kms, &pool).await;
    open(&client, &pool, &kms, 8).await;

    path.cut();
    let stale = join_all((0..8).map(|_| random(&client)));
    let others = async {
        // The first request opens a connection, and the second one reuses it.
        until(|| pool.stats().in_flight >= 8).await;
        random(&client).await.unwrap();
        random(&client).await.unwrap();
    };
    let (answers, ()) = tokio::join!(stale, others);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let stats = pool.stats();
    assert_eq!((stats.retries, stats.circuits_opened), (8, 0), "{stats:?}");
}

#[tokio::test]
async fn idle_connections_that_are_reset_fail_no_request() {
    let kms = server().await;
    let path = Path::to(address(&kms), Cut::Resets).await;
    let pool = path.pool(builder(&kms).circuit_opens_after(1), &kms, 8).await;
    let client = client(&kms, &pool).await;
    open(&client, &pool, &kms, 8).await;
    path.cut();
    let answers = join_all((0..8).map(|_| random(&client))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(pool.stats().circuits_opened, 0);
}

/// Idle connections that die in any way, just when a request is sent over them.
#[tokio::test]
async fn dead_idle_connections_cause_no_failover() {
    let trials = [Cut::Resets, Cut::Forgets, Cut::BreaksOff].map(|kind| async move {
        let kms = server().await;
        let path = Path::to(address(&kms), kind).await;
        let pool = path.pool(builder(&kms).circuit_opens_after(1), &kms, 8).await;
        let principal = Principal::new(kms.issue_credentials());
        let client = pool.client(REGION, &principal).await.unwrap();
        open(&client, &pool, &kms, 8).await;
        path.cut();
        let replicas = Replicas::new(pool.clients(&principal), [REGION, OTHER]).unwrap();
        let asked = (0..8).map(|_| {
            replicas.call(|client, region| async move { random(&client).await.map(|()| region) })
        });
        for region in join_all(asked).await {
            assert_eq!(region.unwrap().as_str(), REGION);
        }
        assert_eq!(pool.stats().circuits_opened, 0);
    });
    join_all(trials).await;
}

#[tokio::test]
async fn idle_connections_close() {
    let kms = server().await;
    let pool = builder(&kms).connection_idle_timeout(Duration::from_millis(50)).build().unwrap();
    let client = client(&kms, &pool).await;
    open(&client, &pool, &kms, 4).await;
    until(|| pool.stats().connections == 0 && kms.counters(REGION).open_connections == 0).await;
    random(&client).await.unwrap();
}

/// A listening address that never responds, because its queue of connections is full.
struct Dead {
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Dead {
    async fn at(address: SocketAddr) -> Self {
        let socket =
            if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut queued = vec![];
        let patience = Duration::from_millis(500);
        while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        Self { _listener: listener, _queued: queued }
    }
}

#[tokio::test]
async fn one_dead_address_of_two_fails_no_request() {
    for dead in ["127.0.0.2", "::1"] {
        let dead: IpAddr = dead.parse().unwrap();
        let kms = server().await;
        let port = address(&kms).port();
        let _dead = Dead::at(SocketAddr::new(dead, port)).await;
        let pool = builder(&kms)
            .endpoint_url_for(REGION, format!("https://localhost:{port}"))
            .resolve("localhost", [dead, address(&kms).ip()])
            .build()
            .unwrap();
        random(&client(&kms, &pool).await).await.unwrap();
        let stats = pool.stats();
        assert_eq!((stats.connections_opened, stats.connections_failed), (1, 0), "{stats:?}");

        // If no address responds, the request times out.
        let pool = builder(&kms)
            .endpoint_url_for(REGION, format!("https://localhost:{port}"))
            .resolve("localhost", [dead])
            .connect_timeout(Duration::from_millis(300))
            .build()
            .unwrap();
        let error = random(&client(&kms, &pool).await).await.unwrap_err();
        assert_eq!(error.kind(), KmsErrorKind::TimedOut, "{error}");
        assert_eq!(pool.stats().connections_failed, 1);
    }
}

/// An address that accepts connections and then says nothing in the TLS handshake.
#[tokio::test]
async fn one_silent_address_of_two_fails_no_request_and_is_not_tried_first_again() {
    let kms = server().await;
    let port = address(&kms).port();
    let mute = SocketAddr::from(([127, 0, 0, 2], port));
    let listener = TcpListener::bind(mute).await.unwrap();
    let pool = builder(&kms)
        .endpoint_url_for(REGION, format!("https://localhost:{port}"))
        .resolve("localhost", [mute.ip(), address(&kms).ip()])
        .build()
        .unwrap();
    open(&client(&kms, &pool).await, &pool, &kms, 4).await;
    assert_eq!(pool.stats().connections_failed, 0);
    listener.accept().await.unwrap();
    assert!(listener.accept().now_or_never().is_none(), "only the first connection tried it");
}

/// Each address takes longer than the time after which the next one is tried as well.
#[tokio::test]
async fn slow_addresses_are_not_abandoned_and_losing_connections_close() {
    let kms = KmsLocal::builder().region(REGION).round_trip_time(Duration::from_millis(400));
    let kms = kms.start().await.unwrap();
    let server = address(&kms);
    let other = SocketAddr::from(([127, 0, 0, 2], server.port()));
    let _path = Path::between(other, server, Cut::Forgets).await;
    let pool = builder(&kms)
        .endpoint_url_for(REGION, format!("https://localhost:{}", server.port()))
        .resolve("localhost", [other.ip(), server.ip()])
        .build()
        .unwrap();
    let client = client(&kms, &pool).await;
    let answers = join_all((0..16).map(|_| random(&client))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let (stats, counted) = (pool.stats(), kms.counters(REGION));
    assert_eq!(stats.connections_failed, 0, "{stats:?}");
    assert!((17..=32).contains(&counted.connections), "{}", counted.connections);
    let losers_closed = async {
        until(|| kms.counters(REGION).open_connections <= pool.stats().connections).await;
    };
    tokio::time::timeout(Duration::from_secs(30), losers_closed).await.unwrap();
}
