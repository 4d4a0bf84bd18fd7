//! What a client from a warm pool costs, compared with a new client.
//!
//! All ways alternate in short rounds. Two threads get the same client, or one each. Then the first
//! request: through the pool, whose connections are open, and through a new client, which connects.
#![expect(clippy::print_stdout, reason = "what a program reports to a person")]

use std::{hint::black_box, time::Duration};

use aws_sdk_kms::Client;
use benches::{Result, done, limits::Limits};
use futures_util::FutureExt as _;
use kms_pool::Principal;
use tokio::time::Instant;

use crate::{
    Args,
    kms::{Caller, Kms, REGION, Sdk},
    rounds::{Call, median, nanos, rates, ratio, time},
};

const GETS: u32 = 2_000;
const BUILDS: u32 = 4;
/// How much longer it takes to build a client than to get one, at least.
const MIN_RATIO: f64 = 50.0;

pub(crate) async fn run(args: &Args) -> Result {
    let rounds = args.pick(101, 1_001);
    let kms = Kms::with(|pool| pool.max_clients(100_000))?;
    let server = &kms.server;
    let new = || kms.caller(Principal::new(server.issue_credentials()));
    let callers = [new(), new()];
    for caller in &callers {
        caller.data_key().await?;
    }
    let client = kms.pool.client(REGION, &callers[0].principal).await?;
    let sdk = Sdk::new(server, false)?;
    let shared = sdk.config(server, REGION, sdk.https());

    println!("{rounds} alternating rounds, of {GETS} gets and {BUILDS} new clients");
    let mut times = [const { vec![] }; 6];
    for _ in 0..rounds {
        times[0].push(time(GETS, || get(&callers[0])));
        times[1].push(time(GETS, || done(client.clone())));
        let others: Vec<_> = (0..BUILDS).map(|_| new()).collect();
        let started = Instant::now();
        for caller in &others {
            black_box(kms.pool.client(REGION, &caller.principal).await?);
        }
        times[2].push(nanos(started) / f64::from(BUILDS));
        for caller in &others {
            kms.pool.remove(&caller.principal);
        }
        times[3].push(time(BUILDS, || done(Client::from_conf(shared.clone()))));
        for (times, native_roots) in times[4..].iter_mut().zip([false, true]) {
            let started = Instant::now();
            for _ in 0..BUILDS {
                done(Sdk::new(server, native_roots)?.client(server, REGION));
            }
            times.push(nanos(started) / f64::from(BUILDS));
        }
    }
    let times = times.map(median);
    println!("{:<52} {:>15} {:>9}", "", "median", "gets");
    for (what, nanos) in [
        "a client from the warm pool",
        "a clone of a client",
        "the client of a new principal from the pool",
        "Client::from_conf, shared HTTP client",
        "Client::from_conf, own HTTP client, one root",
        "Client::from_conf, own HTTP client, platform's roots",
    ]
    .into_iter()
    .zip(times)
    {
        println!("{what:<52} {nanos:>12.0} ns {:>9.1}", nanos / times[0]);
    }

    println!("\n{:<28} {:>14} {:>14} {:>7}", "gets a second", "one thread", "two threads", "times");
    let span = Duration::from_millis(args.pick(100, 300));
    let mut with_two_threads: f64 = 0.0;
    for (what, other) in [("one client", &callers[0]), ("a client each", &callers[1])] {
        let [one, other] = [&callers[0], other].map(|caller| || get(caller));
        let [alone, both] = rates(21, span, [&[&one as &Call], &[&one, &other]]);
        let times = ratio(&both, &alone);
        let [alone, both] = [alone, both].map(median);
        println!("{what:<28} {alone:>14.0} {both:>14.0} {times:>7.2}");
        with_two_threads = with_two_threads.max(2e9 / both);
    }

    let (mut pooled, mut fresh) = (vec![], vec![]);
    for _ in 0..rounds.min(201) {
        let started = Instant::now();
        callers[0].data_key().await?;
        pooled.push(nanos(started));
        let started = Instant::now();
        let client = Sdk::new(server, false)?.client(server, REGION);
        client.generate_data_key().key_id(&*kms.key).number_of_bytes(32).send().await?;
        fresh.push(nanos(started));
    }
    println!("\n{:<52} {:>15}", "a client and its first request", "median");
    for (what, nanos) in [("from the warm pool", pooled), ("new, own HTTP client, one root", fresh)]
    {
        println!("{what:<52} {:>12.0} µs", median(nanos) / 1e3);
    }

    let mut limits = Limits::default();
    let built = times[3];
    limits.at_least("a new client over one from the pool", built / times[0], MIN_RATIO);
    if !args.quick {
        let ratio = built / with_two_threads;
        limits.at_least("the same while two threads get clients", ratio, MIN_RATIO);
    }
    Ok(limits.verdict())
}

fn get(caller: &Caller) {
    let client = caller.pool.client(REGION, &caller.principal).now_or_never();
    done(client.expect("it is cached").expect("it is cached"));
}
