//! Decrypts arbitrary bytes under a raw AES keyring: nothing may panic, and an authentic message
//! can be encrypted and decrypted again.
#![no_main]

use std::sync::LazyLock;

use envelope::{
    DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring,
    materials::DefaultMaterialsManager,
};

static ENVELOPE: LazyLock<Envelope> = LazyLock::new(|| {
    let keyring = RawAesKeyring::new("tests", "key", &DataKey::from_vec(vec![7; 32])).unwrap();
    Envelope::builder(DefaultMaterialsManager::new(keyring)).frame_length(4).build().unwrap()
});

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    let envelope = ENVELOPE.blocking();
    if let Ok(decrypted) = envelope.decrypt(message, &EncryptionContext::empty()) {
        let context = decrypted.encryption_context();
        let again = envelope.encrypt(decrypted.plaintext(), context).unwrap();
        let decrypted_again = envelope.decrypt(&again, context).unwrap();
        assert_eq!(decrypted_again.plaintext(), decrypted.plaintext());
    }
});
