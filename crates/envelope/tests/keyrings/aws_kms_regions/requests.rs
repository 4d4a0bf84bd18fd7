//! The requests to KMS, independent of its responses.

use envelope::{
    DataKey,
    keyring::{
        AwsKmsDiscoveryKeyring, AwsKmsKeyring, Keyring, KeyringError, KeyringErrorKind,
        MultiKeyring,
    },
    materials::EncryptedDataKey,
};

use kms_pool::KmsKeyArn;

use super::{
    Asked, IRELAND, Kms, Sealed, VIRGINIA, Watched, assert_no_match, context, in_each,
    multi_region::related, not_unwrapped, opens, request, unwrap,
};

const SINGLE: &str = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const MRK: &str = "arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";
const MRK_IN_IRELAND: &str =
    "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";

fn wrapped_by(key: &str) -> EncryptedDataKey {
    let key_provider_information = key.as_bytes().to_vec();
    EncryptedDataKey {
        key_provider_id: "aws-kms".to_owned(),
        key_provider_information,
        ciphertext: vec![7; 100],
    }
}

fn asked(operation: &'static str, region: &str, key: &str) -> Asked {
    let (region, key) = (region.to_owned(), key.to_owned());
    Asked { region, operation, key, grant_tokens: vec!["grant".to_owned()], has_context: true }
}

fn arn(key: &str) -> KmsKeyArn {
    key.parse().unwrap()
}

/// Something between this process and KMS may return a data key under another key: it is not used.
#[tokio::test]
async fn a_response_for_another_key_is_refused() {
    let kms = Kms::start().await;
    let primary = kms.local.create_multi_region_key(VIRGINIA, &[IRELAND]);
    let single = kms.sealed_in(VIRGINIA).await;
    let shared = kms.sealed_under(&primary).await;
    let strict = kms.strict(&single.key);
    let mrk = AwsKmsKeyring::mrk_aware(kms.clients(), related(&primary, IRELAND).parse().unwrap());
    kms.local.faults(VIRGINIA).wrong_key_ids(true);
    kms.local.faults(IRELAND).wrong_key_ids(true);
    let (context, data_key) = (context(), DataKey::generate(32).unwrap());
    let keyrings: [(&dyn Keyring, &Sealed); 2] = [(&strict, &single), (&mrk, &shared)];
    for (keyring, sealed) in keyrings {
        let outcomes = [
            keyring.generate(request(&context)).await.map(drop),
            keyring.wrap(request(&context), &data_key).await.map(drop),
            keyring
                .unwrap(request(&context), std::slice::from_ref(&sealed.wrapped))
                .await
                .map(drop)
                .map_err(not_unwrapped),
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(error.keyring_errors()[0].kind(), KeyringErrorKind::InvalidResponse);
            let cause = error.keyring_errors()[0].cause().to_string();
            assert!(cause.contains("KMS responded for the key arn:aws:kms:"), "{cause}");
            assert!(!error.is_retryable());
        }
    }
    kms.local.faults(VIRGINIA).clear();
    strict.generate(request(&context)).await.unwrap();
}

#[tokio::test]
async fn sealing_asks_the_configured_key_with_context_and_grant_tokens() {
    let kms = Kms::start().await;
    let clients = Watched::new(kms.clients());
    let strict = AwsKmsKeyring::new(clients.clone(), arn(SINGLE)).with_grant_tokens(["grant"]);
    let mrk =
        AwsKmsKeyring::mrk_aware(clients.clone(), arn(MRK_IN_IRELAND)).with_grant_tokens(["grant"]);
    let keyrings: [(&dyn Keyring, &str, &str); 2] =
        [(&strict, VIRGINIA, SINGLE), (&mrk, IRELAND, MRK_IN_IRELAND)];
    let (context, data_key) = (context(), DataKey::generate(32).unwrap());
    for (keyring, region, key) in keyrings {
        keyring.generate(request(&context)).await.unwrap_err();
        keyring.wrap(request(&context), &data_key).await.unwrap_err();
        assert_eq!(
            clients.take(),
            [asked("GenerateDataKey", region, key), asked("Encrypt", region, key)]
        );
        assert_eq!(keyring.wrapping_key(request(&context)).as_deref(), Some(key));
    }
}

/// What the keyring asks, where no answer is any good, and its message names all three keys.
async fn check(clients: &Watched, keyring: impl Keyring, expected: &[(&str, &str)]) {
    let keys = [SINGLE, MRK, MRK_IN_IRELAND].map(wrapped_by);
    let failures = keyring.unwrap(request(&context()), &keys).await.unwrap_err();
    let decrypts: Vec<_> =
        expected.iter().map(|(region, key)| asked("Decrypt", region, key)).collect();
    assert_eq!(clients.take(), decrypts, "{keyring:?}");
    // Every failure is told, of the key that was asked.
    let named: Vec<_> = failures.iter().map(KeyringError::wrapping_key).collect();
    assert_eq!(named, expected.iter().map(|(_, key)| *key).collect::<Vec<_>>(), "{keyring:?}");
}

#[tokio::test]
async fn opening_asks_the_key_that_each_keyring_is_to_ask() {
    let kms = Kms::start().await;
    let watched = Watched::new(kms.clients());
    let (clients, grant) = (|| watched.clone(), ["grant"]);
    let [single, mrk, related] = [(VIRGINIA, SINGLE), (VIRGINIA, MRK), (IRELAND, MRK_IN_IRELAND)];

    let keyring = AwsKmsKeyring::new(clients(), arn(MRK)).with_grant_tokens(grant);
    check(&watched, keyring, &[mrk]).await;
    let keyring = AwsKmsKeyring::mrk_aware(clients(), arn(SINGLE)).with_grant_tokens(grant);
    check(&watched, keyring, &[single]).await;
    let keyring = AwsKmsKeyring::mrk_aware(clients(), arn(MRK_IN_IRELAND)).with_grant_tokens(grant);
    check(&watched, keyring, &[related, related]).await;
    let keyring = AwsKmsDiscoveryKeyring::new(clients()).with_grant_tokens(grant);
    check(&watched, keyring, &[single, mrk, related]).await;
    let keyring = AwsKmsDiscoveryKeyring::mrk_aware(clients(), IRELAND.parse().unwrap())
        .with_grant_tokens(grant);
    check(&watched, keyring, &[related, related]).await;

    let strict = |key| AwsKmsKeyring::new(clients(), arn(key)).with_grant_tokens(grant);
    let keyring = MultiKeyring::new(strict(SINGLE)).with_child(strict(MRK)).unwrap();
    check(&watched, keyring, &[single, mrk]).await;
    let mrk_aware = |key| AwsKmsKeyring::mrk_aware(clients(), arn(key)).with_grant_tokens(grant);
    let keyring = MultiKeyring::new(mrk_aware(MRK)).with_child(mrk_aware(SINGLE)).unwrap();
    check(&watched, keyring, &[mrk, mrk, single]).await;
    let regions = [IRELAND, VIRGINIA];
    let keyring = AwsKmsDiscoveryKeyring::new(clients()).with_grant_tokens(grant);
    check(&watched, in_each(&keyring, &regions), &[related, single, mrk]).await;
    let keyring = AwsKmsDiscoveryKeyring::mrk_aware(clients(), IRELAND.parse().unwrap());
    let keyring = keyring.with_grant_tokens(grant);
    check(&watched, in_each(&keyring, &regions), &[related, related, single, mrk, mrk]).await;
}

#[tokio::test]
async fn a_key_of_one_region_is_asked_for_in_no_other() {
    let kms = Kms::start().await;
    let sealed = kms.sealed_in(VIRGINIA).await;
    kms.forget();
    let elsewhere = sealed.key.replace(VIRGINIA, IRELAND).parse().unwrap();
    assert_no_match(
        unwrap(
            &AwsKmsKeyring::mrk_aware(kms.clients(), elsewhere),
            std::slice::from_ref(&sealed.wrapped),
        )
        .await,
    );
    assert_no_match(
        unwrap(&kms.mrk_discovery(IRELAND), std::slice::from_ref(&sealed.wrapped)).await,
    );
    assert_eq!(kms.asked(), [0; 4]);
    assert!(
        opens(&AwsKmsKeyring::mrk_aware(kms.clients(), sealed.key.parse().unwrap()), &sealed).await
    );
    assert!(opens(&kms.mrk_discovery(VIRGINIA), &sealed).await);
}
