//! What lies between a pool and KMS: TLS, a proxy, the names of endpoints.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use aws_credential_types::Credentials;
use kms_pool::{KmsPool, KmsPoolBuilder, Principal};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use support::{REGION, builder, random, server};

mod support;

#[tokio::test]
async fn the_key_exchange_is_post_quantum() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    random(&pool.client(REGION, &Principal::new(kms.issue_credentials())).await.unwrap())
        .await
        .unwrap();
    let groups = kms.counters(REGION).key_exchange_groups;
    assert_eq!(groups.into_iter().collect::<Vec<_>>(), [("X25519MLKEM768".to_owned(), 1)]);
}

/// A proxy that knows `CONNECT` alone, and counts the tunnels.
async fn proxy(tunnels: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tunnels = Arc::clone(&tunnels);
            tokio::spawn(async move {
                let mut client = BufReader::new(stream);
                let mut request = String::new();
                while !request.ends_with("\r\n\r\n") {
                    client.read_line(&mut request).await.unwrap();
                }
                let target = request.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
                let mut server = TcpStream::connect(target).await.unwrap();
                tunnels.fetch_add(1, SeqCst);
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_proxy_is_tunnelled_through() {
    let kms = server().await;
    let tunnels = Arc::new(AtomicUsize::new(0));
    let pool = builder(&kms).proxy(&proxy(Arc::clone(&tunnels)).await).unwrap().build().unwrap();
    let client = pool.client(REGION, &Principal::new(kms.issue_credentials())).await.unwrap();
    random(&client).await.unwrap();
    random(&client).await.unwrap();
    assert_eq!((tunnels.load(SeqCst), kms.counters(REGION).tls_handshakes), (1, 1));
}

/// The host that a client's requests go to: an impossible proxy keeps them from getting there.
async fn host(builder: KmsPoolBuilder, region: &str) -> String {
    let seen = Arc::new(std::sync::Mutex::new(String::new()));
    let pool = builder.trust_platform_roots().build().unwrap();
    let client = pool
        .client(region, &Principal::new(Credentials::new("id", "secret", None, None, "test")))
        .await;
    let note = Arc::clone(&seen);
    let request = client.unwrap().generate_random().customize().map_request(move |request| {
        request.uri().clone_into(&mut note.lock().unwrap());
        Err::<_, std::io::Error>(std::io::ErrorKind::Other.into())
    });
    request.send().await.unwrap_err();
    seen.lock().unwrap().clone()
}

#[tokio::test]
async fn endpoints_are_named_as_asked() {
    let pool = || KmsPool::builder().trust_root_pem(include_bytes!("data/root.pem"));
    assert_eq!(host(pool(), "us-east-1").await, "https://kms.us-east-1.amazonaws.com/");
    assert_eq!(
        host(pool().use_fips(true), "us-east-1").await,
        "https://kms-fips.us-east-1.amazonaws.com/"
    );
    assert_eq!(
        host(pool().use_dual_stack(true), "us-east-1").await,
        "https://kms.us-east-1.api.aws/"
    );
    assert_eq!(host(pool(), "cn-north-1").await, "https://kms.cn-north-1.amazonaws.com.cn/");
    let vpc = "https://vpce-0123.kms.us-east-1.vpce.amazonaws.com";
    assert_eq!(
        host(pool().endpoint_url_for("us-east-1", vpc), "us-east-1").await,
        format!("{vpc}/")
    );
}
