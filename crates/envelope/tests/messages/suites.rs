//! Every algorithm suite, framed and in one piece; commitment policies; signatures; required
//! context.

use std::sync::Arc;

use crate::support::keyring;
use envelope::{
    AlgorithmSuite, CommitmentPolicy, EncryptionContext, Envelope, EnvelopeBuilder, Error,
    ResultFuture,
    materials::{
        CachingMaterialsManager, DecryptionMaterials, DecryptionMaterialsRequest,
        DefaultMaterialsManager, EncryptionMaterials, EncryptionMaterialsRequest, MaterialsCache,
        MaterialsManager,
    },
};
use futures_executor::block_on;
use futures_util::FutureExt;

/// The suites that this build can write and open.
fn suites() -> impl Iterator<Item = AlgorithmSuite> {
    AlgorithmSuite::ALL
        .into_iter()
        .filter(|suite| cfg!(feature = "aws-lc-rs") || !suite.is_signed())
}

fn policy(suite: AlgorithmSuite) -> CommitmentPolicy {
    if suite.commits_to_key() {
        CommitmentPolicy::RequireEncryptRequireDecrypt
    } else {
        CommitmentPolicy::ForbidEncryptAllowDecrypt
    }
}

fn builder(suite: AlgorithmSuite) -> EnvelopeBuilder {
    let builder = Envelope::builder(DefaultMaterialsManager::new(keyring()));
    builder.commitment_policy(policy(suite)).suite(suite).legacy_suites(true).frame_length(4)
}

fn context() -> EncryptionContext {
    EncryptionContext::new([("tenant", "42")]).unwrap()
}

fn encrypt(envelope: &Envelope, plaintext: &[u8]) -> Vec<u8> {
    block_on(envelope.encrypt(plaintext, &context())).unwrap()
}

fn decrypt(envelope: &Envelope, message: &[u8]) -> Result<Vec<u8>, Error> {
    let opened = block_on(envelope.decrypt(message, &context()));
    opened.map(envelope::Decrypted::into_plaintext)
}

#[test]
fn every_suite_opens_what_it_seals() {
    for suite in suites() {
        for framed in [true, false] {
            let envelope = builder(suite).framed(framed).build().unwrap();
            for length in [0, 1, 4, 5, 8, 1000] {
                let plaintext: Vec<u8> =
                    (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
                let message = encrypt(&envelope, &plaintext);
                assert_eq!(message[0], if suite.commits_to_key() { 2 } else { 1 });
                assert_eq!(
                    decrypt(&envelope, &message).unwrap(),
                    plaintext,
                    "{suite}, framed: {framed}, {length}"
                );
            }
        }
    }
}

#[test]
fn every_flipped_byte_and_every_truncation_is_refused_in_every_suite() {
    let mut cases = 0;
    for suite in suites() {
        for framed in [true, false] {
            let envelope = builder(suite).framed(framed).build().unwrap();
            let message = encrypt(&envelope, b"aaaabbbbcc");
            for at in 0..message.len() {
                let mut changed = message.clone();
                changed[at] ^= 0x55;
                assert!(
                    decrypt(&envelope, &changed).is_err(),
                    "{suite}, framed: {framed}, byte {at}"
                );
                let cut = decrypt(&envelope, &message[..at]).unwrap_err();
                assert!(
                    matches!(cut, Error::Truncated { .. }),
                    "{suite}, framed: {framed}, cut at {at}: {cut:?}"
                );
                cases += 2;
            }
            let longer = [&message[..], b"x"].concat();
            assert!(matches!(decrypt(&envelope, &longer), Err(Error::TrailingBytes { .. })));
        }
    }
    println!("{cases} changed or cut messages refused");
}

#[cfg(feature = "aws-lc-rs")]
#[test]
fn a_signature_of_another_message_is_refused() {
    let source = DefaultMaterialsManager::new(keyring());
    let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitKeyEcdsaP384;
    // One signing key for both messages, as a caching manager has it.
    let manager = CachingMaterialsManager::builder(source).build().unwrap();
    let envelope = Envelope::builder(manager).suite(suite).build().unwrap();
    let (one, other) = (encrypt(&envelope, b"one"), encrypt(&envelope, b"other"));
    let footer = |message: &[u8]| {
        let body = crate::support::header_length(message) + 4 + 4 + 12;
        let length = u32::from_be_bytes(message[body..body + 4].try_into().unwrap());
        body + 4 + usize::try_from(length).unwrap() + 16
    };
    let exchanged = [&one[..footer(&one)], &other[footer(&other)..]].concat();
    assert!(matches!(decrypt(&envelope, &exchanged), Err(Error::Authentication)));
    assert!(decrypt(&envelope, &one).is_ok());
}

#[test]
fn policies_decide_what_is_written_and_opened() {
    use CommitmentPolicy::{
        ForbidEncryptAllowDecrypt, RequireEncryptAllowDecrypt, RequireEncryptRequireDecrypt,
    };
    let committing = AlgorithmSuite::Aes256GcmHkdfSha512CommitKey;
    let other = AlgorithmSuite::Aes256GcmHkdfSha256;
    let rows = [
        (ForbidEncryptAllowDecrypt, other, [false, true], [true, true]),
        (RequireEncryptAllowDecrypt, committing, [true, false], [true, true]),
        (RequireEncryptRequireDecrypt, committing, [true, false], [true, false]),
    ];
    for (policy, default, writes, opens) in rows {
        let build =
            || Envelope::builder(DefaultMaterialsManager::new(keyring())).commitment_policy(policy);
        assert_eq!(
            block_on(build().build().unwrap().encrypt(b"", &context())).unwrap()[0],
            if default.commits_to_key() { 2 } else { 1 }
        );
        for ((suite, writes), opens) in [committing, other].into_iter().zip(writes).zip(opens) {
            let envelope = build().suite(suite).build();
            assert_eq!(envelope.is_ok(), writes, "{policy} writes {suite}");
            if let Err(error) = envelope {
                assert!(matches!(error, Error::CommitmentPolicy { .. }), "{error:?}");
            }
            let message = encrypt(&builder(suite).build().unwrap(), b"x");
            let opened = decrypt(&build().build().unwrap(), &message);
            assert_eq!(opened.is_ok(), opens, "{policy} opens {suite}");
            if let Err(error) = opened {
                assert!(matches!(error, Error::CommitmentPolicy { .. }), "{error:?}");
            }
        }
    }
}

#[test]
fn suites_without_key_derivation_are_written_on_request_alone_and_never_cached() {
    for suite in AlgorithmSuite::ALL.into_iter().filter(|suite| suite.is_legacy()) {
        let cache = MaterialsCache::new(10);
        let source = DefaultMaterialsManager::new(keyring());
        let manager = CachingMaterialsManager::builder(source).cache(&cache).build().unwrap();
        let builder =
            || Envelope::builder(manager.clone()).commitment_policy(policy(suite)).suite(suite);
        assert!(matches!(builder().build(), Err(Error::InvalidSetting { setting: "suite", .. })));
        let envelope = builder().legacy_suites(true).build().unwrap();
        let (one, other) = (encrypt(&envelope, b"x"), encrypt(&envelope, b"x"));
        assert_ne!(one[36..], other[36..], "{suite}: another data key for each message");
        decrypt(&envelope, &one).unwrap();
        let stats = cache.stats();
        assert_eq!((stats.encryption.entries, stats.decryption.entries), (0, 0));
        assert_eq!((stats.encryption.bypasses, stats.decryption.bypasses), (2, 1));
    }
}

#[test]
fn required_context_is_authenticated_but_not_stored() {
    for suite in suites() {
        let source = DefaultMaterialsManager::new(keyring());
        let caching = CachingMaterialsManager::builder(source.clone()).build().unwrap();
        let build = |builder: EnvelopeBuilder| {
            builder
                .commitment_policy(policy(suite))
                .suite(suite)
                .legacy_suites(true)
                .build()
                .unwrap()
        };
        let (requiring, plain) = (
            build(Envelope::builder(caching).required_keys(["account"])),
            build(Envelope::builder(source)),
        );
        let open = |envelope: &Envelope, message: &[u8], pairs: &[(&str, &str)]| {
            let context = EncryptionContext::new(pairs.iter().copied()).unwrap();
            block_on(envelope.decrypt(message, &context))
        };
        let full = EncryptionContext::new([("account", "0042"), ("kind", "statement")]).unwrap();
        let message = block_on(requiring.encrypt(b"x", &full)).unwrap();
        assert!(!message.windows(7).any(|bytes| bytes == b"account"), "{suite}");

        for envelope in [&requiring, &plain] {
            let opened = open(envelope, &message, &[("account", "0042")]).unwrap();
            assert_eq!(opened.encryption_context().get("account"), Some("0042"));
            assert_eq!(opened.encryption_context().get("kind"), Some("statement"));
            let wrong = open(envelope, &message, &[("account", "0043")]).unwrap_err();
            assert!(matches!(wrong, Error::DataKeyNotUnwrapped { .. }), "{suite}: {wrong:?}");
        }
        let missing = open(&requiring, &message, &[("kind", "statement")]).unwrap_err();
        assert!(matches!(missing, Error::RequiredContextMissing { .. }), "{suite}: {missing:?}");
        let missing = open(&plain, &message, &[("kind", "statement")]).unwrap_err();
        assert!(matches!(missing, Error::DataKeyNotUnwrapped { .. }), "{suite}: {missing:?}");
        let missing = block_on(requiring.encrypt(b"x", &context())).unwrap_err();
        assert!(matches!(missing, Error::RequiredContextMissing { .. }), "{suite}: {missing:?}");
        // The stored part alone must not find what was cached for the whole.
        assert!(open(&requiring, &message, &[("account", "0042"), ("kind", "other")]).is_err());
    }
}

/// Requests a suite without key derivation, for every request.
#[derive(Debug)]
struct Disobedient(DefaultMaterialsManager);

impl MaterialsManager for Disobedient {
    fn encryption_materials<'a>(
        &'a self,
        mut request: EncryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<EncryptionMaterials>> {
        request.suite = AlgorithmSuite::Aes256GcmNoKdf;
        self.0.encryption_materials(request)
    }

    fn decryption_materials<'a>(
        &'a self,
        mut request: DecryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<DecryptionMaterials>> {
        request.suite = AlgorithmSuite::Aes256GcmNoKdf;
        self.0.decryption_materials(request)
    }

    fn cached_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<DecryptionMaterials>),
    ) -> Result<bool, Error> {
        let materials = self.decryption_materials(request).now_or_never().transpose()?;
        Ok(materials.map(|materials| borrow(&materials)).is_some())
    }
}

/// Cached under the suite that was asked for, such a data key would seal many messages under one
/// key and IV.
#[test]
fn materials_for_another_suite_are_refused() {
    let source = Disobedient(DefaultMaterialsManager::new(keyring()));
    let manager = CachingMaterialsManager::builder(source).build().unwrap();
    let suite = AlgorithmSuite::Aes256GcmHkdfSha256;
    let envelope =
        Envelope::builder(manager).commitment_policy(policy(suite)).suite(suite).build().unwrap();
    let sealed = block_on(envelope.encrypt(b"x", &context()));
    assert!(
        matches!(sealed, Err(Error::InvalidSetting { setting: "materials", .. })),
        "{sealed:?}"
    );
    let message = encrypt(&builder(suite).build().unwrap(), b"x");
    let opened = decrypt(&envelope, &message);
    assert!(
        matches!(opened, Err(Error::InvalidSetting { setting: "materials", .. })),
        "{opened:?}"
    );
    let source = Disobedient(DefaultMaterialsManager::new(keyring()));
    let envelope = Envelope::builder(source).commitment_policy(policy(suite)).build().unwrap();
    for opened in
        [decrypt(&envelope, &message), envelope.try_decrypt(&message, &context()).map(|_| vec![])]
    {
        assert!(
            matches!(opened, Err(Error::InvalidSetting { setting: "materials", .. })),
            "{opened:?}"
        );
    }
}
