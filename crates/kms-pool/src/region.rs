//! Validates names of regions.

use crate::error::{KmsError, KmsErrorKind};

const MAX_LENGTH: usize = 32;

/// Checks the name of a region, which becomes part of a host name and may come from an untrusted
/// message.
///
/// # Errors
///
/// [`KmsErrorKind::InvalidRequest`].
pub(crate) fn check_region(region: &str) -> Result<(), KmsError> {
    let is_valid = (1..=MAX_LENGTH).contains(&region.len())
        && !region.starts_with('-')
        && !region.ends_with('-')
        && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if is_valid {
        return Ok(());
    }
    let message = "invalid region name: expected 1 to 32 lower-case letters, digits and inner \
        hyphens, such as eu-central-1";
    Err(KmsError::local(KmsErrorKind::InvalidRequest, message, None))
}
