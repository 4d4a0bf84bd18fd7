//! Re-encryption under a new wrapping key, suite or form.

use crate::support::{GatedKeyring, caching, context, encrypted_data_keys};
use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Envelope, Error,
    keyring::{MultiKeyring, RawAesKeyring, RotatingKeyring},
    materials::{CachingMaterialsManager, DefaultMaterialsManager, MaterialsCache},
};
use futures_executor::block_on;

fn key(name: &str) -> RawAesKeyring {
    let bytes = vec![name.len().try_into().unwrap(); 32];
    RawAesKeyring::new("tests", name, &DataKey::from_vec(bytes)).unwrap()
}

/// Encrypts under `new key`, and decrypts under `old` as well.
fn rotated() -> (Envelope, MaterialsCache) {
    let envelope = Envelope::new(RotatingKeyring::new(key("new key")).with_older(key("old")));
    let envelope = envelope.unwrap();
    let cache = envelope.cache().unwrap().clone();
    (envelope, cache)
}

fn before() -> Envelope {
    Envelope::new(key("old")).unwrap()
}

fn names(message: &[u8], name: &str) -> bool {
    message.windows(name.len()).any(|bytes| bytes == name.as_bytes())
}

#[test]
fn a_message_moves_to_the_newest_key_with_its_context() {
    let stored = EncryptionContext::new([("tenant", "42"), ("purpose", "card number")]).unwrap();
    let old = block_on(before().encrypt(b"secret", &stored)).unwrap();
    let (envelope, _) = rotated();
    assert!(!block_on(envelope.is_current(&old, &context("42"))).unwrap());
    // Not every pair that the message stores need be supplied.
    let new = block_on(envelope.reencrypt(&old, &context("42"))).unwrap();
    assert!(names(&old, "old") && !names(&new, "old") && names(&new, "new key"));
    let decrypted = block_on(Envelope::new(key("new key")).unwrap().decrypt(&new, &stored));
    let decrypted = decrypted.unwrap();
    assert_eq!((decrypted.plaintext(), decrypted.encryption_context()), (&b"secret"[..], &stored));
    assert!(block_on(envelope.is_current(&new, &context("42"))).unwrap());

    let wrong = block_on(envelope.reencrypt(&old, &context("43")));
    assert!(matches!(wrong, Err(Error::EncryptionContextMismatch { .. })), "{wrong:?}");
    let forged = [&old[..old.len() - 1], &[old[old.len() - 1] ^ 1]].concat();
    let forged = block_on(envelope.reencrypt(&forged, &context("42")));
    assert!(matches!(forged, Err(Error::Authentication)), "{forged:?}");
}

/// A current message may be encrypted again, too: under a new data key, if that is wanted.
#[test]
fn a_current_message_is_re_encrypted_if_asked() {
    let (envelope, cache) = rotated();
    let message = block_on(envelope.encrypt(b"secret", &context("42"))).unwrap();
    cache.clear();
    let again = block_on(envelope.reencrypt(&message, &context("42"))).unwrap();
    assert_ne!(encrypted_data_keys(&again), encrypted_data_keys(&message));
    assert_eq!(envelope.try_decrypt(&message, &context("42")).unwrap().plaintext(), b"secret");
}

#[test]
fn a_batch_continues_where_it_was_interrupted() {
    let (envelope, cache) = rotated();
    let context = context("42");
    let mut rows = block_on(before().encrypt_batch(&["a", "b", "c"], &context)).unwrap();
    rows.push(b"no message".to_vec());
    rows.push(block_on(Envelope::new(key("unknown")).unwrap().encrypt(b"d", &context)).unwrap());
    rows.insert(1, block_on(envelope.encrypt(b"e", &context)).unwrap());

    let outcomes = block_on(envelope.reencrypt_batch(&rows, &context));
    let new: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().ok()).collect();
    assert!(matches!(
        new[..],
        [Some(Some(_)), Some(None), Some(Some(_)), Some(Some(_)), None, None]
    ));
    let expected = ["a", "", "b", "c"];
    for (at, plaintext) in expected.iter().enumerate().filter(|(at, _)| *at != 1) {
        let message = new[at].unwrap().as_ref().unwrap();
        let decrypted = block_on(envelope.decrypt(message, &context)).unwrap();
        assert_eq!(decrypted.plaintext(), plaintext.as_bytes());
    }
    assert!(matches!(outcomes[5], Err(Error::DataKeyNotUnwrapped { .. })), "{:?}", outcomes[5]);

    // Only two of the new messages were stored before the interruption.
    for at in [0, 2] {
        rows[at] = new[at].unwrap().clone().unwrap();
    }
    let before = cache.stats().decryption.hits + cache.stats().decryption.misses;
    let outcomes = block_on(envelope.reencrypt_batch(&rows[..4], &context));
    let done: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().is_some()).collect();
    assert_eq!(done, [false, false, false, true]);
    let after = cache.stats().decryption.hits + cache.stats().decryption.misses;
    assert_eq!(after - before, 1, "current messages are not decrypted");
    assert!(block_on(envelope.reencrypt_batch::<&[u8]>(&[], &context)).is_empty());
}

#[test]
fn without_a_data_key_every_message_of_a_batch_fails_by_itself() {
    let keyring = GatedKeyring::open();
    let envelope = caching(keyring.clone(), |builder| builder);
    let message = block_on(before().encrypt(b"x", &context("42"))).unwrap();
    keyring.gate.close();
    let outcomes = block_on(envelope.reencrypt_batch(&[&message, &message], &context("42")));
    assert!(outcomes.len() == 2 && outcomes.iter().all(Result::is_err), "{outcomes:?}");
}

#[test]
fn whether_a_message_is_current_depends_on_keys_suite_and_required_pairs() {
    let manager = || {
        let source = DefaultMaterialsManager::new(key("old"));
        CachingMaterialsManager::builder(source).build().unwrap()
    };
    let old = block_on(before().encrypt(b"x", &context("42"))).unwrap();
    let is_current =
        |envelope: &Envelope| block_on(envelope.is_current(&old, &context("42"))).unwrap();
    assert!(is_current(&Envelope::builder(manager()).build().unwrap()));

    let requiring = Envelope::builder(manager()).required_keys(["tenant"]).build().unwrap();
    assert!(!is_current(&requiring));
    let new = block_on(requiring.reencrypt(&old, &context("42"))).unwrap();
    assert!(names(&old, "tenant") && !names(&new, "tenant"));
    assert!(block_on(requiring.is_current(&new, &context("42"))).unwrap());

    let both = MultiKeyring::new(key("old")).with_child(key("new key")).unwrap();
    assert!(!is_current(&Envelope::new(both).unwrap()));

    let suite = AlgorithmSuite::Aes256GcmHkdfSha512CommitKeyEcdsaP384;
    if cfg!(feature = "aws-lc-rs") {
        let signing = Envelope::builder(manager()).suite(suite).build().unwrap();
        assert!(!is_current(&signing));
        // The public key in the old context must not get into the new one.
        let signed = block_on(signing.reencrypt(&old, &context("42"))).unwrap();
        let again = block_on(signing.reencrypt(&signed, &context("42"))).unwrap();
        assert_eq!(block_on(signing.decrypt(&again, &context("42"))).unwrap().plaintext(), b"x");
    }
}
