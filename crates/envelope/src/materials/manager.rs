//! The interface of materials managers (specification: `framework/cmm-interface.md`).

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use subtle::ConstantTimeEq as _;

use super::{DecryptionMaterials, EncryptedDataKey, EncryptionMaterials, MaterialsCache};
use crate::{
    cache::{Cache, Entry},
    context::EncryptionContext,
    error::{Error, ResultFuture},
    format::{encrypted_data_key::EncryptedDataKeys, header::UnverifiedHeader},
    keyring::Keyring,
    message::opener,
    suite::AlgorithmSuite,
};

/// Supplies the data key of each message: a cryptographic materials manager.
///
/// [`DefaultMaterialsManager`](super::DefaultMaterialsManager) asks a keyring for each message, and
/// [`CachingMaterialsManager`](super::CachingMaterialsManager) keeps data keys for reuse. Implement
/// this trait to check, route or record requests above one of them. Then forward every method:
/// without [`cached_encryption_materials`](Self::cached_encryption_materials) and
/// [`cached_decryption_materials`](Self::cached_decryption_materials), `try_encrypt` and
/// `try_decrypt` always return [`Error::NotCached`].
///
/// Place a manager that checks requests above the caching manager, never below it: cached materials
/// are not checked again.
///
/// # Examples
///
/// A manager that refuses to encrypt for tenants that are being deleted:
///
/// ```
/// use std::sync::Arc;
/// use envelope::{DataKey, EncryptionContext, Envelope, Error, ResultFuture};
/// use envelope::keyring::{Keyring, RawAesKeyring};
/// use envelope::materials::{
///     CachingMaterialsManager, DecryptionMaterials, DecryptionMaterialsRequest,
///     DefaultMaterialsManager, EncryptionMaterials, EncryptionMaterialsRequest, MaterialsCache,
///     MaterialsManager,
/// };
///
/// #[derive(Debug)]
/// struct ReadOnly {
///     tenants: Vec<String>,
///     inner: CachingMaterialsManager,
/// }
///
/// impl ReadOnly {
///     fn check(&self, context: &EncryptionContext) -> Result<(), Error> {
///         match context.get("tenant") {
///             Some(tenant) if self.tenants.iter().any(|it| it == tenant) => {
///                 Err(Error::InvalidEncryptionContext { problem: "this tenant is read-only" })
///             }
///             _ => Ok(()),
///         }
///     }
/// }
///
/// impl MaterialsManager for ReadOnly {
///     fn encryption_materials<'a>(
///         &'a self,
///         request: EncryptionMaterialsRequest<'a>,
///     ) -> ResultFuture<'a, Arc<EncryptionMaterials>> {
///         Box::pin(async move {
///             self.check(request.encryption_context)?;
///             self.inner.encryption_materials(request).await
///         })
///     }
///
///     fn cached_encryption_materials(
///         &self,
///         request: EncryptionMaterialsRequest<'_>,
///         borrow: &mut dyn FnMut(&Arc<EncryptionMaterials>),
///     ) -> Result<bool, Error> {
///         self.check(request.encryption_context)?;
///         self.inner.cached_encryption_materials(request, borrow)
///     }
///
///     fn decryption_materials<'a>(
///         &'a self,
///         request: DecryptionMaterialsRequest<'a>,
///     ) -> ResultFuture<'a, Arc<DecryptionMaterials>> {
///         self.inner.decryption_materials(request)
///     }
///
///     fn cached_decryption_materials(
///         &self,
///         request: DecryptionMaterialsRequest<'_>,
///         borrow: &mut dyn FnMut(&Arc<DecryptionMaterials>),
///     ) -> Result<bool, Error> {
///         self.inner.cached_decryption_materials(request, borrow)
///     }
///
///     fn keyring(&self) -> Option<&dyn Keyring> {
///         self.inner.keyring()
///     }
///
///     fn cache(&self) -> Option<&MaterialsCache> {
///         Some(self.inner.cache())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
/// let keyring = RawAesKeyring::new("payments", "2026", &DataKey::generate(32)?)?;
/// let inner = CachingMaterialsManager::builder(DefaultMaterialsManager::new(keyring)).build()?;
/// let manager = ReadOnly { tenants: vec!["43".into()], inner };
/// let envelope = Envelope::builder(manager).build()?;
/// let tenant = |id| EncryptionContext::new([("tenant", id)]);
/// assert!(envelope.encrypt(b"secret", &tenant("42")?).await.is_ok());
/// assert!(envelope.encrypt(b"secret", &tenant("43")?).await.is_err());
/// # Ok(()) }
/// ```
pub trait MaterialsManager: fmt::Debug + Send + Sync {
    /// Returns materials to encrypt one message.
    ///
    /// # Errors
    ///
    /// Any error that prevents supplying them.
    fn encryption_materials<'a>(
        &'a self,
        request: EncryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<EncryptionMaterials>>;

    /// Returns materials to decrypt one message.
    ///
    /// # Errors
    ///
    /// Any error that prevents supplying them.
    fn decryption_materials<'a>(
        &'a self,
        request: DecryptionMaterialsRequest<'a>,
    ) -> ResultFuture<'a, Arc<DecryptionMaterials>>;

    /// Passes cached encryption materials to `borrow`, and returns whether there were any.
    ///
    /// Must not block or wait, and must call `borrow` at most once. Materials are lent instead of
    /// returned because threads that clone the same `Arc` at the same time slow each other down.
    /// Default: nothing is cached.
    ///
    /// # Errors
    ///
    /// Any error that permanently prevents supplying materials for this request.
    fn cached_encryption_materials(
        &self,
        request: EncryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<EncryptionMaterials>),
    ) -> Result<bool, Error> {
        let _ = (request, borrow);
        Ok(false)
    }

    /// Passes cached decryption materials to `borrow`, and returns whether there were any.
    ///
    /// Same rules as for [`cached_encryption_materials`](Self::cached_encryption_materials).
    ///
    /// # Errors
    ///
    /// Any error that permanently prevents supplying materials for this request.
    fn cached_decryption_materials(
        &self,
        request: DecryptionMaterialsRequest<'_>,
        borrow: &mut dyn FnMut(&Arc<DecryptionMaterials>),
    ) -> Result<bool, Error> {
        let _ = (request, borrow);
        Ok(false)
    }

    /// Returns the keyring that supplies the data keys. Default: `None`.
    ///
    /// A cache above this manager asks the keyring which wrapping keys it uses, and whether another
    /// identity uses them now: see [`Keyring::wrapping_key`], [`identity`](Keyring::identity) and
    /// [`tenure`](Keyring::tenure). With `None`, it cannot drop data keys of a previous identity,
    /// and [`partition_id`](super::CachingBuilder::partition_id) cannot be set.
    fn keyring(&self) -> Option<&dyn Keyring> {
        None
    }

    /// Returns the cache that keeps the materials. Default: `None`.
    fn cache(&self) -> Option<&MaterialsCache> {
        None
    }
}

/// The required context of a message whose context is stored completely.
static NOTHING_REQUIRED: EncryptionContext = EncryptionContext::empty();

/// A request for materials to encrypt one message.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct EncryptionMaterialsRequest<'a> {
    /// The algorithm suite to use.
    pub suite: AlgorithmSuite,
    /// The encryption context to bind the message to.
    pub encryption_context: &'a EncryptionContext,
    /// The part of the encryption context that the message authenticates, but does not store. The
    /// client refuses materials without it.
    pub required_context: &'a EncryptionContext,
    /// The length of the plaintext in bytes, or an upper limit of it; `None` if it is unknown. Only
    /// messages of known length use a cached data key.
    pub plaintext_length: Option<u64>,
    /// Whether no message is encrypted now: the materials are only fetched into the cache. Default:
    /// `false`.
    pub warm_up: bool,
    /// Whether no caller waits, because a data key is refreshed ahead. Default: `false`.
    pub background: bool,
    /// Where the cache entry of this request is remembered.
    pub(crate) prepared: Option<&'a PreparedEntry>,
}

impl<'a> EncryptionMaterialsRequest<'a> {
    /// Creates a request for a message that stores all of `encryption_context`.
    ///
    /// ```
    /// use envelope::{
    ///     AlgorithmSuite, DataKey, EncryptionContext,
    ///     keyring::RawAesKeyring,
    ///     materials::{DefaultMaterialsManager, EncryptionMaterialsRequest, MaterialsManager},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
    /// let keyring = RawAesKeyring::new("payments", "2026", &DataKey::generate(32)?)?;
    /// let manager = DefaultMaterialsManager::new(keyring);
    /// let context = EncryptionContext::new([("tenant", "42")])?;
    /// let request =
    ///     EncryptionMaterialsRequest::new(AlgorithmSuite::default(), &context, Some(1024));
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
            warm_up: false,
            background: false,
            prepared: None,
        }
    }
}

/// The cache entry for many requests with one encryption context, looked up at the first of them.
#[derive(Debug, Default)]
pub(crate) struct PreparedEntry(OnceLock<(SharedCache, SharedEntry)>);

type SharedCache = Arc<Cache<EncryptionMaterials>>;
type SharedEntry = Arc<Entry<EncryptionMaterials>>;

impl PreparedEntry {
    /// Returns the entry that `find` found in `cache` at the first request. Returns `None` if the
    /// first request used another cache.
    pub(crate) fn in_cache(
        &self,
        cache: &SharedCache,
        find: impl FnOnce() -> SharedEntry,
    ) -> Option<&SharedEntry> {
        let (found_in, entry) = self.0.get().unwrap_or_else(|| {
            // Before `get_or_init`: a new entry evicts others, and an observer of that may use this
            // one.
            let entry = find();
            self.0.get_or_init(|| (Arc::clone(cache), entry))
        });
        Arc::ptr_eq(found_in, cache).then_some(entry)
    }
}

/// A request for materials to decrypt one message. Nothing in it is authenticated yet.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct DecryptionMaterialsRequest<'a> {
    /// The message's algorithm suite.
    pub suite: AlgorithmSuite,
    /// The encryption context that the caller supplied. It does not contradict the stored one.
    pub supplied_context: &'a EncryptionContext,
    /// The part of the supplied context that the message does not store. The client refuses
    /// materials without it.
    pub required_context: &'a EncryptionContext,
    /// Whether no caller waits, because a data key is refreshed ahead. Default: `false`.
    pub background: bool,
    pub(crate) encrypted_data_keys: EncryptedDataKeys<'a>,
    pub(crate) stored_context: &'a [u8],
    pub(crate) proof: Proof<'a>,
}

/// How to verify decryption materials.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Proof<'a> {
    /// The received header of the message must be authentic under them.
    Header(&'a UnverifiedHeader<'a>),
    /// They must contain the same data key as these materials, which have been verified.
    Known(&'a Arc<DecryptionMaterials>),
}

impl<'a> DecryptionMaterialsRequest<'a> {
    /// Returns the message's encrypted data keys, in the message's order.
    pub fn encrypted_data_keys(&self) -> impl Iterator<Item = EncryptedDataKey> + use<'a> {
        self.encrypted_data_keys.iter()
    }

    /// Returns the encryption context that the data key is bound to: the stored and the required
    /// pairs.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEncryptionContext`] if both together are too long.
    pub fn encryption_context(&self) -> Result<EncryptionContext, Error> {
        EncryptionContext::from_serialized(self.stored_context, 0)?.with(self.required_context)
    }

    /// Returns whether the message's header is authentic under these materials.
    ///
    /// Materials are supplied before the message can be verified, so a forged message gets real
    /// materials, too. A manager that keeps materials must not keep any for which this is `false`.
    #[must_use]
    pub fn is_authentic_under(&self, materials: &DecryptionMaterials) -> bool {
        match self.proof {
            Proof::Header(header) => opener::is_authentic(header, materials),
            Proof::Known(known) => {
                let [one, other] = [materials, known].map(|it| it.data_key().expose_secret());
                materials.suite() == known.suite() && one.ct_eq(other).into()
            }
        }
    }
}
