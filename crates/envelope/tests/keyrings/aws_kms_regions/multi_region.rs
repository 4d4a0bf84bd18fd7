//! Multi-Region keys: what one region sealed, the others open.

use envelope::{
    Envelope,
    keyring::{AwsKmsKeyring, KeyringErrorKind, MultiKeyring},
};

use super::{
    IRELAND, Kms, REGIONS, SYDNEY, VIRGINIA, assert_no_match, context, in_each, opens, unwrap,
};

/// In which no key of these tests has a replica, unless in all.
const SAO_PAULO: &str = REGIONS[3];

impl Kms {
    fn mrk(&self, key: &str) -> AwsKmsKeyring {
        AwsKmsKeyring::mrk_aware(self.clients(), key.parse().unwrap())
    }
}

/// The related key in another region.
pub(crate) fn related(key: &str, region: &str) -> String {
    let own = key.split(':').nth(3).unwrap();
    key.replace(own, region)
}

/// How many requests there are when the region at this place is asked once, and no other.
fn once(at: usize) -> [u64; 4] {
    std::array::from_fn(|other| u64::from(other == at))
}

#[tokio::test]
async fn what_each_region_sealed_opens_in_each_of_the_others() {
    let kms = Kms::start().await;
    let primary = kms.local.create_multi_region_key(VIRGINIA, &REGIONS[1..]);
    for sealing in REGIONS {
        let sealer = Envelope::new(kms.mrk(&related(&primary, sealing))).unwrap();
        let message = sealer.encrypt(b"4111 1111 1111 1111", &context()).await.unwrap();
        for (at, opening) in REGIONS.into_iter().enumerate() {
            let openers = [
                Envelope::new(kms.mrk(&related(&primary, opening))).unwrap(),
                Envelope::new(kms.mrk_discovery(opening)).unwrap(),
                Envelope::new(
                    kms.mrk_discovery(opening).with_filter("aws", [super::ACCOUNT]).unwrap(),
                )
                .unwrap(),
            ];
            for opener in openers {
                kms.forget();
                let opened = opener.decrypt(&message, &context()).await.unwrap();
                assert_eq!(opened.plaintext(), b"4111 1111 1111 1111", "{sealing} → {opening}");
                assert_eq!(kms.asked(), once(at), "{sealing} → {opening}");
            }
        }
    }
}

#[tokio::test]
async fn the_wrapped_key_names_the_region_that_sealed() {
    let kms = Kms::start().await;
    let primary = kms.local.create_multi_region_key(VIRGINIA, &[IRELAND]);
    for region in [VIRGINIA, IRELAND] {
        let key = related(&primary, region);
        let sealed = kms.sealed_under(&key).await;
        assert_eq!(sealed.wrapped.key_provider_information, key.as_bytes());
    }
}

#[tokio::test]
async fn who_does_not_know_of_multi_region_keys_leaves_those_of_other_regions() {
    let kms = Kms::start().await;
    let primary = kms.local.create_multi_region_key(VIRGINIA, &[IRELAND]);
    let sealed = kms.sealed_under(&primary).await;
    kms.forget();
    let keys = std::slice::from_ref(&sealed.wrapped);
    assert_no_match(unwrap(&kms.strict(&related(&primary, IRELAND)), keys).await);
    assert_no_match(unwrap(&kms.discovery().in_region(IRELAND.parse().unwrap()), keys).await);
    assert_eq!(kms.asked(), [0; 4]);
    // Discovery asks the key that the message names, where that is.
    assert!(opens(&kms.discovery(), &sealed).await);
    assert_eq!(kms.asked(), once(0));
}

#[tokio::test]
async fn another_multi_region_key_is_not_asked() {
    let kms = Kms::start().await;
    let [one, other] = [(); 2].map(|()| kms.local.create_multi_region_key(VIRGINIA, &[IRELAND]));
    let sealed = kms.sealed_under(&one).await;
    kms.forget();
    assert_no_match(
        unwrap(&kms.mrk(&related(&other, IRELAND)), std::slice::from_ref(&sealed.wrapped)).await,
    );
    assert_eq!(kms.asked(), [0; 4]);
    // Nor does it help to name it: what it unwraps was wrapped by another.
    let error =
        unwrap(&kms.mrk(&related(&other, IRELAND)), &[sealed.named(&*other)]).await.unwrap_err();
    assert_eq!(error.keyring_errors()[0].kind(), KeyringErrorKind::InvalidCiphertext);
}

#[tokio::test]
async fn a_replica_that_is_disabled_refuses_and_the_others_go_on() {
    let kms = Kms::start().await;
    let primary = kms.local.create_multi_region_key(VIRGINIA, &[IRELAND, SYDNEY]);
    let sealed = kms.sealed_under(&primary).await;
    let here = related(&primary, IRELAND);
    kms.local.disable_key(IRELAND, &here).unwrap();
    let keys = std::slice::from_ref(&sealed.wrapped);
    for error in [
        unwrap(&kms.mrk(&here), keys).await.unwrap_err(),
        unwrap(&kms.mrk_discovery(IRELAND), keys).await.unwrap_err(),
    ] {
        let failure = &error.keyring_errors()[0];
        assert_eq!(failure.kind(), KeyringErrorKind::Unusable);
        assert_eq!((failure.wrapping_key(), failure.name_in_messages()), (&*here, &*primary));
        assert!(
            error.to_string().contains(&here) && error.to_string().contains(&primary),
            "{error}"
        );
    }
    assert!(opens(&kms.mrk(&related(&primary, SYDNEY)), &sealed).await);
    assert!(opens(&kms.mrk_discovery(SYDNEY), &sealed).await);
}

#[tokio::test]
async fn a_multi_keyring_of_regions_opens_in_the_first_that_can() {
    let kms = Kms::start().await;
    let primary = kms.local.create_multi_region_key(VIRGINIA, &[IRELAND, SYDNEY]);
    let sealed = kms.sealed_under(&related(&primary, SYDNEY)).await;
    kms.local.faults(SYDNEY).throttle_above(0);
    kms.forget();
    // No replica in the first, and no answer from the second.
    let multi = in_each(&kms.mrk_discovery(SAO_PAULO), &[SAO_PAULO, SYDNEY, IRELAND, VIRGINIA]);
    assert!(opens(&multi, &sealed).await);
    let [virginia, ireland, sydney, sao_paulo] = kms.asked();
    assert_eq!((sao_paulo, ireland, virginia), (1, 1, 0));
    assert!(sydney >= 1);
}

#[tokio::test]
async fn a_multi_keyring_of_keys_opens_what_a_related_key_sealed() {
    let kms = Kms::start().await;
    let (primary, single) =
        (kms.local.create_multi_region_key(VIRGINIA, &[IRELAND]), kms.local.create_key(SYDNEY));
    let keyring = |generator: &str| {
        let multi = MultiKeyring::new(kms.mrk(generator)).with_child(kms.mrk(&single));
        Envelope::new(multi.unwrap()).unwrap()
    };
    let message = keyring(&primary).encrypt(b"x", &context()).await.unwrap();
    assert_eq!(kms.asked(), [1, 0, 1, 0]);
    kms.forget();
    keyring(&related(&primary, IRELAND)).decrypt(&message, &context()).await.unwrap();
    assert_eq!(kms.asked(), once(1));
    // Either one alone opens it.
    Envelope::new(kms.strict(&single)).unwrap().decrypt(&message, &context()).await.unwrap();
}
