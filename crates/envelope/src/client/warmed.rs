//! The encryption contexts that should be ready.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crate::context::EncryptionContext;

/// The contexts of the last [`Envelope::warm`](super::Envelope::warm), shared by all clones of a
/// client.
#[derive(Clone, Default)]
pub(super) struct Warmed(Arc<Mutex<Vec<EncryptionContext>>>);

impl Warmed {
    pub(super) fn set(&self, contexts: Vec<EncryptionContext>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = contexts;
    }

    pub(super) fn all(&self) -> Vec<EncryptionContext> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Shows the number of contexts.
impl fmt::Debug for Warmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Warmed").field(&self.all().len()).finish()
    }
}
