//! Opening arbitrary bytes under a raw AES keyring: nothing panics, and what opens seals and opens
//! again.
#![no_main]

use std::sync::LazyLock;

use envelope::{
    DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring,
    materials::DefaultMaterialsManager,
};
use futures_util::FutureExt;

static ENVELOPE: LazyLock<Envelope> = LazyLock::new(|| {
    let keyring = RawAesKeyring::new("tests", "key", &DataKey::from_vec(vec![7; 32])).unwrap();
    Envelope::builder(DefaultMaterialsManager::new(keyring)).frame_length(4).build().unwrap()
});

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    let opened = ENVELOPE.decrypt(message, &EncryptionContext::empty()).now_or_never().unwrap();
    if let Ok(opened) = opened {
        let again = ENVELOPE
            .encrypt(opened.plaintext(), opened.encryption_context())
            .now_or_never()
            .unwrap()
            .unwrap();
        let opened_again =
            ENVELOPE.decrypt(&again, opened.encryption_context()).now_or_never().unwrap().unwrap();
        assert_eq!(opened_again.plaintext(), opened.plaintext());
    }
});
