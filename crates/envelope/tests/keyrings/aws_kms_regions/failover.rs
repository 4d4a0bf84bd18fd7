//! Regions that stand in for one another under one multi-Region key.

use std::time::Duration;

use envelope::{
    AlgorithmSuite, EncryptionContext,
    keyring::{AwsKmsKeyring, Keyring as _, KeyringErrorKind, KeyringRequest},
};
use kms_pool::Replicas;

use super::{IRELAND, Kms, REGIONS, VIRGINIA};

/// A keyring of Virginia's key, for which Ireland stands in.
fn keyring(kms: &Kms, key: &str) -> AwsKmsKeyring {
    let replicas = Replicas::new(kms.clients(), [VIRGINIA, IRELAND]).unwrap();
    AwsKmsKeyring::mrk_aware(kms.clients(), key.parse().unwrap()).with_replicas(replicas)
}

#[tokio::test]
async fn another_region_generates_and_unwraps_while_the_first_is_out_of_order() {
    let kms = Kms::start().await;
    let keyring = keyring(&kms, &kms.local.create_multi_region_key(VIRGINIA, &REGIONS[1..]));
    let context = EncryptionContext::new([("tenant", "42")]).unwrap();
    let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
    let in_virginia = keyring.generate(request).await.unwrap();
    kms.local.faults(VIRGINIA).internal_errors(1.0);

    let in_ireland = keyring.generate(request).await.unwrap();
    let named =
        String::from_utf8(in_ireland.encrypted_data_keys[0].key_provider_information.clone())
            .unwrap();
    assert!(named.contains(IRELAND), "{named}");
    for generated in [&in_virginia, &in_ireland] {
        let unwrapped = keyring.unwrap(request, &generated.encrypted_data_keys).await.unwrap();
        assert_eq!(unwrapped.expose_secret(), generated.data_key.expose_secret());
    }
    // Once for each that Ireland did: a region that another stands in for is not asked twice.
    assert_eq!(kms.local.counters(VIRGINIA).total(), 4);

    kms.local.faults(VIRGINIA).clear();
    let unwrapped = keyring.unwrap(request, &in_ireland.encrypted_data_keys).await.unwrap();
    assert_eq!(unwrapped.expose_secret(), in_ireland.data_key.expose_secret());
}

#[tokio::test]
async fn a_second_region_answers_for_a_slow_one_and_a_denial_is_final() {
    let kms = Kms::start().await;
    let key = kms.local.create_multi_region_key(VIRGINIA, &REGIONS[1..]);
    let replicas = Replicas::new(kms.clients(), [VIRGINIA, IRELAND])
        .unwrap()
        .hedge_after(Duration::from_millis(20));
    let hedged =
        AwsKmsKeyring::mrk_aware(kms.clients(), key.parse().unwrap()).with_replicas(replicas);
    let context = EncryptionContext::new([("tenant", "42")]).unwrap();
    let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
    let generated = hedged.generate(request).await.unwrap();
    kms.local.faults(VIRGINIA).hang(true);
    hedged.unwrap(request, &generated.encrypted_data_keys).await.unwrap();
    kms.local.faults(VIRGINIA).clear();

    kms.local.faults(VIRGINIA).deny_access(true);
    kms.local.reset_counters(IRELAND);
    let failures =
        keyring(&kms, &key).unwrap(request, &generated.encrypted_data_keys).await.unwrap_err();
    assert_eq!(failures[0].kind(), KeyringErrorKind::Denied);
    assert_eq!(kms.local.counters(IRELAND).total(), 0);
}

#[tokio::test]
async fn a_key_of_one_region_has_no_stand_in() {
    let kms = Kms::start().await;
    let keyring = keyring(&kms, &kms.local.create_key(VIRGINIA));
    kms.local.faults(VIRGINIA).internal_errors(1.0);
    let context = EncryptionContext::new([("tenant", "42")]).unwrap();
    keyring.generate(KeyringRequest::new(AlgorithmSuite::default(), &context)).await.unwrap_err();
    assert_eq!(kms.local.counters(IRELAND).total(), 0);
}
