//! The four configurations of KMS keys.

use std::sync::Arc;
use std::time::Duration;

use branch_keys::{BuildError, Error, Item, ItemType, KmsKeys, MemoryStorage, Storage};
use branch_keys::{StorageFuture, Verification};
use kms_pool::Region;

use super::support::{IRELAND, Kms, VIRGINIA};
use super::{ID, new_key};

/// The account of `kms-local`.
fn account(key: &kms_pool::KmsKeyArn) -> [String; 1] {
    [key.account().to_owned()]
}

#[tokio::test]
async fn related_keys_serve_each_others_items() {
    let kms = Kms::start().await;
    let storage = Arc::new(MemoryStorage::new());
    let (virginia, ireland) = kms.related_keys();
    let regions = [VIRGINIA, IRELAND];
    let in_virginia =
        kms.builder(storage.clone(), KmsKeys::multi_region(virginia.clone())).build().unwrap();
    let created = in_virginia.create(new_key(ID)).await.unwrap();
    kms.sent();

    let in_ireland = KmsKeys::multi_region(ireland.clone());
    let discovery = KmsKeys::discovery(account(&virginia), regions).unwrap();
    let region: Region = IRELAND.parse().unwrap();
    let discovery_in_ireland =
        KmsKeys::multi_region_discovery(region, account(&virginia), regions).unwrap();
    for (keys, called) in
        [(in_ireland.clone(), &ireland), (discovery, &virginia), (discovery_in_ireland, &ireland)]
    {
        let store = kms.builder(storage.clone(), keys).build().unwrap();
        let key = store.active(ID).await.unwrap();
        assert_eq!((key.version(), key.kms_key()), (created.version, Some(called.as_str())));
        let [(_, body)] = &kms.sent()[..] else { panic!("not one request") };
        assert_eq!(body["KeyId"], called.as_str());
        assert_eq!(body["EncryptionContext"]["kms-arn"], virginia.as_str());
    }
    // A rotation in Ireland keeps the stored ARN.
    let store = kms.builder(storage.clone(), in_ireland).build().unwrap();
    let rotated = store.rotate(ID).await.unwrap();
    assert_eq!(rotated.kms_key_arn, virginia.as_str());
    for (_, body) in kms.sent() {
        let key = body.get("KeyId").or(body.get("SourceKeyId")).unwrap();
        assert_eq!(*key, ireland.as_str());
    }
    assert_eq!(in_virginia.active(ID).await.unwrap().version(), rotated.version);
    assert!(in_virginia.verify(ID).await.as_ref().is_ok_and(Verification::is_ok));

    // The exact key only.
    kms.sent();
    let exact = kms.store(storage, &ireland);
    for error in [exact.active(ID).await.map(drop), exact.rotate(ID).await.map(drop)] {
        let error = error.unwrap_err();
        assert!(matches!(error, Error::KmsKeyNotAllowed { .. }), "{error:?}");
    }
    assert!(kms.sent().is_empty());
}

#[tokio::test]
async fn discovery_calls_no_key_outside_of_its_lists() {
    let kms = Kms::start().await;
    let storage = Arc::new(MemoryStorage::new());
    let key = kms.key();
    kms.store(storage.clone(), &key).create(new_key(ID)).await.unwrap();
    let before = kms.requests();
    let region: Region = IRELAND.parse().unwrap();
    let elsewhere = ["444455556666"];
    for keys in [
        KmsKeys::discovery(elsewhere, [VIRGINIA, IRELAND]).unwrap(),
        KmsKeys::discovery(account(&key), [IRELAND]).unwrap(),
        KmsKeys::multi_region_discovery(region.clone(), elsewhere, [VIRGINIA]).unwrap(),
        KmsKeys::multi_region_discovery(region, account(&key), [IRELAND]).unwrap(),
    ] {
        let store = kms.builder(storage.clone(), keys).build().unwrap();
        for result in [store.active(ID).await.map(drop), store.beacon(ID).await.map(drop)] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::KmsKeyNotAllowed { .. }), "{error:?}");
        }
        let changes = [store.create(new_key("other")).await, store.rotate(ID).await];
        for error in changes.into_iter().map(Result::unwrap_err) {
            assert!(matches!(error, Error::Discovery), "{error:?}");
        }
    }
    assert_eq!(kms.requests(), before);

    let allowed = KmsKeys::discovery(account(&key), [VIRGINIA]).unwrap();
    kms.builder(storage, allowed).build().unwrap().active(ID).await.unwrap();
}

/// A storage in a region.
#[derive(Debug)]
struct In(&'static str, Arc<MemoryStorage>);

impl Storage for In {
    fn identity(&self) -> String {
        self.1.identity()
    }

    fn read<'a>(
        &'a self,
        id: &'a str,
        item_type: ItemType,
        consistent: bool,
    ) -> StorageFuture<'a, Option<Item>> {
        self.1.read(id, item_type, consistent)
    }

    fn items<'a>(&'a self, id: &'a str) -> StorageFuture<'a, Vec<Item>> {
        self.1.items(id)
    }

    fn ids<'a>(&'a self, after: Option<&'a str>, limit: usize) -> StorageFuture<'a, Vec<String>> {
        self.1.ids(after, limit)
    }

    fn create<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        beacon: &'a Item,
    ) -> StorageFuture<'a, ()> {
        self.1.create(active, version, beacon)
    }

    fn rotate<'a>(
        &'a self,
        active: &'a Item,
        version: &'a Item,
        old_ciphertext: &'a [u8],
    ) -> StorageFuture<'a, ()> {
        self.1.rotate(active, version, old_ciphertext)
    }

    fn shred<'a>(&'a self, tombstone: &'a Item) -> StorageFuture<'a, u64> {
        self.1.shred(tombstone)
    }

    fn region(&self) -> Option<&str> {
        Some(self.0)
    }
}

#[tokio::test]
async fn changes_are_made_in_the_home_region_alone() {
    let kms = Kms::start().await;
    let memory = Arc::new(MemoryStorage::new());
    let keys = KmsKeys::exact(kms.key());
    let open = |region| {
        let home = VIRGINIA.parse().unwrap();
        let builder = kms.builder(In(region, memory.clone()), keys.clone());
        builder.home_region(home).build().unwrap()
    };
    open(VIRGINIA).create(new_key(ID)).await.unwrap();
    let before = kms.requests();
    let abroad = open(IRELAND);
    for result in [
        abroad.create(new_key("other")).await.map(drop),
        abroad.ensure(new_key(ID)).await.map(drop),
        abroad.rotate(ID).await.map(drop),
        abroad.rotate_if_older_than(ID, Duration::ZERO).await.map(drop),
        abroad.shred(ID).await.map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::NotInHomeRegion { .. }), "{error:?}");
    }
    assert_eq!(kms.requests(), before);
    abroad.active(ID).await.unwrap();
    open(VIRGINIA).rotate(ID).await.unwrap();
    open(VIRGINIA).shred(ID).await.unwrap();
}

#[tokio::test]
async fn misuse_is_reported_by_build() {
    let kms = Kms::start().await;
    let keys = KmsKeys::exact(kms.key());
    let builder = || kms.builder(MemoryStorage::new(), keys.clone());
    let hour = Duration::from_hours(1);
    let nameless =
        branch_keys::KeyStore::builder(MemoryStorage::new(), "", keys.clone(), kms.clients.clone());
    for (builder, expected) in [
        (nameless, "logical_name"),
        (builder().home_region(VIRGINIA.parse().unwrap()), "home_region"),
        (builder().max_active_age(Duration::from_secs(59)), "max_active_age"),
        (builder().max_active_age(Duration::MAX), "max_active_age"),
        (builder().max_active_age(hour * 24 * 365 * 101), "max_active_age"),
    ] {
        let BuildError::InvalidSetting { setting, .. } = builder.build().unwrap_err() else {
            panic!("another error")
        };
        assert_eq!(setting, expected);
    }
    builder().max_active_age(hour).build().unwrap();
}
