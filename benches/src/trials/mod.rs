//! Situations beyond a healthy runtime, a clean network and well-behaved tenants.

pub(crate) mod dead_path;
mod forger;
pub(crate) mod hostile;
pub(crate) mod runtimes;

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use benches::{Result, tenant};
use envelope::{EncryptionContext, Envelope, materials::MaterialsCache};
use tokio::runtime::{Builder, Runtime};

use crate::kms::Kms;

/// A runtime with one thread, which runs only inside `block_on`.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// A KMS on its own threads, and a client with a large cache.
fn start() -> Result<(Kms, Envelope)> {
    let kms = Kms::start()?;
    let envelope = kms.envelope(&MaterialsCache::new(100_000), |builder| builder)?;
    Ok((kms, envelope))
}

/// An encryption context that was not used before.
fn new_context() -> EncryptionContext {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    tenant(&format!("t{}", NEXT.fetch_add(1, Relaxed)))
}

/// Encrypts and decrypts a record of a new tenant, with two requests to KMS.
async fn round_trip(envelope: &Envelope) -> std::result::Result<(), envelope::Error> {
    let context = new_context();
    let message = envelope.encrypt(b"x", &context).await?;
    envelope.decrypt(&message, &context).await.map(drop)
}
