//! Gets a new data key from a keyring for each message (specification:
//! `framework/default-cmm.md`).

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    DecryptionMaterials, DecryptionMaterialsRequest, EncryptionMaterials,
    EncryptionMaterialsRequest, MaterialsManager,
};
use crate::{
    context::EncryptionContext,
    crypto::signature::{SigningKey, VerificationKey},
    data_key::DataKey,
    error::{Error, KeyringError, ResultFuture},
    format::encrypted_data_key::EncryptedDataKey,
    keyring::{Keyring, KeyringRequest},
    suite::AlgorithmSuite,
};

/// The encryption context key of a signed message's public key.
const PUBLIC_KEY: &str = "aws-crypto-public-key";

/// Asks a keyring for each message, and caches nothing.
///
/// ```
/// use envelope::{DataKey, Envelope, keyring::RawAesKeyring, materials::DefaultMaterialsManager};
///
/// let keyring = RawAesKeyring::new("payments", "2026", &DataKey::generate(32)?)?;
/// let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring)).build()?;
/// assert!(envelope.cache().is_none());
/// # Ok::<(), envelope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DefaultMaterialsManager {
    keyring: Arc<dyn Keyring>,
}

impl DefaultMaterialsManager {
    /// Creates a manager that asks `keyring`.
    #[must_use]
    pub fn new(keyring: impl Keyring + 'static) -> Self {
        Self { keyring: Arc::new(keyring) }
    }
}

impl DefaultMaterialsManager {
    /// Returns the materials with an unwrapped data key, or the error of those that were `tried`.
    fn with_unwrapped(
        &self,
        request: DecryptionMaterialsRequest<'_>,
        context: EncryptionContext,
        verification_key: Option<VerificationKey>,
        tried: &[EncryptedDataKey],
        unwrapped: Result<DataKey, Vec<KeyringError>>,
    ) -> Result<Arc<DecryptionMaterials>, Error> {
        let suite = request.suite;
        let required = request.required_context.clone();
        let data_key = unwrapped.map_err(|failures| {
            let not_stored = required.iter().map(|(key, _)| key.to_owned()).collect();
            let names = tried.iter().map(EncryptedDataKey::wrapping_key);
            Error::data_key_not_unwrapped(failures, names, self.keyring.identity(), not_stored)
        })?;
        DecryptionMaterials::with_parts(suite, context, required, data_key, verification_key)
            .map(Arc::new)
    }
}

impl MaterialsManager for DefaultMaterialsManager {
    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<EncryptionMaterials>> {
        Box::pin(async move {
            let EncryptionMaterialsRequest { suite, encryption_context, required_context, .. } =
                request;
            let signing_key = suite.curve().map(SigningKey::generate).transpose()?;
            let context = match &signing_key {
                Some(key) => encryption_context.with(&public_key_context(key)?)?,
                None => encryption_context.clone(),
            };
            let asked = KeyringRequest {
                background: request.background,
                ..KeyringRequest::new(suite, &context)
            };
            let generated = self.keyring.generate(asked).await?;
            EncryptionMaterials::with_parts(
                suite,
                context,
                required_context.clone(),
                generated.data_key,
                &generated.encrypted_data_keys,
                signing_key,
            )
            .map(Arc::new)
        })
    }

    /// Lends a new data key, if the keyring can generate one without waiting.
    ///
    /// Not for signed messages: generating their signing key before it is known whether the keyring
    /// has to wait would cost every call 46 µs.
    fn cached_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<EncryptionMaterials>),
    ) -> Result<bool, Error> {
        let EncryptionMaterialsRequest { suite, encryption_context, required_context, .. } =
            request;
        if suite.curve().is_some() {
            return Ok(false);
        }
        let asked = KeyringRequest::new(suite, encryption_context);
        let Some(generated) = self.keyring.try_generate(asked) else { return Ok(false) };
        let generated = generated?;
        let materials = EncryptionMaterials::with_parts(
            suite,
            encryption_context.clone(),
            required_context.clone(),
            generated.data_key,
            &generated.encrypted_data_keys,
            None,
        )?;
        borrow(&Arc::new(materials));
        Ok(true)
    }

    /// Lends the message's data key, if the keyring can unwrap it without waiting.
    fn cached_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<DecryptionMaterials>),
    ) -> Result<bool, Error> {
        let context = request.encryption_context()?;
        let verification_key = verification_key(request.suite, &context)?;
        let keys: Vec<_> = request.encrypted_data_keys.iter().collect();
        let asked = KeyringRequest::new(request.suite, &context);
        let Some(unwrapped) = self.keyring.try_unwrap(asked, &keys) else { return Ok(false) };
        borrow(&self.with_unwrapped(request, context, verification_key, &keys, unwrapped)?);
        Ok(true)
    }

    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<DecryptionMaterials>> {
        Box::pin(async move {
            let context = request.encryption_context()?;
            let verification_key = verification_key(request.suite, &context)?;
            let keys: Vec<_> = request.encrypted_data_keys.iter().collect();
            let asked = KeyringRequest {
                background: request.background,
                ..KeyringRequest::new(request.suite, &context)
            };
            let unwrapped = self.keyring.unwrap(asked, &keys).await;
            self.with_unwrapped(request, context, verification_key, &keys, unwrapped)
        })
    }

    fn keyring(&self) -> Option<&dyn Keyring> {
        Some(&*self.keyring)
    }
}

fn public_key_context(key: &SigningKey) -> Result<EncryptionContext, Error> {
    EncryptionContext::new([(PUBLIC_KEY, BASE64_STANDARD.encode(key.public_key()))])
}

/// Returns the public key in the encryption context of a signed message. An unsigned one must have
/// none.
fn verification_key(
    suite: AlgorithmSuite,
    context: &EncryptionContext,
) -> Result<Option<VerificationKey>, Error> {
    let invalid = |problem| Err(Error::InvalidEncryptionContext { problem });
    match (suite.curve(), context.get(PUBLIC_KEY)) {
        (None, None) => Ok(None),
        (None, Some(_)) => invalid("`aws-crypto-public-key` in a message without signature"),
        (Some(_), None) => invalid("no `aws-crypto-public-key` in a signed message"),
        (Some(curve), Some(encoded)) => {
            let point = BASE64_STANDARD.decode(encoded).ok();
            match point.and_then(|point| VerificationKey::from_point(curve, &point)) {
                Some(key) => Ok(Some(key)),
                None if cfg!(not(feature = "aws-lc-rs")) => {
                    SigningKey::generate(curve).map(|_| None)
                }
                None => {
                    invalid("`aws-crypto-public-key` is not a point of the suite's curve in Base64")
                }
            }
        }
    }
}
