//! Failing regions, failover and hedging.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use kms_local::{Faults, KmsLocal};
use kms_pool::{
    CircuitState, ClientSupplier as _, KmsError, KmsErrorKind, KmsPool, Principal, Replicas,
};

use crate::support::{OTHER, REGION, Sessions, builder, random, server, until};

fn hasty(kms: &KmsLocal) -> KmsPool {
    builder(kms).max_attempts(3).attempt_timeout(Duration::from_secs(1)).build().unwrap()
}

fn replicas(pool: &KmsPool, principal: &Principal) -> Replicas {
    Replicas::new(pool.clients(principal), [REGION, OTHER]).unwrap()
}

/// Returns the region that responded.
async fn ask(replicas: &Replicas) -> Result<Arc<str>, KmsError> {
    replicas
        .call(
            |client, region| async move { random(&client).await.map(|()| region.as_str().into()) },
        )
        .await
}

/// The cause of an outage, and how many requests the region gets.
type Outage<'a> = (&'a dyn Fn(&Faults), u64);

#[tokio::test]
async fn another_region_replaces_a_failing_one_without_retries_there() {
    let kms = server().await;
    let (pool, principal) = (hasty(&kms), Principal::new(kms.issue_credentials()));
    let replicas = replicas(&pool, &principal);
    assert_eq!(&*ask(&replicas).await.unwrap(), REGION);
    let faults = kms.faults(REGION);
    // A failure on a reused connection is retried once over a new one.
    let outages: [Outage<'_>; 3] = [
        (&|it| it.hang(true), 2),
        (&|it| it.internal_errors(1.0), 1),
        (&|it| it.connection_resets(1.0), 2),
    ];
    for (outage, sent) in outages {
        kms.reset_counters(REGION);
        outage(&faults);
        assert_eq!(&*ask(&replicas).await.unwrap(), OTHER);
        faults.clear();
        assert_eq!(kms.counters(REGION).requests("GenerateRandom"), sent);
    }
    assert_eq!(&*ask(&replicas).await.unwrap(), REGION);
    kms.faults(OTHER).internal_errors(1.0);
    faults.internal_errors(1.0);
    assert_eq!(ask(&replicas).await.unwrap_err().kind(), KmsErrorKind::Unavailable);
}

#[tokio::test]
async fn a_refusal_is_final() {
    let kms = server().await;
    let (pool, principal) = (hasty(&kms), Principal::new(kms.issue_credentials()));
    kms.faults(REGION).deny_access(true);
    let error = ask(&replicas(&pool, &principal)).await.unwrap_err();
    assert_eq!(error.kind(), KmsErrorKind::AccessDenied);
    assert_eq!(kms.counters(OTHER).total(), 0);
}

#[tokio::test]
async fn an_unreachable_region_is_skipped() {
    let kms = server().await;
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let pool = builder(&kms).endpoint_url_for(REGION, format!("https://{closed}")).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    assert_eq!(&*ask(&replicas(&pool, &principal)).await.unwrap(), OTHER);
}

#[tokio::test]
async fn a_slow_region_is_hedged_and_the_loser_is_cancelled() {
    let kms = server().await;
    let (pool, principal) =
        (builder(&kms).build().unwrap(), Principal::new(kms.issue_credentials()));
    let replicas = replicas(&pool, &principal).hedge_after(Duration::from_millis(20));
    kms.faults(REGION).hang(true);
    assert_eq!(&*ask(&replicas).await.unwrap(), OTHER);
    until(|| pool.stats().in_flight == 0).await;
    kms.faults(REGION).clear();
    // A refusal in the second region does not discard the response of the first.
    kms.faults(OTHER).deny_access(true);
    kms.faults(REGION).latency(Duration::from_millis(100));
    assert_eq!(&*ask(&replicas).await.unwrap(), REGION);
    assert_eq!(kms.counters(OTHER).total(), 2);
}

#[tokio::test]
async fn credentials_are_refreshed_although_nothing_else_is_retried() {
    let kms = server().await;
    let (pool, principal) =
        (builder(&kms).build().unwrap(), Principal::new(Sessions(Arc::clone(&kms))));
    let replicas = replicas(&pool, &principal);
    ask(&replicas).await.unwrap();
    kms.expire_sessions();
    assert_eq!(&*ask(&replicas).await.unwrap(), REGION);
    assert_eq!(pool.stats().rotations, 1);
}

#[tokio::test]
async fn an_open_circuit_sends_no_requests_until_a_probe_succeeds() {
    let kms = server().await;
    let pool = builder(&kms).circuit_opens_after(3).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    let client = pool.client(REGION, &principal).await.unwrap();
    kms.faults(REGION).internal_errors(1.0);
    for _ in 0..20 {
        let error = random(&client).await.unwrap_err();
        assert_eq!(error.kind(), KmsErrorKind::Unavailable);
    }
    let refused = random(&client).await.unwrap_err();
    assert!(refused.to_string().contains("circuit"), "{refused}");
    let pause = refused.retry_after().unwrap();
    assert_eq!(kms.counters(REGION).requests("GenerateRandom"), 3);
    assert_eq!(pool.client_stats()[0].circuit, CircuitState::Open);
    assert_eq!(
        &*ask(&replicas(&pool, &principal)).await.unwrap(),
        OTHER,
        "failover does not wait for it"
    );

    kms.faults(REGION).clear();
    tokio::time::sleep(pause).await;
    random(&client).await.unwrap();
    assert_eq!(pool.client_stats()[0].circuit, CircuitState::Closed);
}

#[tokio::test]
async fn a_region_that_hangs_uses_no_budget_of_another() {
    let kms = server().await;
    let pool = builder(&kms).max_in_flight(2).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    kms.faults(REGION).hang(true);
    let client = pool.client(REGION, &principal).await.unwrap();
    let stuck: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { random(&client).await }
            })
        })
        .collect();
    until(|| kms.counters(REGION).in_flight >= 2).await;
    let other = pool.client(OTHER, &principal).await.unwrap();
    for outcome in join_all((0..8).map(|_| random(&other))).await {
        outcome.unwrap();
    }
    assert_eq!(kms.counters(REGION).max_in_flight, 2, "the others wait in the queue");
    kms.faults(REGION).clear();
    for outcome in join_all(stuck).await {
        outcome.unwrap().unwrap();
    }
}

#[tokio::test]
async fn invented_regions_take_few_clients() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let clients = pool.clients(&Principal::new(kms.issue_credentials()));
    clients.client(REGION).await.unwrap();
    for number in 0..200 {
        let made_up = clients.clone().client(&format!("us-nowhere-{number}")).await;
        assert_eq!(made_up.is_ok(), number < 63, "{number}");
    }
    clients.client(REGION).await.unwrap();
    assert!(clients.client("us_east_1").await.is_err());
    assert_eq!(pool.stats().clients, 64);
    clients.limited_to([OTHER]).client(OTHER).await.unwrap();
}

#[tokio::test]
async fn a_region_that_loses_every_race_gets_no_calls_for_a_while() {
    let kms = server().await;
    let pool = builder(&kms).circuit_opens_after(3).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    let replicas = replicas(&pool, &principal).hedge_after(Duration::from_secs(1)).fastest_first();
    kms.faults(REGION).hang(true);
    let in_order = Replicas::new(pool.clients(&principal), [REGION, OTHER]).unwrap();
    let in_order = in_order.hedge_after(Duration::from_millis(10));
    for _ in 0..20 {
        assert_eq!(&*ask(&in_order).await.unwrap(), OTHER);
    }
    assert!(kms.counters(REGION).requests("GenerateRandom") < 10, "its circuit is open");
    assert!(
        pool.stats().circuits_opened > 0
            || pool.client_stats().iter().any(|client| client.circuit == CircuitState::Open)
    );
    assert!(
        in_order.stats().hedges >= 3 && in_order.stats().failovers >= 1,
        "{:?}",
        in_order.stats()
    );
    // After the measurement, the slow region is called last.
    ask(&replicas).await.unwrap();
    let hedges = replicas.stats().hedges;
    for _ in 0..10 {
        assert_eq!(&*ask(&replicas).await.unwrap(), OTHER);
    }
    assert_eq!(replicas.stats().hedges, hedges);
}

#[tokio::test]
async fn timeouts_open_the_circuit_and_queued_requests_fail_at_once() {
    let kms = server().await;
    let pool = builder(&kms)
        .circuit_opens_after(2)
        .max_in_flight(1)
        .attempt_timeout(Duration::from_millis(50));
    let pool = pool.operation_timeout(Duration::from_secs(20)).build().unwrap();
    let client = pool.client(REGION, &Principal::new(kms.issue_credentials())).await.unwrap();
    kms.faults(REGION).hang(true);
    let outcomes = join_all((0..12).map(|_| random(&client))).await;
    let held_back =
        outcomes.iter().filter(|outcome| outcome.as_ref().unwrap_err().is_held_back()).count();
    assert_eq!((held_back, pool.stats().short_circuited), (10, 10));
}

#[tokio::test]
async fn at_most_one_region_is_called_because_another_is_slow() {
    let kms =
        KmsLocal::builder().region(REGION).region(OTHER).region("sa-east-1").start().await.unwrap();
    let pool = builder(&kms).attempt_timeout(Duration::from_secs(1)).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    let replicas = Replicas::new(pool.clients(&principal), [REGION, OTHER, "sa-east-1"]).unwrap();
    let replicas = replicas.hedge_after(Duration::from_millis(10));
    kms.faults(REGION).hang(true);
    kms.faults(OTHER).hang(true);
    assert_eq!(&*ask(&replicas).await.unwrap(), "sa-east-1");
    assert_eq!((replicas.stats().hedges, replicas.stats().failovers), (1, 1));
}

#[tokio::test]
async fn a_refused_request_leaves_the_fastest_region_first() {
    let kms = server().await;
    let (pool, principal) =
        (builder(&kms).build().unwrap(), Principal::new(kms.issue_credentials()));
    let replicas = replicas(&pool, &principal).fastest_first();
    kms.faults(OTHER).latency(Duration::from_millis(200));
    // Each region is measured once.
    assert_eq!(&*ask(&replicas).await.unwrap(), REGION);
    assert_eq!(&*ask(&replicas).await.unwrap(), OTHER);
    kms.faults(REGION).deny_access(true);
    assert_eq!(ask(&replicas).await.unwrap_err().kind(), KmsErrorKind::AccessDenied);
    kms.faults(REGION).clear();
    for _ in 0..4 {
        assert_eq!(&*ask(&replicas).await.unwrap(), REGION);
    }
    // A call that fails over still counts.
    kms.faults(REGION).internal_errors(1.0);
    ask(&replicas).await.unwrap();
    kms.faults(REGION).clear();
    assert_eq!(&*ask(&replicas).await.unwrap(), OTHER);
}

#[tokio::test]
async fn a_region_does_not_become_the_fastest_by_refusing_fast() {
    let kms = server().await;
    let (pool, principal) =
        (builder(&kms).build().unwrap(), Principal::new(kms.issue_credentials()));
    let replicas = replicas(&pool, &principal).fastest_first();
    kms.faults(REGION).deny_access(true);
    for _ in 0..3 {
        ask(&replicas).await.unwrap_err();
    }
    assert_eq!(kms.counters(REGION).total(), 3, "the region is still not measured");
    kms.faults(REGION).clear();
    kms.faults(REGION).latency(Duration::from_millis(200));
    assert_eq!(&*ask(&replicas).await.unwrap(), REGION);
    for _ in 0..4 {
        assert_eq!(&*ask(&replicas).await.unwrap(), OTHER);
    }
}

#[tokio::test]
async fn an_exhausted_budget_is_distinguished_from_an_outage() {
    let kms = server().await;
    let keys = kms.issue_credentials();
    // One request per second: requests that cannot start within the next seconds fail.
    let pool = builder(&kms).max_requests_per_second(1.0).build().unwrap();
    let client = pool.client(REGION, &Principal::new(keys.clone())).await.unwrap();
    let mut requests: FuturesUnordered<_> = (0..60).map(|_| random(&client)).collect();
    let held_back = loop {
        if let Err(error) = requests.next().await.unwrap() {
            break error;
        }
    };
    assert_eq!(held_back.kind(), KmsErrorKind::OverBudget);
    assert!(held_back.is_held_back() && held_back.is_retryable());
    assert!(held_back.retry_after().is_some());

    let pool = builder(&kms).circuit_opens_after(1).build().unwrap();
    let client = pool.client(REGION, &Principal::new(keys)).await.unwrap();
    kms.faults(REGION).internal_errors(1.0);
    random(&client).await.unwrap_err();
    let open = random(&client).await.unwrap_err();
    assert!(open.is_held_back() && open.is_retryable());
    assert_eq!(open.kind(), KmsErrorKind::Unavailable);
}
