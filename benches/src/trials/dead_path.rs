//! Addresses that do not respond, and connections that a router has dropped without notice.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use benches::{Result, limits::Limits};
use futures_util::future::{join, join_all};
use kms_pool::{KmsError, KmsPool, KmsPoolBuilder, Principal};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::timeout,
};

use crate::{
    Args,
    kms::{Kms, REGION},
    load::{HEAD, Outcomes, count, millis, until},
};

/// The maximum delay from a dead address: the stagger of RFC 8305, and 100 ms.
const MAX_DELAY: Duration = Duration::from_millis(350);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum duration of a normal request, including its connection.
const NORMAL: Duration = Duration::from_millis(250);

pub(crate) async fn run(args: &Args) -> Result {
    let kms = Kms::start()?;
    let mut limits = Limits::default();
    let server: SocketAddr = kms.server.endpoint(REGION).replace("https://", "").parse()?;
    let rounds = args.pick(3, 20);
    println!("requests of pools without connections\n{:>36}  {HEAD}", "");
    let normal = first_requests(&kms, "one address", &[server.ip()], rounds).await?;
    for (name, address) in [("dead IPv4 and IPv4", "127.0.0.2"), ("dead IPv6 and IPv4", "::1")] {
        let address = SocketAddr::new(address.parse()?, server.port());
        let _dead = Dead::at(address).await?;
        compare(&kms, name, [address.ip(), server.ip()], rounds, &normal, &mut limits).await?;
    }
    // It accepts connections, and never responds.
    let mute = SocketAddr::new("127.0.0.3".parse()?, server.port());
    let _mute = TcpListener::bind(mute).await?;
    let addresses = [mute.ip(), server.ip()];
    compare(&kms, "mute IPv4 and IPv4", addresses, rounds, &normal, &mut limits).await?;

    println!("\nrequests after idle connections were dropped; attempts of {ATTEMPT_TIMEOUT:?}");
    for connections in [1, 4, 8, 64] {
        let single = (connections > 1).then_some(1);
        for requests in single.into_iter().chain([connections]) {
            let (normal, outcomes) = dropped(&kms, server, connections, requests).await?;
            let name = format!("{connections} dropped, {requests} at a time");
            println!("{name:>36}  {outcomes}");
            let max = millis(ATTEMPT_TIMEOUT + normal.max(NORMAL)).round();
            limits.at_most(format!("{name}: failed"), count(outcomes.failed()), 0.0);
            limits.at_most(format!("{name}: max, in ms"), millis(outcomes.latency.max()), max);
        }
    }
    Ok(limits.verdict())
}

async fn compare(
    kms: &Kms,
    name: &str,
    addresses: [IpAddr; 2],
    rounds: usize,
    normal: &Outcomes,
    limits: &mut Limits,
) -> Result<()> {
    let outcomes = first_requests(kms, name, &addresses, rounds).await?;
    let delay = outcomes.latency.max().saturating_sub(normal.latency.at(0.5));
    limits.at_most(format!("{name}: failed"), count(outcomes.failed()), 0.0);
    limits.at_most(format!("{name}: delay, in ms"), millis(delay), millis(MAX_DELAY));
    Ok(())
}

/// The first requests of new pools, with a name that has these addresses.
async fn first_requests(
    kms: &Kms,
    name: &str,
    addresses: &[IpAddr],
    rounds: usize,
) -> Result<Outcomes> {
    let mut outcomes = Outcomes::default();
    for _ in 0..rounds {
        let url = kms.server.endpoint(REGION).replace("127.0.0.1", "localhost");
        let pool = kms.server.pool().endpoint_url_for(REGION, url);
        let pool = pool.resolve("localhost", addresses.iter().copied()).build()?;
        outcomes.run(request(&pool, &kms.principal)).await;
    }
    println!("{name:>36}  {outcomes}");
    Ok(outcomes)
}

async fn request(pool: &KmsPool, principal: &Principal) -> std::result::Result<(), KmsError> {
    let client = pool.client(REGION, principal).await?;
    client.generate_random().number_of_bytes(32).send().await?;
    Ok(())
}

/// An address that never responds, because its queue of connections is full.
struct Dead {
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Dead {
    async fn at(address: SocketAddr) -> Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(address)?;
        let (listener, mut queue) = (socket.listen(1)?, vec![]);
        let patience = Duration::from_millis(500);
        while let Ok(stream) = timeout(patience, TcpStream::connect(address)).await {
            queue.push(stream?);
        }
        Ok(Self { _listener: listener, _queue: queue })
    }
}

/// Concurrent requests after idle connections were dropped on the way. Also returns the slowest of
/// as many requests that must connect.
async fn dropped(
    kms: &Kms,
    server: SocketAddr,
    connections: usize,
    requests: usize,
) -> Result<(Duration, Outcomes)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?);
    let drops = watch::Sender::new(());
    tokio::spawn(relay(listener, server, drops.subscribe()));
    let pool = || -> Result<KmsPool> {
        let set = |pool: KmsPoolBuilder| pool.endpoint_url_for(REGION, &url);
        Ok(set(kms.server.pool()).attempt_timeout(ATTEMPT_TIMEOUT).build()?)
    };
    let normal = together(&pool()?, &kms.principal, requests).await.latency.max();
    let pool = pool()?;
    kms.faults().hang(true);
    let all_there = async {
        let wanted = connections as u64;
        until(ATTEMPT_TIMEOUT / 2, || kms.counters().in_flight >= wanted).await;
        kms.faults().hang(false);
    };
    let (opened, ()) = join(together(&pool, &kms.principal, connections), all_there).await;
    if opened.failed() > 0 || pool.stats().connections < connections as u64 {
        return Err(format!("could not open the connections: {:?}", pool.stats()).into());
    }
    drops.send_replace(());
    let mut outcomes = Outcomes::default();
    for _ in 0..3 {
        outcomes.merge(together(&pool, &kms.principal, requests).await);
    }
    Ok((normal, outcomes))
}

async fn together(pool: &KmsPool, principal: &Principal, number: usize) -> Outcomes {
    let requests = (0..number).map(|_| async {
        let mut outcomes = Outcomes::default();
        outcomes.run(request(pool, principal)).await;
        outcomes
    });
    let mut all = Outcomes::default();
    join_all(requests).await.into_iter().for_each(|outcomes| all.merge(outcomes));
    all
}

/// Forwards connections. When told to, it drops all existing ones like a NAT: they stay open, and
/// no data passes through them any more.
async fn relay(listener: TcpListener, server: SocketAddr, drops: watch::Receiver<()>) {
    while let Ok((mut near, _)) = listener.accept().await {
        let mut drops = drops.clone();
        drops.mark_unchanged();
        tokio::spawn(async move {
            let Ok(mut far) = TcpStream::connect(server).await else { return };
            // Nagle's algorithm would delay small messages.
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            tokio::select! {
                Ok(()) = drops.changed() => std::future::pending().await,
                _ = copy_bidirectional(&mut near, &mut far) => {}
            }
        });
    }
}
