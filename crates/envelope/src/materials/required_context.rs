//! Context that is authenticated, but not stored (specification:
//! `framework/required-encryption-context-cmm.md`).

use std::sync::Arc;

use super::{
    DecryptionMaterials, DecryptionMaterialsRequest, EncryptionMaterials,
    EncryptionMaterialsRequest, MaterialsCache, MaterialsFuture, MaterialsManager,
    PreparedMaterials, WarmFuture,
};
use crate::{context::EncryptionContext, error::Error};

/// Requires some keys in every encryption context, and keeps their pairs out of the message: who
/// opens it must supply them. For what a reader knows anyway, and a message should not tell: an
/// account, a session.
///
/// ```
/// use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
/// use envelope::materials::{DefaultMaterialsManager, RequiredContextMaterialsManager};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
/// # let keyring = RawAesKeyring::new("ns", "name", &DataKey::generate(32)?)?;
/// let manager = RequiredContextMaterialsManager::new(["account"], DefaultMaterialsManager::new(keyring))?;
/// let envelope = Envelope::builder(manager).build()?;
///
/// let context = EncryptionContext::new([("account", "0042"), ("kind", "statement")])?;
/// let message = envelope.encrypt(b"balance", &context).await?;
/// assert!(!message.windows(4).any(|bytes| bytes == b"0042"));
///
/// assert!(envelope.decrypt(&message, &EncryptionContext::empty()).await.is_err());
/// assert_eq!(envelope.decrypt(&message, &context).await?.plaintext(), b"balance");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct RequiredContextMaterialsManager {
    keys: Arc<[String]>,
    source: Arc<dyn MaterialsManager>,
}

impl RequiredContextMaterialsManager {
    /// A manager that requires `keys` and asks `source` for materials.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] when there are no keys.
    pub fn new(
        keys: impl IntoIterator<Item = impl Into<String>>,
        source: impl MaterialsManager + 'static,
    ) -> Result<Self, Error> {
        let keys: Arc<[String]> = keys.into_iter().map(Into::into).collect();
        if keys.is_empty() {
            return Err(Error::invalid_setting("required keys", "at least one is needed"));
        }
        Ok(Self { keys, source: Arc::new(source) })
    }

    /// Fails unless `context` has every required key.
    fn check(&self, context: &EncryptionContext) -> Result<(), Error> {
        match self.keys.iter().find(|key| context.get(key).is_none()) {
            Some(key) => Err(Error::RequiredContextMissing { key: key.clone() }),
            None => Ok(()),
        }
    }

    /// What the message is not to store: these keys, and those that another such manager requires.
    fn required(
        &self,
        request: EncryptionMaterialsRequest<'_>,
    ) -> Result<EncryptionContext, Error> {
        self.check(request.encryption_context)?;
        let others = request.required_context;
        let required =
            |key: &str| self.keys.iter().any(|own| own == key) || others.get(key).is_some();
        Ok(request.encryption_context.filtered(required))
    }
}

impl MaterialsManager for RequiredContextMaterialsManager {
    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, EncryptionMaterials> {
        Box::pin(async move {
            let required_context = &self.required(request)?;
            self.source
                .encryption_materials(EncryptionMaterialsRequest { required_context, ..request })
                .await
        })
    }

    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, DecryptionMaterials> {
        Box::pin(async move {
            self.check(request.supplied_context)?;
            let materials = self.source.decryption_materials(request).await?;
            self.check(materials.encryption_context())?;
            Ok(materials)
        })
    }

    fn try_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<EncryptionMaterials>>, Error> {
        let required_context = &self.required(request)?;
        self.source
            .try_encryption_materials(EncryptionMaterialsRequest { required_context, ..request })
    }

    fn try_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<DecryptionMaterials>>, Error> {
        self.check(request.supplied_context)?;
        let materials = self.source.try_decryption_materials(request)?;
        materials
            .as_ref()
            .map_or(Ok(()), |materials| self.check(materials.encryption_context()))?;
        Ok(materials)
    }

    fn lend_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&EncryptionMaterials),
    ) -> Result<bool, Error> {
        let required_context = &self.required(request)?;
        self.source.lend_encryption_materials(
            EncryptionMaterialsRequest { required_context, ..request },
            borrow,
        )
    }

    fn lend_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&DecryptionMaterials),
    ) -> Result<bool, Error> {
        self.check(request.supplied_context)?;
        let mut checked = Ok(());
        let lent = self.source.lend_decryption_materials(request, &mut |materials| {
            checked = self.check(materials.encryption_context());
            if checked.is_ok() {
                borrow(materials);
            }
        })?;
        checked.map(|()| lent)
    }

    fn wrapping_key(&self, request: EncryptionMaterialsRequest<'_>) -> Option<Arc<str>> {
        let required_context = &self.required(request).ok()?;
        self.source.wrapping_key(EncryptionMaterialsRequest { required_context, ..request })
    }

    fn cache(&self) -> Option<&MaterialsCache> {
        self.source.cache()
    }

    fn identity(&self) -> Option<String> {
        self.source.identity()
    }

    fn sees_every_request(&self) -> bool {
        true
    }

    fn tenure(&self) -> u64 {
        self.source.tenure()
    }

    fn prepare(
        &self,
        request: EncryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<dyn PreparedMaterials>>, Error> {
        let required_context = &self.required(request)?;
        self.source.prepare(EncryptionMaterialsRequest { required_context, ..request })
    }

    fn warm<'a>(&'a self, request: EncryptionMaterialsRequest<'a>) -> WarmFuture<'a> {
        Box::pin(async move {
            let required_context = &self.required(request)?;
            self.source.warm(EncryptionMaterialsRequest { required_context, ..request }).await
        })
    }
}
