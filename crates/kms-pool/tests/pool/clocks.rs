//! Wrong clocks of this machine and of KMS.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use futures_util::future::join_all;
use kms_pool::{KmsErrorKind, Principal, Purpose};

use crate::support::{OTHER, REGION, Sessions, builder, random, server};

#[tokio::test]
async fn a_wrong_clock_is_corrected() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let client = pool.client(REGION, &Principal::new(kms.issue_credentials())).await.unwrap();
    kms.faults(REGION).clock_ahead(Duration::from_hours(1));
    random(&client).await.unwrap();
    kms.faults(REGION).clock_behind(Duration::from_hours(1));
    random(&client).await.unwrap();
}

#[tokio::test]
async fn a_date_is_learned_from_one_refusal_and_used_by_all_requests() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(kms.issue_session(Duration::from_hours(1)));
    let client = pool.client(REGION, &principal).await.unwrap();
    let left = || pool.client_stats()[0].credentials_left.unwrap().as_secs();
    for (minutes, expected) in [(30, 1_795..=1_800), (0, 3_590..=3_600)] {
        kms.faults(REGION).clock_ahead(Duration::from_mins(minutes));
        let before = kms.counters(REGION).total();
        random(&client).await.unwrap();
        join_all((0..32).map(|_| random(&client))).await.into_iter().for_each(Result::unwrap);
        assert_eq!(kms.counters(REGION).total(), before + 1 + 1 + 32);
        // From now on, the expiry of credentials is compared with the server's date.
        assert!(expected.contains(&left()), "{} s left", left());
    }
    let refreshes = pool.stats().refreshes;
    kms.faults(REGION).clock_behind(Duration::from_hours(2));
    join_all((0..32).map(|_| random(&client))).await.into_iter().for_each(Result::unwrap);
    assert_eq!(pool.stats().refreshes, refreshes, "a wrong date causes no refresh");
}

/// The date of a refusal must not expire the credentials of other principals.
#[tokio::test]
async fn a_date_that_no_accepted_request_confirmed_expires_no_credentials() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let session = Principal::new(kms.issue_session(Duration::from_hours(1)));
    pool.client(REGION, &session).await.unwrap();
    kms.faults(REGION).clock_ahead(Duration::from_hours(2));
    let unknown = Principal::new(Credentials::new("AKIDUNKNOWN", "secret", None, None, "test"));
    random(&pool.client(REGION, &unknown).await.unwrap()).await.unwrap_err();
    // The date was learned: otherwise there would have been one request.
    assert!(kms.counters(REGION).total() > 1);
    let left = pool.client_stats().into_iter().find_map(|client| client.credentials_left).unwrap();
    assert!(left > Duration::from_mins(50), "{left:?}");
}

#[tokio::test]
async fn a_region_with_a_wrong_clock_affects_no_other() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    kms.faults(OTHER).clock_ahead(Duration::from_hours(2));
    let right = pool.client(REGION, &principal).await.unwrap();
    let wrong = pool.client(OTHER, &principal).await.unwrap();
    for _ in 0..5 {
        random(&right).await.unwrap();
        random(&wrong).await.unwrap();
    }
    assert_eq!((kms.counters(REGION).total(), kms.counters(OTHER).total()), (5, 6));
}

#[tokio::test]
async fn a_single_attempt_is_signed_again_for_date_and_credentials() {
    let kms = server().await;
    let pool = builder(&kms).max_attempts(1).build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(&kms)));
    let client = pool.client(REGION, &principal).await.unwrap();
    random(&client).await.unwrap();
    kms.expire_sessions();
    kms.faults(REGION).clock_ahead(Duration::from_mins(30));
    random(&client).await.unwrap();
    assert_eq!(kms.counters(REGION).total(), 4);
}

#[tokio::test]
async fn a_denial_is_final_even_if_the_servers_date_differs() {
    let kms = server().await;
    let pool = builder(&kms).max_attempts(3).build().unwrap();
    let client = pool.client(REGION, &Principal::new(kms.issue_credentials())).await.unwrap();
    // Close enough to be accepted.
    kms.faults(REGION).clock_ahead(Duration::from_secs(270));
    kms.faults(REGION).deny_access(true);
    assert_eq!(random(&client).await.unwrap_err().kind(), KmsErrorKind::AccessDenied);
    assert_eq!(kms.counters(REGION).total(), 1);
}

/// All clients follow a date that then turns out to be wrong.
#[tokio::test]
async fn a_clock_that_becomes_right_again_fails_no_request() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    let mut clients = vec![];
    for region in [REGION, OTHER] {
        kms.faults(region).clock_ahead(Duration::from_hours(2));
        for purpose in [Purpose::Foreground, Purpose::Background, Purpose::OneAttempt] {
            let client = pool.client_for(region, &principal, purpose).await.unwrap();
            random(&client).await.unwrap();
            clients.push(client);
        }
    }
    for behind in [0, 2] {
        for region in [REGION, OTHER] {
            kms.faults(region).clock_behind(Duration::from_hours(behind));
        }
        let requests = clients.iter().flat_map(|client| (0..16).map(move |_| random(client)));
        join_all(requests).await.into_iter().for_each(Result::unwrap);
        let before = kms.counters(REGION).total();
        random(&clients[0]).await.unwrap();
        assert_eq!(kms.counters(REGION).total(), before + 1, "the date was not learned");
    }
    assert_eq!(pool.stats().refreshes, 1, "a wrong date is no fault of the credentials");
}

#[tokio::test]
async fn expired_credentials_are_refreshed_within_one_attempt_though_this_clock_is_wrong() {
    let kms = server().await;
    kms.faults(REGION).clock_ahead(Duration::from_mins(30));
    let pool = builder(&kms).max_attempts(1).build().unwrap();
    let principal = Principal::new(Sessions(Arc::clone(&kms)));
    for purpose in [Purpose::Foreground, Purpose::OneAttempt] {
        let client = pool.client_for(REGION, &principal, purpose).await.unwrap();
        random(&client).await.unwrap();
        let before = (kms.counters(REGION).total(), pool.stats().refreshes);
        kms.expire_sessions();
        random(&client).await.unwrap();
        let after = (kms.counters(REGION).total(), pool.stats().refreshes);
        assert_eq!(after, (before.0 + 2, before.1 + 1));
    }
}

#[tokio::test]
async fn a_wrong_date_in_a_response_that_is_no_refusal_is_not_learned() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let principal = Principal::new(kms.issue_credentials());
    let client = pool.client(REGION, &principal).await.unwrap();
    kms.faults(REGION).clock_ahead(Duration::from_hours(1));
    pool.warm(&principal, [REGION]).await.remove(0).unwrap();
    kms.faults(REGION).clear();
    // Close enough to be accepted.
    kms.faults(REGION).clock_ahead(Duration::from_secs(270));
    random(&client).await.unwrap();
    kms.faults(REGION).internal_errors(1.0);
    random(&client).await.unwrap_err();
    kms.faults(REGION).clear();
    // If that date had been learned, this one would differ from it too much.
    kms.faults(REGION).clock_behind(Duration::from_mins(1));
    kms.reset_counters(REGION);
    join_all((0..32).map(|_| random(&client))).await.into_iter().for_each(Result::unwrap);
    assert_eq!(kms.counters(REGION).total(), 32, "nothing was refused");
}
