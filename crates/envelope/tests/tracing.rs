//! Events for `tracing`. Alone in its process: whether an event is enabled is remembered for all
//! threads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, Mutex};

use envelope::{
    DataKey, EncryptionContext, Envelope, Error,
    branch_key::{BranchKeys, StaticBranchKeys},
    keyring::{KeyringErrorKind, RawAesKeyring},
    materials::{CachingMaterialsManager, DefaultMaterialsManager},
};
use support::{GatedKeyring, context};

#[tokio::test]
async fn tracing_shows_the_keys_of_contexts_and_nothing_that_is_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::NEW)
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let keyring = GatedKeyring::open();
    let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring.clone()));
    let envelope = Envelope::builder(manager.build().unwrap()).build().unwrap();
    let message = envelope.encrypt(b"4111 1111", &context("who it is")).await.unwrap();
    envelope.decrypt(&message, &context("who it is")).await.unwrap();
    keyring.fail(Some(KeyringErrorKind::Throttled));
    assert!(matches!(
        envelope.encrypt(b"x", &context("someone else")).await,
        Err(Error::DataKeyUnavailable(_))
    ));
    let branch_keys = BranchKeys::new(StaticBranchKeys::new());
    branch_keys.active("tenant-42").await.unwrap_err();
    // A message that nobody verified writes no line of its own.
    let evil = EncryptionContext::new([("x\n2030-01-01T00:00:00Z WARN forged", "v")]).unwrap();
    let message = Envelope::new(keyring_of_another()).unwrap().encrypt(b"x", &evil).await.unwrap();
    keyring.fail(None);
    assert!(envelope.decrypt(&message, &EncryptionContext::empty()).await.is_err());
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("forged") && !log.lines().any(|line| line.starts_with("2030")), "{log}");
    let expected = [
        "envelope::cache",
        "load_data_key{operation=\"decryption\"",
        "load_branch_key{operation=\"active_branch_key\" branch_key=\"tenant-42\"}",
        "context_keys=tenant",
        "reason=\"absent\"",
        "data key loaded",
        "WARN",
        "told to fail",
    ];
    for expected in expected {
        assert!(log.contains(expected), "{expected} is not in {log}");
    }
    for hidden in ["who it is", "someone else", "4111 1111"] {
        assert!(!log.contains(hidden), "{hidden} is in {log}");
    }
}

fn keyring_of_another() -> RawAesKeyring {
    RawAesKeyring::new("tests", "key", &DataKey::from_vec(vec![8; 32])).unwrap()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
