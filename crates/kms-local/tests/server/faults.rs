use std::time::Duration;

use aws_sdk_kms::error::SdkError;
use http::{Method, Request};
use http_body_util::Full;
use kms_local::KmsLocal;
use serde_json::json;

use crate::support::{
    REGION, RawConnection, RawRequest, RawResponse, Setup, client, code, setup, until,
};

#[tokio::test]
async fn a_rate_throttles() {
    let Setup { kms, client, .. } = setup().await;
    let faults = kms.faults(REGION);
    faults.throttle_above(0);
    assert_eq!(code(client.list_keys().send().await), "ThrottlingException");
    faults.throttle_above(1000);
    client.list_keys().send().await.unwrap();
    let counters = kms.counters(REGION);
    assert_eq!(counters.outcomes("ListKeys", "ThrottlingException"), 1);
    assert_eq!(counters.succeeded("ListKeys"), 1);
}

#[tokio::test]
async fn the_seed_decides_which_requests_fail() {
    let Setup { kms, client, .. } = setup().await;
    let faults = kms.faults(REGION);
    let failures = async |seed| {
        faults.internal_errors(0.5);
        faults.seed(seed);
        let mut failures = Vec::new();
        for _ in 0..40 {
            failures.push(client.list_keys().send().await.is_err());
        }
        failures
    };
    let drawn = failures(1).await;
    assert!(drawn.contains(&true) && drawn.contains(&false));
    assert_eq!(failures(1).await, drawn);
    assert_ne!(failures(2).await, drawn);

    faults.clear();
    faults.internal_errors(1.0);
    let refused = client.list_keys().send().await.unwrap_err();
    let SdkError::ServiceError(refused) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.raw().status().as_u16(), 500);
    assert!(refused.err().is_kms_internal_exception());
}

#[tokio::test]
async fn a_reset_replaces_the_response() {
    let Setup { kms, client, .. } = setup().await;
    kms.faults(REGION).connection_resets(1.0);
    let refused = client.list_keys().send().await.unwrap_err();
    assert!(matches!(refused, SdkError::DispatchFailure(_)), "{refused:?}");
    assert_eq!(kms.counters(REGION).outcomes("ListKeys", "ConnectionReset"), 1);
    kms.faults(REGION).clear();
    client.list_keys().send().await.unwrap();
    assert_eq!(kms.counters(REGION).connections, 2);
}

#[tokio::test]
async fn a_reset_reaches_the_socket() {
    let kms = KmsLocal::builder().plaintext_http().start().await.unwrap();
    kms.faults(REGION).connection_resets(1.0);
    let mut connection = RawConnection::open(kms.endpoint(REGION)).await;
    let request = RawRequest::valid(kms.issue_credentials()).signed();
    let error = connection.try_send(request).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap();
    let cause: &std::io::Error = cause.downcast_ref().unwrap();
    assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn hanging_requests_get_a_response_when_the_fault_is_cleared() {
    let Setup { kms, client, .. } = setup().await;
    kms.faults(REGION).hang(true);
    let waiting = tokio::spawn(client.list_keys().send());
    until(|| kms.counters(REGION).in_flight == 1).await;
    assert_eq!(kms.counters(REGION).total(), 0);
    kms.faults(REGION).clear();
    waiting.await.unwrap().unwrap();
    assert_eq!(kms.counters(REGION).in_flight, 0);
}

#[tokio::test]
async fn hanging_requests_end_when_the_caller_disconnects() {
    let Setup { kms, client, .. } = setup().await;
    kms.faults(REGION).hang(true);
    let waiting = tokio::spawn(client.list_keys().send());
    until(|| kms.counters(REGION).in_flight == 1).await;
    waiting.abort();
    drop(client);
    until(|| kms.counters(REGION).in_flight == 0).await;
    assert_eq!(kms.counters(REGION).outcomes("ListKeys", "Abandoned"), 1);
}

#[tokio::test]
async fn hanging_requests_end_with_the_server() {
    for graceful in [true, false] {
        let Setup { kms, client, .. } = setup().await;
        kms.faults(REGION).hang(true);
        let waiting = tokio::spawn(client.list_keys().send());
        until(|| kms.counters(REGION).in_flight == 1).await;
        if graceful {
            kms.shutdown().await;
        } else {
            drop(kms);
        }
        let refused = waiting.await.unwrap().unwrap_err();
        assert!(matches!(refused, SdkError::DispatchFailure(_)), "{refused:?}");
    }
}

#[tokio::test]
async fn latency_only_delays() {
    let Setup { kms, client, .. } = setup().await;
    kms.faults(REGION).latency(Duration::from_hours(1));
    let waiting = tokio::spawn(client.list_keys().send());
    until(|| kms.counters(REGION).in_flight == 1).await;
    assert_eq!(kms.counters(REGION).total(), 0);
    waiting.abort();
    kms.faults(REGION).latency(Duration::from_millis(1));
    client.list_keys().send().await.unwrap();
}

#[tokio::test]
async fn a_share_of_requests_is_slow() {
    let Setup { kms, client, .. } = setup().await;
    kms.faults(REGION).slow(1.0, Duration::from_hours(1));
    let waiting = tokio::spawn(client.list_keys().send());
    until(|| kms.counters(REGION).in_flight == 1).await;
    waiting.abort();
    kms.faults(REGION).slow(0.0, Duration::from_hours(1));
    client.list_keys().send().await.unwrap();

    // The requests that the seed picks get the hour's delay, in any order; the others succeed.
    until(|| kms.counters(REGION).in_flight == 0).await;
    kms.faults(REGION).slow(0.5, Duration::from_hours(1));
    kms.faults(REGION).seed(3);
    let before = kms.counters(REGION).total();
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(client.list_keys().send())).collect();
    until(|| {
        kms.counters(REGION).in_flight == SLOW && kms.counters(REGION).total() == before + 20 - SLOW
    })
    .await;
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

/// The number of slow requests among 20, with a share of one half and seed 3.
const SLOW: u64 = 6;

#[tokio::test]
async fn access_is_denied_despite_a_valid_signature() {
    let Setup { kms, client: allowed, key } = setup().await;
    let generate =
        async || allowed.generate_data_key().key_id(&key).number_of_bytes(32).send().await;
    let data_key = generate().await.unwrap().ciphertext_blob.unwrap();
    kms.faults(REGION).deny_access(true);
    let refused = generate().await.unwrap_err();
    assert_eq!(refused.raw_response().unwrap().status().as_u16(), 400);
    assert_eq!(code::<(), _>(Err(refused)), "AccessDeniedException");
    assert_eq!(
        code(allowed.decrypt().ciphertext_blob(data_key).send().await),
        "AccessDeniedException"
    );
    // An unknown principal gets that error first.
    let expired = client(&kms, REGION, kms.issue_session(Duration::ZERO));
    assert_eq!(code(expired.list_keys().send().await), "ExpiredTokenException");
    kms.faults(REGION).deny_access(false);
    generate().await.unwrap();
    assert_eq!(kms.counters(REGION).outcomes("GenerateDataKey", "AccessDeniedException"), 1);
}

#[tokio::test]
async fn access_is_denied_for_one_encryption_context() {
    let Setup { kms, client, key } = setup().await;
    let generate = async |tenant: &str| {
        let request = client.generate_data_key().key_id(&key).number_of_bytes(32);
        request.encryption_context("tenant", tenant).send().await
    };
    let data_key = generate("a").await.unwrap().ciphertext_blob.unwrap();
    kms.faults(REGION).deny_contexts([("tenant", "a"), ("other", "b")]);
    assert_eq!(code(generate("a").await), "AccessDeniedException");
    let decrypt = client.decrypt().ciphertext_blob(data_key).encryption_context("tenant", "a");
    assert_eq!(code(decrypt.clone().send().await), "AccessDeniedException");
    generate("b").await.unwrap();
    client.generate_data_key().key_id(&key).number_of_bytes(32).send().await.unwrap();
    kms.faults(REGION).clear();
    decrypt.send().await.unwrap();
}

#[tokio::test]
async fn responses_contain_the_id_of_another_key() {
    let Setup { kms, client, key } = setup().await;
    let generate = async || {
        let response = client.generate_data_key().key_id(&key).number_of_bytes(32).send().await;
        response.unwrap().key_id.unwrap()
    };
    assert_eq!(generate().await, key);
    kms.faults(REGION).wrong_key_ids(true);
    let named = generate().await;
    assert_ne!(named, key);
    assert_eq!(code(client.describe_key().key_id(&named).send().await), "NotFoundException");
    // Responses without a key id do not change.
    client.generate_random().number_of_bytes(8).send().await.unwrap();
    client.enable_key().key_id(&key).send().await.unwrap();
    kms.faults(REGION).clear();
    assert_eq!(generate().await, key);
}

#[tokio::test]
async fn a_key_is_disabled_and_enabled_without_a_request() {
    let Setup { kms, client, key } = setup().await;
    kms.disable_key(REGION, &key).unwrap();
    let generate = client.generate_data_key().key_id(&key).number_of_bytes(32).send().await;
    assert_eq!(code(generate), "DisabledException");
    kms.enable_key(REGION, &key).unwrap();
    client.generate_data_key().key_id(&key).number_of_bytes(32).send().await.unwrap();
    for change in [KmsLocal::disable_key, KmsLocal::enable_key] {
        assert_eq!(change(&kms, REGION, "nonsense").unwrap_err().code, "NotFoundException");
    }
}

#[tokio::test]
async fn counters_count_by_operation_outcome_and_access_key() {
    let Setup { kms, client: first, key } = setup().await;
    let credentials = kms.issue_credentials();
    let second = client(&kms, REGION, credentials.clone());
    first.describe_key().key_id(&key).send().await.unwrap();
    second.describe_key().key_id(&key).send().await.unwrap();
    second.describe_key().key_id("alias/none").send().await.unwrap_err();
    first.list_keys().send().await.unwrap();
    let counters = kms.counters(REGION);
    assert_eq!(counters.requests("DescribeKey"), 3);
    assert_eq!(counters.succeeded("DescribeKey"), 2);
    assert_eq!(counters.outcomes("DescribeKey", "NotFoundException"), 1);
    assert_eq!((counters.total(), counters.in_flight), (4, 0));
    assert_eq!(counters.access_keys[credentials.access_key_id()], 2);
    assert_eq!(counters.access_keys.values().sum::<u64>(), 4);
    assert_eq!(counters.callers["DescribeKey"][credentials.access_key_id()], 2);
    assert_eq!(counters.callers["DescribeKey"].values().sum::<u64>(), 3);
    assert!(!counters.callers["ListKeys"].contains_key(credentials.access_key_id()));

    kms.reset_counters(REGION);
    assert_eq!((kms.counters(REGION).total(), kms.counters(REGION).connections), (0, 0));
}

#[tokio::test]
async fn open_connections_and_their_key_exchanges_are_counted() {
    let Setup { kms, client, .. } = setup().await;
    let other = crate::support::client(&kms, REGION, kms.issue_credentials());
    client.list_keys().send().await.unwrap();
    other.list_keys().send().await.unwrap();
    let counters = kms.counters(REGION);
    assert_eq!((counters.open_connections, counters.tls_handshakes), (2, 2));
    let groups = counters.key_exchange_groups;
    assert!(
        groups.len() == 1 && groups.first_key_value().unwrap().0.contains("X25519"),
        "{groups:?}"
    );
    assert_eq!(groups.values().sum::<u64>(), 2);
    drop(other);
    until(|| kms.counters(REGION).open_connections == 1).await;
    assert_eq!(kms.counters(REGION).connections, 2);
}

#[tokio::test]
async fn the_maximum_of_requests_in_flight_is_counted() {
    let Setup { kms, client, .. } = setup().await;
    kms.faults(REGION).hang(true);
    let waiting: Vec<_> = (0..5).map(|_| tokio::spawn(client.list_keys().send())).collect();
    until(|| kms.counters(REGION).in_flight == 5).await;
    kms.faults(REGION).hang(false);
    for task in waiting {
        task.await.unwrap().unwrap();
    }
    let counters = kms.counters(REGION);
    assert_eq!((counters.in_flight, counters.max_in_flight), (0, 5));
}

async fn admin(kms: &KmsLocal, method: Method, path: &str, body: serde_json::Value) -> RawResponse {
    let mut connection = RawConnection::open(kms.admin_endpoint().unwrap()).await;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::from(body.to_string()))
        .unwrap();
    connection.send(request).await
}

#[tokio::test]
async fn the_admin_endpoint_counts_and_sets_faults() {
    let kms = KmsLocal::builder().admin(0).start().await.unwrap();
    let client = client(&kms, REGION, kms.issue_credentials());
    client.list_keys().send().await.unwrap();

    let counters = admin(&kms, Method::GET, "/counters", json!(null)).await.json();
    assert_eq!(counters[REGION]["operations"]["ListKeys"]["ok"], 1);
    assert_eq!(counters[REGION]["open_connections"], 1);
    let groups = counters[REGION]["key_exchange_groups"].as_object().unwrap();
    assert_eq!(groups.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), 1, "{groups:?}");
    let reset = admin(&kms, Method::POST, "/counters/reset", json!(null)).await;
    assert_eq!((reset.status, kms.counters(REGION).total()), (204, 0));

    let plan = json!({ REGION: { "internal_error_share": 1.0, "latency_ms": 1 } });
    assert_eq!(admin(&kms, Method::PUT, "/faults", plan).await.status, 204);
    let faults = admin(&kms, Method::GET, "/faults", json!(null)).await.json();
    assert_eq!(faults[REGION]["latency_ms"], 1);
    assert_eq!(code(client.list_keys().send().await), "KMSInternalException");
    assert_eq!(admin(&kms, Method::DELETE, "/faults", json!(null)).await.status, 204);
    client.list_keys().send().await.unwrap();

    let plan =
        json!({ REGION: { "slow_share": 0.0, "slow_latency_ms": 7, "clock_offset_ms": -600_000 } });
    assert_eq!(admin(&kms, Method::PUT, "/faults", plan).await.status, 204);
    let faults = admin(&kms, Method::GET, "/faults", json!(null)).await.json();
    assert_eq!(
        (&faults[REGION]["slow_latency_ms"], &faults[REGION]["clock_offset_ms"]),
        (&json!(7), &json!(-600_000))
    );
    // Use a new client, because each client learns the clock offset from the `Date` header.
    let learning = crate::support::client(&kms, REGION, kms.issue_credentials());
    assert_eq!(code(learning.list_keys().send().await), "InvalidSignatureException");
    learning.list_keys().send().await.unwrap();

    let plan = json!({ REGION: { "access_denied": true } });
    assert_eq!(admin(&kms, Method::PUT, "/faults", plan).await.status, 204);
    assert_eq!(code(client.list_keys().send().await), "AccessDeniedException");
    assert_eq!(admin(&kms, Method::DELETE, "/faults", json!(null)).await.status, 204);

    let elsewhere = json!({ REGION: { "hang": true }, "mars-1": {} });
    assert_eq!(admin(&kms, Method::PUT, "/faults", elsewhere).await.status, 404);
    let misspelled = json!({ REGION: { "hangs": true } });
    assert_eq!(admin(&kms, Method::PUT, "/faults", misspelled).await.status, 422);
    // None of the refused faults was set.
    client.list_keys().send().await.unwrap();
}

#[tokio::test]
async fn the_admin_endpoint_refuses_other_requests() {
    let kms = KmsLocal::builder().admin(0).start().await.unwrap();
    assert_eq!(admin(&kms, Method::GET, "/", json!(null)).await.status, 404);
    assert_eq!(admin(&kms, Method::POST, "/faults", json!({})).await.status, 404);

    // A web page could send this request to the port, without `content-type: application/json`.
    let key = kms.create_key(REGION);
    let mut connection = RawConnection::open(kms.admin_endpoint().unwrap()).await;
    let request = Request::post("/keys/disable")
        .header("host", "localhost")
        .header("content-type", "text/plain")
        .body(Full::from(json!({ "region": REGION, "key_id": key }).to_string()))
        .unwrap();
    assert_eq!(connection.send(request).await.status, 415);
    let client = client(&kms, REGION, kms.issue_credentials());
    client.generate_data_key().key_id(&key).number_of_bytes(32).send().await.unwrap();
}

#[tokio::test]
async fn the_admin_endpoint_expires_and_disables() {
    let kms = KmsLocal::builder().admin(0).start().await.unwrap();
    let session = client(&kms, REGION, kms.issue_session(Duration::from_hours(1)));
    session.list_keys().send().await.unwrap();
    let key = kms.create_key(REGION);
    let disable = json!({ "region": REGION, "key_id": key });
    assert_eq!(admin(&kms, Method::POST, "/keys/disable", disable).await.status, 204);
    let generate = session.generate_data_key().key_id(&key).number_of_bytes(32).send().await;
    assert_eq!(code(generate), "DisabledException");
    let unknown = json!({ "region": REGION, "key_id": "x" });
    assert_eq!(admin(&kms, Method::POST, "/keys/disable", unknown).await.status, 400);

    let expire = admin(&kms, Method::POST, "/credentials/expire", json!(null)).await;
    assert_eq!(expire.status, 204);
    assert_eq!(code(session.list_keys().send().await), "ExpiredTokenException");
}
