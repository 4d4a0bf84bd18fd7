//! Wraps keys under keys that are derived from a branch key (specification:
//! `framework/aws-kms/aws-kms-hierarchical-keyring.md`, "Branch Key Wrapping and Unwrapping").

use zeroize::Zeroizing;

use super::{BranchKey, key::LENGTH};
use crate::{
    context::EncryptionContext,
    crypto::{
        aead::{NONCE_LENGTH, TAG_LENGTH},
        random,
    },
    data_key::DataKey,
    error::{Error, KeyringError, KeyringErrorKind},
};

/// The label under which a root branch key wraps other branch keys.
const LABEL: &str = "envelope branch key wrap 1";
const SALT_LENGTH: usize = 16;
const VERSION_LENGTH: usize = 16;
/// The random bytes of one wrapping: the salt and the IV.
pub(crate) const RANDOM_LENGTH: usize = SALT_LENGTH + NONCE_LENGTH;
/// The maximum length of authenticated data that is put together on the stack.
const SHORT_AAD: usize = 256;
/// The bytes before the ciphertext of the key.
const PREFIX_LENGTH: usize = RANDOM_LENGTH + VERSION_LENGTH;

/// Wraps `secret` under a key that is derived for `label` and a random salt. The label is also the
/// first part of the authenticated data.
///
/// `random` must be new: it is the salt and the IV.
pub(crate) fn wrap(
    key: &BranchKey,
    label: &str,
    context: &EncryptionContext,
    secret: &DataKey,
    random: &[u8; RANDOM_LENGTH],
) -> Vec<u8> {
    let (salt, iv) = random.split_at(SALT_LENGTH);
    let secret = secret.expose_secret();
    // With room for the tag: growing later would leave a copy of the secret behind.
    let mut wrapped = Vec::with_capacity(PREFIX_LENGTH + secret.len() + TAG_LENGTH);
    wrapped.extend_from_slice(random);
    wrapped.extend_from_slice(&key.version());
    wrapped.extend_from_slice(secret);
    let cipher = key.cipher(label.as_bytes(), salt);
    let iv = iv.try_into().expect("the rest after the salt");
    let secret = &mut wrapped[PREFIX_LENGTH..];
    let tag = with_aad(label, key.id(), key.version(), context, |aad| cipher.seal(iv, aad, secret));
    wrapped.extend_from_slice(&tag);
    wrapped
}

/// The parts of what [`wrap`] returns.
pub(crate) struct Wrapped<'a> {
    salt: &'a [u8; SALT_LENGTH],
    iv: [u8; NONCE_LENGTH],
    /// The version of the branch key that wrapped it.
    pub(crate) version: [u8; VERSION_LENGTH],
    secret: &'a [u8],
    tag: &'a [u8; TAG_LENGTH],
}

impl<'a> Wrapped<'a> {
    /// Splits it; `None` if it has another length than one for a secret of `length` bytes.
    pub(crate) fn read(wrapped: &'a [u8], length: usize) -> Option<Self> {
        let (salt, rest) = wrapped.split_first_chunk()?;
        let (iv, rest) = rest.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (secret, tag) = rest.split_last_chunk()?;
        let is_whole = secret.len() == length;
        is_whole.then_some(Self { salt, iv: *iv, version: *version, secret, tag })
    }

    /// Unwraps the secret under `key`; `None` unless it is authentic, and `key` is the version that
    /// it names.
    pub(crate) fn unwrap_under(
        &self,
        key: &BranchKey,
        label: &str,
        context: &EncryptionContext,
    ) -> Option<DataKey> {
        if key.version() != self.version {
            return None;
        }
        let cipher = key.cipher(label.as_bytes(), self.salt);
        let mut buffer = Zeroizing::new([0; LENGTH]);
        let secret = buffer.get_mut(..self.secret.len())?;
        secret.copy_from_slice(self.secret);
        with_aad(label, key.id(), self.version, context, |aad| {
            cipher.open(self.iv, aad, secret, self.tag)
        })
        .ok()?;
        Some(DataKey::copied_from(secret).unwrapped_by(key.shared_id()))
    }
}

/// Lends the data that is authenticated with a key: the label, the branch key id, the version, and
/// the canonical encryption context. Allocates only if it is long.
fn with_aad<R>(
    label: &str,
    id: &str,
    version: [u8; VERSION_LENGTH],
    context: &EncryptionContext,
    lend: impl FnOnce(&[u8]) -> R,
) -> R {
    let parts = [label.as_bytes(), id.as_bytes(), &version, context.as_serialized()];
    let mut short = [0; SHORT_AAD];
    let Some(aad) = short.get_mut(..parts.map(<[u8]>::len).iter().sum()) else {
        return lend(&parts.concat());
    };
    let mut rest = &mut *aad;
    for part in parts {
        let (start, after) = rest.split_at_mut(part.len());
        start.copy_from_slice(part);
        rest = after;
    }
    lend(aad)
}

/// The secret of a branch key, wrapped under another branch key, its *root*.
///
/// It has 92 bytes: a salt (16), an IV (12), the version of the root (16), the encrypted secret
/// (32) and a tag (16). The wrapping key is derived as for the data keys of a hierarchical keyring,
/// but under another label: neither can be taken for the other.
///
/// # Examples
///
/// ```
/// use envelope::{DataKey, EncryptionContext, branch_key::{BranchKey, WrappedBranchKey}};
///
/// let root = BranchKey::new("root", [1; 16], &DataKey::generate(32)?)?;
/// let context = EncryptionContext::new([("branch-key-id", "tenant-42")])?;
/// let secret = DataKey::generate(32)?;
/// let stored = WrappedBranchKey::wrap(&root, &secret, &context)?;
///
/// let wrapped = WrappedBranchKey::read(&stored).expect("92 bytes");
/// assert_eq!(wrapped.root_version(), [1; 16]);
/// let unwrapped = wrapped.unwrap_under(&root, &context).expect("nothing was changed");
/// assert_eq!(unwrapped.expose_secret(), secret.expose_secret());
/// assert!(wrapped.unwrap_under(&root, &EncryptionContext::empty()).is_err());
/// # Ok::<(), envelope::Error>(())
/// ```
pub struct WrappedBranchKey<'a>(Wrapped<'a>);

impl<'a> WrappedBranchKey<'a> {
    /// Wraps the 32 secret bytes of a branch key under `root`, bound to `context`.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidSetting`] unless `secret` has 32 bytes.
    /// - [`Error::Random`] if the system's random number generator fails.
    pub fn wrap(
        root: &BranchKey,
        secret: &DataKey,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, Error> {
        if secret.len() != LENGTH {
            let problem = format!("{} bytes, expected {LENGTH}", secret.len());
            return Err(Error::invalid_setting("branch key", problem));
        }
        Ok(wrap(root, LABEL, context, secret, &random::bytes()?))
    }

    /// Reads a wrapped branch key; `None` unless it has 92 bytes. It is not authenticated yet.
    #[must_use]
    pub fn read(stored: &'a [u8]) -> Option<Self> {
        Wrapped::read(stored, LENGTH).map(Self)
    }

    /// Returns the bytes of the UUID of the root's version. It is not authenticated yet.
    #[must_use]
    pub fn root_version(&self) -> [u8; 16] {
        self.0.version
    }

    /// Unwraps the secret under `root`, which must have [`root_version`](Self::root_version).
    ///
    /// # Errors
    ///
    /// [`InvalidCiphertext`](KeyringErrorKind::InvalidCiphertext) if `root` did not wrap it, if the
    /// context differs, or if a byte was changed.
    pub fn unwrap_under(
        &self,
        root: &BranchKey,
        context: &EncryptionContext,
    ) -> Result<DataKey, KeyringError> {
        self.0.unwrap_under(root, LABEL, context).ok_or_else(|| {
            let cause = "the wrapped branch key, or what it is bound to, was changed";
            KeyringError::new(root.id(), KeyringErrorKind::InvalidCiphertext, cause)
        })
    }
}

/// Shows no part of the ciphertext.
impl std::fmt::Debug for WrappedBranchKey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = super::key::Uuid(self.0.version);
        f.debug_struct("WrappedBranchKey")
            .field("root_version", &format_args!("{version}"))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROVIDER: &str = "aws-kms-hierarchy";

    fn root(id: &str, version: u8, secret: u8) -> BranchKey {
        BranchKey::new(id, [version; 16], &DataKey::from_vec(vec![secret; 32])).unwrap()
    }

    fn context(tenant: &str) -> EncryptionContext {
        EncryptionContext::new([("branch-key-id", tenant)]).unwrap()
    }

    #[test]
    fn what_a_root_wrapped_is_bound_to_everything() {
        let secret = DataKey::from_vec(vec![9; 32]);
        let stored = WrappedBranchKey::wrap(&root("root", 1, 7), &secret, &context("a")).unwrap();
        assert_eq!(stored.len(), 92);
        let open = |stored: &[u8], root: &BranchKey, tenant| {
            let wrapped = WrappedBranchKey::read(stored).expect("92 bytes");
            wrapped.unwrap_under(root, &context(tenant)).map(|key| key.expose_secret().to_vec())
        };
        assert_eq!(open(&stored, &root("root", 1, 7), "a").unwrap(), [9; 32]);
        for (root, tenant) in [
            (root("root", 1, 7), "b"),
            (root("toor", 1, 7), "a"),
            (root("root", 2, 7), "a"),
            (root("root", 1, 8), "a"),
        ] {
            let error = open(&stored, &root, tenant).unwrap_err();
            assert_eq!(error.kind(), KeyringErrorKind::InvalidCiphertext);
        }
        for at in 0..92 {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            open(&changed, &root("root", 1, 7), "a").unwrap_err();
        }
        assert!(WrappedBranchKey::read(&stored[1..]).is_none());
        assert!(WrappedBranchKey::read(&[&stored[..], &[0]].concat()).is_none());
        assert!(WrappedBranchKey::wrap(&root("root", 1, 7), &key(31), &context("a")).is_err());
    }

    #[test]
    fn two_wrappings_of_one_secret_share_no_salt_and_no_iv() {
        let wrap = || WrappedBranchKey::wrap(&root("r", 1, 7), &key(32), &context("a")).unwrap();
        let (one, other) = (wrap(), wrap());
        assert_ne!(one[..16], other[..16]);
        assert_ne!(one[16..28], other[16..28]);
    }

    #[test]
    fn a_wrapped_data_key_is_not_a_branch_key_nor_the_reverse() {
        let root = root("root", 1, 7);
        let context = context("a");
        let of_message = wrap(&root, PROVIDER, &context, &key(32), &[3; RANDOM_LENGTH]);
        let of_item = wrap(&root, LABEL, &context, &key(32), &[3; RANDOM_LENGTH]);
        let read = |wrapped| Wrapped::read(wrapped, 32).unwrap();
        assert!(read(&of_message).unwrap_under(&root, PROVIDER, &context).is_some());
        assert!(read(&of_item).unwrap_under(&root, LABEL, &context).is_some());
        assert!(read(&of_message).unwrap_under(&root, LABEL, &context).is_none());
        assert!(read(&of_item).unwrap_under(&root, PROVIDER, &context).is_none());
        // Not only the authenticated data differs: so does the key.
        assert_ne!(of_message[44..76], of_item[44..76]);
    }

    fn key(length: usize) -> DataKey {
        DataKey::from_vec(vec![9; length])
    }
}
