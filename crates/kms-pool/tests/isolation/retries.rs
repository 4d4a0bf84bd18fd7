//! The retry quota of a principal.

use aws_credential_types::Credentials;
use futures_util::future::join_all;
use kms_pool::Principal;

use crate::support::{REGION, builder, random, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_principal_uses_up_only_its_own_retries() {
    let kms = server().await;
    let pool = builder(&kms).max_attempts(3).circuit_opens_after(0).build().unwrap();
    let [failing, other] = [(); 2].map(|()| kms.issue_credentials());
    let client = |keys: &Credentials| {
        let (pool, principal) = (pool.clone(), Principal::new(keys.clone()));
        async move { pool.client(REGION, &principal).await.unwrap() }
    };
    let failing_client = client(&failing).await;
    kms.faults(REGION).internal_errors(1.0);
    let sent = |keys: &Credentials| {
        kms.counters(REGION).access_keys.get(keys.access_key_id()).copied().unwrap_or_default()
    };
    // The quota is five hundred retries, and these requests would need twice as many.
    join_all((0..500).map(|_| random(&failing_client))).await;
    let before = sent(&failing);
    random(&failing_client).await.unwrap_err();
    assert_eq!(sent(&failing), before + 1, "its retries are used up");
    random(&client(&other).await).await.unwrap_err();
    assert_eq!(sent(&other), 3);
}
