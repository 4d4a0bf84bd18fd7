//! Addresses that do not respond, and connections that a router has dropped silently.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{
    env,
    error::Error,
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _},
    process::{Command, ExitCode},
    time::Duration,
};

use futures_util::future::{join, join_all};
use kms_pool::{KmsError, KmsPool, Principal};
use tokio::runtime::Runtime;

use super::relay::Relay;
use crate::{
    Lines,
    kms::{REGION, Server},
    pool::until,
    trials::{Fared, HEAD, Trial, count, millis, new_runtime},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The program starts itself with this subcommand, inside the new namespaces.
pub const INSIDE: &str = "dead-path-inside";
/// The maximum delay from a dead address: the stagger of RFC 8305, and 100 ms.
const ADDED: Duration = Duration::from_millis(350);
/// The attempt timeout.
const ATTEMPT: Duration = Duration::from_secs(2);
/// The maximum duration of a normal request, including its connection.
const NORMAL: Duration = Duration::from_millis(250);

/// Runs the trial in separate network and mount namespaces, which requires root.
///
/// # Errors
///
/// If `unshare` is not installed.
pub fn run(quick: bool) -> Trial {
    let mut inside = Command::new("unshare");
    inside.args(["--net", "--mount", "--"]).arg(env::current_exe()?).arg(INSIDE);
    let status = inside.args(quick.then_some("--quick")).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The trial itself.
///
/// # Errors
///
/// If the addresses cannot be made unreachable: the trial could then not be run.
pub fn run_inside(quick: bool) -> Trial {
    prepare()?;
    let (runtime, mut lines) = (new_runtime()?, Lines::default());
    let server =
        futures_executor::block_on(Server::start(kms_local::KmsLocal::builder().region(REGION)))?;
    println!("Requests of pools without a connection:\n\n{:>36}  {HEAD}", "");
    let rounds = if quick { 3 } else { 20 };
    name_addresses(&["127.0.0.1"])?;
    let normal = cold(&server, &runtime, "one address", rounds)?;
    // This listener accepts connections and never responds.
    let port = port_of(&server)?;
    let _mute = TcpListener::bind((MUTE, port))?;
    for (name, dead) in
        [("dead IPv4 + IPv4", DEAD_V4), ("dead IPv6 + IPv4", DEAD_V6), ("mute IPv4 + IPv4", MUTE)]
    {
        name_addresses(&[dead, "127.0.0.1"])?;
        if dead != MUTE {
            check_dead(dead, port)?;
        }
        let fared = cold(&server, &runtime, name, rounds)?;
        let added = fared.took.longest().saturating_sub(normal.took.at(0.5));
        lines.at_most(format!("{name}: failed"), count(fared.failed), 0.0);
        lines.at_most(format!("{name}: added, ms"), millis(added), millis(ADDED));
    }
    println!(
        "\nThe attempt timeout is {ATTEMPT:?}; requests after idle connections were dropped:\n"
    );
    println!("{:>36}  {HEAD}", "");
    for connections in [1, 4, 8, 64] {
        let singly = (connections > 1).then_some(1);
        for at_once in singly.into_iter().chain([connections]) {
            let (normal, fared) = forgotten(&server, &runtime, connections, at_once)?;
            let name = format!("{connections} dropped, {at_once} at once");
            println!("{name:>36}  {fared}");
            let most = ATTEMPT + normal.max(NORMAL);
            lines.at_most(format!("{name}: failed"), count(fared.failed), 0.0);
            lines.at_most(
                format!("{name}: longest, ms"),
                millis(fared.took.longest()),
                millis(most).round(),
            );
        }
    }
    println!();
    Ok(lines.verdict())
}

const DEAD_V4: &str = "10.8.0.2";
const DEAD_V6: &str = "fd00:8::2";
const MUTE: &str = "10.8.0.1";

fn port_of(server: &Server) -> Outcome<u16> {
    Ok(server.endpoint(REGION).rsplit(':').next().ok_or("no port")?.parse()?)
}

/// Adds addresses to this network namespace whose packets disappear. Sets up a resolver in this
/// mount namespace that reads only `hosts`, and prefers IPv6 and the dead network.
fn prepare() -> Outcome<()> {
    // Packets to a network behind the loopback device return, match no host, and are dropped.
    for command in [
        "ip link set lo up",
        "ip address add 10.8.0.1/32 dev lo",
        "ip route add 10.8.0.0/24 dev lo src 10.8.0.1",
        "ip -6 address add fd00:8::1/128 dev lo nodad",
        "ip -6 route add fd00:8::/64 dev lo",
        "mount -t tmpfs none /etc",
    ] {
        let mut words = command.split(' ');
        let program = words.next().unwrap_or_default();
        if !Command::new(program).args(words).status()?.success() {
            return Err(format!("the trial could not be run: `{command}` failed").into());
        }
    }
    fs::write("/etc/nsswitch.conf", "hosts: files\n")?;
    fs::write("/etc/host.conf", "multi on\n")?;
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\n")?;
    let order = "precedence ::ffff:10.8.0.0/120 100\nprecedence ::/0 40\n\
                 precedence ::ffff:0:0/96 10\n";
    Ok(fs::write("/etc/gai.conf", order)?)
}

/// Makes `localhost` resolve to these addresses, in this order.
fn name_addresses(all: &[&str]) -> Outcome<()> {
    let lines: Vec<_> = all.iter().map(|address| format!("{address} localhost\n")).collect();
    fs::write("/etc/hosts", lines.concat())?;
    let found = ("localhost", 1).to_socket_addrs()?;
    let named: Vec<_> = found.map(|it| it.ip().to_string()).collect();
    if named != all {
        let problem = format!("the trial could not be run: localhost is {named:?}, not {all:?}");
        return Err(problem.into());
    }
    Ok(())
}

/// Checks that a dead address does not respond at all.
fn check_dead(address: &str, port: u16) -> Outcome<()> {
    let address = SocketAddr::new(address.parse()?, port);
    let connected = TcpStream::connect_timeout(&address, Duration::from_millis(100));
    if connected.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
        return Ok(());
    }
    Err(format!("the trial could not be run: {address} is not dead").into())
}

/// First requests of pools without connections.
fn cold(server: &Server, runtime: &Runtime, name: &str, rounds: usize) -> Outcome<Fared> {
    let endpoint = server.endpoint(REGION).replace("127.0.0.1", "localhost");
    let mut fared = Fared::default();
    for _ in 0..rounds {
        let pool = KmsPool::builder().endpoint_url(&endpoint).trust_root_pem(server.ca_pem());
        let (pool, principal) = (pool.build()?, Principal::new(server.issue_credentials()));
        runtime.block_on(fared.note(request(&pool, &principal)));
    }
    println!("{name:>36}  {fared}");
    Ok(fared)
}

async fn request(pool: &KmsPool, principal: &Principal) -> Result<(), KmsError> {
    let client = pool.client(REGION, principal).await?;
    client.generate_random().number_of_bytes(32).send().await?;
    Ok(())
}

/// Concurrent requests after as many idle connections were dropped on the path. First measures the
/// slowest of as many requests that must connect.
fn forgotten(
    server: &Server,
    runtime: &Runtime,
    connections: usize,
    at_once: usize,
) -> Outcome<(Duration, Fared)> {
    let relay = Relay::start(port_of(server)?)?;
    let principal = Principal::new(server.issue_credentials());
    let pool = || {
        let builder = KmsPool::builder().trust_root_pem(server.ca_pem()).attempt_timeout(ATTEMPT);
        builder.endpoint_url(format!("https://127.0.0.1:{}", relay.port())).build()
    };
    let normal = runtime.block_on(together(&pool()?, &principal, at_once)).took.longest();
    let pool = pool()?;
    let faults = server.faults(REGION);
    let opened = runtime.block_on(async {
        faults.hang(true);
        let under_way = async {
            let all = || server.counters(REGION).in_flight >= connections as u64;
            until(ATTEMPT / 2, all).await;
            faults.hang(false);
        };
        join(together(&pool, &principal, connections), under_way).await.0
    });
    if opened.failed > 0 || pool.stats().connections < connections as u64 {
        return Err(format!("the trial could not be run: {:?}", pool.stats()).into());
    }
    relay.forget();
    let mut fared = Fared::default();
    for _ in 0..3 {
        fared.merge(runtime.block_on(together(&pool, &principal, at_once)));
    }
    Ok((normal, fared))
}

async fn together(pool: &KmsPool, principal: &Principal, number: usize) -> Fared {
    let requests = (0..number).map(|_| async {
        let mut fared = Fared::default();
        fared.note(request(pool, principal)).await;
        fared
    });
    let mut all = Fared::default();
    join_all(requests).await.into_iter().for_each(|one| all.merge(one));
    all
}
