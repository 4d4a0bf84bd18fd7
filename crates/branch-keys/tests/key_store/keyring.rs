//! A hierarchical keyring over a key store.

use std::sync::Arc;

use branch_keys::{KeyStore, MemoryStorage};
use envelope::branch_key::{BranchKeys, MissingBranchKey};
use envelope::keyring::HierarchicalKeyring;
use envelope::materials::DefaultMaterialsManager;
use envelope::{EncryptionContext, Envelope};

use super::support::{Kms, VIRGINIA};
use super::{ID, new_key};

/// A process: branch keys are cached, data keys are not.
fn process(store: &KeyStore) -> (Envelope, BranchKeys) {
    let keys = BranchKeys::new(store.clone());
    let keyring = HierarchicalKeyring::new(keys.clone(), ID).unwrap();
    (Envelope::builder(DefaultMaterialsManager::new(keyring)).build().unwrap(), keys)
}

#[tokio::test]
async fn messages_survive_a_rotation_and_not_a_shredding() {
    let kms = Kms::start().await;
    let store = kms.store(Arc::new(MemoryStorage::new()), &kms.key());
    let created = store.create(new_key(ID)).await.unwrap();
    let decrypts = || kms.local.counters(VIRGINIA).succeeded("Decrypt");
    let (envelope, keys) = process(&store);
    let mut messages = vec![];
    for row in 0..20 {
        let context = EncryptionContext::new([("row", row.to_string())]).unwrap();
        messages.push((envelope.encrypt(b"secret", &context).await.unwrap(), context));
    }
    assert_eq!(decrypts(), 1);

    let rotated = store.rotate(ID).await.unwrap();
    assert_eq!(keys.active(ID).await.unwrap().version(), created.version);
    keys.invalidate(ID);
    assert_eq!(keys.active(ID).await.unwrap().version(), rotated.version);
    let context = EncryptionContext::empty();
    messages.push((envelope.encrypt(b"secret", &context).await.unwrap(), context));

    // Another process decrypts under both versions, with a request for each.
    let (other, other_keys) = process(&store);
    let before = decrypts();
    for (message, context) in &messages {
        assert_eq!(other.decrypt(message, context).await.unwrap().plaintext(), b"secret");
    }
    assert_eq!(decrypts(), before + 2);

    store.shred(ID).await.unwrap();
    for (envelope, keys) in [(envelope, keys), (other, other_keys)] {
        keys.invalidate(ID);
        let (message, context) = &messages[0];
        let encrypted = envelope.encrypt(b"secret", context).await.unwrap_err();
        let decrypted = envelope.decrypt(message, context).await.unwrap_err();
        for error in [encrypted, decrypted] {
            let missing = error.keyring_errors().iter().find_map(MissingBranchKey::in_error);
            assert_eq!(missing, Some(MissingBranchKey::Shredded), "{error:?}");
        }
    }
}
