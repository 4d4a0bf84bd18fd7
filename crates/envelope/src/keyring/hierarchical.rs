//! The hierarchical keyring (specification: `framework/aws-kms/aws-kms-hierarchical-keyring.md`).

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use zeroize::Zeroizing;

use super::{
    EncryptedDataKey, GeneratedDataKey, Keyring, KeyringError, KeyringErrorKind, KeyringRequest,
};
use crate::{
    branch_key::{self, BranchKey, BranchKeys, RANDOM_LENGTH, Wrapped, check_id},
    context::EncryptionContext,
    crypto::random,
    data_key::DataKey,
    error::{Error, ResultFuture},
};

/// The key provider id, and the label of the derivation.
const PROVIDER: &str = "aws-kms-hierarchy";
const MAX_DATA_KEY_LENGTH: usize = 32;

/// Wraps data keys locally under branch keys, which hosts share and KMS protects.
///
/// Each data key is wrapped with AES-256-GCM under a key of its own, derived from the branch key
/// and a random salt. Other AWS Encryption SDK clients can decrypt the messages with their
/// hierarchical keyring over the same key store, and this one can decrypt theirs.
///
/// While its branch key is cached, a message needs no request at all. `try_encrypt` and
/// `try_decrypt` then work without a cache of data keys, so an encryption context may differ in
/// each message, for example by the id of a row.
///
/// The branch key is either fixed, or a *supplier* chooses it for each encryption context. The
/// keyring skips encrypted data keys of other branch keys, so the supplier decides which branch
/// keys a caller may use. On decryption, it gets the context of a message that is not verified yet:
/// make sure that the caller may use this context, for example that the tenant is the caller's own.
///
/// # Revocation
///
/// See [`branch_key`](crate::branch_key#revocation).
///
/// # Examples
///
/// One branch key for each tenant:
///
/// ```
/// use std::borrow::Cow;
/// use envelope::branch_key::{BranchKeys, StaticBranchKeys};
/// use envelope::materials::DefaultMaterialsManager;
/// use envelope::{DataKey, EncryptionContext, Envelope, Error, keyring::HierarchicalKeyring};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
/// let source = StaticBranchKeys::new()
///     .with_active("tenant-42", [1; 16], DataKey::generate(32)?)?
///     .with_active("tenant-43", [2; 16], DataKey::generate(32)?)?;
/// let keyring = HierarchicalKeyring::with_supplier(BranchKeys::new(source), |context| {
///     let problem = "no pair `tenant`";
///     let tenant = context.get("tenant").ok_or(Error::InvalidEncryptionContext { problem })?;
///     Ok(Cow::Owned(format!("tenant-{tenant}")))
/// });
/// let envelope = Envelope::builder(DefaultMaterialsManager::new(keyring)).build()?;
///
/// let first = EncryptionContext::new([("tenant", "42"), ("row", "1")])?;
/// let message = envelope.encrypt(b"4111 1111 1111 1111", &first).await?;
/// // The branch key is cached now: another row does not wait.
/// let second = EncryptionContext::new([("tenant", "42"), ("row", "2")])?;
/// envelope.try_encrypt(b"4242 4242 4242 4242", &second)?;
/// assert_eq!(envelope.try_decrypt(&message, &first)?.plaintext(), b"4111 1111 1111 1111");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct HierarchicalKeyring {
    keys: BranchKeys,
    id: Id,
}

/// How the branch key is chosen.
enum Id {
    Fixed(Arc<str>),
    Supplied(Box<Supplier>, u64),
    SuppliedLater(Box<AsyncSupplier>, u64),
}

type Supplier = dyn for<'a> Fn(&'a EncryptionContext) -> Result<Cow<'a, str>, Error> + Send + Sync;
type AsyncSupplier = dyn Fn(EncryptionContext) -> ResultFuture<'static, String> + Send + Sync;

impl HierarchicalKeyring {
    /// Creates a keyring that uses one branch key for all messages.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] unless `id` has 1 to 2,048 bytes.
    pub fn new(keys: BranchKeys, id: impl Into<Arc<str>>) -> Result<Self, Error> {
        let id = id.into();
        check_id(&id)?;
        Ok(Self { keys, id: Id::Fixed(id) })
    }

    /// Creates a keyring that asks `supplier` for the branch key id of each encryption context.
    ///
    /// An error of the supplier fails the operation.
    #[must_use]
    pub fn with_supplier(
        keys: BranchKeys,
        supplier: impl for<'a> Fn(&'a EncryptionContext) -> Result<Cow<'a, str>, Error>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self { keys, id: Id::Supplied(Box::new(supplier), number()) }
    }

    /// Creates a keyring like [`with_supplier`](Self::with_supplier), whose supplier may wait.
    ///
    /// `try_encrypt` and `try_decrypt` then need a cache of data keys.
    #[must_use]
    pub fn with_async_supplier<F>(keys: BranchKeys, supplier: F) -> Self
    where
        F: Fn(EncryptionContext) -> ResultFuture<'static, String> + Send + Sync + 'static,
    {
        Self { keys, id: Id::SuppliedLater(Box::new(supplier), number()) }
    }

    /// Returns the branch key id for a context, or `None` if its supplier must be waited for.
    fn id_now<'a>(&'a self, context: &'a EncryptionContext) -> Option<Result<Cow<'a, str>, Error>> {
        let id = match &self.id {
            Id::Fixed(id) => return Some(Ok(Cow::Borrowed(id))),
            Id::Supplied(supplier, _) => supplier(context),
            Id::SuppliedLater(..) => return None,
        };
        Some(id.and_then(|id| check_id(&id).map(|()| id)))
    }

    async fn id<'a>(&'a self, context: &'a EncryptionContext) -> Result<Cow<'a, str>, Error> {
        match (self.id_now(context), &self.id) {
            (None, Id::SuppliedLater(supplier, _)) => {
                let id = supplier(context.clone()).await?;
                check_id(&id)?;
                Ok(Cow::Owned(id))
            }
            (now, _) => now.expect("only an async supplier must be waited for"),
        }
    }
}

/// Returns a number that is unique in the process. Suppliers cannot be compared.
fn number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    NUMBERS.fetch_add(1, Relaxed)
}

/// Generates a data key and wraps it. All random bytes come from the system in one call.
fn generate_under(key: &BranchKey, request: KeyringRequest<'_>) -> Result<GeneratedDataKey, Error> {
    let mut bytes = Zeroizing::new([0; RANDOM_LENGTH + MAX_DATA_KEY_LENGTH]);
    random::fill(&mut *bytes)?;
    let (random, data_key) = bytes.split_first_chunk().expect("longer");
    let data_key = DataKey::copied_from(&data_key[..request.suite.data_key_length()]);
    let encrypted_data_keys = vec![wrap_under(key, request, &data_key, random)];
    Ok(GeneratedDataKey { data_key, encrypted_data_keys })
}

fn wrap_under(
    key: &BranchKey,
    request: KeyringRequest<'_>,
    data_key: &DataKey,
    random: &[u8; RANDOM_LENGTH],
) -> EncryptedDataKey {
    let ciphertext = branch_key::wrap(key, PROVIDER, request.encryption_context, data_key, random);
    EncryptedDataKey {
        key_provider_id: PROVIDER.to_owned(),
        key_provider_information: key.id().as_bytes().to_vec(),
        ciphertext,
    }
}

fn unwrap_under(
    wrapped: &Wrapped<'_>,
    key: &BranchKey,
    request: KeyringRequest<'_>,
) -> Result<DataKey, KeyringError> {
    wrapped.unwrap_under(key, PROVIDER, request.encryption_context).ok_or_else(|| {
        let cause = "the encryption context does not match, or the wrapped data key is damaged";
        invalid(key.id(), cause)
    })
}

/// Returns the encrypted data keys of the branch key with this id.
fn matching<'a>(
    encrypted_data_keys: &'a [EncryptedDataKey],
    id: &str,
) -> impl Iterator<Item = &'a EncryptedDataKey> {
    encrypted_data_keys.iter().filter(move |key| {
        key.key_provider_id == PROVIDER && key.key_provider_information == id.as_bytes()
    })
}

fn read<'a>(
    wrapped: &'a EncryptedDataKey,
    request: KeyringRequest<'_>,
    id: &str,
) -> Result<Wrapped<'a>, KeyringError> {
    let read = Wrapped::read(&wrapped.ciphertext, request.suite.data_key_length());
    read.ok_or_else(|| invalid(id, "the wrapped data key has another length than its suite needs"))
}

fn invalid(id: &str, cause: &'static str) -> KeyringError {
    KeyringError::new(id, KeyringErrorKind::InvalidCiphertext, cause)
}

/// Returns the failure to obtain the branch key `name`, as the error of a keyring.
fn failure(name: &str, error: Error) -> KeyringError {
    let kind = match (&error, error.keyring_errors().first()) {
        (Error::DataKeyUnavailable(error), _) => return error.clone(),
        (_, Some(first)) => first.kind(),
        (Error::Overloaded { .. }, None) => KeyringErrorKind::OverBudget,
        _ => KeyringErrorKind::Other,
    };
    KeyringError::new(name, kind, error)
}

impl Keyring for HierarchicalKeyring {
    fn generate<'a>(&'a self, request: KeyringRequest<'a>) -> ResultFuture<'a, GeneratedDataKey> {
        Box::pin(async move {
            let id = self.id(request.encryption_context).await?;
            generate_under(&*self.keys.active(&id).await?, request)
        })
    }

    fn wrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        data_key: &'a DataKey,
    ) -> ResultFuture<'a, Vec<EncryptedDataKey>> {
        Box::pin(async move {
            let id = self.id(request.encryption_context).await?;
            let key = self.keys.active(&id).await?;
            Ok(vec![wrap_under(&key, request, data_key, &random::bytes()?)])
        })
    }

    fn unwrap<'a>(
        &'a self,
        request: KeyringRequest<'a>,
        encrypted_data_keys: &'a [EncryptedDataKey],
    ) -> ResultFuture<'a, DataKey, Vec<KeyringError>> {
        Box::pin(async move {
            let id = self.id(request.encryption_context).await;
            let id = id.map_err(|error| vec![failure(PROVIDER, error)])?;
            let mut failures = vec![];
            for wrapped in matching(encrypted_data_keys, &id) {
                let unwrapped = async {
                    let wrapped = read(wrapped, request, &id)?;
                    let key = self.keys.version(&id, wrapped.version).await;
                    unwrap_under(&wrapped, &*key.map_err(|error| failure(&id, error))?, request)
                };
                match unwrapped.await {
                    Ok(data_key) => return Ok(data_key),
                    Err(failure) => failures.push(failure),
                }
            }
            Err(failures)
        })
    }

    fn try_generate(&self, request: KeyringRequest<'_>) -> Option<Result<GeneratedDataKey, Error>> {
        let id = match self.id_now(request.encryption_context)? {
            Ok(id) => id,
            Err(error) => return Some(Err(error)),
        };
        self.keys.with_active(&id, |key| generate_under(key, request))
    }

    fn try_wrap(
        &self,
        request: KeyringRequest<'_>,
        data_key: &DataKey,
    ) -> Option<Result<Vec<EncryptedDataKey>, Error>> {
        let id = match self.id_now(request.encryption_context)? {
            Ok(id) => id,
            Err(error) => return Some(Err(error)),
        };
        self.keys.with_active(&id, |key| {
            let random = random::bytes()?;
            Ok(vec![wrap_under(key, request, data_key, &random)])
        })
    }

    fn try_unwrap(
        &self,
        request: KeyringRequest<'_>,
        encrypted_data_keys: &[EncryptedDataKey],
    ) -> Option<Result<DataKey, Vec<KeyringError>>> {
        let id = match self.id_now(request.encryption_context)? {
            Ok(id) => id,
            Err(error) => return Some(Err(vec![failure(PROVIDER, error)])),
        };
        let mut failures = vec![];
        for wrapped in matching(encrypted_data_keys, &id) {
            let unwrapped = match read(wrapped, request, &id) {
                Ok(wrapped) => self.keys.with_version(&id, wrapped.version, |key| {
                    unwrap_under(&wrapped, key, request)
                })?,
                Err(failure) => Err(failure),
            };
            match unwrapped {
                Ok(data_key) => return Some(Ok(data_key)),
                Err(failure) => failures.push(failure),
            }
        }
        Some(Err(failures))
    }

    fn wrapping_key(&self, request: KeyringRequest<'_>) -> Option<Arc<str>> {
        match &self.id {
            Id::Fixed(id) => Some(Arc::clone(id)),
            _ => Some(self.id_now(request.encryption_context)?.ok()?.into()),
        }
    }

    fn identity(&self) -> Option<String> {
        let id = match &self.id {
            Id::Fixed(id) => format!("{id:?}"),
            Id::Supplied(_, number) | Id::SuppliedLater(_, number) => format!("supplier {number}"),
        };
        Some(format!("hierarchical {id} of {}", self.keys.source().identity()))
    }

    fn tenure(&self) -> u64 {
        self.keys.source().tenure()
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(id) => write!(f, "{id:?}"),
            Self::Supplied(..) | Self::SuppliedLater(..) => f.write_str("supplier"),
        }
    }
}
