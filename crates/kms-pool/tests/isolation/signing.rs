//! Each request is signed with the keys of its own principal.

use std::sync::Arc;
use std::time::Duration;

use kms_pool::Principal;

use crate::support::{REGION, builder, random, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_request_is_signed_by_its_principal_while_all_of_them_rotate() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let tasks = (1..=8_u64).map(|number| {
        let (kms, pool) = (Arc::clone(&kms), pool.clone());
        tokio::spawn(async move {
            let mut keys = kms.issue_session(Duration::from_hours(1));
            let principal = Principal::new(keys.clone());
            let mut sent = vec![];
            for _ in 0..10 {
                for _ in 0..number {
                    random(&pool.client(REGION, &principal).await.unwrap()).await.unwrap();
                }
                sent.push((keys.access_key_id().to_owned(), number));
                keys = kms.issue_session(Duration::from_hours(1));
                principal.rotate(keys.clone());
            }
            sent
        })
    });
    let sent = futures_util::future::join_all(tasks).await;
    let sent = sent.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(kms.counters(REGION).access_keys, sent);
}

#[tokio::test]
async fn a_replaced_identity_signs_at_once_and_has_another_tenure() {
    let kms = server().await;
    let pool = builder(&kms).build().unwrap();
    let (alice, bob) = (kms.issue_credentials(), kms.issue_credentials());
    let principal = Principal::new(alice);
    let client = pool.client(REGION, &principal).await.unwrap();
    random(&client).await.unwrap();
    principal.replace(bob.clone());
    random(&client).await.unwrap();
    assert_eq!(kms.counters(REGION).access_keys[bob.access_key_id()], 1);
    assert_eq!(principal.tenure(), 1);
    assert_eq!(principal.clone().with_label("x").tenure(), 1);
    // A client is built for the new identity, once, with the budget of its account.
    for _ in 0..2 {
        pool.client(REGION, &principal).await.unwrap();
        assert_eq!(pool.stats().builds, 2);
    }
}
