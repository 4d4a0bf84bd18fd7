//! Encrypted data keys (specification: `data-format/message-header.md#encrypted-data-keys`).

use super::codec::{Reader, write_prefixed};
use crate::error::Error;

/// The first field of an encrypted data key.
pub(crate) const FIRST_FIELD: &str = "key provider id";

/// A data key, encrypted by one keyring. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedDataKey {
    /// The provider that encrypted it: `aws-kms`, or the namespace of a raw keyring. At most 65,535
    /// bytes.
    pub key_provider_id: String,
    /// The provider's information: the ARN of a key, or the name of a key and an IV. At most 65,535
    /// bytes.
    pub key_provider_information: Vec<u8>,
    /// The ciphertext of the data key. At most 65,535 bytes.
    pub ciphertext: Vec<u8>,
}

/// The middle of a raw AES keyring's information: the tag length in bits and the IV length in bytes
/// (specification: `framework/raw-aes-keyring.md#key-provider-information`).
pub(crate) const RAW_AES_LENGTHS: [u8; 8] = [0, 0, 0, 128, 0, 0, 0, 12];

impl EncryptedDataKey {
    /// Returns the name of the wrapping key: the ARN of an AWS KMS key, the id of a branch key, or
    /// the name of a raw key. Returns `None` if the name is not UTF-8.
    ///
    /// The information of AWS KMS, hierarchical and raw RSA keyrings is the name. The information
    /// of raw AES keyrings is the name, two lengths and an IV.
    #[must_use]
    pub fn key_name(&self) -> Option<&str> {
        let information = &*self.key_provider_information;
        let without_iv = information.split_last_chunk::<12>().map(|(rest, _iv)| rest);
        let aes = without_iv.and_then(|rest| rest.strip_suffix(&RAW_AES_LENGTHS));
        std::str::from_utf8(aes.unwrap_or(information)).ok()
    }

    /// Returns the wrapping key as errors and the cache name it: the ARN of an AWS KMS key, the id
    /// of a branch key, or `NAMESPACE/NAME` of a raw key.
    ///
    /// Bytes that are not UTF-8 are replaced. A name from a message that is not verified can
    /// contain any text: escape it before you print it.
    ///
    /// ```
    /// use envelope::materials::EncryptedDataKey;
    ///
    /// let key = EncryptedDataKey {
    ///     key_provider_id: "partners".to_owned(),
    ///     key_provider_information: b"2026-key".to_vec(),
    ///     ciphertext: vec![],
    /// };
    /// assert_eq!(key.wrapping_key(), "partners/2026-key");
    /// ```
    #[must_use]
    pub fn wrapping_key(&self) -> String {
        let name = match self.key_name() {
            Some(name) => name.into(),
            None => String::from_utf8_lossy(&self.key_provider_information),
        };
        match &*self.key_provider_id {
            "aws-kms" | "aws-kms-hierarchy" => name.into_owned(),
            namespace => format!("{namespace}/{name}"),
        }
    }
}

/// The encrypted data keys in a message's header, well-formed but not authenticated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EncryptedDataKeys<'a>(&'a [u8]);

impl<'a> EncryptedDataKeys<'a> {
    /// Reads and checks the section without copying it.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::Malformed`], or [`Error::TooManyEncryptedDataKeys`], which is
    /// returned before any key is read.
    pub(crate) fn read(reader: &mut Reader<'a>, limit: usize) -> Result<Self, Error> {
        let start = reader.position();
        let offset = reader.offset();
        let count = reader.u16("encrypted data key count")?;
        if count == 0 {
            return Err(Error::Malformed {
                field: "encrypted data key count",
                offset,
                problem: "there must be at least one",
            });
        }
        check_count(count.into(), limit)?;
        for _ in 0..count {
            read_one(reader)?;
        }
        Ok(Self(reader.since(start)))
    }

    /// Returns the section as serialized bytes, count included.
    #[must_use]
    pub(crate) fn as_serialized(&self) -> &'a [u8] {
        self.0
    }

    /// Returns the number of encrypted data keys.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.0.first_chunk().map_or(0, |count| u16::from_be_bytes(*count).into())
    }

    /// Returns an iterator over the encrypted data keys, in the order of the message.
    pub(crate) fn iter(&self) -> impl Iterator<Item = EncryptedDataKey> + use<'a> {
        let mut reader = Reader::new(self.0, 2);
        std::iter::from_fn(move || {
            let provider_id = reader.prefixed("key provider id").ok()?;
            Some(EncryptedDataKey {
                key_provider_id: std::str::from_utf8(provider_id).ok()?.to_owned(),
                key_provider_information: reader
                    .prefixed("key provider information")
                    .ok()?
                    .to_vec(),
                ciphertext: reader.prefixed("encrypted data key").ok()?.to_vec(),
            })
        })
    }

    /// Returns the section that [`as_serialized`](Self::as_serialized) returned before.
    pub(crate) fn from_checked(serialized: &'a [u8]) -> Self {
        Self(serialized)
    }
}

/// Finds the end of encrypted data keys that arrive in parts, without reading any of them twice.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The start of the next field.
    position: usize,
    /// The number of fields that are missing.
    fields: usize,
}

impl Walk {
    /// Starts at the end of `bytes`, whose last two bytes are the count.
    pub(crate) fn behind_count(bytes: &[u8]) -> Option<Self> {
        let count = u16::from_be_bytes(*bytes.last_chunk()?);
        Some(Self { position: bytes.len(), fields: usize::from(count) * 3 })
    }

    /// Returns how many bytes are missing after `bytes`, at least; 0 when all keys are there.
    pub(crate) fn missing(&mut self, bytes: &[u8]) -> usize {
        while let Some(following) = self.fields.checked_sub(1) {
            let length = bytes.get(self.position..).and_then(<[u8]>::first_chunk);
            let end = self.position
                + 2
                + length.map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
            if length.is_none() || end > bytes.len() {
                return end - bytes.len() + following * 2;
            }
            self.position = end;
            self.fields = following;
        }
        0
    }
}

/// Skips one encrypted data key and checks it.
fn read_one(reader: &mut Reader<'_>) -> Result<(), Error> {
    let offset = reader.offset();
    let provider_id = reader.prefixed(FIRST_FIELD)?;
    if std::str::from_utf8(provider_id).is_err() {
        return Err(Error::Malformed { field: "key provider id", offset, problem: "not UTF-8" });
    }
    reader.prefixed("key provider information")?;
    reader.prefixed("encrypted data key").map(drop)
}

/// Serializes encrypted data keys, count first.
///
/// # Errors
///
/// [`Error::InvalidSetting`] when the count is zero, or when the count or a field does not fit its
/// 16-bit length.
pub(crate) fn serialize(keys: &[EncryptedDataKey]) -> Result<Vec<u8>, Error> {
    let field = "encrypted data key count";
    let count = u16::try_from(keys.len()).ok().filter(|count| *count > 0);
    let count = count.ok_or_else(|| {
        Error::invalid_setting(field, format!("expected 1 to 65,535, got {}", keys.len()))
    })?;
    let lengths = keys.iter().map(|key| {
        let fields = [&key.key_provider_information, &key.ciphertext].map(Vec::len);
        3 * size_of::<u16>() + key.key_provider_id.len() + fields.iter().sum::<usize>()
    });
    let mut out = Vec::with_capacity(size_of::<u16>() + lengths.sum::<usize>());
    out.extend_from_slice(&count.to_be_bytes());
    for key in keys {
        write_prefixed(&mut out, "key provider id", key.key_provider_id.as_bytes())?;
        write_prefixed(&mut out, "key provider information", &key.key_provider_information)?;
        write_prefixed(&mut out, "encrypted data key", &key.ciphertext)?;
    }
    Ok(out)
}

/// Fails for more than `limit` encrypted data keys.
pub(crate) fn check_count(count: usize, limit: usize) -> Result<(), Error> {
    if count > limit {
        return Err(Error::TooManyEncryptedDataKeys { count, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_limit_is_checked_before_the_keys_are_read() {
        let mut reader = Reader::new(b"\x00\x04", 0);
        let error = EncryptedDataKeys::read(&mut reader, 3).unwrap_err();
        assert!(matches!(error, Error::TooManyEncryptedDataKeys { count: 4, limit: 3 }));
    }

    #[test]
    fn the_wrapping_key_is_named_as_in_errors() {
        let named = |id: &str, information: &[u8]| EncryptedDataKey {
            key_provider_id: id.to_owned(),
            key_provider_information: information.to_vec(),
            ciphertext: vec![],
        };
        let arn = "arn:aws:kms:eu-west-1:1:key/a";
        assert_eq!(named("aws-kms", arn.as_bytes()).wrapping_key(), arn);
        assert_eq!(named("aws-kms-hierarchy", b"tenant-42").wrapping_key(), "tenant-42");
        assert_eq!(named("ns", b"rsa").wrapping_key(), "ns/rsa");
        let aes = [b"aes", &RAW_AES_LENGTHS[..], &[0xFF; 12]].concat();
        assert_eq!(named("ns", &aes).key_name(), Some("aes"));
        assert_eq!(named("ns", &aes).wrapping_key(), "ns/aes");
        // Without its IV, it is not the information of a raw AES keyring.
        assert_eq!(named("ns", &aes[..11]).key_name(), None);
        assert_eq!(named("ns", b"\xFF").wrapping_key(), "ns/\u{FFFD}");
    }

    #[test]
    fn a_count_of_zero_is_malformed() {
        let mut reader = Reader::new(b"\x00\x00", 0);
        assert!(matches!(
            EncryptedDataKeys::read(&mut reader, 3),
            Err(Error::Malformed { offset: 0, .. })
        ));
        assert!(serialize(&[]).is_err());
    }

    fn keys() -> impl Strategy<Value = Vec<EncryptedDataKey>> {
        let key = (any::<String>(), any::<Vec<u8>>(), any::<Vec<u8>>()).prop_map(
            |(id, information, ciphertext)| EncryptedDataKey {
                key_provider_id: id,
                key_provider_information: information,
                ciphertext,
            },
        );
        proptest::collection::vec(key, 1..5)
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(keys in keys()) {
            let bytes = serialize(&keys).unwrap();
            let read = EncryptedDataKeys::read(&mut Reader::new(&bytes, 0), 5).unwrap();
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), keys);
            prop_assert_eq!(read.as_serialized(), &bytes[..]);
        }

        #[test]
        fn writes_what_it_reads(bytes in proptest::collection::vec(0u8..3, 0..64)) {
            if let Ok(read) = EncryptedDataKeys::read(&mut Reader::new(&bytes, 0), 100) {
                let keys: Vec<_> = read.iter().collect();
                prop_assert_eq!(serialize(&keys).unwrap(), read.as_serialized());
            }
        }
    }
}
