//! What several integration tests share.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use envelope::{
    DataKey, EncryptionContext, Envelope, ResultFuture,
    keyring::{
        GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringRequest, RawAesKeyring,
    },
    materials::{
        CachingBuilder, CachingMaterialsManager, DefaultMaterialsManager, EncryptedDataKey,
    },
};
use tokio::sync::Semaphore;

/// The name of the wrapping key, as messages have it.
pub(crate) const WRAPPING_KEY: &str = "key";

/// A raw AES keyring with a fixed wrapping key.
pub(crate) fn keyring() -> RawAesKeyring {
    RawAesKeyring::new("tests", "key", &DataKey::from_vec(vec![7; 32])).unwrap()
}

/// A client with a cache, as `set` says.
pub(crate) fn caching(
    keyring: impl Keyring + 'static,
    set: impl FnOnce(CachingBuilder) -> CachingBuilder,
) -> Envelope {
    let builder = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring));
    Envelope::builder(set(builder).build().unwrap()).build().unwrap()
}

/// The output of a future, without a runtime.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    futures_executor::block_on(future)
}

/// Waits until the condition holds, for work on the cache's threads.
pub(crate) async fn eventually(until: impl Fn() -> bool) {
    let came = async {
        while !until() {
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), came).await.expect("the condition never held");
}

/// An encryption context with one pair.
pub(crate) fn context(tenant: &str) -> EncryptionContext {
    EncryptionContext::new([("tenant", tenant)]).unwrap()
}

/// A raw AES keyring that counts what it is asked for, and waits for a permit each time.
#[derive(Debug, Clone)]
pub(crate) struct GatedKeyring {
    inner: Arc<RawAesKeyring>,
    pub(crate) generated: Arc<AtomicU64>,
    pub(crate) unwrapped: Arc<AtomicU64>,
    pub(crate) gate: Arc<Semaphore>,
    /// Whether it panics once it has passed the gate.
    pub(crate) panics: Arc<AtomicBool>,
    /// What it fails with once it has passed the gate.
    pub(crate) failure: Arc<Mutex<Option<KeyringErrorKind>>>,
}

impl GatedKeyring {
    /// A keyring that may be asked this often before it waits.
    pub(crate) fn new(permits: usize) -> Self {
        Self {
            inner: Arc::new(keyring()),
            generated: Arc::default(),
            unwrapped: Arc::default(),
            gate: Arc::new(Semaphore::new(permits)),
            panics: Arc::default(),
            failure: Arc::default(),
        }
    }

    /// A keyring that never waits.
    pub(crate) fn open() -> Self {
        Self::new(Semaphore::MAX_PERMITS)
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.generated.load(Ordering::SeqCst), self.unwrapped.load(Ordering::SeqCst))
    }

    /// Passes the gate; fails once it is closed.
    async fn pass(&self, count: &AtomicU64) -> Result<(), KeyringError> {
        count.fetch_add(1, Ordering::SeqCst);
        let permit = self.gate.acquire().await.map_err(|cause| {
            KeyringError::new(WRAPPING_KEY, KeyringErrorKind::Unavailable, cause)
        })?;
        permit.forget();
        assert!(!self.panics.load(Ordering::SeqCst), "told to panic");
        match *self.failure.lock().unwrap() {
            Some(kind) => Err(KeyringError::new(WRAPPING_KEY, kind, "told to fail")),
            None => Ok(()),
        }
    }

    /// From now on it fails like this, or works again.
    pub(crate) fn fail(&self, kind: Option<KeyringErrorKind>) {
        *self.failure.lock().unwrap() = kind;
    }
}

impl Keyring for GatedKeyring {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        Box::pin(async move {
            self.pass(&self.generated).await.map_err(envelope::Error::DataKeyUnavailable)?;
            self.inner.generate(request).await
        })
    }

    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        self.inner.wrap(request, data_key)
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(async move {
            self.pass(&self.unwrapped).await.map_err(|failure| vec![failure])?;
            self.inner.unwrap(request, encrypted_data_keys).await
        })
    }

    fn wrapping_key(&self, _request: KeyringRequest<'_>) -> Option<Arc<str>> {
        Some(WRAPPING_KEY.into())
    }

    fn identity(&self) -> Option<String> {
        Some(WRAPPING_KEY.to_owned())
    }
}

/// The serialized encrypted data keys in a message's header: what tells one data key from another.
pub(crate) fn encrypted_data_keys(message: &[u8]) -> &[u8] {
    let u16_at = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    let start = 1 + 2 + 32 + 2 + u16_at(35);
    let mut at = start + 2;
    for _ in 0..u16_at(start) * 3 {
        at += 2 + u16_at(at);
    }
    &message[start..at]
}

/// The length of a message's header, its tag included.
pub(crate) fn header_length(message: &[u8]) -> usize {
    let keys = encrypted_data_keys(message);
    (keys.as_ptr() as usize - message.as_ptr() as usize) + keys.len() + 1 + 4 + 32 + 16
}

/// A raw AES keyring that wraps each data key several times: once for unwrapping, and the rest as
/// padding.
#[derive(Debug, Clone)]
pub(crate) struct PaddedKeyring {
    inner: Arc<RawAesKeyring>,
    padding: Arc<AtomicU64>,
}

impl Default for PaddedKeyring {
    fn default() -> Self {
        Self { inner: Arc::new(keyring()), padding: Arc::default() }
    }
}

impl PaddedKeyring {
    /// Adds this many bytes from now on.
    pub(crate) fn pad(&self, bytes: usize) {
        self.padding.store(bytes as u64, Ordering::SeqCst);
    }
}

impl Keyring for PaddedKeyring {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        Box::pin(async move {
            let mut generated = self.inner.generate(request).await?;
            let mut padding = usize::try_from(self.padding.load(Ordering::SeqCst)).unwrap();
            while padding > 0 {
                let length = padding.min(60_000);
                padding -= length;
                generated.encrypted_data_keys.push(EncryptedDataKey {
                    key_provider_id: "padding".to_owned(),
                    key_provider_information: b"padding".to_vec(),
                    ciphertext: vec![7; length],
                });
            }
            Ok(generated)
        })
    }

    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        self.inner.wrap(request, data_key)
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        self.inner.unwrap(request, encrypted_data_keys)
    }
}
