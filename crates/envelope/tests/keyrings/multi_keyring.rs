//! Several keyrings as one.

use crate::support::GatedKeyring;
use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Envelope, Error, ResultFuture,
    keyring::{
        GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringRequest, MultiKeyring,
        RawAesKeyring,
    },
    materials::{DefaultMaterialsManager, EncryptedDataKey},
};
use futures_executor::block_on;
use futures_util::FutureExt;

fn aes(name: &str) -> RawAesKeyring {
    aes_with(name, name.as_bytes()[0])
}

fn aes_with(name: &str, byte: u8) -> RawAesKeyring {
    RawAesKeyring::new("ns", name, &DataKey::from_vec(vec![byte; 32])).unwrap()
}

/// Fails for every request, with its name.
#[derive(Debug)]
struct Failing(&'static str);

impl Failing {
    fn error(&self) -> KeyringError {
        KeyringError::new(self.0, KeyringErrorKind::Unavailable, "out of order")
    }
}

impl Keyring for Failing {
    fn generate<'a>(&'a self, _: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        Box::pin(async { Err(Error::DataKeyUnavailable(self.error())) })
    }

    fn wrap<'a>(
        &'a self,
        _: KeyringRequest<'a>,
        _: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(async { Err(Error::DataKeyUnavailable(self.error())) })
    }

    fn unwrap<'a>(
        &'a self,
        _: KeyringRequest<'a>,
        _: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(async { Err(vec![self.error(), self.error()]) })
    }
}

fn generate(keyring: &impl Keyring) -> Result<GeneratedDataKey, Error> {
    let context = EncryptionContext::empty();
    let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
    keyring.generate(request).now_or_never().expect("a local keyring never waits")
}

fn wrap(keyring: &impl Keyring, data_key: &DataKey) -> Result<Vec<EncryptedDataKey>, Error> {
    let context = EncryptionContext::empty();
    let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
    keyring.wrap(request, data_key).now_or_never().expect("a local keyring never waits")
}

fn unwrap(keyring: &impl Keyring, keys: &[EncryptedDataKey]) -> Result<DataKey, Vec<KeyringError>> {
    let context = EncryptionContext::empty();
    let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
    keyring.unwrap(request, keys).now_or_never().expect("a local keyring never waits")
}

/// The names of the wrapping keys, one letter each.
fn names(keys: &[EncryptedDataKey]) -> String {
    keys.iter().map(|key| char::from(key.key_provider_information[0])).collect()
}

#[test]
fn every_keyring_wraps_the_generator_s_data_key_in_order() {
    let keyring =
        MultiKeyring::new(aes("a")).with_child(aes("b")).unwrap().with_child(aes("c")).unwrap();
    let generated = generate(&keyring).unwrap();
    assert_eq!(names(&generated.encrypted_data_keys), "abc");
    for name in ["a", "b", "c"] {
        let unwrapped = unwrap(&aes(name), &generated.encrypted_data_keys).unwrap();
        assert_eq!(unwrapped.expose_secret(), generated.data_key.expose_secret(), "{name}");
    }
}

#[test]
fn without_a_generator_it_wraps_but_does_not_generate() {
    let keyring = MultiKeyring::without_generator(aes("b")).with_child(aes("c")).unwrap();
    let error = generate(&keyring).unwrap_err();
    assert!(matches!(&error, Error::DataKeyUnavailable(_)) && !error.is_retryable(), "{error:?}");
    let cause = error.keyring_errors()[0].cause().to_string();
    assert!(cause.contains("no generator"), "{cause}");

    let data_key = DataKey::generate(32).unwrap();
    let keys = wrap(&keyring, &data_key).unwrap();
    assert_eq!(names(&keys), "bc");
    for name in ["b", "c"] {
        assert_eq!(
            unwrap(&aes(name), &keys).unwrap().expose_secret(),
            data_key.expose_secret(),
            "{name}"
        );
    }
}

#[test]
fn multi_keyrings_nest() {
    let inner = || MultiKeyring::without_generator(aes("b")).with_child(aes("c")).unwrap();
    let outer =
        MultiKeyring::new(aes("a")).with_child(inner()).unwrap().with_child(aes("d")).unwrap();
    let generated = generate(&outer).unwrap();
    assert_eq!(names(&generated.encrypted_data_keys), "abcd");
    let outer_generator =
        MultiKeyring::new(MultiKeyring::new(aes("a")).with_child(aes("b")).unwrap());
    let generated = generate(&outer_generator.with_child(inner()).unwrap()).unwrap();
    assert_eq!(names(&generated.encrypted_data_keys), "abbc");
}

#[test]
fn with_a_generator_it_does_not_wrap_another_s_data_key() {
    let with_generator = || MultiKeyring::new(aes("a")).with_child(aes("b")).unwrap();
    let error = wrap(&with_generator(), &DataKey::generate(32).unwrap()).unwrap_err();
    assert!(matches!(&error, Error::DataKeyUnavailable(_)) && !error.is_retryable(), "{error:?}");
    let cause = error.keyring_errors()[0].cause().to_string();
    assert!(cause.contains("a multi-keyring with a generator"), "{cause}");
    let nested = MultiKeyring::new(aes("c")).with_child(with_generator()).unwrap();
    assert!(generate(&nested).is_err());
    // Opening asks it like any other child.
    let keys = generate(&aes("b")).unwrap().encrypted_data_keys;
    assert!(unwrap(&nested, &keys).is_ok());
}

#[test]
fn one_failure_fails_the_sealing() {
    let cases = [
        MultiKeyring::new(Failing("x")).with_child(aes("b")).unwrap(),
        MultiKeyring::new(aes("a")).with_child(Failing("x")).unwrap().with_child(aes("c")).unwrap(),
        MultiKeyring::new(aes("a")).with_child(aes("b")).unwrap().with_child(Failing("x")).unwrap(),
    ];
    for case in cases {
        let error = generate(&case).unwrap_err();
        assert_eq!(error.keyring_errors()[0].wrapping_key(), "x");
        assert!(error.is_retryable());
    }
    let keyring = MultiKeyring::without_generator(aes("a")).with_child(Failing("x")).unwrap();
    assert!(wrap(&keyring, &DataKey::generate(32).unwrap()).is_err());
}

#[test]
fn a_failing_generator_s_children_are_not_asked() {
    let child = GatedKeyring::open();
    let keyring = MultiKeyring::new(Failing("x")).with_child(child.clone()).unwrap();
    generate(&keyring).unwrap_err();
    assert_eq!(child.counts(), (0, 0));
}

#[test]
fn the_first_that_unwraps_wins_and_the_rest_are_not_asked() {
    let last = GatedKeyring::open();
    let keys = generate(&aes("b")).unwrap();
    let keyring = MultiKeyring::new(Failing("x"))
        .with_child(aes("a"))
        .unwrap()
        .with_child(aes("b"))
        .unwrap()
        .with_child(last.clone())
        .unwrap();
    let unwrapped = unwrap(&keyring, &keys.encrypted_data_keys).unwrap();
    assert_eq!(unwrapped.expose_secret(), keys.data_key.expose_secret());
    assert_eq!(last.counts(), (0, 0));
}

#[test]
fn each_keyring_sees_every_encrypted_data_key() {
    let all =
        MultiKeyring::new(aes("a")).with_child(aes("b")).unwrap().with_child(aes("c")).unwrap();
    let generated = generate(&all).unwrap();
    // The only usable one is the last in the message and the first that is asked.
    let keyring = MultiKeyring::new(aes("c")).with_child(aes_with("a", 0)).unwrap();
    let unwrapped = unwrap(&keyring, &generated.encrypted_data_keys).unwrap();
    assert_eq!(unwrapped.expose_secret(), generated.data_key.expose_secret());
}

#[test]
fn the_error_lists_every_failure_in_order() {
    let all = MultiKeyring::new(aes("a")).with_child(aes("b")).unwrap();
    let context = EncryptionContext::empty();
    let message = block_on(Envelope::new(all).unwrap().encrypt(b"secret", &context)).unwrap();

    let wrong = MultiKeyring::new(aes_with("b", 0))
        .with_child(Failing("x"))
        .unwrap()
        .with_child(aes("unrelated"))
        .unwrap()
        .with_child(aes_with("a", 0))
        .unwrap();
    let error = block_on(Envelope::new(wrong).unwrap().decrypt(&message, &context)).unwrap_err();
    let Error::DataKeyNotUnwrapped { failures, .. } = &error else {
        panic!("another variant: {error:?}")
    };
    let asked: Vec<_> = failures.iter().map(KeyringError::wrapping_key).collect();
    assert_eq!(asked, ["ns/b", "x", "x", "ns/a"]);
    assert!(error.is_retryable(), "one of them may succeed later");
}

#[test]
fn no_match_anywhere_says_so() {
    let keys = generate(&aes("z")).unwrap().encrypted_data_keys;
    let keyring = MultiKeyring::new(aes("a")).with_child(aes("b")).unwrap();
    assert!(unwrap(&keyring, &keys).unwrap_err().is_empty());
}

#[test]
fn nothing_secret_is_printed() {
    let shown =
        format!("{:?}", MultiKeyring::new(aes_with("a", 123)).with_child(aes("b")).unwrap());
    assert!(shown.contains("\"a\"") && !shown.contains("123"), "{shown}");
}

#[test]
fn nothing_waits_for_local_children() {
    let context = EncryptionContext::empty();
    let local = || {
        MultiKeyring::new(aes("a")).with_child(MultiKeyring::without_generator(aes("b"))).unwrap()
    };
    let envelope = |keyring| {
        let manager = DefaultMaterialsManager::new(keyring);
        Envelope::builder(manager).build().unwrap()
    };
    let message = envelope(local()).try_encrypt(b"x", &context).unwrap();
    for name in ["a", "b"] {
        let alone = MultiKeyring::without_generator(aes(name));
        let decrypted = envelope(alone).try_decrypt(&message, &context).unwrap();
        assert_eq!(decrypted.plaintext(), b"x", "{name}");
    }
    // The last child has to wait, and fails after that.
    let remote = envelope(local().with_child(Failing("remote")).unwrap());
    assert!(matches!(remote.try_encrypt(b"x", &context), Err(Error::NotCached)));
    let nested = MultiKeyring::new(aes("a")).with_child(local()).unwrap();
    let error = envelope(nested).try_encrypt(b"x", &context).unwrap_err();
    assert!(matches!(error, Error::DataKeyUnavailable(_)), "{error:?}");
}
