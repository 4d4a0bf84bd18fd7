//! Clients of other services. The other service is a second KMS, under another name.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kms::Client;
use aws_sdk_kms::config::Builder;
use futures_util::future::join_all;
use kms_local::KmsLocal;
use kms_pool::{CircuitState, KmsErrorKind, KmsPool, KmsPoolBuilder, Principal};

use crate::support::{self, REGION, Sessions, random, server, until};

const SERVICE: &str = "other";

/// The settings of a pool whose other service is `other`.
fn builder(kms: &KmsLocal, other: &KmsLocal) -> KmsPoolBuilder {
    support::builder(kms)
        .trust_root_pem(other.ca_pem())
        .service_endpoint_url(SERVICE, other.endpoint(REGION))
}

async fn other_client(pool: &KmsPool, principal: &Principal) -> Client {
    let config = pool.service_config(SERVICE, REGION, principal).await.unwrap();
    let builder = Builder::from(config.sdk_config())
        .interceptor(config.interceptor())
        .retry_classifier(config.retry_classifier())
        .retry_partition(config.retry_partition());
    Client::from_conf(builder.build())
}

#[tokio::test]
async fn a_client_signs_with_the_credentials_of_the_moment() {
    let kms = server().await;
    let pool = builder(&kms, &kms).build().unwrap();
    let principal = Principal::new(kms.issue_session(Duration::from_hours(1)));
    let client = other_client(&pool, &principal).await;
    for _ in 0..5 {
        random(&client).await.unwrap();
        principal.rotate(kms.issue_session(Duration::from_hours(1)));
    }
    assert_eq!(kms.counters(REGION).access_keys.len(), 5);
    assert_eq!(pool.stats().clients, 0, "it is no client of the pool");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_whose_credentials_are_refused_are_signed_again_after_one_refresh() {
    let kms = server().await;
    let pool = builder(&kms, &kms).build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(&kms)));
    let client = other_client(&pool, &principal).await;
    random(&client).await.unwrap();
    kms.expire_sessions();
    let requests = (0..64).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { random(&client).await })
    });
    for outcome in join_all(requests).await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(kms.counters(REGION).access_keys.len(), 2, "one refresh for all");
}

#[tokio::test]
async fn a_service_that_fails_or_throttles_does_not_affect_kms() {
    let (kms, other) = (server().await, server().await);
    let pool = builder(&kms, &other).circuit_opens_after(1).build().unwrap();
    let keys = kms.issue_credentials();
    other.accept_credentials(keys.access_key_id(), keys.secret_access_key(), None, None);
    let principal = Principal::new(keys);
    let kms_client = pool.client(REGION, &principal).await.unwrap();
    let client = other_client(&pool, &principal).await;
    random(&client).await.unwrap();

    other.faults(REGION).throttle_above(0);
    let error = random(&client).await.unwrap_err();
    assert_eq!(error.kind(), KmsErrorKind::Throttled);
    other.faults(REGION).clear();
    other.faults(REGION).internal_errors(1.0);
    random(&client).await.unwrap_err();
    let error = random(&client).await.unwrap_err();
    assert!(error.is_held_back(), "its own circuit is open: {error}");

    random(&kms_client).await.unwrap();
    let stats = pool.client_stats();
    assert_eq!(stats.len(), 1);
    assert_eq!(stats[0].circuit, CircuitState::Closed);
    assert_eq!(stats[0].requests_per_second, None, "nothing was learned for KMS");
}

#[tokio::test]
async fn a_shutdown_waits_for_requests_to_other_services() {
    let kms = server().await;
    let pool = builder(&kms, &kms).build().unwrap();
    let client = other_client(&pool, &Principal::new(kms.issue_credentials())).await;
    kms.faults(REGION).hang(true);
    let request = tokio::spawn({
        let client = client.clone();
        async move { random(&client).await }
    });
    until(|| kms.counters(REGION).in_flight > 0).await;
    assert!(!pool.shutdown(Duration::from_millis(1)).await);
    kms.faults(REGION).clear();
    assert!(pool.shutdown(Duration::from_secs(10)).await);
    request.await.unwrap().unwrap();
    let error = random(&client).await.unwrap_err();
    assert_eq!(error.kind(), KmsErrorKind::InvalidRequest);
}

#[tokio::test]
async fn an_invalid_region_or_endpoint_is_refused() {
    let kms = server().await;
    let pool = builder(&kms, &kms).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    let error = pool.service_config(SERVICE, "evil.example/", &principal).await.unwrap_err();
    assert_eq!(error.kind(), KmsErrorKind::InvalidRequest);
    let error = KmsPool::builder().service_endpoint_url(SERVICE, "http://example.com").build();
    assert!(error.unwrap_err().to_string().contains("http:// is only allowed for this machine"));
}
