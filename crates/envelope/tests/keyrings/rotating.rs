//! The rotating keyring: encrypts under the newest key, and decrypts under any.

use envelope::{
    AlgorithmSuite, DataKey, EncryptionContext, Envelope, ResultFuture,
    keyring::{
        GeneratedDataKey, Keyring, KeyringError, KeyringRequest, MultiKeyring, RawAesKeyring,
        RotatingKeyring,
    },
    materials::{
        CachingMaterialsManager, DefaultMaterialsManager, EncryptedDataKey, MaterialsCache,
    },
    stream::UnverifiedHeader,
};

fn aes(name: &str) -> RawAesKeyring {
    let wrapping_key = DataKey::from_vec(vec![name.as_bytes()[0]; 32]);
    RawAesKeyring::new("ns", name, &wrapping_key).unwrap()
}

fn context() -> EncryptionContext {
    EncryptionContext::new([("tenant", "42")]).unwrap()
}

async fn encrypt(keyring: impl Keyring + 'static) -> Vec<u8> {
    Envelope::new(keyring).unwrap().encrypt(b"secret", &context()).await.unwrap()
}

fn wrapping_keys(message: &[u8]) -> Vec<String> {
    UnverifiedHeader::read(&mut &*message, 16).unwrap().wrapping_keys().collect()
}

/// A keyring whose principal may only decrypt.
#[derive(Debug)]
struct DecryptOnly(RawAesKeyring);

impl Keyring for DecryptOnly {
    fn generate<'a>(&'a self, _request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        panic!("an older keyring generated a data key")
    }

    fn wrap<'a>(
        &'a self,
        _request: KeyringRequest<'a>,
        _data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        panic!("an older keyring wrapped a data key")
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        self.0.unwrap(request, encrypted_data_keys)
    }

    fn identity(&self) -> Option<String> {
        self.0.identity()
    }

    fn tenure(&self) -> u64 {
        2
    }
}

fn rotating() -> RotatingKeyring {
    RotatingKeyring::new(aes("c")).with_older(DecryptOnly(aes("b"))).with_older(aes("a"))
}

#[tokio::test]
async fn it_encrypts_under_the_newest_key_and_decrypts_under_any() {
    let message = encrypt(rotating()).await;
    assert_eq!(wrapping_keys(&message), ["ns/c"]);
    // The newest keyring alone decrypts it, and an older one alone does not.
    Envelope::new(aes("c")).unwrap().decrypt(&message, &context()).await.unwrap();
    Envelope::new(aes("a")).unwrap().decrypt(&message, &context()).await.unwrap_err();

    let envelope = Envelope::new(rotating()).unwrap();
    for name in ["a", "b", "c"] {
        let message = encrypt(aes(name)).await;
        assert_eq!(wrapping_keys(&message), [format!("ns/{name}")]);
        let decrypted = envelope.decrypt(&message, &context()).await.unwrap();
        assert_eq!(decrypted.plaintext(), b"secret", "{name}");
    }
    let error = envelope.decrypt(&encrypt(aes("d")).await, &context()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("ns/d") && text.contains("rotating"), "{text}");
}

#[tokio::test]
async fn a_key_that_fails_does_not_hide_an_older_one() {
    // The name is that of the newest key, but the key is an older one.
    let renamed = |byte| RawAesKeyring::new("ns", "x", &DataKey::from_vec(vec![byte; 32])).unwrap();
    let message = encrypt(renamed(1)).await;
    let rotating = RotatingKeyring::new(renamed(2)).with_older(renamed(1));
    Envelope::new(rotating).unwrap().decrypt(&message, &context()).await.unwrap();
    let rotating = RotatingKeyring::new(renamed(2)).with_older(renamed(3));
    let decrypted = Envelope::new(rotating).unwrap().decrypt(&message, &context()).await;
    assert_eq!(decrypted.unwrap_err().keyring_errors().len(), 2, "the failure of each");
}

#[tokio::test]
async fn as_a_child_it_wraps_under_the_newest_key() {
    let multi = MultiKeyring::new(aes("g")).with_child(rotating()).unwrap();
    let message = encrypt(multi).await;
    assert_eq!(wrapping_keys(&message), ["ns/g", "ns/c"]);
    Envelope::new(rotating()).unwrap().decrypt(&message, &context()).await.unwrap();
}

#[tokio::test]
async fn a_shared_cache_partition_holds_no_data_key_of_the_previous_keyring() {
    let cache = MaterialsCache::new(100);
    let envelope = |keyring: RotatingKeyring| {
        let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring));
        Envelope::builder(manager.cache(&cache).partition_id("payments").build().unwrap())
            .build()
            .unwrap()
    };
    let before = envelope(RotatingKeyring::new(aes("a")));
    let message = before.encrypt(b"secret", &context()).await.unwrap();
    assert_eq!(wrapping_keys(&message), ["ns/a"]);
    let after = envelope(RotatingKeyring::new(aes("b")).with_older(aes("a")));
    assert_eq!(wrapping_keys(&after.encrypt(b"x", &context()).await.unwrap()), ["ns/b"]);
    assert_eq!(after.decrypt(&message, &context()).await.unwrap().plaintext(), b"secret");
}

#[test]
fn it_has_the_identity_and_the_tenure_of_all_its_keyrings() {
    let identities = [
        RotatingKeyring::new(aes("a")),
        RotatingKeyring::new(aes("b")).with_older(aes("a")),
        RotatingKeyring::new(aes("a")).with_older(aes("b")),
    ]
    .map(|keyring| keyring.identity().unwrap());
    assert!(identities[0] != identities[1] && identities[1] != identities[2]);
    assert_eq!(rotating().tenure(), 2);
    let context = context();
    let request = KeyringRequest::new(AlgorithmSuite::default(), &context);
    assert_eq!(rotating().wrapping_key(request), aes("c").wrapping_key(request));
}
