//! Errors with their causes, as text.

use std::{error::Error, fmt};

use super::keyring::KeyringError;

/// An error and its causes, in one line.
///
/// It ends with the cause of a [`KeyringError`]. Deeper causes may come from a credentials
/// provider, whose messages may contain secrets.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut error = self.0;
        while let Some(cause) = error.source() {
            write!(f, ": {cause}")?;
            if error.is::<KeyringError>() {
                break;
            }
            error = cause;
        }
        Ok(())
    }
}
