//! Keyrings that ask whichever key the message names.

use envelope::{
    DataKey, Envelope, Error,
    keyring::{
        AwsKmsDiscoveryKeyring, AwsKmsKeyring, Keyring, KeyringErrorKind, MultiKeyring,
        RawAesKeyring,
    },
    materials::EncryptedDataKey,
};
use kms_pool::KmsErrorKind;

use super::{
    ACCOUNT, IRELAND, Kms, REGIONS, SYDNEY, VIRGINIA, Watched, assert_no_match, context, in_each,
    opens, request, unwrap,
};

#[tokio::test]
async fn the_key_that_the_message_names_is_asked_in_its_own_region() {
    let kms = Kms::start().await;
    for (at, region) in REGIONS.into_iter().enumerate() {
        let sealed = kms.sealed_in(region).await;
        kms.forget();
        assert!(opens(&kms.discovery(), &sealed).await, "{region}");
        let mut expected = [0; 4];
        expected[at] = 1;
        assert_eq!(kms.asked(), expected, "{region}");
    }
}

#[tokio::test]
async fn a_filter_that_admits_the_key_lets_it_be_asked() {
    let kms = Kms::start().await;
    let sealed = kms.sealed_in(IRELAND).await;
    for keyring in [kms.discovery(), kms.mrk_discovery(IRELAND)] {
        let keyring = keyring.with_filter("aws", ["444455556666", ACCOUNT]).unwrap();
        assert!(opens(&keyring, &sealed).await);
    }
}

#[tokio::test]
async fn what_a_filter_excludes_costs_no_request() {
    let kms = Kms::start().await;
    let sealed = kms.sealed_in(IRELAND).await;
    let keys = [sealed.wrapped.clone(), sealed.named(sealed.key.replace("key/", "key/mrk-"))];
    kms.forget();
    for (partition, account) in [("aws", "444455556666"), ("aws-cn", ACCOUNT)] {
        for keyring in [kms.discovery(), kms.mrk_discovery(IRELAND)] {
            let keyring = keyring.with_filter(partition, [account]).unwrap();
            assert_no_match(unwrap(&keyring, &keys).await);
            assert_no_match(unwrap(&in_each(&keyring, &REGIONS), &keys).await);
        }
    }
    assert_eq!(kms.asked(), [0; 4]);
}

#[tokio::test]
async fn a_region_that_no_client_is_supplied_for_is_not_reached() {
    let kms = Kms::start().await;
    let (here, there) = (kms.sealed_in(IRELAND).await, kms.sealed_in(SYDNEY).await);
    kms.forget();
    let keyring = AwsKmsDiscoveryKeyring::new(kms.clients().limited_to([IRELAND]));
    let error = unwrap(&keyring, std::slice::from_ref(&there.wrapped)).await.unwrap_err();
    assert_eq!(error.kms().unwrap().kind(), KmsErrorKind::InvalidRequest);
    assert_eq!(kms.asked(), [0; 4]);
    // It keeps none of the others from being tried.
    unwrap(&keyring, &[there.wrapped, here.wrapped]).await.unwrap();
    assert_eq!(kms.asked(), [0, 1, 0, 0]);
}

#[tokio::test]
async fn a_name_that_is_no_key_arn_fails_before_anybody_is_asked() {
    let kms = Kms::start().await;
    let sealed = kms.sealed_in(IRELAND).await;
    let alias = format!("arn:aws:kms:{IRELAND}:{ACCOUNT}:alias/mrk-a");
    let multi_region = format!("arn:aws:kms:{IRELAND}:{ACCOUNT}:key/mrk-a");
    kms.forget();
    for name in [alias.as_bytes(), b"", b"key/a", b"\xff", &[sealed.key.as_bytes(), b"\n"].concat()]
    {
        for keys in [
            [sealed.wrapped.clone(), sealed.named(name)],
            [sealed.named(name), sealed.wrapped.clone()],
        ] {
            let mrk = AwsKmsKeyring::mrk_aware(kms.clients(), multi_region.parse().unwrap());
            let keyrings: [&dyn Keyring; 4] =
                [&kms.strict(&sealed.key), &mrk, &kms.discovery(), &kms.mrk_discovery(IRELAND)];
            for keyring in keyrings {
                let failures = keyring.unwrap(request(&context()), &keys).await.unwrap_err();
                assert!(
                    failures[0].cause().to_string().contains("invalid KMS key ARN"),
                    "{keyring:?}: {failures:?}"
                );
            }
        }
    }
    assert_eq!(kms.asked(), [0; 4]);
}

#[tokio::test]
async fn what_others_wrapped_is_left_to_them() {
    let kms = Kms::start().await;
    let sealed = kms.sealed_in(IRELAND).await;
    let others: Vec<_> = ["aws-kms-hierarchy", "AWS-KMS", "aws-kms2", ""]
        .map(|id| EncryptedDataKey { key_provider_id: id.to_owned(), ..sealed.named("no ARN") })
        .into();
    kms.forget();
    assert_no_match(unwrap(&kms.discovery(), &others).await);
    assert_no_match(unwrap(&kms.mrk_discovery(IRELAND), &others).await);
    assert_eq!(kms.asked(), [0; 4]);
    let keys = [others, vec![sealed.wrapped]].concat();
    unwrap(&kms.discovery(), &keys).await.unwrap();
    unwrap(&kms.mrk_discovery(IRELAND), &keys).await.unwrap();
}

#[tokio::test]
async fn one_after_the_other_is_asked_until_one_opens() {
    let kms = Kms::start().await;
    let mut sealed = vec![];
    for region in [VIRGINIA, IRELAND, SYDNEY] {
        sealed.push(kms.sealed_in(region).await);
    }
    kms.local.disable_key(VIRGINIA, &sealed[0].key).unwrap();
    kms.forget();
    let keys: Vec<_> = sealed.iter().map(|sealed| sealed.wrapped.clone()).collect();
    let opened = unwrap(&kms.discovery(), &keys).await.unwrap();
    assert_eq!(opened.expose_secret(), sealed[1].data_key.expose_secret());
    assert_eq!(kms.asked(), [1, 1, 0, 0]);

    for (region, sealed) in [(IRELAND, &sealed[1]), (SYDNEY, &sealed[2])] {
        kms.local.disable_key(region, &sealed.key).unwrap();
    }
    let error = unwrap(&kms.discovery(), &keys).await.unwrap_err();
    let named: Vec<_> = error
        .keyring_errors()
        .iter()
        .map(|failure| (failure.wrapping_key(), failure.kind()))
        .collect();
    let expected: Vec<_> =
        sealed.iter().map(|sealed| (&*sealed.key, KeyringErrorKind::Unusable)).collect();
    assert_eq!(named, expected);
}

#[tokio::test]
async fn a_wrapped_key_under_a_false_name_is_refused() {
    let kms = Kms::start().await;
    let (sealed, other) = (kms.sealed_in(IRELAND).await, kms.local.create_key(IRELAND));
    for error in [
        unwrap(&kms.discovery(), &[sealed.named(&*other)]).await.unwrap_err(),
        unwrap(&kms.mrk_discovery(IRELAND), &[sealed.named(&*other)]).await.unwrap_err(),
    ] {
        assert_eq!(error.kms().unwrap().kind(), KmsErrorKind::IncorrectKey);
    }
}

#[tokio::test]
async fn nothing_is_sealed() {
    let kms = Kms::start().await;
    let regions = [IRELAND];
    let keyrings: [&dyn Keyring; 4] = [
        &kms.discovery(),
        &kms.mrk_discovery(IRELAND),
        &in_each(&kms.discovery(), &regions),
        &in_each(&kms.mrk_discovery(IRELAND), &regions),
    ];
    let (context, data_key) = (context(), DataKey::generate(32).unwrap());
    for keyring in keyrings {
        let generated = keyring.generate(request(&context)).await.map(|_| ());
        let wrapped = keyring.wrap(request(&context), &data_key).await.map(|_| ());
        for outcome in [generated, wrapped] {
            assert!(
                matches!(&outcome, Err(Error::DataKeyUnavailable(_))),
                "{keyring:?}: {outcome:?}"
            );
            assert!(!outcome.unwrap_err().is_retryable());
        }
        assert_eq!(keyring.wrapping_key(request(&context)), None);
    }
    assert_eq!(kms.asked(), [0; 4]);

    // Not even as another one's child.
    let wrapping_key = DataKey::generate(32).unwrap();
    let generator = RawAesKeyring::new("ns", "name", &wrapping_key).unwrap();
    let multi = MultiKeyring::new(generator).with_child(kms.discovery()).unwrap();
    let error = Envelope::new(multi).unwrap().encrypt(b"x", &context).await.unwrap_err();
    let cause = error.keyring_errors()[0].cause().to_string();
    assert!(cause.contains("only decrypts"), "{cause}");
}

#[tokio::test]
async fn a_multi_keyring_asks_in_its_regions_alone() {
    let kms = Kms::start().await;
    let (there, here) = (kms.sealed_in(VIRGINIA).await, kms.sealed_in(IRELAND).await);
    let elsewhere = kms.sealed_in(SYDNEY).await;
    kms.forget();
    let clients = Watched::new(kms.clients());
    let multi = in_each(&AwsKmsDiscoveryKeyring::new(clients.clone()), &[IRELAND, VIRGINIA]);
    assert!(opens(&multi, &there).await && opens(&multi, &here).await);
    assert_eq!(kms.asked(), [1, 1, 0, 0]);
    assert_no_match(unwrap(&multi, std::slice::from_ref(&elsewhere.wrapped)).await);
    assert_eq!(kms.asked(), [1, 1, 0, 0]);
    clients.take();
    // The first region comes before the message's first key.
    unwrap(&multi, &[there.wrapped, here.wrapped]).await.unwrap();
    let regions: Vec<_> = clients.take().into_iter().map(|asked| asked.region).collect();
    assert_eq!(regions, [IRELAND]);
}
