//! The multi-keyring (specification: `framework/multi-keyring.md`).

use std::sync::Arc;

use super::{
    EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringFuture,
    KeyringRequest,
};
use crate::{data_key::DataKey, error::Error};

/// Wraps one data key with several keyrings, so that any one of them can decrypt the message.
///
/// Encryption needs all of them: the generator creates the data key, then each child wraps it. If
/// one of them fails, encryption fails. Without a generator, a multi-keyring only decrypts.
///
/// Decryption needs one of them. It tries the generator first, then the children in their order,
/// each with all of the message's encrypted data keys, and uses the first that unwraps one. It
/// waits for a keyring that does not answer, for AWS KMS up to the pool's operation timeout: to
/// decrypt in an emergency, build a client with the child alone.
///
/// The order of the keyrings is the order of the message's encrypted data keys.
///
/// A multi-keyring with a generator can't be another one's child: the specification has it
/// generate, or fail.
///
/// Anyone who can use one of the keyrings can decrypt the message: it is as safe as the weakest of
/// them.
///
/// ```
/// use envelope::{DataKey, keyring::{MultiKeyring, RawAesKeyring}};
///
/// let (ours, escrow) = (DataKey::generate(32)?, DataKey::generate(32)?);
/// let keyring = MultiKeyring::builder()
///     .generator(RawAesKeyring::new("payments", "2026-key", &ours)?)
///     .child(RawAesKeyring::new("escrow", "offline-key", &escrow)?)
///     .build()?;
/// # Ok::<(), envelope::Error>(())
/// ```
#[derive(Debug)]
pub struct MultiKeyring {
    generator: Option<Box<dyn Keyring>>,
    children: Vec<Box<dyn Keyring>>,
}

impl MultiKeyring {
    /// A builder with no keyring yet.
    #[must_use]
    pub fn builder() -> MultiKeyringBuilder {
        MultiKeyringBuilder { generator: None, children: vec![] }
    }

    /// Generator first, then the children.
    fn keyrings(&self) -> impl Iterator<Item = &dyn Keyring> {
        self.generator.iter().chain(&self.children).map(|keyring| &**keyring)
    }
}

impl Keyring for MultiKeyring {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> KeyringFuture<'a, GeneratedDataKey> {
        Box::pin(async move {
            let Some(generator) = &self.generator else {
                return Err(misused(
                    "it has no generator to make a data key: set one with `MultiKeyringBuilder`",
                ));
            };
            let mut generated = generator.generate(request).await?;
            for child in &self.children {
                generated
                    .encrypted_data_keys
                    .extend(child.wrap(request, &generated.data_key).await?);
            }
            Ok(generated)
        })
    }

    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> KeyringFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(async move {
            if self.generator.is_some() {
                return Err(misused(
                    "it has a generator, so it wraps no data key but the one that it generates",
                ));
            }
            let mut encrypted_data_keys = vec![];
            for child in &self.children {
                encrypted_data_keys.extend(child.wrap(request, data_key).await?);
            }
            Ok(encrypted_data_keys)
        })
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> KeyringFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(async move {
            let mut failures = vec![];
            for keyring in self.keyrings() {
                match keyring.unwrap(request, encrypted_data_keys).await {
                    Ok(data_key) => return Ok(data_key),
                    Err(more) => failures.extend(more),
                }
            }
            Err(failures)
        })
    }

    fn wrapping_key(&self, request: KeyringRequest<'_>) -> Option<Arc<str>> {
        self.generator.as_ref()?.wrapping_key(request)
    }

    fn identity(&self) -> Option<String> {
        let identities: Vec<_> = self.keyrings().map(Keyring::identity).collect::<Option<_>>()?;
        Some(format!("multi {} {identities:?}", self.generator.is_some()))
    }

    fn tenure(&self) -> u64 {
        self.keyrings().map(Keyring::tenure).fold(0, u64::wrapping_add)
    }
}

fn misused(cause: &'static str) -> Error {
    Error::DataKeyUnavailable(KeyringError::new("multi-keyring", KeyringErrorKind::Other, cause))
}

/// Builds a [`MultiKeyring`].
#[derive(Debug)]
pub struct MultiKeyringBuilder {
    generator: Option<Box<dyn Keyring>>,
    children: Vec<Box<dyn Keyring>>,
}

impl MultiKeyringBuilder {
    /// The keyring that makes data keys, and wraps them first. Default: none, and the multi-keyring
    /// only unwraps, or wraps data keys that another keyring made. Set twice, the last one counts.
    ///
    /// ```
    /// # use envelope::{DataKey, keyring::{MultiKeyring, RawAesKeyring}};
    /// # let wrapping_key = DataKey::generate(32)?;
    /// MultiKeyring::builder().generator(RawAesKeyring::new("payments", "2026-key", &wrapping_key)?).build()?;
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn generator(mut self, keyring: impl Keyring + 'static) -> Self {
        self.generator = Some(Box::new(keyring));
        self
    }

    /// Adds a keyring that wraps what the generator made. Default: none. The specification sets no
    /// limit, but each one adds its encrypted data keys to every message, and readers refuse
    /// messages with too many.
    ///
    /// ```
    /// # use envelope::{DataKey, keyring::{MultiKeyring, RawAesKeyring}};
    /// # let [old, new] = [DataKey::generate(32)?, DataKey::generate(32)?];
    /// let opens_both = MultiKeyring::builder()
    ///     .child(RawAesKeyring::new("payments", "2026-key", &new)?)
    ///     .child(RawAesKeyring::new("payments", "2025-key", &old)?)
    ///     .build()?;
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn child(mut self, keyring: impl Keyring + 'static) -> Self {
        self.children.push(Box::new(keyring));
        self
    }

    /// The multi-keyring.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when it has neither a generator nor a child.
    pub fn build(self) -> Result<MultiKeyring, Error> {
        let Self { generator, children } = self;
        if generator.is_none() && children.is_empty() {
            return Err(Error::invalid_setting(
                "keyrings",
                "none; a generator or a child is needed",
            ));
        }
        Ok(MultiKeyring { generator, children })
    }
}
