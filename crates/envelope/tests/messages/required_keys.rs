//! Required keys bind a message to pairs that it does not contain, in every way to encrypt and
//! decrypt.

use std::{
    io::{Read as _, Write as _},
    sync::Arc,
};

use crate::support::{context, keyring};
use envelope::{
    DataKey, EncryptionContext, Envelope, Error, ResultFuture,
    materials::{
        CachingMaterialsManager, DecryptionMaterials, DecryptionMaterialsRequest,
        DefaultMaterialsManager, EncryptedDataKey, EncryptionMaterials, EncryptionMaterialsRequest,
        MaterialsManager,
    },
};
use futures_executor::block_on;

const CARD: &[u8] = b"4111 1111 1111 1111";

/// Two clients of one cache: one requires `tenant`, the other nothing.
fn clients() -> (Envelope, Envelope) {
    let source = DefaultMaterialsManager::new(keyring());
    let caching = CachingMaterialsManager::builder(source).build().unwrap();
    let requiring = Envelope::builder(caching.clone()).required_keys(["tenant"]).build().unwrap();
    (requiring, Envelope::builder(caching).build().unwrap())
}

fn is_missing<T: std::fmt::Debug>(outcome: Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::RequiredContextMissing { key }) if key == "tenant")
}

fn stores_tenant(message: &[u8]) -> bool {
    message.windows(6).any(|bytes| bytes == b"tenant")
}

/// Each way to encrypt: its name, and its message or error.
fn encrypted(
    envelope: &Envelope,
    context: &EncryptionContext,
) -> Vec<(&'static str, Result<Vec<u8>, Error>)> {
    // The result does not matter: without the key, each way fails by itself.
    drop(block_on(envelope.warm([context])));
    let into = |encrypt: &dyn Fn(&mut Vec<u8>) -> Result<(), Error>| {
        let mut message = vec![];
        encrypt(&mut message).map(|()| message)
    };
    let batch = block_on(envelope.encrypt_batch(&[CARD], context));
    let stream = block_on(envelope.encryptor(context, None)).map(|encryptor| {
        let mut writer = encryptor.writer(Vec::new());
        writer.write_all(CARD).unwrap();
        writer.finish().unwrap()
    });
    let prepared = envelope.prepare(context);
    let blocking = envelope.blocking();
    vec![
        ("encrypt", block_on(envelope.encrypt(CARD, context))),
        ("encrypt_into", into(&|out| block_on(envelope.encrypt_into(CARD, context, out)))),
        ("try_encrypt", envelope.try_encrypt(CARD, context)),
        ("try_encrypt_into", into(&|out| envelope.try_encrypt_into(CARD, context, out))),
        ("batch", batch.map(|messages| messages.concat())),
        ("stream", stream),
        ("prepared", prepared.clone().and_then(|it| block_on(it.encrypt(CARD)))),
        ("prepared, try", prepared.and_then(|it| it.try_encrypt(CARD))),
        ("blocking", blocking.encrypt(CARD, context)),
    ]
}

/// Each way to decrypt: its name, and its plaintext or error.
fn decrypted(
    envelope: &Envelope,
    message: &[u8],
    context: &EncryptionContext,
) -> Vec<(&'static str, Result<Vec<u8>, Error>)> {
    let mut copies = [message.to_vec(), message.to_vec()];
    let [in_place, try_in_place] = &mut copies;
    let mut buffers = [vec![], vec![]];
    let [into, try_into] = &mut buffers;
    let batch = block_on(envelope.decrypt_batch(&[message], context)).remove(0);
    let stream = || {
        let mut source = message;
        let header = envelope.read_header(&mut source).unwrap();
        let mut plaintext = vec![];
        let decryptor = block_on(envelope.decryptor(&header, context))?;
        decryptor.reader(source).read_to_end(&mut plaintext).unwrap();
        Ok(plaintext)
    };
    let plain = |outcome: Result<envelope::Decrypted, Error>| {
        outcome.map(envelope::Decrypted::into_plaintext)
    };
    let slice = |outcome: Result<envelope::Decrypted<&mut [u8]>, Error>| {
        outcome.map(|decrypted| decrypted.plaintext().to_vec())
    };
    vec![
        ("decrypt", plain(block_on(envelope.decrypt(message, context)))),
        ("decrypt_into", slice(block_on(envelope.decrypt_into(message, context, into)))),
        ("in place", slice(block_on(envelope.decrypt_in_place(in_place, context)))),
        ("try_decrypt", plain(envelope.try_decrypt(message, context))),
        ("try_decrypt_into", slice(envelope.try_decrypt_into(message, context, try_into))),
        ("try in place", slice(envelope.try_decrypt_in_place(try_in_place, context))),
        ("batch", plain(batch)),
        ("stream", stream()),
        ("blocking", plain(envelope.blocking().decrypt(message, context))),
    ]
}

#[test]
fn every_way_to_encrypt_needs_the_key_and_does_not_store_its_pair() {
    let (requiring, plain) = clients();
    for (way, message) in encrypted(&requiring, &context("42")) {
        let message = message.unwrap();
        assert!(!stores_tenant(&message), "{way}");
        for envelope in [&requiring, &plain] {
            let decrypted = block_on(envelope.decrypt(&message, &context("42"))).unwrap();
            assert_eq!(decrypted.plaintext(), CARD, "{way}");
            assert_eq!(decrypted.encryption_context(), &context("42"), "{way}");
        }
    }
    let other = EncryptionContext::new([("purpose", "card number")]).unwrap();
    for (way, outcome) in encrypted(&requiring, &other) {
        assert!(is_missing(outcome), "{way}");
    }
    let [warmed] = &block_on(requiring.warm([&other]))[..] else { panic!("one context") };
    assert!(matches!(warmed, Err(Error::RequiredContextMissing { .. })), "{warmed:?}");
}

#[test]
fn every_way_to_decrypt_needs_the_right_value() {
    let (requiring, plain) = clients();
    // Data keys of both tenants are cached, for encryption and for decryption.
    let message = block_on(requiring.encrypt(CARD, &context("42"))).unwrap();
    let others = block_on(requiring.encrypt(b"other", &context("43"))).unwrap();
    block_on(requiring.decrypt(&others, &context("43"))).unwrap();
    for (way, outcome) in decrypted(&requiring, &message, &context("42")) {
        assert_eq!(outcome.unwrap(), CARD, "{way}");
    }
    for (way, outcome) in decrypted(&requiring, &message, &EncryptionContext::empty()) {
        assert!(is_missing(outcome), "{way}");
    }
    for (way, outcome) in decrypted(&requiring, &message, &context("43")) {
        match outcome.unwrap_err() {
            // The wrapped data key is bound to the other value.
            Error::DataKeyNotUnwrapped { not_stored, .. } => assert_eq!(not_stored, ["tenant"]),
            Error::Remembered { cause, .. } => {
                assert!(matches!(*cause, Error::DataKeyNotUnwrapped { .. }), "{way}: {cause:?}");
            }
            Error::NotCached => assert!(way.starts_with("try"), "{way}"),
            error => panic!("{way}: {error:?}"),
        }
    }
    // Without the value, no client decrypts it.
    let without = block_on(plain.decrypt(&message, &EncryptionContext::empty()));
    assert!(matches!(without, Err(Error::DataKeyNotUnwrapped { .. })), "{without:?}");
}

#[test]
fn older_messages_that_store_the_pair_need_the_same_value() {
    let (requiring, plain) = clients();
    let old = block_on(plain.encrypt(CARD, &context("42"))).unwrap();
    assert!(stores_tenant(&old));
    for (way, outcome) in decrypted(&requiring, &old, &context("42")) {
        assert_eq!(outcome.unwrap(), CARD, "{way}");
    }
    for (way, outcome) in decrypted(&requiring, &old, &EncryptionContext::empty()) {
        assert!(is_missing(outcome), "{way}");
    }
    for (way, outcome) in decrypted(&requiring, &old, &context("43")) {
        let mismatch =
            matches!(outcome, Err(Error::EncryptionContextMismatch { key }) if key == "tenant");
        assert!(mismatch, "{way}");
    }
    // A message that never had the pair is not of this tenant either.
    let unbound = block_on(plain.encrypt(CARD, &EncryptionContext::empty())).unwrap();
    let outcome = block_on(requiring.decrypt(&unbound, &context("42")));
    assert!(matches!(outcome, Err(Error::DataKeyNotUnwrapped { .. })), "{outcome:?}");
}

#[test]
fn further_pairs_may_be_supplied_or_left_out_and_values_may_be_empty() {
    let (requiring, _) = clients();
    let pairs = |pairs: &[(&'static str, &'static str)]| {
        EncryptionContext::new(pairs.iter().copied()).unwrap()
    };
    let stored = pairs(&[("tenant", ""), ("purpose", "card number")]);
    let message = block_on(requiring.encrypt(CARD, &stored)).unwrap();
    for (way, outcome) in decrypted(&requiring, &message, &pairs(&[("tenant", "")])) {
        assert_eq!(outcome.unwrap(), CARD, "{way}");
    }
    for wrong in [
        pairs(&[("tenant", "42")]),
        pairs(&[("tenant", ""), ("purpose", "other")]),
        pairs(&[("tenant", ""), ("table", "cards")]),
    ] {
        for (way, outcome) in decrypted(&requiring, &message, &wrong) {
            assert!(outcome.is_err(), "{way}, {wrong:?}");
        }
    }
}

#[test]
fn reserved_keys_cannot_be_required() {
    let builder = Envelope::builder(DefaultMaterialsManager::new(keyring()));
    let error = builder.required_keys(["aws-crypto-public-key"]).build().unwrap_err();
    assert!(matches!(error, Error::InvalidSetting { setting: "required_keys", .. }), "{error}");
}

/// Supplies a data key that is not bound to an encryption context, and ignores which pairs are
/// required.
#[derive(Debug, Clone)]
struct Forgetful;

impl Forgetful {
    fn data_key() -> DataKey {
        DataKey::from_vec(vec![7; 32])
    }
}

impl MaterialsManager for Forgetful {
    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<EncryptionMaterials>> {
        let wrapped = EncryptedDataKey {
            key_provider_id: "store".to_owned(),
            key_provider_information: b"1".to_vec(),
            ciphertext: vec![],
        };
        let context = request.encryption_context.clone();
        let materials =
            EncryptionMaterials::new(request.suite, context, Self::data_key(), &[wrapped]);
        Box::pin(async { materials.map(Into::into) })
    }

    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<DecryptionMaterials>> {
        Box::pin(async move {
            let context = request.encryption_context()?;
            DecryptionMaterials::new(request.suite, context, Self::data_key()).map(Into::into)
        })
    }
}

/// Otherwise a message without the pair would decrypt under any value of it.
#[test]
fn materials_without_the_required_pairs_are_refused() {
    fn is_refused<T>(outcome: &Result<T, Error>) -> bool {
        matches!(outcome, Err(Error::InvalidSetting { setting: "materials", .. }))
    }
    let caching = CachingMaterialsManager::builder(Forgetful).build().unwrap();
    for builder in [
        |_: &_| Envelope::builder(Forgetful),
        |it: &CachingMaterialsManager| Envelope::builder(it.clone()),
    ] {
        let plain = builder(&caching).build().unwrap();
        let requiring = builder(&caching).required_keys(["tenant"]).build().unwrap();
        assert!(is_refused(&block_on(requiring.encrypt(CARD, &context("42")))));
        assert!(is_refused(&block_on(requiring.encryptor(&context("42"), None))));

        let unbound = block_on(plain.encrypt(CARD, &EncryptionContext::empty())).unwrap();
        let decrypted = block_on(plain.decrypt(&unbound, &EncryptionContext::empty())).unwrap();
        assert_eq!(decrypted.plaintext(), CARD);
        for envelope in [&plain, &requiring] {
            // The second time, the materials may be cached.
            for _ in 0..2 {
                assert!(is_refused(&block_on(envelope.decrypt(&unbound, &context("42")))));
            }
        }
    }
}
