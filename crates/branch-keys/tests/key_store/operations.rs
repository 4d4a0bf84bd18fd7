//! Operations, and the requests that they send.

use std::sync::Arc;
use std::time::Duration;

use branch_keys::{CreateBranchKey, Error, Item, ItemType, KmsKeys, MemoryStorage, Storage};
use envelope::branch_key::{BranchKeySource as _, MissingBranchKey};
use envelope::keyring::KeyringErrorKind;
use kms_pool::KmsErrorKind;
use serde_json::{Value, json};

use super::support::{Kms, VIRGINIA};
use super::{ID, attributes, changed, new_key};

async fn item(storage: &MemoryStorage, item_type: ItemType) -> Item {
    storage.read(ID, item_type, true).await.unwrap().unwrap()
}

fn context(item: &Item) -> Value {
    json!(super::support::context(item))
}

#[tokio::test]
async fn creation_sends_the_requests_of_the_specification() {
    let kms = Kms::start().await;
    let key = kms.key();
    let storage = Arc::new(MemoryStorage::new());
    let keys = KmsKeys::exact(key.clone());
    let store = kms.builder(storage.clone(), keys).grant_tokens(["one", "two"]).build().unwrap();
    let info = store.create(new_key(ID)).await.unwrap();

    let version_type = ItemType::Version(info.version);
    let active = item(&storage, ItemType::Active).await;
    let version = item(&storage, version_type).await;
    let beacon = item(&storage, ItemType::Beacon).await;
    assert_eq!(storage.items(ID).await.unwrap().len(), 3);
    for item in [&active, &version, &beacon] {
        assert_eq!(item.id, ID);
        assert_eq!(item.kms_key_arn, key.as_str());
        assert_eq!(item.create_time, active.create_time);
        assert_eq!(item.hierarchy_version, 1);
        let custom = [("aws-crypto-ec:department", "7"), ("aws-crypto-ec:tenant", "42")];
        assert_eq!(item.attributes, attributes(&custom));
    }
    assert_eq!(active.version, Some(version_type.to_string()));
    assert!(version.version.is_none() && beacon.version.is_none());
    assert_eq!(info.context, attributes(&[("department", "7"), ("tenant", "42")]));
    // A version 4 UUID, as the specification requires.
    assert_eq!((info.version[6] >> 4, info.version[8] >> 6), (4, 2));

    let mut sent = kms.sent();
    // The beacon key is generated at the same time as the branch key.
    sent.sort_by_key(|(operation, body)| {
        let kind = body["EncryptionContext"]["type"].as_str().map(ToOwned::to_owned);
        (operation != "GenerateDataKeyWithoutPlaintext", kind)
    });
    let generate = |item: &Item| {
        let body = json!({
            "KeyId": key.as_str(),
            "NumberOfBytes": 32,
            "EncryptionContext": context(item),
            "GrantTokens": ["one", "two"],
        });
        ("GenerateDataKeyWithoutPlaintext".to_owned(), body)
    };
    assert_eq!(sent[..2], [generate(&beacon), generate(&version)]);
    let (operation, body) = &sent[2];
    assert_eq!((sent.len(), operation.as_str()), (3, "ReEncrypt"));
    assert_eq!(body["SourceEncryptionContext"], context(&version));
    assert_eq!(body["DestinationEncryptionContext"], context(&active));
    assert_eq!([&body["SourceKeyId"], &body["DestinationKeyId"]], [key.as_str(); 2]);
    assert_eq!(body["GrantTokens"], json!(["one", "two"]));

    store.active(ID).await.unwrap();
    let [(operation, body)] = &kms.sent()[..] else { panic!("not one request") };
    assert_eq!(operation, "Decrypt");
    assert_eq!(body["EncryptionContext"], context(&active));
    assert_eq!(body["KeyId"], key.as_str());
    assert_eq!(body["GrantTokens"], json!(["one", "two"]));
    assert!(!format!("{store:?}").contains("two"), "a grant token in Debug");
}

#[tokio::test]
async fn a_rotation_authenticates_and_keeps_everything_else() {
    let kms = Kms::start().await;
    let storage = Arc::new(MemoryStorage::new());
    let store = kms.store(storage.clone(), &kms.key());
    let created = store.create(new_key(ID)).await.unwrap();
    let before = item(&storage, ItemType::Active).await;
    let beacon = item(&storage, ItemType::Beacon).await;
    kms.sent();

    let rotated = store.rotate(ID).await.unwrap();
    assert_ne!(rotated.version, created.version);
    assert!(rotated.create_time > created.create_time);
    assert_eq!((&rotated.context, &rotated.kms_key_arn), (&created.context, &created.kms_key_arn));
    let active = item(&storage, ItemType::Active).await;
    let version = item(&storage, ItemType::Version(rotated.version)).await;
    assert_eq!(item(&storage, ItemType::Beacon).await, beacon);
    assert_eq!(active.attributes, before.attributes);
    let sent = kms.sent();
    let operations: Vec<_> = sent.iter().map(|(operation, _)| operation.as_str()).collect();
    assert_eq!(operations, ["ReEncrypt", "GenerateDataKeyWithoutPlaintext", "ReEncrypt"]);
    for name in ["SourceEncryptionContext", "DestinationEncryptionContext"] {
        assert_eq!(sent[0].1[name], context(&before), "{name}");
    }
    assert_eq!(sent[1].1["EncryptionContext"], context(&version));
    assert_eq!(sent[2].1["DestinationEncryptionContext"], context(&active));

    // Both versions are there, and they are what the active items were.
    assert_eq!(store.active(ID).await.unwrap().version(), rotated.version);
    assert_eq!(store.version(ID, created.version).await.unwrap().version(), created.version);
    assert_eq!(store.beacon(ID).await.unwrap().len(), 32);
    let verification = store.verify(ID).await.unwrap();
    assert!(verification.is_ok(), "{verification:?}");
    assert_eq!(verification.authentic, 4);

    // A changed item is not rotated.
    storage.put(changed(&active, |item| {
        item.attributes.insert("aws-crypto-ec:tenant".to_owned(), "43".to_owned());
    }));
    let error = store.rotate(ID).await.unwrap_err();
    assert!(super::is_inauthentic(&error), "{error:?}");
    assert_eq!(storage.items(ID).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_rotation_is_later_than_an_active_item_of_a_clock_that_is_ahead() {
    let kms = Kms::start().await;
    let storage = Arc::new(MemoryStorage::new());
    let store = kms.store(storage.clone(), &kms.key());
    store.create(new_key(ID)).await.unwrap();
    let active = item(&storage, ItemType::Active).await;
    let ahead = "2099-01-01T00:00:00.000000Z".to_owned();
    storage.put(kms.re_encrypted(&active, |item| item.create_time = ahead).await);
    let rotated = store.rotate(ID).await.unwrap();
    assert_eq!(rotated.create_time, "2099-01-01T00:00:00.000001Z");
    store.active(ID).await.unwrap();
}

#[tokio::test]
async fn arguments_are_checked_before_any_request() {
    let kms = Kms::start().await;
    let store = kms.store(MemoryStorage::new(), &kms.key());
    let none: [(&str, &str); 0] = [];
    for (new, argument) in [
        (new_key(""), "id"),
        (new_key(&"x".repeat(2_049)), "id"),
        (CreateBranchKey::new(ID, none), "context"),
        (CreateBranchKey::new(ID, [("", "x")]), "context"),
    ] {
        let error = store.create(new).await.unwrap_err();
        let Error::InvalidArgument { argument: found, .. } = error else { panic!("{error:?}") };
        assert_eq!(found, argument);
    }
    let error = store.ensure(CreateBranchKey::with_random_id()).await.unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { argument: "id", .. }), "{error:?}");
    assert_eq!(kms.requests(), 0);

    let random = store.create(CreateBranchKey::with_random_id()).await.unwrap();
    assert_eq!(random.id.len(), 36);
    assert_eq!(store.list(None, 10).await.unwrap(), [random.id]);
    for error in [store.rotate(ID).await.unwrap_err(), store.shred(ID).await.unwrap_err()] {
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn only_an_old_branch_key_is_rotated_by_a_schedule() {
    let kms = Kms::start().await;
    let store = kms.store(MemoryStorage::new(), &kms.key());
    let created = store.create(new_key(ID)).await.unwrap();
    let hour = Duration::from_hours(1);
    assert_eq!(store.rotate_if_older_than(ID, hour).await.unwrap(), created);
    let rotated = store.rotate_if_older_than(ID, Duration::ZERO).await.unwrap();
    assert_ne!(rotated.version, created.version);
}

#[tokio::test]
async fn an_interrupted_shredding_is_repeated() {
    let kms = Kms::start().await;
    let storage = Arc::new(MemoryStorage::new());
    let store = kms.store(storage.clone(), &kms.key());
    let created = store.create(new_key(ID)).await.unwrap();
    let beacon = item(&storage, ItemType::Beacon).await;
    // The process has ended after the tombstone and the first deletion.
    storage.put(changed(&beacon, |item| item.item_type = ItemType::Tombstone));
    storage.remove(ID, ItemType::Active).unwrap();

    let error = store.active(ID).await.unwrap_err();
    assert!(matches!(error, Error::Shredded { .. }), "{error:?}");
    let verification = store.verify(ID).await.unwrap();
    let left: Vec<_> = verification.problems.iter().map(|problem| problem.item_type).collect();
    assert_eq!(left, [ItemType::Version(created.version), ItemType::Beacon]);
    assert!(store.version(ID, created.version).await.is_ok(), "not deleted yet");

    assert_eq!(store.shred(ID).await.unwrap(), 2);
    assert_eq!(store.shred(ID).await.unwrap(), 0);
    let error = store.version(ID, created.version).await.unwrap_err();
    assert!(matches!(error, Error::Shredded { .. }), "{error:?}");
    let error = store.ensure(new_key(ID)).await.unwrap_err();
    assert!(matches!(error, Error::Shredded { .. }), "{error:?}");
}

#[tokio::test]
async fn errors_tell_a_cache_what_to_drop() {
    let kms = Kms::start().await;
    let storage = Arc::new(MemoryStorage::new());
    let key = kms.key();
    let store = kms.store(storage.clone(), &key);
    let missing = |error| MissingBranchKey::in_error(&error);
    let active =
        async || envelope::branch_key::BranchKeySource::active(&store, ID, false).await.map(|_| ());
    assert_eq!(missing(active().await.unwrap_err()), Some(MissingBranchKey::NotFound));
    let created = store.create(new_key(ID)).await.unwrap();
    assert_eq!(store.versions(ID).await.unwrap(), Some(vec![created.version]));
    let version = [7; 16];
    let error = envelope::branch_key::BranchKeySource::version(&store, ID, version, true).await;
    let expected = MissingBranchKey::VersionNotFound { version };
    assert_eq!(missing(error.unwrap_err()), Some(expected));

    let faults = kms.local.faults(VIRGINIA);
    faults.deny_access(true);
    let error = active().await.unwrap_err();
    assert_eq!((error.kind(), error.wrapping_key()), (KeyringErrorKind::Denied, key.as_str()));
    faults.clear();
    faults.wrong_key_ids(true);
    assert_eq!(active().await.unwrap_err().kind(), KeyringErrorKind::InvalidResponse);
    let error = store.create(new_key("other")).await.unwrap_err();
    assert!(matches!(error, Error::InvalidResponse { .. }), "{error:?}");
    faults.clear();
    kms.local.disable_key(VIRGINIA, key.as_str()).unwrap();
    let error = store.active(ID).await.unwrap_err();
    let Error::Kms { cause, .. } = &error else { panic!("{error:?}") };
    assert_eq!(cause.kind(), KmsErrorKind::KeyDisabled);
    // It is the KMS key that every branch key under it names.
    let error = active().await.unwrap_err();
    assert_eq!((error.kind(), error.wrapping_key()), (KeyringErrorKind::Unusable, key.as_str()));

    store.shred(ID).await.unwrap();
    assert_eq!(missing(active().await.unwrap_err()), Some(MissingBranchKey::Shredded));
}
