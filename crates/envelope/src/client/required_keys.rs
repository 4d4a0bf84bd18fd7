//! Encryption context keys that every message needs (specification:
//! `framework/required-encryption-context-cmm.md`).

use std::sync::Arc;

use crate::{context::EncryptionContext, error::Error};

/// The keys that every encryption context must have. Their pairs are authenticated, but not stored.
#[derive(Debug, Clone, Default)]
pub(super) struct RequiredKeys(Arc<[String]>);

impl RequiredKeys {
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for a key that no encryption context may have.
    pub(super) fn new(keys: Vec<String>) -> Result<Self, Error> {
        match keys.iter().find(|key| EncryptionContext::is_reserved(key)) {
            Some(key) => Err(Error::invalid_setting(
                "required_keys",
                format!("{key:?} is reserved for the message format"),
            )),
            None => Ok(Self(keys.into())),
        }
    }

    /// Checks that `context` has every required key.
    ///
    /// # Errors
    ///
    /// [`Error::RequiredContextMissing`]
    pub(super) fn check(&self, context: &EncryptionContext) -> Result<(), Error> {
        match self.0.iter().find(|key| context.get(key).is_none()) {
            Some(key) => Err(Error::RequiredContextMissing { key: key.clone() }),
            None => Ok(()),
        }
    }

    /// Returns the part of `context` that a message must not store.
    ///
    /// # Errors
    ///
    /// [`Error::RequiredContextMissing`]
    pub(super) fn required_part(
        &self,
        context: &EncryptionContext,
    ) -> Result<EncryptionContext, Error> {
        if self.0.is_empty() {
            return Ok(EncryptionContext::empty());
        }
        self.check(context)?;
        Ok(self.required_part_of(context))
    }

    /// Returns the pairs of `context` that a message must not store. Does not check that `context`
    /// has every required key.
    pub(super) fn required_part_of(&self, context: &EncryptionContext) -> EncryptionContext {
        context.filtered(|key| self.0.iter().any(|required| required == key))
    }
}
