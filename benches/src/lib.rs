//! What the benchmarks share: warm clients, and the [`floor`] beneath them.

pub mod file;
pub mod floor;
pub mod kms;
pub mod load;
pub mod matrix;
pub mod memory;
pub mod picture;
pub mod plain;
pub mod pool;
pub mod rounds;
pub mod secrets;
pub mod trials;
mod verdict;

use std::{pin::pin, time::Duration};

pub use self::verdict::{Lines, verdict};

use futures_util::FutureExt as _;

use envelope::{
    AlgorithmSuite, CommitmentPolicy, DataKey, EncryptionContext, Envelope, Error,
    keyring::{Keyring, RawAesKeyring},
    materials::{CachingMaterialsManager, DefaultMaterialsManager},
};

/// The frame length of [`warm`], in bytes.
pub const FRAME_LENGTH: u32 = 4096;

/// A client whose cache holds the data key for [`context`], to seal and to open.
///
/// # Errors
///
/// None, unless the machine has no random numbers.
pub async fn warm() -> Result<Envelope, Error> {
    warm_for(AlgorithmSuite::default(), Some(FRAME_LENGTH)).await
}

/// The same for `suite`, with frames of `frame_length` bytes, or the body in one piece.
///
/// # Errors
///
/// Those of [`warm`].
pub async fn warm_for(suite: AlgorithmSuite, frame_length: Option<u32>) -> Result<Envelope, Error> {
    warm_under(raw_aes()?, &context()?, suite, frame_length).await
}

/// The same under `keyring`, for `context`.
///
/// # Errors
///
/// Those of [`warm`], and of the keyring.
pub async fn warm_under(
    keyring: impl Keyring + 'static,
    context: &EncryptionContext,
    suite: AlgorithmSuite,
    frame_length: Option<u32>,
) -> Result<Envelope, Error> {
    let manager = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring))
        .max_age(FOR_LONG)
        .build()?;
    let policy = if suite.commits_to_key() {
        CommitmentPolicy::RequireEncryptRequireDecrypt
    } else {
        CommitmentPolicy::ForbidEncryptAllowDecrypt
    };
    let builder = Envelope::builder(manager)
        .commitment_policy(policy)
        .suite(suite)
        .framed(frame_length.is_some());
    let envelope = builder.frame_length(frame_length.unwrap_or(FRAME_LENGTH)).build()?;
    let message = envelope.encrypt(b"", context).await?;
    envelope.decrypt(&message, context).await?;
    Ok(envelope)
}

/// So that no data key is replaced while something is measured.
pub const FOR_LONG: Duration = Duration::from_hours(24);

/// A keyring with an AES key of its own.
///
/// # Errors
///
/// None, unless the machine has no random numbers.
pub fn raw_aes() -> Result<RawAesKeyring, Error> {
    RawAesKeyring::new("benches", "key", &DataKey::generate(32)?)
}

/// The encryption context that the benchmarks use.
///
/// # Errors
///
/// None.
pub fn context() -> Result<EncryptionContext, Error> {
    EncryptionContext::new([("tenant", "42")])
}

/// Polls until it is done: what finds its data key in the cache waits for nobody, and at most gives
/// others their turn.
pub fn finished<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Some(output) = future.as_mut().now_or_never() {
            return output;
        }
    }
}
