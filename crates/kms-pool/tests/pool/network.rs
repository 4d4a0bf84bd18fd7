//! TLS, proxies and endpoints.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_credential_types::Credentials;
use kms_local::KmsLocal;
use kms_pool::{KmsErrorKind, KmsPool, KmsPoolBuilder, Principal, Role};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{REGION, builder, random, server};

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

/// A proxy that supports only `CONNECT`, and records its requests. Resolves all names to this
/// machine.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Proxy {
    async fn start() -> Self {
        Self::with(None).await
    }

    /// A proxy that is reached over TLS, and its certificate.
    async fn with_tls() -> (Self, String) {
        let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key)
            .unwrap();
        (Self::with(Some(TlsAcceptor::from(Arc::new(config)))).await, signed.cert.pem())
    }

    async fn with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let note = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let note = Arc::clone(&note);
                let tls = tls.clone();
                tokio::spawn(async move {
                    let stream: Box<dyn Duplex> = match tls {
                        Some(tls) => Box::new(tls.accept(stream).await.unwrap()),
                        None => Box::new(stream),
                    };
                    let mut client = BufReader::new(stream);
                    let mut request = String::new();
                    while !request.ends_with("\r\n\r\n") {
                        client.read_line(&mut request).await.unwrap();
                    }
                    let asked = request.strip_prefix("CONNECT ").unwrap();
                    let target = asked.split(' ').next().unwrap().to_owned();
                    note.lock().unwrap().push(request);
                    let Ok(mut server) = TcpStream::connect(target).await else {
                        client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await.unwrap();
                        return;
                    };
                    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
                });
            }
        });
        Self { address, asked }
    }

    /// The targets of the requested tunnels.
    fn targets(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|request| request.split(' ').nth(1).unwrap().to_owned()).collect()
    }
}

fn host_and_port(url: &str) -> String {
    url.strip_prefix("https://").unwrap().to_owned()
}

#[tokio::test]
async fn a_proxy_is_tunneled_through() {
    let kms = server().await;
    let proxy = Proxy::start().await;
    let url = format!("http://us%40er:secret@{}", proxy.address);
    let pool = builder(&kms).proxy(&url).unwrap().build().unwrap();
    let client = pool.client(REGION, &Principal::new(kms.issue_credentials())).await.unwrap();
    random(&client).await.unwrap();
    random(&client).await.unwrap();
    let targets = proxy.targets();
    assert!(targets.iter().all(|target| *target == host_and_port(kms.endpoint(REGION))));
    // The second request opens a connection if the first one's has not become idle yet.
    assert!((1..=2).contains(&targets.len()), "{targets:?}");
    assert_eq!(kms.counters(REGION).tls_handshakes, targets.len() as u64);
    let asked = proxy.asked.lock().unwrap()[0].to_ascii_lowercase();
    // `us@er:secret`
    let header = "proxy-authorization: basic dxnazxi6c2vjcmv0";
    assert!(asked.contains(header), "{asked}");
}

#[tokio::test]
async fn a_proxy_may_be_reached_over_tls() {
    let kms = server().await;
    let (proxy, certificate) = Proxy::with_tls().await;
    let pool = builder(&kms).trust_root_pem(certificate);
    let pool = pool.proxy(&format!("https://{}", proxy.address)).unwrap().build().unwrap();
    let client = pool.client(REGION, &Principal::new(kms.issue_credentials())).await.unwrap();
    random(&client).await.unwrap();
    assert_eq!(proxy.targets(), [host_and_port(kms.endpoint(REGION))]);
}

#[tokio::test]
async fn an_error_shows_the_proxy_without_its_password() {
    let kms = server().await;
    let proxy = Proxy::start().await;
    let url = format!("http://user:secret@{}", proxy.address);
    let pool = builder(&kms).proxy(&url).unwrap();
    let pool = pool.endpoint_url_for(REGION, "https://127.0.0.1:1").build().unwrap();
    let client = pool.client(REGION, &Principal::new(kms.issue_credentials())).await.unwrap();
    let error = random(&client).await.unwrap_err();
    assert_eq!(error.kind(), KmsErrorKind::Unavailable);
    assert!(error.to_string().contains(&proxy.address.to_string()), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn a_role_reaches_sts_with_the_pools_settings() {
    let kms = KmsLocal::builder().region(REGION).sts().start().await.unwrap();
    let sts = kms.sts_endpoint().unwrap();
    let proxy = Proxy::start().await;
    let pool = builder(&kms).proxy(&format!("http://{}", proxy.address)).unwrap();
    let pool = pool.build().unwrap();
    let base = Principal::new(kms.issue_credentials());
    let role = || {
        Role::new("arn:aws:iam::000000000000:role/payments", REGION)
            .endpoint_url(sts.replace("127.0.0.1", "localhost"))
    };
    let tenant = role().assumed_by(&base).unwrap();
    random(&pool.client(REGION, &tenant).await.unwrap()).await.unwrap();
    let targets =
        [host_and_port(sts).replace("127.0.0.1", "localhost"), host_and_port(kms.endpoint(REGION))];
    assert_eq!(proxy.targets(), targets);

    // A role with its own roots does not use the pool's proxy.
    let tenant = role().trust_root_pem(kms.ca_pem()).assumed_by(&base).unwrap();
    pool.client(REGION, &tenant).await.unwrap();
    assert_eq!(proxy.targets(), targets);
}

#[tokio::test]
async fn a_profile_reaches_sts_with_the_pools_settings() {
    let kms = server().await;
    let proxy = Proxy::start().await;
    let pool = builder(&kms).proxy(&format!("http://{}", proxy.address)).unwrap();
    let pool = pool.build().unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(
        file,
        "[default]\nrole_arn = arn:aws:iam::000000000000:role/payments\nsource_profile = base\n\
         region = no-such-region-1\n[base]\naws_access_key_id = id\n\
         aws_secret_access_key = secret\n"
    )
    .unwrap();
    // The host does not exist, so no real service is called.
    let principal = Principal::from_profile(file.path(), "default");
    pool.client(REGION, &principal).await.unwrap_err();
    let targets = proxy.targets();
    assert!(targets.iter().any(|target| target.starts_with("sts.")), "{targets:?}");
}

/// The URL that a client sends requests to. The request fails before it is sent.
async fn host(builder: KmsPoolBuilder, region: &str) -> String {
    let seen = Arc::new(Mutex::new(String::new()));
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
async fn the_settings_choose_the_endpoint() {
    let pool = || KmsPool::builder().trust_root_pem(include_bytes!("../data/root.pem"));
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
