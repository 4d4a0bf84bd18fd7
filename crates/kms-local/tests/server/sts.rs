use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig, sts::AssumeRoleProvider};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials as _, SharedCredentialsProvider},
};
use aws_sdk_sts::{config::retry::RetryConfig, error::SdkError, types::Tag};
use aws_smithy_async::time::{SharedTimeSource, SystemTimeSource};
use http::{HeaderValue, header};
use kms_local::KmsLocal;

use crate::support::{REGION, RawConnection, RawRequest, client, code, http_client, kms_time};

const ROLE: &str = "arn:aws:iam::111122223333:role/teams/app";

async fn start() -> KmsLocal {
    KmsLocal::builder().account("111122223333").sts().start().await.unwrap()
}

fn config(kms: &KmsLocal, credentials: Credentials) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(REGION))
        .endpoint_url(kms.sts_endpoint().unwrap())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .retry_config(RetryConfig::disabled())
        .http_client(http_client(kms.ca_pem()))
        .time_source(SharedTimeSource::new(SystemTimeSource::new()))
        .build()
}

fn sts(kms: &KmsLocal, credentials: Credentials) -> aws_sdk_sts::Client {
    aws_sdk_sts::Client::new(&config(kms, credentials))
}

/// Returns the credentials in a response, for a client.
fn credentials_of(given: &aws_sdk_sts::types::Credentials) -> Credentials {
    let (id, secret, token) =
        (given.access_key_id(), given.secret_access_key(), given.session_token());
    Credentials::new(id, secret, Some(token.to_owned()), None, "test")
}

fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build().unwrap()
}

#[tokio::test]
async fn the_kms_accepts_the_session_of_a_role() {
    let kms = start().await;
    let assume = sts(&kms, kms.issue_credentials())
        .assume_role()
        .role_arn(ROLE)
        .role_session_name("session-1")
        .external_id("outside")
        .tags(tag("team", "cards & <coins>"))
        .tags(tag("stage", ""));
    let assumed = assume.send().await.unwrap();
    let user = assumed.assumed_role_user().unwrap();
    assert_eq!(user.arn(), "arn:aws:sts::111122223333:assumed-role/app/session-1");
    assert!(
        user.assumed_role_id().starts_with("AROA")
            && user.assumed_role_id().ends_with(":session-1")
    );
    let given = assumed.credentials().unwrap();
    let expires = std::time::SystemTime::try_from(*given.expiration()).unwrap();
    assert!(
        expires > kms_time() + Duration::from_mins(50)
            && expires < kms_time() + Duration::from_mins(70)
    );

    let [session] = &kms.role_sessions()[..] else { panic!() };
    assert_eq!((&*session.role_arn, &*session.session_name), (ROLE, "session-1"));
    assert_eq!(session.external_id.as_deref(), Some("outside"));
    let tags: Vec<_> = session.tags.iter().map(|(key, value)| (&**key, &**value)).collect();
    assert_eq!(tags, [("stage", ""), ("team", "cards & <coins>")]);
    assert_eq!(session.access_key_id, given.access_key_id());
    assert_eq!(kms.sts_counters().succeeded("AssumeRole"), 1);
    assert_eq!(kms.sts_counters().connections, 1);

    let with_role = client(&kms, REGION, credentials_of(given));
    with_role.list_keys().send().await.unwrap();
    assert_eq!(kms.counters(REGION).access_keys[given.access_key_id()], 1);
    kms.revoke(given.access_key_id());
    assert_eq!(code(with_role.list_keys().send().await), "ExpiredTokenException");
}

#[tokio::test]
async fn the_provider_of_the_sdk_assumes_a_role() {
    let kms = start().await;
    let provider = AssumeRoleProvider::builder(ROLE)
        .session_name("provider")
        .session_length(Duration::from_mins(15))
        .tags([("tenant", "7")])
        .configure(&config(&kms, kms.issue_credentials()))
        .build()
        .await;
    let first = provider.provide_credentials().await.unwrap();
    let second = provider.provide_credentials().await.unwrap();
    assert_ne!(first.access_key_id(), second.access_key_id());
    assert!(first.expiry().unwrap() < kms_time() + Duration::from_mins(20));
    for credentials in [first, second] {
        client(&kms, REGION, credentials).list_keys().send().await.unwrap();
    }
    assert_eq!(kms.sts_counters().succeeded("AssumeRole"), 2);
    assert!(kms.role_sessions().iter().all(|session| session.tags["tenant"] == "7"));

    let unknown = Credentials::new("AKIAXXXXXXXXXXXXXXXX", "secret", None, None, "test");
    let provider =
        AssumeRoleProvider::builder(ROLE).configure(&config(&kms, unknown)).build().await;
    provider.provide_credentials().await.unwrap_err();
    assert_eq!(kms.sts_counters().outcomes("AssumeRole", "InvalidClientTokenId"), 1);
}

#[tokio::test]
async fn a_web_identity_needs_an_accepted_token_and_no_signature() {
    let kms = start().await;
    let unknown = Credentials::new("AKIAXXXXXXXXXXXXXXXX", "secret", None, None, "test");
    let client_of_sts = sts(&kms, unknown);
    let assume = || {
        let request = client_of_sts.assume_role_with_web_identity().web_identity_token("a.b.c");
        request.role_arn(ROLE).role_session_name("web").send()
    };
    let refused = assume().await.unwrap_err();
    let SdkError::ServiceError(refused) = refused else { panic!("{refused:?}") };
    assert!(refused.err().is_invalid_identity_token_exception());
    assert!(kms.role_sessions().is_empty());

    kms.accept_web_identity_token("a.b.c");
    let [first, second] = [assume().await.unwrap(), assume().await.unwrap()];
    assert_ne!(first.credentials(), second.credentials());
    client(&kms, REGION, credentials_of(first.credentials().unwrap()))
        .list_keys()
        .send()
        .await
        .unwrap();
    assert_eq!(kms.role_sessions()[1].session_name, "web");
    let counters = kms.sts_counters();
    assert_eq!(counters.succeeded("AssumeRoleWithWebIdentity"), 2);
    assert_eq!(counters.outcomes("AssumeRoleWithWebIdentity", "InvalidIdentityToken"), 1);
    assert!(counters.access_keys.is_empty());
}

#[tokio::test]
async fn callers_learn_their_identity() {
    let kms = start().await;
    let user = kms.issue_credentials();
    let id = user.access_key_id().to_owned();
    let as_user = sts(&kms, user);
    let identity = as_user.get_caller_identity().send().await.unwrap();
    assert_eq!(identity.arn(), Some(&*format!("arn:aws:iam::111122223333:user/{id}")));
    assert_eq!((identity.account(), identity.user_id()), (Some("111122223333"), Some(&*id)));

    let role = ROLE.replace("111122223333", "444455556666");
    let assumed =
        as_user.assume_role().role_arn(role).role_session_name("s-1").send().await.unwrap();
    let session = credentials_of(assumed.credentials().unwrap());
    let identity = sts(&kms, session.clone()).get_caller_identity().send().await.unwrap();
    assert_eq!(identity.arn(), Some("arn:aws:sts::444455556666:assumed-role/app/s-1"));
    assert_eq!(identity.account(), Some("444455556666"));
    assert_eq!(identity.user_id(), Some(assumed.assumed_role_user().unwrap().assumed_role_id()));

    kms.expire_sessions();
    assert_eq!(code(sts(&kms, session).get_caller_identity().send().await), "ExpiredToken");
}

#[tokio::test]
async fn invalid_requests_are_refused() {
    let kms = start().await;
    let client_of_sts = sts(&kms, kms.issue_credentials());
    let assume = || client_of_sts.assume_role().role_arn(ROLE).role_session_name("session");
    let invalid = "ValidationError";
    assert_eq!(code(assume().role_arn("app").send().await), invalid);
    assert_eq!(code(assume().role_session_name("a b").send().await), invalid);
    assert_eq!(code(assume().duration_seconds(899).send().await), invalid);
    assert_eq!(code(assume().external_id("x").send().await), invalid);
    assert_eq!(code(assume().tags(tag("a", "1")).tags(tag("A", "2")).send().await), invalid);
    assert_eq!(code(client_of_sts.get_session_token().send().await), "InvalidAction");
    assert!(kms.role_sessions().is_empty());
    assert_eq!(kms.sts_counters().outcomes("AssumeRole", invalid), 5);
    assert_eq!(kms.sts_counters().outcomes("Unknown", "InvalidAction"), 1);

    let id = kms.issue_credentials().access_key_id().to_owned();
    let wrong = sts(&kms, Credentials::new(id, "wrong", None, None, "test"));
    let refused = wrong.get_caller_identity().send().await.unwrap_err();
    assert_eq!(refused.raw_response().unwrap().status().as_u16(), 403);
    assert_eq!(code::<(), _>(Err(refused)), "SignatureDoesNotMatch");
}

#[tokio::test]
async fn signatures_are_for_this_service_and_this_body() {
    let kms = KmsLocal::builder().plaintext_http().sts().start().await.unwrap();
    let mut connection = RawConnection::open(kms.sts_endpoint().unwrap()).await;
    let request = |service, region: &str| RawRequest {
        service,
        region: region.to_owned(),
        headers: vec![
            ("host", "localhost".to_owned()),
            ("content-type", "application/x-www-form-urlencoded".to_owned()),
        ],
        body: b"Action=GetCallerIdentity&Version=2011-06-15".to_vec(),
        ..RawRequest::valid(kms.issue_credentials())
    };
    let text =
        |response: &crate::support::RawResponse| String::from_utf8(response.body.clone()).unwrap();
    for region in [REGION, "mars-1"] {
        let response = connection.send(request("sts", region).signed()).await;
        assert_eq!(response.status, 200, "{}", text(&response));
        assert_eq!(response.headers[header::CONTENT_TYPE], HeaderValue::from_static("text/xml"));
    }
    let response = connection.send(request("kms", REGION).signed()).await;
    assert!(
        response.status == 403 && text(&response).contains("<Code>SignatureDoesNotMatch</Code>"),
        "{response:?}"
    );
    let response = connection.send(request("sts", REGION).unsigned()).await;
    assert!(text(&response).contains("<Code>MissingAuthenticationToken</Code>"), "{response:?}");
    let mut changed = request("sts", REGION).signed();
    *changed.body_mut() =
        http_body_util::Full::from(&b"Action=GetCallerIdentity&Version=2011-06-15&A=b"[..]);
    assert!(text(&connection.send(changed).await).contains("SignatureDoesNotMatch"));
    // The KMS does not accept a signature for the STS.
    let mut region = RawConnection::open(kms.endpoint(REGION)).await;
    let other = RawRequest { service: "sts", ..RawRequest::valid(kms.issue_credentials()) };
    assert_eq!(region.send(other.signed()).await.code(), "InvalidSignatureException");
}

#[tokio::test]
async fn faults_have_the_error_names_of_sts() {
    let kms = start().await;
    let request = async || {
        // Use a new client each time, because clients learn the clock offset.
        let identity = sts(&kms, kms.issue_credentials()).get_caller_identity().send().await;
        identity.map_err(|error| {
            (error.raw_response().map(|raw| raw.status().as_u16()), code::<(), _>(Err(error)))
        })
    };
    let faults = kms.sts_faults();
    faults.throttle_above(0);
    assert_eq!(request().await.unwrap_err(), (Some(400), "Throttling".to_owned()));
    faults.clear();
    faults.internal_errors(1.0);
    assert_eq!(request().await.unwrap_err(), (Some(500), "InternalFailure".to_owned()));
    faults.clear();
    faults.deny_access(true);
    assert_eq!(request().await.unwrap_err(), (Some(403), "AccessDenied".to_owned()));
    faults.clear();
    faults.clock_ahead(Duration::from_mins(10));
    assert_eq!(request().await.unwrap_err(), (Some(403), "SignatureDoesNotMatch".to_owned()));
    faults.clear();
    faults.connection_resets(1.0);
    let reset = sts(&kms, kms.issue_credentials()).get_caller_identity().send().await.unwrap_err();
    assert!(matches!(reset, SdkError::DispatchFailure(_)), "{reset:?}");
    faults.clear();
    request().await.unwrap();
    assert_eq!(kms.sts_counters().requests("GetCallerIdentity"), 6);
    // The faults of the STS do not affect the KMS.
    assert_eq!(kms.counters(REGION).total(), 0);
}

#[tokio::test]
async fn there_is_no_sts_by_default() {
    assert!(KmsLocal::builder().start().await.unwrap().sts_endpoint().is_none());
}
