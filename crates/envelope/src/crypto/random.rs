//! Random bytes from the operating system.

use std::sync::Arc;

use crate::error::Error;

/// Returns `N` bytes from the system's cryptographic random number generator.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// Fills `bytes` from the system's cryptographic random number generator. For secrets: it leaves no
/// copy behind.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(|cause| Error::Random(Arc::new(cause)))
}
