use std::time::Duration;

use aws_credential_types::Credentials;
use http::{HeaderValue, header};
use kms_local::KmsLocal;

use crate::support::{
    REGION, RawConnection, RawRequest, RawResponse, client, code, kms_time, setup,
};

const MINUTE: Duration = Duration::from_mins(1);

struct Raw {
    kms: KmsLocal,
    connection: RawConnection,
}

async fn raw() -> Raw {
    let kms = KmsLocal::builder().plaintext_http().start().await.unwrap();
    let connection = RawConnection::open(kms.endpoint(REGION)).await;
    Raw { kms, connection }
}

#[tokio::test]
async fn the_raw_request_is_valid() {
    let Raw { kms, mut connection } = raw().await;
    let valid = RawRequest::valid(kms.issue_credentials());
    assert_eq!(connection.send(valid.signed()).await.status, 200);
}

#[tokio::test]
async fn a_request_without_signature_is_refused() {
    let Raw { kms, mut connection } = raw().await;
    let valid = RawRequest::valid(kms.issue_credentials());
    let response = connection.send(valid.unsigned()).await;
    assert_eq!(response.status, 400);
    assert_eq!(response.code(), "MissingAuthenticationTokenException");
    let mut garbled = valid.signed();
    garbled.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
    assert_eq!(connection.send(garbled).await.code(), "IncompleteSignatureException");
}

#[tokio::test]
async fn an_unknown_access_key_is_refused() {
    let Raw { kms: _kms, mut connection } = raw().await;
    let unknown = Credentials::new("AKIAXXXXXXXXXXXXXXXX", "secret", None, None, "test");
    let response = connection.send(RawRequest::valid(unknown).signed()).await;
    assert_eq!(response.code(), "UnrecognizedClientException");
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let Raw { kms, mut connection } = raw().await;
    let id = kms.issue_credentials().access_key_id().to_owned();
    let wrong = Credentials::new(id, "wrong", None, None, "test");
    let response = connection.send(RawRequest::valid(wrong).signed()).await;
    assert_eq!(response.code(), "InvalidSignatureException");
    assert!(response.message().contains("does not match"), "{}", response.message());
}

#[tokio::test]
async fn changes_after_signing_are_refused() {
    let Raw { kms, mut connection } = raw().await;
    let valid = RawRequest::valid(kms.issue_credentials());

    let mut body = valid.signed();
    *body.body_mut() = http_body_util::Full::from(&br#"{"NumberOfBytes":9}"#[..]);
    let mut target = valid.signed();
    let operation = HeaderValue::from_static("TrentService.CreateKey");
    target.headers_mut().insert("x-amz-target", operation);
    let mut host = valid.signed();
    host.headers_mut().insert(header::HOST, HeaderValue::from_static("elsewhere"));
    for changed in [body, target, host] {
        let response = connection.send(changed).await;
        assert_eq!(response.code(), "InvalidSignatureException");
    }

    let mut added = valid.signed();
    added.headers_mut().insert("x-amz-more", HeaderValue::from_static("1"));
    let response = connection.send(added).await;
    assert_eq!(response.code(), "InvalidSignatureException");
    assert!(response.message().contains("x-amz-more"), "{}", response.message());

    let mut unsigned_extra = valid.signed();
    unsigned_extra.headers_mut().insert("x-other", HeaderValue::from_static("1"));
    assert_eq!(connection.send(unsigned_extra).await.status, 200);
}

#[tokio::test]
async fn the_host_must_be_signed() {
    let Raw { kms, mut connection } = raw().await;
    let mut request = RawRequest::valid(kms.issue_credentials()).signed();
    let authorization = request.headers()[header::AUTHORIZATION].to_str().unwrap();
    let without = authorization.replace(";host;", ";");
    assert_ne!(authorization, without);
    request.headers_mut().insert(header::AUTHORIZATION, without.parse().unwrap());
    let response = connection.send(request).await;
    assert_eq!(response.code(), "InvalidSignatureException");
    assert!(response.message().contains("'host'"), "{}", response.message());
}

#[tokio::test]
async fn another_region_or_service_is_refused() {
    let Raw { kms, mut connection } = raw().await;
    let valid = || RawRequest::valid(kms.issue_credentials());
    let region = RawRequest { region: "eu-west-1".to_owned(), ..valid() };
    let response = connection.send(region.signed()).await;
    assert_eq!(response.code(), "InvalidSignatureException");
    assert_eq!(response.message(), "Credential should be scoped to a valid region.");

    let service = RawRequest { service: "s3", ..valid() };
    let response = connection.send(service.signed()).await;
    assert_eq!(response.code(), "InvalidSignatureException");
    assert!(response.message().contains("service"), "{}", response.message());
}

#[tokio::test]
async fn a_clock_off_by_more_than_five_minutes_is_refused() {
    let Raw { kms, mut connection } = raw().await;
    let at = |time| RawRequest { time, ..RawRequest::valid(kms.issue_credentials()) }.signed();
    let now = kms_time();
    assert_eq!(connection.send(at(now - 4 * MINUTE)).await.status, 200);
    assert_eq!(connection.send(at(now + 4 * MINUTE)).await.status, 200);
    let late = connection.send(at(now - 6 * MINUTE)).await;
    assert_eq!(late.code(), "InvalidSignatureException");
    assert!(late.message().starts_with("Signature expired"), "{}", late.message());
    let early = connection.send(at(now + 6 * MINUTE)).await;
    assert_eq!(early.code(), "InvalidSignatureException");
    assert!(early.message().starts_with("Signature not yet current"), "{}", early.message());
}

#[tokio::test]
async fn a_session_needs_its_own_token() {
    let Raw { kms, mut connection } = raw().await;
    let session = kms.issue_session(60 * MINUTE);
    let with = |token: Option<String>| {
        let (id, secret) = (session.access_key_id(), session.secret_access_key());
        RawRequest::valid(Credentials::new(id, secret, token, None, "test")).signed()
    };
    let token = session.session_token().map(str::to_owned);
    assert_eq!(connection.send(with(token)).await.status, 200);
    for wrong in [None, Some("wrong".to_owned())] {
        let response = connection.send(with(wrong)).await;
        assert_eq!(response.code(), "UnrecognizedClientException");
    }

    let id = kms.issue_credentials();
    let (id, secret) = (id.access_key_id(), id.secret_access_key());
    let needless = Credentials::new(id, secret, Some("token".to_owned()), None, "test");
    let response = connection.send(RawRequest::valid(needless).signed()).await;
    assert_eq!(response.code(), "UnrecognizedClientException");
}

#[tokio::test]
async fn an_expired_session_is_refused() {
    let Raw { kms, mut connection } = raw().await;
    let expired = RawRequest::valid(kms.issue_session(Duration::ZERO));
    assert_eq!(connection.send(expired.signed()).await.code(), "ExpiredTokenException");

    let session = RawRequest::valid(kms.issue_session(60 * MINUTE));
    let lasting = RawRequest::valid(kms.issue_credentials());
    assert_eq!(connection.send(session.signed()).await.status, 200);
    kms.expire_sessions();
    assert_eq!(connection.send(session.signed()).await.code(), "ExpiredTokenException");
    assert_eq!(connection.send(lasting.signed()).await.status, 200);
}

#[tokio::test]
async fn a_wrong_clock_shows_in_the_date_and_decides_about_signatures() {
    let Raw { kms, mut connection } = raw().await;
    let lasting = kms.issue_credentials();
    let session = kms.issue_session(20 * MINUTE);
    let at = |credentials: &Credentials, time| {
        RawRequest { time, ..RawRequest::valid(credentials.clone()) }.signed()
    };
    let shown =
        |response: &RawResponse| response.headers[header::DATE].to_str().unwrap().to_owned();
    let now = kms_time();

    let valid = connection.send(at(&session, now)).await;
    assert_eq!(valid.status, 200);
    kms.faults(REGION).clock_ahead(30 * MINUTE);
    let refused = connection.send(at(&lasting, now)).await;
    assert_eq!(refused.code(), "InvalidSignatureException");
    assert_ne!(shown(&refused), shown(&valid));
    let response = connection.send(at(&lasting, now + 30 * MINUTE)).await;
    assert_eq!(response.status, 200);
    let response = connection.send(at(&session, now + 30 * MINUTE)).await;
    assert_eq!(response.code(), "ExpiredTokenException");

    kms.faults(REGION).clock_behind(30 * MINUTE);
    assert_eq!(connection.send(at(&session, now)).await.code(), "InvalidSignatureException");
    assert_eq!(connection.send(at(&session, now - 30 * MINUTE)).await.status, 200);
    kms.faults(REGION).clear();
    assert_eq!(connection.send(at(&session, now)).await.status, 200);
}

#[tokio::test]
async fn revoked_access_keys_are_refused() {
    let Raw { kms, mut connection } = raw().await;
    let [lasting, session, other] =
        [kms.issue_credentials(), kms.issue_session(60 * MINUTE), kms.issue_session(60 * MINUTE)];
    let request = |credentials: &Credentials| RawRequest::valid(credentials.clone());
    for credentials in [&lasting, &session, &other] {
        assert_eq!(connection.send(request(credentials).signed()).await.status, 200);
    }
    kms.revoke(lasting.access_key_id());
    kms.revoke(session.access_key_id());
    kms.revoke("AKIAXXXXXXXXXXXXXXXX");
    assert_eq!(
        connection.send(request(&lasting).signed()).await.code(),
        "UnrecognizedClientException"
    );
    assert_eq!(connection.send(request(&session).signed()).await.code(), "ExpiredTokenException");
    assert_eq!(connection.send(request(&other).signed()).await.status, 200);

    // A clock that is behind does not restore a session that was ended explicitly.
    kms.faults(REGION).clock_behind(30 * MINUTE);
    let earlier = RawRequest { time: kms_time() - 30 * MINUTE, ..request(&session) };
    assert_eq!(connection.send(earlier.signed()).await.code(), "ExpiredTokenException");
}

#[tokio::test]
async fn credentials_from_elsewhere_are_accepted() {
    let Raw { kms, mut connection } = raw().await;
    let token = Some("token".to_owned());
    kms.accept_credentials("AKIDEXAMPLE", "secret", token.clone(), Some(kms_time() + MINUTE));
    let same = Credentials::new("AKIDEXAMPLE", "secret", token.clone(), None, "test");
    let request = RawRequest::valid(same);
    assert_eq!(connection.send(request.signed()).await.status, 200);
    kms.accept_credentials("AKIDEXAMPLE", "secret", token, Some(kms_time()));
    assert_eq!(connection.send(request.signed()).await.code(), "ExpiredTokenException");
}

#[tokio::test]
async fn the_sdk_parses_the_errors() {
    let setup = setup().await;
    let expired = client(&setup.kms, REGION, setup.kms.issue_session(60 * MINUTE));
    expired.list_keys().send().await.unwrap();
    setup.kms.expire_sessions();
    assert_eq!(code(expired.list_keys().send().await), "ExpiredTokenException");
    let unknown = Credentials::new("AKIAXXXXXXXXXXXXXXXX", "secret", None, None, "test");
    let unknown = client(&setup.kms, REGION, unknown);
    assert_eq!(code(unknown.list_keys().send().await), "UnrecognizedClientException");
}
