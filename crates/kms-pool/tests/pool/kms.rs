//! Clients, refreshes, clocks and errors of a pool.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use futures_util::future::{join_all, poll_immediate};
use kms_local::KmsLocal;
use kms_pool::{KmsError, KmsErrorKind, KmsPool, Principal};

use crate::support::{REGION, Sessions, builder, random, server, until};

/// For requests one after another. A request may open a connection if the last one's has not become
/// idle yet.
const MAX_HANDSHAKES: u64 = 3;

async fn decrypt(client: &Client, key: &str, ciphertext: &[u8]) -> Result<(), KmsError> {
    client.decrypt().key_id(key).ciphertext_blob(Blob::new(ciphertext)).send().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_share_one_client() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(&kms)));
    let tasks = (0..64).map(|_| {
        let (pool, principal) = (pool.clone(), principal.clone());
        tokio::spawn(async move { random(&pool.client(REGION, &principal).await?).await })
    });
    for outcome in join_all(tasks).await {
        outcome.unwrap().unwrap();
    }
    let stats = pool.stats();
    assert_eq!((stats.clients, stats.builds, stats.refreshes), (1, 1, 1));
    let counters = kms.counters(REGION);
    assert_eq!(counters.succeeded("GenerateRandom"), 64);
    assert_eq!(counters.access_keys.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn principals_never_share_a_client() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let mut expected = BTreeMap::new();
    let mut tasks = Vec::new();
    for requests in 1..=8 {
        let keys = kms.issue_credentials();
        expected.insert(keys.access_key_id().to_owned(), requests);
        let principal = Principal::new(keys);
        for _ in 0..requests {
            let (pool, principal) = (pool.clone(), principal.clone());
            tasks.push(tokio::spawn(async move {
                random(&pool.client(REGION, &principal).await?).await
            }));
        }
    }
    for outcome in join_all(tasks).await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(kms.counters(REGION).access_keys, expected);
    assert_eq!(pool.stats().builds, 8);
}

#[tokio::test]
async fn regions_have_their_own_endpoints() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    for region in [REGION, "eu-west-1"] {
        random(&pool.client(region, &principal).await.unwrap()).await.unwrap();
        assert_eq!(kms.counters(region).succeeded("GenerateRandom"), 1);
    }
}

#[tokio::test]
async fn a_rotation_keeps_client_and_connection() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(kms.issue_session(Duration::from_hours(1)));
    let client = pool.client(REGION, &principal).await.unwrap();
    random(&client).await.unwrap();
    for _ in 0..20 {
        principal.rotate(kms.issue_session(Duration::from_hours(1)));
        random(&client).await.unwrap();
    }
    let counters = kms.counters(REGION);
    let handshakes = counters.tls_handshakes;
    assert!(handshakes <= MAX_HANDSHAKES, "new credentials opened {handshakes} connections");
    assert_eq!(counters.access_keys.len(), 21);
    assert_eq!((pool.stats().builds, pool.stats().rotations), (1, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_whose_credentials_are_refused_are_signed_again_after_one_refresh() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(&kms)));
    random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap();
    for round in 2..6 {
        kms.expire_sessions();
        let requests = (0..64).map(|_| {
            let (pool, principal) = (pool.clone(), principal.clone());
            tokio::spawn(async move { random(&pool.client(REGION, &principal).await?).await })
        });
        for outcome in join_all(requests).await {
            outcome.unwrap().unwrap();
        }
        assert_eq!(kms.counters(REGION).access_keys.len(), round, "one refresh for all");
    }
}

/// A caller may start a request and then wait for something else.
#[tokio::test]
async fn callers_that_stop_polling_delay_no_others() {
    let kms = server().await;
    let pool = builder(&kms).max_in_flight(2).build().unwrap();
    let client = pool.client(REGION, &Principal::new(kms.issue_credentials())).await.unwrap();
    kms.faults(REGION).hang(true);
    let mut left: Vec<_> = (0..32).map(|_| Box::pin(random(&client))).collect();
    for request in &mut left {
        assert!(poll_immediate(request).await.is_none());
    }
    until(|| kms.counters(REGION).in_flight >= 2).await;
    kms.faults(REGION).clear();
    random(&client).await.unwrap();
    join_all(left).await.into_iter().for_each(Result::unwrap);
    assert_eq!(kms.counters(REGION).max_in_flight, 2);
}

#[tokio::test]
async fn connections_stay_as_long_as_the_region_has_a_client() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let (one, other) =
        (Principal::new(kms.issue_credentials()), Principal::new(kms.issue_credentials()));
    random(&pool.client(REGION, &one).await.unwrap()).await.unwrap();
    for _ in 0..10 {
        random(&pool.client(REGION, &other).await.unwrap()).await.unwrap();
        pool.remove(&other);
    }
    let before = kms.counters(REGION).tls_handshakes;
    assert!(before <= MAX_HANDSHAKES && pool.stats().connections > 0);
    pool.clear();
    until(|| kms.counters(REGION).open_connections == 0 && pool.stats().connections == 0).await;
    random(&pool.client(REGION, &one).await.unwrap()).await.unwrap();
    assert_eq!(kms.counters(REGION).tls_handshakes, before + 1);
}

#[tokio::test]
async fn an_unused_client_is_dropped_with_its_connections() {
    let kms = server().await;
    let pool = builder(&kms).idle_timeout(Duration::from_millis(40)).build().unwrap();
    random(&pool.client(REGION, &Principal::new(kms.issue_credentials())).await.unwrap())
        .await
        .unwrap();
    until(|| pool.stats().clients == 0 && kms.counters(REGION).open_connections == 0).await;
    assert_eq!(pool.stats().idle_evictions, 1);
}

#[tokio::test]
async fn regions_are_warmed_independently() {
    let kms = server().await;
    let pool = builder(&kms).attempt_timeout(Duration::from_secs(1)).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    kms.faults("eu-west-1").hang(true);
    let warmed = pool.warm(&principal, [REGION, "eu-west-1", "Not A Region"]).await;
    let kinds: Vec<_> =
        warmed.into_iter().map(|warmed| warmed.map_err(|error| error.kind())).collect();
    assert_eq!(kinds, [Ok(()), Err(KmsErrorKind::TimedOut), Err(KmsErrorKind::InvalidRequest)]);
    assert_eq!(kms.counters(REGION).tls_handshakes, 1);
    let client = pool.client(REGION, &principal).await.unwrap();
    for _ in 0..10 {
        random(&client).await.unwrap();
    }
    assert!(kms.counters(REGION).tls_handshakes <= MAX_HANDSHAKES);
}

#[tokio::test]
async fn a_shut_down_pool_completes_running_operations_and_starts_none() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    let client = pool.client(REGION, &principal).await.unwrap();
    kms.faults(REGION).hang(true);
    let request = tokio::spawn(async move { random(&client).await });
    until(|| kms.counters(REGION).in_flight > 0).await;
    assert!(!pool.shutdown(Duration::from_millis(1)).await);
    kms.faults(REGION).clear();
    assert!(pool.shutdown(Duration::from_secs(10)).await);
    request.await.unwrap().unwrap();
    let error = pool.client(REGION, &principal).await.unwrap_err();
    assert_eq!(error.kind(), KmsErrorKind::InvalidRequest);
    assert_eq!(pool.stats().clients, 0);
}

#[tokio::test]
async fn a_shutdown_waits_for_operations_between_two_attempts() {
    let kms = server().await;
    let pool =
        builder(&kms).max_attempts(10).operation_timeout(Duration::from_mins(1)).build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(&kms)));
    let client = pool.client(REGION, &principal).await.unwrap();
    kms.faults(REGION).internal_errors(1.0);
    let request = tokio::spawn({
        let client = client.clone();
        async move { random(&client).await }
    });
    until(|| kms.counters(REGION).requests("GenerateRandom") >= 2).await;
    assert!(!pool.shutdown(Duration::from_millis(1)).await);
    kms.faults(REGION).clear();
    assert!(pool.shutdown(Duration::from_secs(10)).await);
    request.await.unwrap().unwrap();
    let asked = pool.stats().refreshes;
    for error in [
        random(&client).await.unwrap_err(),
        pool.client("eu-west-1", &principal).await.unwrap_err(),
        pool.refresh(&principal).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), KmsErrorKind::InvalidRequest, "{error}");
        assert!(error.to_string().contains("shut down"), "{error}");
    }
    assert_eq!(pool.stats().refreshes, asked, "no provider is asked any more");
}

#[test]
fn a_pool_outlives_the_runtime_that_it_was_first_used_on() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    };
    let servers = runtime();
    let kms = servers.block_on(server());
    let pool = builder(&kms).max_attempts(2).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    for _ in 0..3 {
        runtime().block_on(async {
            random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap();
        });
    }
}

#[tokio::test]
async fn a_request_in_flight_survives_the_removal_of_its_client() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    let client = pool.client(REGION, &principal).await.unwrap();
    kms.faults(REGION).hang(true);
    let request = tokio::spawn(async move { random(&client).await });
    until(|| kms.counters(REGION).in_flight > 0).await;
    pool.clear();
    pool.remove(&principal);
    kms.faults(REGION).clear();
    request.await.unwrap().unwrap();
}

/// One failure of each kind that the server can cause, by a name for messages.
async fn failures(kms: &KmsLocal) -> HashMap<&'static str, KmsError> {
    let pool = builder(kms).build().unwrap();
    let hasty = builder(kms).attempt_timeout(Duration::from_millis(200)).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    let client = pool.client(REGION, &principal).await.unwrap();
    let hasty = hasty.client(REGION, &principal).await.unwrap();
    let faults = kms.faults(REGION);
    let mut failures = HashMap::new();

    faults.throttle_above(0);
    failures.insert("throttled", random(&client).await.unwrap_err());
    faults.clear();
    faults.hang(true);
    failures.insert("hanging", random(&hasty).await.unwrap_err());
    faults.clear();
    faults.internal_errors(1.0);
    failures.insert("internal", random(&client).await.unwrap_err());
    faults.clear();
    faults.connection_resets(1.0);
    failures.insert("reset", random(&client).await.unwrap_err());
    faults.clear();

    let (key, other) = (kms.create_key(REGION), kms.create_key(REGION));
    let sealed = client.encrypt().key_id(&key).plaintext(Blob::new("text")).send().await.unwrap();
    let sealed = sealed.ciphertext_blob.unwrap().into_inner();
    decrypt(&client, &key, &sealed).await.unwrap();
    failures.insert("another key", decrypt(&client, &other, &sealed).await.unwrap_err());
    let mut damaged = sealed.clone();
    *damaged.last_mut().unwrap() ^= 1;
    failures.insert("damaged", decrypt(&client, &key, &damaged).await.unwrap_err());
    let unknown = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000";
    failures.insert("unknown key", decrypt(&client, unknown, &sealed).await.unwrap_err());
    failures.insert("no key id", decrypt(&client, "no key id", &sealed).await.unwrap_err());
    kms.disable_key(REGION, &key).unwrap();
    failures.insert("disabled", decrypt(&client, &key, &sealed).await.unwrap_err());
    client.schedule_key_deletion().key_id(&key).send().await.unwrap();
    failures.insert("pending deletion", decrypt(&client, &key, &sealed).await.unwrap_err());

    for (name, keys) in [
        ("wrong secret", forged(&kms.issue_session(Duration::from_hours(1)), "forged-secret-key")),
        ("unknown access key", Credentials::new("AKIAUNKNOWN", SECRET, None, None, "test")),
        ("expired", kms.issue_session(Duration::ZERO)),
    ] {
        let client = pool.client(REGION, &Principal::new(keys)).await.unwrap();
        failures.insert(name, random(&client).await.unwrap_err());
    }
    failures
}

const SECRET: &str = "secret+in/tests";

fn forged(keys: &Credentials, secret: &str) -> Credentials {
    let token = keys.session_token().map(Into::into);
    Credentials::new(keys.access_key_id(), secret, token, None, "test")
}

#[tokio::test]
async fn each_failure_has_its_kind() {
    use KmsErrorKind as Kind;
    let failures = failures(&*server().await).await;
    let expected = HashMap::from([
        ("throttled", Kind::Throttled),
        ("hanging", Kind::TimedOut),
        ("internal", Kind::Unavailable),
        ("reset", Kind::Unavailable),
        ("another key", Kind::IncorrectKey),
        ("damaged", Kind::InvalidCiphertext),
        ("unknown key", Kind::KeyNotFound),
        ("no key id", Kind::KeyNotFound),
        ("disabled", Kind::KeyDisabled),
        ("pending deletion", Kind::KeyInvalidState),
        ("wrong secret", Kind::CredentialsRejected),
        ("unknown access key", Kind::CredentialsRejected),
        ("expired", Kind::CredentialsExpired),
    ]);
    let kinds: HashMap<_, _> = failures.iter().map(|(name, error)| (*name, error.kind())).collect();
    assert_eq!(kinds, expected);
    for (name, error) in failures {
        let answered = !matches!(name, "hanging" | "reset");
        assert_eq!(error.request_id().is_some(), answered, "{name}");
        assert_eq!(error.code().is_some(), answered, "{name}");
        assert_eq!(error.to_string().lines().count(), 1, "{name}");
        let retryable = ["throttled", "hanging", "internal", "reset"].contains(&name);
        assert_eq!(error.is_retryable(), retryable, "{name}");
    }
}

#[tokio::test]
async fn a_server_that_is_unreachable_or_untrusted_is_unavailable() {
    let kms = server().await;
    let principal = Principal::new(kms.issue_credentials());
    let other = server().await;
    let unbelieved = KmsPool::builder()
        .trust_root_pem(other.ca_pem())
        .max_attempts(1)
        .endpoint_url(kms.endpoint(REGION))
        .build()
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let unreachable = builder(&kms).endpoint_url_for(REGION, closed).build().unwrap();
    for (pool, why) in [(unbelieved, "invalid peer certificate"), (unreachable, "refused")] {
        let client = pool.client(REGION, &principal).await.unwrap();
        let error = random(&client).await.unwrap_err();
        assert_eq!(error.kind(), KmsErrorKind::Unavailable, "{error:?}");
        let text = error.to_string();
        assert!(text.contains(REGION) && text.contains(why), "{text}");
    }
    assert_eq!(kms.counters(REGION).total(), 0);
}

#[tokio::test]
async fn failures_are_retried_up_to_the_maximum_of_attempts() {
    let kms = server().await;
    let pool = builder(&kms).max_attempts(2).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    let client = pool.client(REGION, &principal).await.unwrap();
    kms.faults(REGION).internal_errors(1.0);
    let error = random(&client).await.unwrap_err();
    assert_eq!(error.kind(), KmsErrorKind::Unavailable);
    assert_eq!(kms.counters(REGION).requests("GenerateRandom"), 2);
}

/// Fails with a message that contains a secret.
#[derive(Debug)]
struct Talkative {
    #[expect(dead_code, reason = "`Debug` would print it")]
    secret: &'static str,
}

impl ProvideCredentials for Talkative {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let error = CredentialsError::provider_error(format!("could not use {SECRET}"));
        future::ProvideCredentials::ready(Err(error))
    }
}

#[tokio::test]
async fn secrets_are_never_printed() {
    let kms = server().await;
    let keys = kms.issue_session(Duration::from_hours(1));
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(keys.clone()).with_label("tenant-42");
    let client = pool.client(REGION, &principal).await.unwrap();
    random(&client).await.unwrap();
    kms.expire_sessions();
    let expired = random(&client).await.unwrap_err();
    let forger = Principal::new(forged(&keys, SECRET));
    let client = pool.client(REGION, &forger).await.unwrap();
    let rejected = random(&client).await.unwrap_err();
    let talkative = Principal::new(Talkative { secret: SECRET }).with_label("talkative");
    let unavailable = pool.client(REGION, &talkative).await.unwrap_err();
    assert_eq!(unavailable.kind(), KmsErrorKind::CredentialsUnavailable);
    assert!(unavailable.to_string().contains("`talkative`"), "{unavailable}");

    let mut printed = vec![
        format!("{pool:?} {:?} {:?}", pool.stats(), builder(&kms)),
        format!("{principal:?} {talkative:?}"),
        format!("{unavailable} {unavailable:?}"),
    ];
    let failures = failures(&kms).await.into_values().chain([expired, rejected]);
    for error in failures {
        printed.push(format!("{error} {error:?} {error:#?}"));
        let causes = std::iter::successors(error.source(), |&cause| cause.source());
        printed.extend(causes.map(|cause| format!("{cause} {cause:?}")));
    }

    let token = keys.session_token().expect("a session has one");
    for text in printed {
        for secret in [SECRET, keys.secret_access_key(), &token[..8], &token[8..16]] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
