use aws_sdk_kms::{
    error::SdkError,
    types::{KeySpec, KeyState, KeyUsageType, OriginType},
};

use crate::support::{Setup, code, setup};

#[tokio::test]
async fn a_key_is_described_as_it_was_created() {
    let Setup { kms: _kms, client, .. } = setup().await;
    let created = client.create_key().description("for cards").send().await.unwrap();
    let created = created.key_metadata().unwrap();
    assert_eq!(created.aws_account_id(), Some("111122223333"));
    assert_eq!(created.description(), Some("for cards"));
    assert_eq!(created.key_state(), Some(&KeyState::Enabled));
    assert_eq!(created.key_usage(), Some(&KeyUsageType::EncryptDecrypt));
    assert_eq!(created.origin(), Some(&OriginType::AwsKms));
    assert_eq!(created.key_spec(), Some(&KeySpec::SymmetricDefault));
    assert_eq!(created.multi_region(), Some(false));
    assert!(created.enabled() && created.deletion_date().is_none());
    assert!(created.creation_date().unwrap().secs() > 1_700_000_000);
    assert_eq!(created.encryption_algorithms().len(), 1);
    let arn = format!("arn:aws:kms:us-east-1:111122223333:key/{}", created.key_id());
    assert_eq!(created.arn(), Some(&*arn));

    for name in [created.key_id(), &arn] {
        let described = client.describe_key().key_id(name).send().await.unwrap();
        assert_eq!(described.key_metadata(), Some(created));
    }
}

#[tokio::test]
async fn other_kinds_of_keys_are_refused() {
    let Setup { kms: _kms, client, .. } = setup().await;
    let create = || client.create_key();
    let unsupported = "UnsupportedOperationException";
    assert_eq!(code(create().key_spec(KeySpec::Rsa2048).send().await), unsupported);
    assert_eq!(code(create().key_usage(KeyUsageType::SignVerify).send().await), unsupported);
    assert_eq!(code(create().origin(OriginType::External).send().await), unsupported);
    assert_eq!(code(create().custom_key_store_id("cks-1").send().await), unsupported);
    let validation = "ValidationException";
    assert_eq!(code(create().key_usage("NONSENSE".into()).send().await), validation);
    assert_eq!(code(create().description("x".repeat(8193)).send().await), validation);
}

#[tokio::test]
async fn unknown_keys_are_not_found() {
    let Setup { kms: _kms, client, key, .. } = setup().await;
    let id = "1234abcd-12ab-34cd-56ef-1234567890ab";
    for name in [
        id,
        "nonsense",
        "alias/none",
        &key.replace("us-east-1", "eu-west-1"),
        &key.replace("111122223333", "999999999999"),
        &format!("arn:aws:kms:us-east-1:111122223333:key/{id}"),
        "arn:aws:kms:us-east-1:111122223333:alias/none",
    ] {
        let refused = client.describe_key().key_id(name).send().await;
        let Err(SdkError::ServiceError(error)) = &refused else { panic!("{name}: {refused:?}") };
        assert!(error.err().is_not_found_exception(), "{name}");
    }
}

#[tokio::test]
async fn keys_are_listed_page_by_page() {
    let Setup { kms, client, key } = setup().await;
    let mut all = vec![key];
    all.extend((0..6).map(|_| kms.create_key("us-east-1")));
    all.sort();

    let mut listed = Vec::new();
    let mut marker = None;
    let mut pages = 0;
    loop {
        let page = client.list_keys().limit(3).set_marker(marker).send().await.unwrap();
        listed.extend(page.keys().iter().map(|key| key.key_arn().unwrap().to_owned()));
        pages += 1;
        assert_eq!(page.truncated(), page.next_marker().is_some());
        marker = page.next_marker().map(str::to_owned);
        if marker.is_none() {
            break;
        }
    }
    assert_eq!((listed, pages), (all, 3));

    assert_eq!(code(client.list_keys().limit(0).send().await), "ValidationException");
    assert_eq!(code(client.list_keys().limit(1001).send().await), "ValidationException");
    assert_eq!(code(client.list_keys().marker("x").send().await), "InvalidMarkerException");
}

#[tokio::test]
async fn a_disabled_key_cannot_be_used_until_it_is_enabled() {
    let Setup { kms: _kms, client, key, .. } = setup().await;
    let blob = aws_sdk_kms::primitives::Blob::new("text");
    let encrypt = || client.encrypt().key_id(&key).plaintext(blob.clone()).send();
    let encrypted = encrypt().await.unwrap().ciphertext_blob.unwrap();

    client.disable_key().key_id(&key).send().await.unwrap();
    let described = client.describe_key().key_id(&key).send().await.unwrap().key_metadata.unwrap();
    assert_eq!(described.key_state(), Some(&KeyState::Disabled));
    assert!(!described.enabled());
    let disabled = "DisabledException";
    assert_eq!(code(encrypt().await), disabled);
    assert_eq!(code(client.decrypt().ciphertext_blob(encrypted.clone()).send().await), disabled);
    let data_key = client.generate_data_key().key_id(&key).number_of_bytes(32);
    assert_eq!(code(data_key.send().await), disabled);
    let re_encrypt = client.re_encrypt().ciphertext_blob(encrypted).destination_key_id(&key);
    assert_eq!(code(re_encrypt.send().await), disabled);

    client.enable_key().key_id(&key).send().await.unwrap();
    encrypt().await.unwrap();
}

#[tokio::test]
async fn a_key_is_pending_deletion_until_that_is_cancelled() {
    let Setup { kms: _kms, client, key, .. } = setup().await;
    let blob = aws_sdk_kms::primitives::Blob::new("text");
    let encrypt = || client.encrypt().key_id(&key).plaintext(blob.clone()).send();
    let invalid_state = "KMSInvalidStateException";

    let schedule = || client.schedule_key_deletion().key_id(&key);
    for days in [6, 31] {
        let refused = schedule().pending_window_in_days(days).send().await;
        assert_eq!(code(refused), "ValidationException", "{days} days");
    }
    let scheduled = schedule().pending_window_in_days(7).send().await.unwrap();
    assert_eq!(scheduled.key_id(), Some(&*key));
    assert_eq!(scheduled.key_state(), Some(&KeyState::PendingDeletion));
    assert_eq!(scheduled.pending_window_in_days(), Some(7));

    let described = client.describe_key().key_id(&key).send().await.unwrap().key_metadata.unwrap();
    assert_eq!(described.key_state(), Some(&KeyState::PendingDeletion));
    let days =
        described.deletion_date().unwrap().secs() - described.creation_date().unwrap().secs();
    assert!((7 * 86_400..7 * 86_400 + 3600).contains(&days));

    assert_eq!(code(encrypt().await), invalid_state);
    assert_eq!(code(schedule().send().await), invalid_state);
    assert_eq!(code(client.enable_key().key_id(&key).send().await), invalid_state);
    assert_eq!(code(client.disable_key().key_id(&key).send().await), invalid_state);

    let cancelled = client.cancel_key_deletion().key_id(&key).send().await.unwrap();
    assert_eq!(cancelled.key_id(), Some(&*key));
    assert_eq!(code(encrypt().await), "DisabledException");
    assert_eq!(code(client.cancel_key_deletion().key_id(&key).send().await), invalid_state);
    let scheduled = schedule().send().await.unwrap();
    assert_eq!(scheduled.pending_window_in_days(), Some(30));
}

#[tokio::test]
async fn states_are_changed_by_key_id_and_arn_but_not_by_alias() {
    let Setup { kms, client, .. } = setup().await;
    let key = kms.ensure_alias("us-east-1", "alias/app").unwrap();
    let id = key.rsplit('/').next().unwrap();
    client.disable_key().key_id(id).send().await.unwrap();
    client.enable_key().key_id(&key).send().await.unwrap();

    let not_found = "NotFoundException";
    for name in ["alias/app", "arn:aws:kms:us-east-1:111122223333:alias/app"] {
        assert_eq!(code(client.disable_key().key_id(name).send().await), not_found);
        assert_eq!(code(client.enable_key().key_id(name).send().await), not_found);
        assert_eq!(code(client.schedule_key_deletion().key_id(name).send().await), not_found);
        assert_eq!(code(client.cancel_key_deletion().key_id(name).send().await), not_found);
    }
}
