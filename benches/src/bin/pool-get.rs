//! What it costs to get a client from a warm pool, against what it costs to build one.
//!
//! Getting and building alternate in short rounds, so that what else the machine does falls on all.
//! Two threads ask for the same client, or for one each. Then what a first request costs: through
//! the pool, where connections are already open, and through a client with an HTTP client of
//! its own, which has to connect.
#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use std::{error::Error, hint::black_box, process::ExitCode, thread, time::Duration};

use aws_sdk_kms::{
    Client,
    config::{BehaviorVersion, Config, Region, SharedHttpClient},
    types::DataKeySpec,
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use benches::{
    kms::REGION,
    pool::{Caller, PooledKms},
    verdict,
};
use clap::Parser;
use futures_util::FutureExt as _;
use kms_pool::Principal;
use tokio::time::Instant;

const GETS: u32 = 2_000;
const BUILDS: u32 = 4;
/// Building takes at least so many times as long as getting, on one thread and on two.
const LINE: f64 = 50.0;

#[derive(Parser)]
#[command(about = "Prints nanoseconds to get a client from a pool, and to build one")]
struct Args {
    /// Fewer rounds; what two threads get is printed and not judged: they may not have two cores
    #[arg(long)]
    quick: bool,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let quick = Args::parse().quick;
    let rounds = if quick { 101 } else { 1_001 };
    let kms = PooledKms::start(|pool| pool.max_clients(100_000)).await?;
    let callers = [kms.steady_caller(), kms.steady_caller()];
    for caller in &callers {
        caller.data_key().await?;
    }
    let key = kms.server.create_key(REGION);
    let sdk = Sdk { ca: kms.server.ca_pem(), endpoint: kms.server.endpoint(REGION), kms: &kms };
    let shared = sdk.config(sdk.http(false)?);

    println!(
        "{rounds} alternating rounds, of {GETS} gets, and of {BUILDS} clients built in each way"
    );
    let (client, mut times) =
        (kms.pool.client(REGION, &callers[0].principal).await?, [const { vec![] }; 6]);
    for _ in 0..rounds {
        times[0].push(time(GETS, || get(&callers[0])));
        times[1].push(time(GETS, || drop(black_box(client.clone()))));
        let principals: Vec<_> =
            (0..BUILDS).map(|_| Principal::new(kms.server.issue_credentials())).collect();
        let started = Instant::now();
        for principal in &principals {
            black_box(kms.pool.client(REGION, principal).await?);
        }
        times[2].push(nanos(started) / f64::from(BUILDS));
        for principal in &principals {
            kms.pool.remove(principal);
        }
        times[3].push(time(BUILDS, || drop(black_box(Client::from_conf(shared.clone())))));
        for (times, platform) in times[4..].iter_mut().zip([false, true]) {
            let started = Instant::now();
            for _ in 0..BUILDS {
                black_box(Client::from_conf(sdk.config(sdk.http(platform)?)));
            }
            times.push(nanos(started) / f64::from(BUILDS));
        }
    }
    let [get, clone, slot, shared, own, own_platform] = times.map(median);
    let row = |what: &str, nanos: f64| println!("{what:<52} {nanos:>12.0} ns {:>9.1}", nanos / get);
    println!("{:<52} {:>15} {:>9}", "", "median", "gets");
    row("a client from the warm pool", get);
    row("a clone of a client at hand", clone);
    row("a new principal's client from the pool", slot);
    row("Client::from_conf, shared HTTP client", shared);
    row("Client::from_conf, own HTTP client, one root", own);
    row("Client::from_conf, own HTTP client, platform's roots", own_platform);

    println!(
        "\n{:<28} {:>14} {:>14} {:>7} {:>12}",
        "gets a second", "one thread", "two threads", "times", "ns each"
    );
    let [one, other] = &callers;
    let one_client = scaling("one client", rounds, [one, one]);
    let two_clients = scaling("a client each", rounds, [one, other]);

    println!("\n{:<52} {:>15}", "a request and what comes before it", "median");
    let (mut pooled, mut fresh) = (vec![], vec![]);
    for _ in 0..rounds.min(201) {
        let started = Instant::now();
        one.data_key().await?;
        pooled.push(nanos(started));
        let started = Instant::now();
        let client = Client::from_conf(sdk.config(sdk.http(false)?));
        client.generate_data_key().key_id(&key).key_spec(DataKeySpec::Aes256).send().await?;
        fresh.push(nanos(started));
    }
    let [pooled, fresh] = [pooled, fresh].map(median);
    println!("{:<52} {:>12.0} us", "a client from the warm pool", pooled / 1e3);
    println!("{:<52} {:>12.0} us", "Client::from_conf, own HTTP client, one root", fresh / 1e3);

    let (alone, together) = (shared / get, shared / one_client.max(two_clients));
    println!();
    let figures = format!(
        "getting a client takes {get:.0} ns; building one over a shared HTTP client {alone:.0} times as long; with two \
         threads getting, {together:.0} times{}",
        if quick { ", not judged" } else { "" }
    );
    Ok(verdict(alone >= LINE && (quick || together >= LINE), figures))
}

/// What the AWS SDK needs for a client of its own.
struct Sdk<'a> {
    ca: &'a str,
    endpoint: &'a str,
    kms: &'a PooledKms,
}

impl Sdk<'_> {
    /// An HTTP client that believes the server's certificate authority alone, or the platform's as
    /// well.
    fn http(&self, platform: bool) -> Result<SharedHttpClient, Box<dyn Error>> {
        let roots = TrustStore::empty()
            .with_native_roots(platform)
            .with_pem_certificate(self.ca.as_bytes());
        let tls = TlsContext::builder().with_trust_store(roots).build()?;
        Ok(Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(tls)
            .build_https())
    }

    fn config(&self, http: SharedHttpClient) -> Config {
        Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(self.endpoint)
            .credentials_provider(self.kms.server.issue_credentials())
            .http_client(http)
            .build()
    }
}

fn get(caller: &Caller) {
    let client = caller.pool.client(REGION, &caller.principal).now_or_never();
    drop(black_box(client.expect("it is there").expect("it is there")));
}

/// Nanoseconds for one call.
fn time(calls: u32, mut call: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..calls).for_each(|_| call());
    nanos(started) / f64::from(calls)
}

fn nanos(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints how much more two threads get, and gives the nanoseconds that a get takes each of them.
fn scaling(name: &str, rounds: usize, callers: [&Caller; 2]) -> f64 {
    let span = Duration::from_millis(if rounds < 1_000 { 100 } else { 300 });
    let (mut ones, mut twos) = (vec![], vec![]);
    for round in 0..21 {
        ones.push(throughput(span, &callers[round % 2..=round % 2]));
        twos.push(throughput(span, &callers));
    }
    let [one, two] = [ones, twos].map(median);
    let each = 2e9 / two;
    println!("{name:<28} {one:>14.0} {two:>14.0} {:>7.2} {each:>12.0}", two / one);
    each
}

/// Gets a second, with a thread for each of the callers.
fn throughput(span: Duration, callers: &[&Caller]) -> f64 {
    let counts = thread::scope(|scope| {
        let count = |caller: &Caller| {
            let (started, mut count) = (Instant::now(), 0.0);
            while started.elapsed() < span {
                (0..64).for_each(|_| get(caller));
                count += 64.0;
            }
            count / started.elapsed().as_secs_f64()
        };
        let threads: Vec<_> =
            callers.iter().map(|caller| scope.spawn(move || count(caller))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("getting does not panic"))
            .collect::<Vec<f64>>()
    });
    counts.iter().sum()
}
