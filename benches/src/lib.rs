//! What the benchmarks share: clients with a warm cache, the [`floor`] of what they cost, and the
//! limits that figures are held to.
#![allow(clippy::missing_errors_doc, reason = "no other package uses this one")]
#![allow(clippy::missing_panics_doc, reason = "no other package uses this one")]

pub mod floor;
pub mod limits;
pub mod matrix;

use std::{error::Error, hint::black_box, pin::pin, process::ExitCode, time::Duration};

use envelope::{
    AlgorithmSuite, CommitmentPolicy, DataKey, EncryptionContext, Envelope,
    branch_key::{BranchKeys, StaticBranchKeys},
    keyring::{HierarchicalKeyring, Keyring, RawAesKeyring},
    materials::{CachingMaterialsManager, DefaultMaterialsManager},
};
use futures_util::FutureExt as _;

/// The result of a benchmark: the exit code of the program, or why it could not be run.
pub type Result<T = ExitCode> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The frame length of [`warm`], in bytes.
pub const FRAME_LENGTH: u32 = 4096;
/// A `max_age` that no benchmark reaches.
pub const LONG: Duration = Duration::from_hours(24);

/// Returns a client whose cache holds the data keys for [`context`].
pub fn warm() -> Result<Envelope> {
    warm_with(raw_aes()?, &context(), AlgorithmSuite::default(), Some(FRAME_LENGTH))
}

/// Returns the same for another keyring, context, suite and frame length. Without a frame length,
/// the body is in one piece.
pub fn warm_with(
    keyring: impl Keyring + 'static,
    context: &EncryptionContext,
    suite: AlgorithmSuite,
    frame_length: Option<u32>,
) -> Result<Envelope> {
    let source = DefaultMaterialsManager::new(keyring);
    let manager = CachingMaterialsManager::builder(source).max_age(LONG).build()?;
    let policy = if suite.commits_to_key() {
        CommitmentPolicy::RequireEncryptRequireDecrypt
    } else {
        CommitmentPolicy::ForbidEncryptAllowDecrypt
    };
    let envelope = Envelope::builder(manager)
        .commitment_policy(policy)
        .suite(suite)
        .framed(frame_length.is_some())
        .frame_length(frame_length.unwrap_or(FRAME_LENGTH))
        .build()?;
    let message = futures_executor::block_on(envelope.encrypt(b"", context))?;
    futures_executor::block_on(envelope.decrypt(&message, context))?;
    Ok(envelope)
}

/// Returns a keyring with a new AES key.
pub fn raw_aes() -> Result<RawAesKeyring> {
    Ok(RawAesKeyring::new("benches", "key", &DataKey::generate(32)?)?)
}

/// The id of the branch key of [`warm_branch_key`].
pub const BRANCH_KEY: &str = "tenant-42";

/// Returns a client without a cache of data keys, and the cache of its branch keys, which holds
/// [`BRANCH_KEY`].
pub fn warm_branch_key(secret: DataKey) -> Result<(Envelope, BranchKeys)> {
    let source = StaticBranchKeys::new().with_active(BRANCH_KEY, [1; 16], secret)?;
    let keys = BranchKeys::builder(source).max_age(LONG).build()?;
    futures_executor::block_on(keys.active(BRANCH_KEY))?;
    let keyring = HierarchicalKeyring::new(keys.clone(), BRANCH_KEY)?;
    let manager = DefaultMaterialsManager::new(keyring);
    let envelope = Envelope::builder(manager).frame_length(FRAME_LENGTH).build()?;
    Ok((envelope, keys))
}

/// Returns the encryption context of the benchmarks.
#[must_use]
pub fn context() -> EncryptionContext {
    tenant("42")
}

/// Returns the encryption context of a tenant.
#[must_use]
pub fn tenant(name: &str) -> EncryptionContext {
    EncryptionContext::new([("tenant", name)]).expect("one short pair is allowed")
}

/// Polls a future until it is ready. Operations that find their data key in the cache only yield.
pub fn finished<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Some(output) = future.as_mut().now_or_never() {
            return output;
        }
    }
}

/// Drops a result that the compiler must not optimize away.
pub fn done<T>(result: T) {
    drop(black_box(result));
}
