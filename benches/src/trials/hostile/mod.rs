//! Attackers who send invalid messages, senders who disconnect, and senders of heavy messages, next
//! to well-behaved tenants.

mod flood;
mod heavy;

use std::error::Error;

use envelope::EncryptionContext;
use tokio::runtime;

use crate::{
    Lines,
    kms::{Kms, cache},
    trials::{Trial, fresh},
};

/// Runs the trial.
///
/// # Errors
///
/// If the server cannot start, or a message to forge cannot be created.
pub fn run(quick: bool) -> Trial {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut lines = Lines::default();
    flood::run(&runtime, quick, &mut lines)?;
    heavy::run(&runtime, quick, &mut lines)?;
    Ok(lines.verdict())
}

/// Messages of new tenants that this client has not decrypted yet, with their contexts.
async fn messages(
    kms: &Kms,
    number: usize,
) -> Result<Vec<(EncryptionContext, Vec<u8>)>, Box<dyn Error>> {
    let elsewhere = kms.client(&cache(0, 16), |builder| builder)?;
    let mut messages = vec![];
    for _ in 0..number {
        let context = fresh();
        messages.push((context.clone(), elsewhere.encrypt(b"x", &context).await?));
    }
    Ok(messages)
}
