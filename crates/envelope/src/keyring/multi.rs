//! The multi-keyring (specification: `framework/multi-keyring.md`).

use std::sync::Arc;

#[cfg(feature = "aws-kms")]
use super::aws_kms::MrkAwareKeys;
use super::{
    EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringRequest,
    try_unwrap_with_any, unwrap_with_any,
};
use crate::{
    data_key::DataKey,
    error::{Error, ResultFuture},
};

/// Wraps each data key with several keyrings, so that any one of them can decrypt the message.
///
/// Encryption needs all keyrings: the generator generates the data key, then each child wraps it.
/// If one fails, encryption fails. Without a generator, a multi-keyring only decrypts. To encrypt
/// with one key, and decrypt with older ones too, use a
/// [`RotatingKeyring`](super::RotatingKeyring).
///
/// Decryption needs one keyring: the generator is tried first, then the children in order, each
/// with all encrypted data keys of the message, until one succeeds. A keyring that does not respond
/// delays decryption, AWS KMS by up to the pool's `operation_timeout`. To bypass it in an
/// emergency, build a client with only the working child.
///
/// The order of the keyrings is the order of the message's encrypted data keys. Anyone who can use
/// one of the keyrings can decrypt the message: it is only as secure as the weakest keyring.
///
/// A multi-keyring with a generator cannot be a child of another multi-keyring: the specification
/// requires it to fail if another keyring has already generated the data key.
///
/// ```
/// use envelope::{DataKey, keyring::{MultiKeyring, RawAesKeyring}};
///
/// let ours = DataKey::generate(32)?;
/// let escrow = DataKey::generate(32)?;
/// let keyring = MultiKeyring::new(RawAesKeyring::new("payments", "2026-key", &ours)?)
///     .with_child(RawAesKeyring::new("escrow", "offline-key", &escrow)?)?;
/// # Ok::<(), envelope::Error>(())
/// ```
///
/// # AWS KMS
///
/// With one [`AwsKmsKeyring`](super::AwsKmsKeyring) for each KMS key, this is the specification's
/// *AWS KMS multi-keyring*, and with MRK-aware ones its *AWS KMS MRK multi-keyring*. This one
/// encrypts under keys of two regions, so that one of them can decrypt while the other region is
/// down:
///
/// ```no_run
/// # #[cfg(feature = "aws-kms")]
/// # fn example() -> Result<(), envelope::Error> {
/// use envelope::keyring::{AwsKmsKeyring, MultiKeyring};
/// use envelope::kms_pool::{KmsPool, Principal};
///
/// let virginia = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// let ireland = "arn:aws:kms:eu-west-1:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321";
/// let clients = KmsPool::builder().build()?.clients(&Principal::from_default_chain());
/// let keyring = MultiKeyring::new(AwsKmsKeyring::new(clients.clone(), virginia.parse()?))
///     .with_child(AwsKmsKeyring::new(clients, ireland.parse()?))?;
/// # Ok(())
/// # }
/// ```
///
/// With one [`AwsKmsDiscoveryKeyring`](super::AwsKmsDiscoveryKeyring) for each region it is the
/// *AWS KMS discovery multi-keyring*. The regions are tried in order, so put the nearest one first:
///
/// ```no_run
/// # #[cfg(feature = "aws-kms")]
/// # fn example(clients: envelope::kms_pool::PooledClients) -> Result<(), envelope::Error> {
/// use envelope::keyring::{AwsKmsDiscoveryKeyring, MultiKeyring};
///
/// let ireland = AwsKmsDiscoveryKeyring::mrk_aware(clients, "eu-west-1".parse()?)
///     .with_filter("aws", ["111122223333"])?;
/// let virginia = ireland.clone().in_region("us-east-1".parse()?);
/// let keyring = MultiKeyring::without_generator(ireland).with_child(virginia)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MultiKeyring {
    generator: Option<Box<dyn Keyring>>,
    children: Vec<Box<dyn Keyring>>,
    #[cfg(feature = "aws-kms")]
    mrk_aware: MrkAwareKeys,
}

impl MultiKeyring {
    /// Creates a multi-keyring in which `generator` generates data keys, and wraps them first.
    #[must_use]
    pub fn new(generator: impl Keyring + 'static) -> Self {
        Self {
            #[cfg(feature = "aws-kms")]
            mrk_aware: MrkAwareKeys::of(&generator),
            generator: Some(Box::new(generator)),
            children: vec![],
        }
    }

    /// Creates a multi-keyring without a generator, which only decrypts.
    ///
    /// As a child of another multi-keyring, it also wraps the data keys of that one's generator.
    ///
    /// ```
    /// # use envelope::{DataKey, keyring::{MultiKeyring, RawAesKeyring}};
    /// # let ours = DataKey::generate(32)?;
    /// # let escrow = DataKey::generate(32)?;
    /// let ours = RawAesKeyring::new("payments", "2026-key", &ours)?;
    /// let escrow = RawAesKeyring::new("escrow", "offline-key", &escrow)?;
    /// let decrypts_both = MultiKeyring::without_generator(ours).with_child(escrow)?;
    /// # Ok::<(), envelope::Error>(())
    /// ```
    #[must_use]
    pub fn without_generator(first_child: impl Keyring + 'static) -> Self {
        Self {
            #[cfg(feature = "aws-kms")]
            mrk_aware: MrkAwareKeys::of(&first_child),
            generator: None,
            children: vec![Box::new(first_child)],
        }
    }

    /// Adds a keyring that wraps the data keys of the generator.
    ///
    /// Each child adds its encrypted data keys to every message, and decryption fails for messages
    /// with more than `max_encrypted_data_keys`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if both `keyring` and a keyring before it are MRK-aware AWS KMS
    /// keyrings with related multi-Region keys: one of them decrypts what both of them encrypted.
    pub fn with_child(mut self, keyring: impl Keyring + 'static) -> Result<Self, Error> {
        #[cfg(feature = "aws-kms")]
        self.mrk_aware.add(&keyring)?;
        self.children.push(Box::new(keyring));
        Ok(self)
    }

    /// Returns the generator, then the children.
    fn keyrings(&self) -> impl Iterator<Item = &dyn Keyring> {
        self.generator.iter().chain(&self.children).map(|keyring| &**keyring)
    }
}

impl Keyring for MultiKeyring {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        Box::pin(async move {
            let Some(generator) = &self.generator else {
                return Err(misused(
                    "no generator: create the multi-keyring with `MultiKeyring::new`",
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
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(async move {
            if self.generator.is_some() {
                return Err(cannot_be_a_child());
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
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(unwrap_with_any(self.keyrings(), request, encrypted_data_keys))
    }

    fn try_generate(&self, request: KeyringRequest<'_>) -> Option<Result<GeneratedDataKey, Error>> {
        let mut generated = match self.generator.as_ref()?.try_generate(request)? {
            Ok(generated) => generated,
            Err(error) => return Some(Err(error)),
        };
        for child in &self.children {
            match child.try_wrap(request, &generated.data_key)? {
                Ok(wrapped) => generated.encrypted_data_keys.extend(wrapped),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(generated))
    }

    fn try_wrap(
        &self,
        request: KeyringRequest<'_>,
        data_key: &DataKey,
    ) -> Option<Result<Vec<EncryptedDataKey>, Error>> {
        if self.generator.is_some() {
            return Some(Err(cannot_be_a_child()));
        }
        let mut encrypted_data_keys = vec![];
        for child in &self.children {
            match child.try_wrap(request, data_key)? {
                Ok(wrapped) => encrypted_data_keys.extend(wrapped),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(encrypted_data_keys))
    }

    fn try_unwrap(
        &self,
        request: KeyringRequest<'_>,
        encrypted_data_keys: &[EncryptedDataKey],
    ) -> Option<Result<DataKey, Vec<KeyringError>>> {
        try_unwrap_with_any(self.keyrings(), request, encrypted_data_keys)
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

fn cannot_be_a_child() -> Error {
    misused("a multi-keyring with a generator cannot be a child of another multi-keyring")
}

fn misused(cause: &'static str) -> Error {
    Error::DataKeyUnavailable(KeyringError::new("multi-keyring", KeyringErrorKind::Other, cause))
}
