//! The hierarchical keyring.

use std::borrow::Cow;

use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Envelope, Error,
    branch_key::{BranchKeys, StaticBranchKeys},
    keyring::{
        HierarchicalKeyring, Keyring, KeyringError, KeyringErrorKind, KeyringRequest, MultiKeyring,
        RawAesKeyring, RotatingKeyring,
    },
    materials::{DefaultMaterialsManager, EncryptedDataKey},
};

use crate::{
    source::{Source, kms_key},
    support::{caching, context, eventually, now},
};

/// The branch key of AWS's test vectors.
const ID: &str = "bd3842ff-3076-4092-9918-4395730050b8";
const VERSION: &str = "e9ce18a3edb542729f861cacb7997ff6";
const SECRET: &str = "b49c1feb97a962f52de4732242c97fea396f2f14b4b6076322ebc5cb604b2308";
/// The data key 00 01 02 … 1F, wrapped for the encryption context `tenant = 42`: computed from the
/// specification with Python's `hmac` and `cryptography`.
const PINNED: &str = "a0a1a2a3a4a5a6a7a8a9aaabacadaeafc0c1c2c3c4c5c6c7c8c9cacbe9ce18a3edb542729f86\
                      1cacb7997ff6770510dd368158098e4745fc27ea955c5d3360be83843762074c6374ffc24ff7\
                      65c4e56471956b80f2efe6c0add3ac9a";

fn static_keys() -> BranchKeys {
    let version = hex::decode(VERSION).unwrap().try_into().unwrap();
    let secret = DataKey::from_vec(hex::decode(SECRET).unwrap());
    BranchKeys::new(StaticBranchKeys::new().with_active(ID, version, secret).unwrap())
}

fn keyring() -> HierarchicalKeyring {
    HierarchicalKeyring::new(static_keys(), ID).unwrap()
}

fn request(context: &EncryptionContext) -> KeyringRequest<'_> {
    KeyringRequest::new(AlgorithmSuite::default(), context)
}

fn unwrap(
    keyring: &HierarchicalKeyring,
    context: &EncryptionContext,
    keys: &[EncryptedDataKey],
) -> Result<DataKey, Vec<KeyringError>> {
    let waited = now(keyring.unwrap(request(context), keys));
    // The same without waiting, if the version is cached.
    if let Some(at_once) = keyring.try_unwrap(request(context), keys) {
        let text = |it: &Result<DataKey, Vec<KeyringError>>| match it {
            Ok(key) => hex::encode(key.expose_secret()),
            Err(failures) => {
                format!("{:?}", failures.iter().map(KeyringError::kind).collect::<Vec<_>>())
            }
        };
        assert_eq!(text(&at_once), text(&waited));
    }
    waited
}

#[test]
fn a_pinned_encrypted_data_key_is_unwrapped() {
    let ciphertext = hex::decode(PINNED).unwrap();
    let wrapped = EncryptedDataKey {
        key_provider_id: "aws-kms-hierarchy".to_owned(),
        key_provider_information: ID.into(),
        ciphertext,
    };
    let data_key = unwrap(&keyring(), &context("42"), &[wrapped]).unwrap();
    let expected: Vec<_> = (0..32).collect();
    assert_eq!(data_key.expose_secret(), expected);
    assert_eq!(data_key.wrapping_key(), Some(ID));
}

#[test]
fn every_changed_bit_and_length_is_refused() {
    let keyring = keyring();
    let context = context("42");
    let generated = now(keyring.generate(request(&context))).unwrap();
    let [wrapped] = &*generated.encrypted_data_keys else { panic!("one") };
    assert_eq!((&*wrapped.key_provider_id, wrapped.ciphertext.len()), ("aws-kms-hierarchy", 92));
    assert_eq!(wrapped.key_provider_information, ID.as_bytes());
    let unwrapped = unwrap(&keyring, &context, &generated.encrypted_data_keys).unwrap();
    assert_eq!(unwrapped.expose_secret(), generated.data_key.expose_secret());
    let refused = |ciphertext: Vec<u8>| {
        let changed = EncryptedDataKey { ciphertext, ..wrapped.clone() };
        let failures = unwrap(&keyring, &context, &[changed]).unwrap_err();
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].kind(), KeyringErrorKind::InvalidCiphertext);
        assert_eq!(failures[0].name_in_messages(), ID);
    };
    for at in (0..28).chain(44..92) {
        let mut ciphertext = wrapped.ciphertext.clone();
        ciphertext[at] ^= 1;
        refused(ciphertext);
    }
    for length in 0..92 {
        refused(wrapped.ciphertext[..length].to_vec());
    }
    refused([&*wrapped.ciphertext, &[0]].concat());
    // Another version: not in the store, and then refused without a request.
    let mut ciphertext = wrapped.ciphertext.clone();
    ciphertext[28] ^= 1;
    refused(ciphertext);
}

#[test]
fn the_context_is_authenticated() {
    let keyring = keyring();
    let generated = now(keyring.generate(request(&context("42")))).unwrap();
    let more = EncryptionContext::new([("tenant", "42"), ("row", "1")]).unwrap();
    for other in [context("43"), more, EncryptionContext::empty()] {
        let failures = unwrap(&keyring, &other, &generated.encrypted_data_keys).unwrap_err();
        assert_eq!(failures[0].kind(), KeyringErrorKind::InvalidCiphertext);
    }
}

#[test]
fn what_another_keyring_wrapped_is_skipped() {
    let keyring = keyring();
    let context = context("42");
    let generated = now(keyring.generate(request(&context))).unwrap();
    let own = generated.encrypted_data_keys[0].clone();
    let others = [
        EncryptedDataKey { key_provider_id: "aws-kms".into(), ..own.clone() },
        EncryptedDataKey { key_provider_information: ID.to_uppercase().into(), ..own.clone() },
        EncryptedDataKey { key_provider_information: vec![0xFF; 36], ..own.clone() },
        EncryptedDataKey { key_provider_information: ID[..35].into(), ..own.clone() },
        EncryptedDataKey { key_provider_information: vec![], ..own.clone() },
    ];
    assert!(unwrap(&keyring, &context, &others).unwrap_err().is_empty());
    let all = [&others[..], &[own]].concat();
    assert!(unwrap(&keyring, &context, &all).is_ok());
}

#[test]
fn salts_and_ivs_differ_and_every_suite_works() {
    let keyring = keyring();
    let context = context("42");
    let mut seen = std::collections::BTreeSet::new();
    for suite in [0x0014, 0x0046, 0x0078, 0x0478, 0x0578] {
        let suite = AlgorithmSuite::from_id(suite).unwrap();
        let request = KeyringRequest::new(suite, &context);
        let generated = now(keyring.generate(request)).unwrap();
        let ciphertext = &generated.encrypted_data_keys[0].ciphertext;
        assert_eq!(ciphertext.len(), 60 + generated.data_key.len());
        assert!(seen.insert(ciphertext[..16].to_vec()) && seen.insert(ciphertext[16..28].to_vec()));
        let unwrapped = now(keyring.unwrap(request, &generated.encrypted_data_keys)).unwrap();
        assert_eq!(unwrapped.expose_secret(), generated.data_key.expose_secret());
    }
}

fn by_tenant(context: &EncryptionContext) -> Result<Cow<'_, str>, Error> {
    let problem = "no pair `tenant`";
    context.get("tenant").map(Cow::Borrowed).ok_or(Error::InvalidEncryptionContext { problem })
}

/// With a warm branch key, an envelope without data-key cache neither waits nor asks.
#[test]
fn nothing_waits_over_a_warm_branch_key() {
    let source = Source::open();
    let keyring = HierarchicalKeyring::with_supplier(BranchKeys::new(source.clone()), by_tenant);
    let keyring = RotatingKeyring::new(MultiKeyring::new(keyring));
    let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring)).build().unwrap();
    assert!(matches!(envelope.try_encrypt(b"x", &context("42")), Err(Error::NotCached)));
    now(envelope.encrypt(b"x", &context("42"))).unwrap();
    for row in 0..100 {
        let row = row.to_string();
        let context = EncryptionContext::new([("tenant", "42"), ("row", &*row)]).unwrap();
        let message = envelope.try_encrypt(row.as_bytes(), &context).unwrap();
        assert_eq!(envelope.try_decrypt(&message, &context).unwrap().plaintext(), row.as_bytes());
    }
    assert_eq!(source.counts(), (1, 0, 0));
    let no_tenant = envelope.try_encrypt(b"x", &EncryptionContext::empty());
    assert!(matches!(no_tenant, Err(Error::InvalidEncryptionContext { .. })));
}

/// The same for a branch key that wraps the data key of another keyring.
#[test]
fn nothing_waits_for_a_child_over_a_warm_branch_key() {
    let keys = BranchKeys::new(Source::open());
    let child = || HierarchicalKeyring::with_supplier(keys.clone(), by_tenant);
    let aes = RawAesKeyring::new("ns", "a", &DataKey::from_vec(vec![7; 32])).unwrap();
    let multi = MultiKeyring::new(aes).with_child(RotatingKeyring::new(child())).unwrap();
    let manager = DefaultMaterialsManager::new(multi);
    let envelope = Envelope::builder(manager).build().unwrap();
    assert!(matches!(envelope.try_encrypt(b"x", &context("42")), Err(Error::NotCached)));
    now(keys.active("42")).unwrap();
    let message = envelope.try_encrypt(b"x", &context("42")).unwrap();
    let alone = Envelope::builder(DefaultMaterialsManager::new(child())).build().unwrap();
    assert_eq!(alone.try_decrypt(&message, &context("42")).unwrap().plaintext(), b"x");
    let no_tenant = envelope.try_encrypt(b"x", &EncryptionContext::empty());
    assert!(matches!(no_tenant, Err(Error::InvalidEncryptionContext { .. })));
}

#[test]
fn an_async_supplier_works() {
    let keys = BranchKeys::new(Source::open());
    let keyring = HierarchicalKeyring::with_async_supplier(keys, |context| {
        Box::pin(async move { Ok(by_tenant(&context)?.into_owned()) })
    });
    let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring)).build().unwrap();
    let message = now(envelope.encrypt(b"x", &context("42"))).unwrap();
    assert_eq!(now(envelope.decrypt(&message, &context("42"))).unwrap().plaintext(), b"x");
    assert!(matches!(envelope.try_encrypt(b"x", &context("42")), Err(Error::NotCached)));
}

/// One tenant's id may be the start of another's: a refusal drops the data keys of one alone.
#[test]
fn works_beneath_a_data_key_cache() {
    let source = Source::open();
    let keys = BranchKeys::new(source.clone());
    let keyring = HierarchicalKeyring::with_supplier(keys.clone(), by_tenant);
    let envelope = caching(keyring, |builder| builder);
    for tenant in ["4", "42"] {
        let message = now(envelope.encrypt(b"x", &context(tenant))).unwrap();
        assert_eq!(now(envelope.decrypt(&message, &context(tenant))).unwrap().plaintext(), b"x");
    }
    assert_eq!(source.counts(), (2, 0, 0));
    source.fail("4", KeyringErrorKind::Unusable);
    keys.clear();
    let other = EncryptionContext::new([("tenant", "4"), ("row", "1")]).unwrap();
    assert!(now(envelope.encrypt(b"x", &other)).is_err());
    assert!(envelope.try_encrypt(b"x", &context("4")).is_err());
    envelope.try_encrypt(b"x", &context("42")).unwrap();
}

fn row(tenant: &str, row: &str) -> EncryptionContext {
    EncryptionContext::new([("tenant", tenant), ("row", row)]).unwrap()
}

/// KMS denies the branch key, not one encryption context: no data key under it may stay.
#[tokio::test]
async fn a_denied_branch_key_drops_all_its_data_keys() {
    let source = Source::open();
    let keys = BranchKeys::new(source.clone());
    let keyring = HierarchicalKeyring::with_supplier(keys.clone(), by_tenant);
    let envelope = caching(keyring, |builder| builder);
    for tenant in ["a1", "a2"] {
        for number in ["1", "2", "3", "4", "5"] {
            envelope.encrypt(b"x", &row(tenant, number)).await.unwrap();
        }
    }
    let is_cached = |tenant, number| envelope.try_encrypt(b"x", &row(tenant, number)).is_ok();
    for (tenant, left) in [("a1", "a2"), ("a2", "")] {
        let denied = KeyringError::new(kms_key(tenant), KeyringErrorKind::Denied, "told to");
        source.fail_with(tenant, denied);
        keys.clear();
        assert!(envelope.encrypt(b"x", &row(tenant, "new")).await.is_err());
        eventually(|| !["1", "2", "3", "4", "5"].iter().any(|number| is_cached(tenant, number)))
            .await;
        assert!(left.is_empty() || is_cached(left, "1"));
    }
}

/// One denial that passes must not hide the revocation of another branch key under the KMS key.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_branch_key_that_works_again_does_not_hide_that_another_is_denied() {
    let source = Source::open();
    let keys = BranchKeys::builder(source.clone());
    let keys = keys.remember_failures_for(std::time::Duration::ZERO).build().unwrap();
    let keyring = HierarchicalKeyring::with_supplier(keys.clone(), by_tenant);
    let envelope = caching(keyring, |builder| builder);
    for tenant in ["a1", "a2"] {
        for number in ["1", "2"] {
            envelope.encrypt(b"x", &row(tenant, number)).await.unwrap();
        }
    }
    let deny = |tenant| {
        let denied = KeyringError::new(kms_key(tenant), KeyringErrorKind::Denied, "told to");
        source.fail_with(tenant, denied);
        keys.clear();
    };
    deny("a1");
    source.gate.forget_permits(usize::MAX);
    source.gate.add_permits(1);
    assert!(envelope.encrypt(b"x", &row("a1", "new")).await.is_err());
    // The probe gets through.
    source.work();
    let loads = envelope.cache().unwrap().stats().encryption.loads;
    source.gate.add_permits(1_000);
    eventually(|| envelope.cache().unwrap().stats().encryption.loads > loads).await;
    deny("a2");
    assert!(envelope.encrypt(b"x", &row("a2", "new")).await.is_err());
    eventually(|| envelope.try_encrypt(b"x", &row("a2", "1")).is_err()).await;
    envelope.try_encrypt(b"x", &row("a1", "1")).unwrap();
}

#[test]
fn suppliers_are_never_taken_for_one_another() {
    let keys = static_keys();
    let supplied = || HierarchicalKeyring::with_supplier(keys.clone(), by_tenant);
    assert_ne!(supplied().identity(), supplied().identity());
    let fixed = |id: &str| HierarchicalKeyring::new(keys.clone(), id).unwrap().identity();
    assert_eq!(fixed("a"), fixed("a"));
    assert_ne!(fixed("a"), fixed("b"));
    assert!(HierarchicalKeyring::new(keys.clone(), "").is_err());
}
