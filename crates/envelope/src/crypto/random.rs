//! Random bytes from the operating system.

use std::sync::Arc;

use crate::error::Error;

/// Returns `N` bytes from the system's cryptographic random number generator.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|cause| Error::Random(Arc::new(cause)))?;
    Ok(bytes)
}
