//! Who supplies materials.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use subtle::ConstantTimeEq as _;

use super::{DecryptionMaterials, EncryptedDataKeys, EncryptionMaterials, MaterialsCache};
use crate::{
    context::EncryptionContext, error::Error, format::header::UnverifiedHeader, message::open,
    suite::AlgorithmSuite,
};

/// What a materials manager's operations return.
pub type MaterialsFuture<'a, T> = Pin<Box<dyn Future<Output = Result<Arc<T>, Error>> + Send + 'a>>;

/// Supplies the materials of each message: a cryptographic materials manager (specification:
/// `framework/cmm-interface.md`).
pub trait MaterialsManager: fmt::Debug + Send + Sync {
    /// Materials to seal one message with.
    ///
    /// # Errors
    ///
    /// Any error that prevents supplying them.
    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, EncryptionMaterials>;

    /// Materials to open one message with.
    ///
    /// # Errors
    ///
    /// Any error that prevents supplying them.
    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> MaterialsFuture<'a, DecryptionMaterials>;

    /// The same at once, or `None` where that takes waiting. Must not block.
    ///
    /// # Errors
    ///
    /// Any error that permanently prevents supplying them.
    fn try_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<EncryptionMaterials>>, Error> {
        let _ = request;
        Ok(None)
    }

    /// The same at once, or `None` where that takes waiting. Must not block.
    ///
    /// # Errors
    ///
    /// Any error that permanently prevents supplying them.
    fn try_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<DecryptionMaterials>>, Error> {
        let _ = request;
        Ok(None)
    }

    /// Lends what [`try_encryption_materials`](Self::try_encryption_materials) would give, and
    /// tells whether it did. A manager that keeps materials does so without counting who holds
    /// them: threads that write to one count hold each other up. Must not block; borrows at most
    /// once. Default: lends what the other gives.
    ///
    /// # Errors
    ///
    /// Those of the other.
    fn lend_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&EncryptionMaterials),
    ) -> Result<bool, Error> {
        Ok(self.try_encryption_materials(request)?.map(|materials| borrow(&materials)).is_some())
    }

    /// Lends what [`try_decryption_materials`](Self::try_decryption_materials) would give, as
    /// [`lend_encryption_materials`](Self::lend_encryption_materials) does.
    ///
    /// # Errors
    ///
    /// Those of the other.
    fn lend_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&DecryptionMaterials),
    ) -> Result<bool, Error> {
        Ok(self.try_decryption_materials(request)?.map(|materials| borrow(&materials)).is_some())
    }

    /// The wrapping key that would be asked for these materials, see
    /// [`Keyring::wrapping_key`](crate::keyring::Keyring::wrapping_key). Default: not known.
    fn wrapping_key(&self, request: EncryptionMaterialsRequest<'_>) -> Option<Arc<str>> {
        let _ = request;
        None
    }

    /// The cache that keeps the materials. Default: none.
    fn cache(&self) -> Option<&MaterialsCache> {
        None
    }

    /// Identifies the wrapping keys of the materials, like
    /// [`Keyring::identity`](crate::keyring::Keyring::identity). Default: unknown.
    fn identity(&self) -> Option<String> {
        None
    }

    /// Whether it must see every request, because a cache over it would skip its checks.
    /// [`CachingBuilder::build`](super::CachingBuilder::build) refuses such a source. Default:
    /// `false`.
    fn sees_every_request(&self) -> bool {
        false
    }

    /// Grows when another identity obtains the materials than before, as
    /// [`Keyring::tenure`](crate::keyring::Keyring::tenure). Default: it never does.
    fn tenure(&self) -> u64 {
        0
    }

    /// Looks up once what many messages like this will need; its plaintext length is of no account.
    /// Default: `None`, where nothing is kept.
    ///
    /// # Errors
    ///
    /// Any error that permanently prevents supplying materials.
    fn prepare(
        &self,
        request: EncryptionMaterialsRequest<'_>,
    ) -> Result<Option<Arc<dyn PreparedMaterials>>, Error> {
        let _ = request;
        Ok(None)
    }

    /// Fetches what messages like this will need, unless it is there. Default: nothing, where
    /// nothing is kept.
    ///
    /// # Errors
    ///
    /// Any error that prevents supplying materials.
    fn warm<'a>(&'a self, request: EncryptionMaterialsRequest<'a>) -> WarmFuture<'a> {
        let _ = request;
        Box::pin(async { Ok(()) })
    }
}

/// What [`MaterialsManager::warm`] returns.
pub type WarmFuture<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// Encryption materials that were looked up once, for many messages: from
/// [`MaterialsManager::prepare`].
pub trait PreparedMaterials: fmt::Debug + Send + Sync {
    /// Lends materials for one message of `plaintext_length` bytes; or does not, and says so with
    /// `false`, where that takes waiting. Must not block.
    fn lend(&self, plaintext_length: u64, borrow: &mut dyn FnMut(&EncryptionMaterials)) -> bool;
}

/// What a message has that requires nothing of its context.
static NOTHING_REQUIRED: EncryptionContext = EncryptionContext::empty();

/// What a message to be sealed asks of a materials manager.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EncryptionMaterialsRequest<'a> {
    /// The algorithm suite to be used.
    pub suite: AlgorithmSuite,
    /// The encryption context to be bound to the message.
    pub encryption_context: &'a EncryptionContext,
    /// The part of it that the message authenticates, but does not store.
    pub required_context: &'a EncryptionContext,
    /// The plaintext's length in bytes, or a bound on it; `None` when it is not known. A cached
    /// data key is lent only against a known length.
    pub plaintext_length: Option<u64>,
    /// Whether no caller waits for it, because it is fetched ahead. Default: `false`.
    pub background: bool,
}

impl<'a> EncryptionMaterialsRequest<'a> {
    /// What a message asks for that stores all of `encryption_context`. For `plaintext_length`, see
    /// the field.
    ///
    /// ```
    /// use envelope::{
    ///     AlgorithmSuite, DataKey, EncryptionContext,
    ///     keyring::RawAesKeyring,
    ///     materials::{DefaultMaterialsManager, EncryptionMaterialsRequest, MaterialsManager},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
    /// let manager = DefaultMaterialsManager::new(RawAesKeyring::new("ns", "name", &DataKey::generate(32)?)?);
    /// let context = EncryptionContext::new([("tenant", "42")])?;
    /// let request = EncryptionMaterialsRequest::new(AlgorithmSuite::default(), &context, Some(1024));
    /// let materials = manager.encryption_materials(request).await?;
    /// assert_eq!(materials.data_key().len(), 32);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn new(
        suite: AlgorithmSuite,
        encryption_context: &'a EncryptionContext,
        plaintext_length: Option<u64>,
    ) -> Self {
        Self {
            suite,
            encryption_context,
            required_context: &NOTHING_REQUIRED,
            plaintext_length,
            background: false,
        }
    }
}

/// What a message to be opened asks of a materials manager. Nothing in it is authenticated yet.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct DecryptionMaterialsRequest<'a> {
    /// The message's algorithm suite.
    pub suite: AlgorithmSuite,
    /// The message's encrypted data keys.
    pub encrypted_data_keys: EncryptedDataKeys<'a>,
    /// What the caller says that the encryption context holds; contradicts nothing that the message
    /// stores.
    pub supplied_context: &'a EncryptionContext,
    /// The part of it that the message does not store.
    pub required_context: &'a EncryptionContext,
    pub(crate) stored_context: &'a [u8],
    pub(crate) proof: Proof<'a>,
    /// Whether no caller waits for it, because it is fetched ahead. Default: `false`.
    pub background: bool,
}

/// Shows that decryption materials are the right ones.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Proof<'a> {
    /// The message's header, as it was received, is authentic under them.
    Header(&'a UnverifiedHeader<'a>),
    /// They contain the same data key as these materials, which were proven.
    Known(&'a Arc<DecryptionMaterials>),
}

impl DecryptionMaterialsRequest<'_> {
    /// The encryption context that the data key is bound to: what the message stores, and what it
    /// does not.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEncryptionContext`] when both together are too long.
    pub fn encryption_context(&self) -> Result<EncryptionContext, Error> {
        EncryptionContext::from_serialized(self.stored_context, 0)?.with(self.required_context)
    }
    /// Whether the message's header is authentic under these materials.
    ///
    /// Materials are supplied before the message can be verified, so a forged message gets real
    /// materials, too. A manager that keeps materials must not keep any for which this is `false`.
    #[must_use]
    pub fn is_authentic_under(&self, materials: &DecryptionMaterials) -> bool {
        match self.proof {
            Proof::Header(header) => open::is_authentic(header, materials),
            Proof::Known(known) => {
                let [one, other] = [materials, known].map(|it| it.data_key().expose_secret());
                materials.suite() == known.suite() && one.ct_eq(other).into()
            }
        }
    }
}
