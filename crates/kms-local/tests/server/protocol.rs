use http::{Method, Uri};
use kms_local::KmsLocal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{REGION, RawConnection, RawRequest, Setup, setup, until};

async fn plain() -> (KmsLocal, RawConnection, RawRequest) {
    let kms = KmsLocal::builder().plaintext_http().start().await.unwrap();
    let connection = RawConnection::open(kms.endpoint(REGION)).await;
    let valid = RawRequest::valid(kms.issue_credentials());
    (kms, connection, valid)
}

#[tokio::test]
async fn every_response_has_an_id_and_a_type() {
    let (_kms, mut connection, valid) = plain().await;
    let responses =
        [connection.send(valid.signed()).await, connection.send(valid.unsigned()).await];
    let ids = responses.map(|response| {
        assert_eq!(response.headers["content-type"], "application/x-amz-json-1.1");
        let id = response.headers["x-amzn-requestid"].to_str().unwrap().to_owned();
        uuid::Uuid::parse_str(&id).unwrap()
    });
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn unknown_operations_are_refused() {
    let (_kms, mut connection, valid) = plain().await;
    for target in ["TrentService.Sign", "TrentService.", "GenerateRandom", "x"] {
        let valid = RawRequest::valid(valid.credentials.clone());
        let response = connection.send(valid.target(target, b"{}").signed()).await;
        assert_eq!((response.status, &*response.code()), (400, "UnknownOperationException"));
    }
    let mut get = valid.signed();
    *get.method_mut() = Method::GET;
    let mut path = valid.signed();
    *path.uri_mut() = Uri::from_static("/path");
    let mut query = valid.signed();
    *query.uri_mut() = Uri::from_static("/?query");
    for other in [get, path, query] {
        assert_eq!(connection.send(other).await.code(), "UnknownOperationException");
    }
}

#[tokio::test]
async fn invalid_json_is_refused() {
    let (_kms, mut connection, valid) = plain().await;
    let credentials = valid.credentials;
    for body in [
        &b""[..],
        b"x",
        b"[]",
        b"{",
        b"{\"NumberOfBytes\":\"8\"}",
        b"{\"NumberOfBytes\":1e400}",
        b"\xff\xfe",
    ] {
        let valid = RawRequest::valid(credentials.clone());
        let request = valid.target("TrentService.GenerateRandom", body).signed();
        assert_eq!(connection.send(request).await.code(), "SerializationException", "{body:?}");
    }
    for body in [r#"{"KeyId":"x","Plaintext":"?"}"#, r#"{"KeyId":"x","Plaintext":"AA"}"#] {
        let valid = RawRequest::valid(credentials.clone());
        let request = valid.target("TrentService.Encrypt", body.as_bytes()).signed();
        assert_eq!(connection.send(request).await.code(), "SerializationException", "{body}");
    }
    let deep = "[".repeat(200_000);
    let request = RawRequest::valid(credentials.clone())
        .target("TrentService.Encrypt", deep.as_bytes())
        .signed();
    assert_eq!(connection.send(request).await.code(), "SerializationException");
    let request = RawRequest::valid(credentials).target("TrentService.Encrypt", b"{}").signed();
    assert_eq!(connection.send(request).await.code(), "ValidationException");
}

#[tokio::test]
async fn a_body_is_limited_for_any_declared_length() {
    let (kms, mut connection, valid) = plain().await;
    let large = valid.target("TrentService.Encrypt", &vec![b' '; 300_000]).signed();
    let response = connection.send(large).await;
    assert_eq!((response.status, &*response.code()), (413, "RequestEntityTooLargeException"));

    let address = kms.endpoint(REGION).strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551615\r\n\r\n{}";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = vec![0; 64];
    let length = stream.read(&mut response).await.unwrap();
    let response = String::from_utf8_lossy(&response[..length]).into_owned();
    assert!(response.starts_with("HTTP/1.1 4") || length == 0, "{response}");
}

#[tokio::test]
async fn connections_are_kept_and_counted() {
    let Setup { kms, client, .. } = setup().await;
    for _ in 0..20 {
        client.list_keys().send().await.unwrap();
    }
    let counters = kms.counters(REGION);
    assert_eq!((counters.connections, counters.tls_handshakes), (1, 1));
    assert_eq!(counters.requests("ListKeys"), 20);
}

#[tokio::test]
async fn a_connection_without_handshake_counts_as_one() {
    let Setup { kms, .. } = setup().await;
    let address = kms.endpoint(REGION).strip_prefix("https://").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    until(|| kms.counters(REGION).connections == 1).await;
    drop(stream);
    assert_eq!(kms.counters(REGION).tls_handshakes, 0);
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_authority_cannot_connect() {
    let one = setup().await;
    let other = setup().await;
    let credentials = one.kms.issue_credentials();
    let endpoint = one.kms.endpoint(REGION);
    let client = crate::support::client_of(endpoint, other.kms.ca_pem(), REGION, credentials);
    let refused = client.list_keys().send().await.unwrap_err();
    assert!(refused.as_service_error().is_none(), "{refused:?}");
    assert_eq!(one.kms.counters(REGION).total(), 0);
}

#[tokio::test]
async fn the_certificate_is_valid_for_localhost() {
    let Setup { kms, .. } = setup().await;
    let endpoint = kms.endpoint(REGION).replace("127.0.0.1", "localhost");
    let credentials = kms.issue_credentials();
    let client = crate::support::client_of(&endpoint, kms.ca_pem(), REGION, credentials);
    client.list_keys().send().await.unwrap();
}
