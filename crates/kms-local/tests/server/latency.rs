//! Simulated network latency. The tests assert lower bounds only, because the machine can add any
//! delay.

use std::time::{Duration, Instant};

use aws_sdk_kms::error::SdkError;
use kms_local::{KmsLocal, KmsLocalBuilder};

use crate::support::{REGION, RawConnection, RawRequest, client, until};

const ROUND_TRIP: Duration = Duration::from_millis(60);

#[expect(clippy::disallowed_methods, reason = "a client has its own clock")]
fn clock() -> Instant {
    Instant::now()
}

fn delayed() -> KmsLocalBuilder {
    KmsLocal::builder().round_trip_time(ROUND_TRIP)
}

#[tokio::test]
async fn connecting_handshake_and_request_take_a_round_trip_each() {
    let kms = delayed().start().await.unwrap();
    let client = client(&kms, REGION, kms.issue_credentials());
    let start = clock();
    client.list_keys().send().await.unwrap();
    assert!(start.elapsed() >= 3 * ROUND_TRIP, "{:?}", start.elapsed());
    let start = clock();
    client.list_keys().send().await.unwrap();
    assert!(start.elapsed() >= ROUND_TRIP, "{:?}", start.elapsed());
    assert_eq!(kms.counters(REGION).connections, 1);
}

#[tokio::test]
async fn plain_http_needs_no_round_trip_for_a_handshake() {
    let kms = delayed().plaintext_http().start().await.unwrap();
    let start = clock();
    let mut connection = RawConnection::open(kms.endpoint(REGION)).await;
    let request = RawRequest::valid(kms.issue_credentials());
    assert_eq!(connection.send(request.signed()).await.status, 200);
    assert!(start.elapsed() >= 2 * ROUND_TRIP, "{:?}", start.elapsed());
}

#[tokio::test]
async fn bodies_larger_than_a_buffer_arrive_complete() {
    let kms = delayed().start().await.unwrap();
    let client = client(&kms, REGION, kms.issue_credentials());
    let create = client.create_key().policy("x".repeat(100 * 1024));
    create.description("y".repeat(8000)).send().await.unwrap();
}

#[tokio::test]
async fn a_changed_round_trip_applies_to_new_connections() {
    let kms = KmsLocal::builder().plaintext_http().start().await.unwrap();
    let request = || RawRequest::valid(kms.issue_credentials()).signed();
    let mut near = RawConnection::open(kms.endpoint(REGION)).await;
    near.send(request()).await;
    kms.set_round_trip_time(REGION, ROUND_TRIP);
    let start = clock();
    let mut far = RawConnection::open(kms.endpoint(REGION)).await;
    far.send(request()).await;
    assert!(start.elapsed() >= 2 * ROUND_TRIP, "{:?}", start.elapsed());
    near.send(request()).await;
}

#[tokio::test]
async fn resets_and_closed_connections_are_delayed_too() {
    let kms = delayed().start().await.unwrap();
    let client = client(&kms, REGION, kms.issue_credentials());
    kms.faults(REGION).connection_resets(1.0);
    let start = clock();
    let refused = client.list_keys().send().await.unwrap_err();
    assert!(matches!(refused, SdkError::DispatchFailure(_)), "{refused:?}");
    assert!(start.elapsed() >= 3 * ROUND_TRIP, "{:?}", start.elapsed());
    until(|| kms.counters(REGION).open_connections == 0).await;

    kms.faults(REGION).clear();
    client.list_keys().send().await.unwrap();
    assert_eq!(kms.counters(REGION).open_connections, 1);
    drop(client);
    until(|| kms.counters(REGION).open_connections == 0).await;
}

#[tokio::test]
async fn a_disconnected_caller_is_noticed_despite_the_latency() {
    let kms = delayed().start().await.unwrap();
    let client = client(&kms, REGION, kms.issue_credentials());
    kms.faults(REGION).hang(true);
    let waiting = tokio::spawn(client.list_keys().send());
    until(|| kms.counters(REGION).in_flight == 1).await;
    waiting.abort();
    drop(client);
    until(|| kms.counters(REGION).in_flight == 0).await;
    assert_eq!(kms.counters(REGION).outcomes("ListKeys", "Abandoned"), 1);
}

#[tokio::test]
async fn a_graceful_stop_waits_for_delayed_bytes() {
    let kms = delayed().start().await.unwrap();
    let client = client(&kms, REGION, kms.issue_credentials());
    client.list_keys().send().await.unwrap();
    let waiting = tokio::spawn(client.list_keys().send());
    until(|| kms.counters(REGION).succeeded("ListKeys") == 2).await;
    kms.shutdown().await;
    waiting.await.unwrap().unwrap();
}
