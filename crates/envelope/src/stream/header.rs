//! The header of a message, read from a stream.

use std::io::{self, Read as _};

use crate::{
    context::EncryptionContext,
    error::Error,
    format::{
        codec::Reader, encrypted_data_key, encrypted_data_key::Walk, header, header::ContentType,
    },
    materials::EncryptedDataKey,
    message::opener,
    suite::AlgorithmSuite,
};

/// A message's header as received: well-formed, but **not authenticated**.
///
/// [`Envelope::decryptor`](crate::Envelope::decryptor) verifies it.
#[derive(Debug, Clone)]
pub struct UnverifiedHeader {
    bytes: Vec<u8>,
    encryption_context: EncryptionContext,
}

impl UnverifiedHeader {
    /// Reads a header from `source`, and no byte after it.
    ///
    /// Use a buffered `source`. Fails if the header has more than `max_encrypted_data_keys`
    /// encrypted data keys.
    ///
    /// ```
    /// use envelope::stream::UnverifiedHeader;
    ///
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let keyring = RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?;
    /// # let envelope = Envelope::new(keyring)?;
    /// # let message = envelope.encrypt(b"", &EncryptionContext::new([("tenant", "42")])?).await?;
    /// let header = UnverifiedHeader::read(&mut &message[..], 16)?;
    /// assert_eq!(header.encryption_context().get("tenant"), Some("42")); // not authenticated
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - Errors of `source`. The bytes that were read before are lost, so `source` must wait for
    ///   data instead of returning [`WouldBlock`](io::ErrorKind::WouldBlock).
    /// - [`Error::Truncated`], [`Error::Malformed`], [`Error::Unsupported`] or
    ///   [`Error::TooManyEncryptedDataKeys`], inside an [`io::Error`].
    pub fn read(source: &mut impl io::Read, max_encrypted_data_keys: usize) -> io::Result<Self> {
        let mut needs = Needs { max_encrypted_data_keys, keys: None };
        let bytes = read_exactly(source, |bytes, at_end| needs.missing(bytes, at_end))?;
        Ok(Self::checked(bytes)?)
    }

    /// Reads a header from an async `source`, like [`read`](Self::read).
    ///
    /// This method is not cancel-safe: the bytes that were read before are lost.
    ///
    /// # Errors
    ///
    /// The errors of [`read`](Self::read).
    #[cfg(feature = "tokio")]
    pub async fn read_async(
        source: &mut (impl tokio::io::AsyncRead + Unpin),
        max_encrypted_data_keys: usize,
    ) -> io::Result<Self> {
        use tokio::io::AsyncReadExt as _;

        let mut needs = Needs { max_encrypted_data_keys, keys: None };
        let mut bytes = vec![];
        loop {
            let missing = needs.missing(&bytes, false)?;
            if missing == 0 {
                return Ok(Self::checked(bytes)?);
            }
            if source.take(missing as u64).read_to_end(&mut bytes).await? == 0 {
                needs.missing(&bytes, true)?;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Returns the version of the message format: 1 or 2.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.bytes[0]
    }

    /// Returns the algorithm suite.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.parsed().suite
    }

    /// Returns the message id: 16 bytes in version 1, 32 in version 2.
    #[must_use]
    pub fn message_id(&self) -> &[u8] {
        self.parsed().message_id
    }

    /// Returns the encryption context that the message stores.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        &self.encryption_context
    }

    /// Returns the wrapping keys that the message claims to be under: ARNs of AWS KMS keys, and
    /// `NAMESPACE/NAME` of raw keys, in the order of the message.
    ///
    /// **They are not verified**: anyone can write a message that names them. Use them to find
    /// messages under an old key, not to decide whom to trust.
    ///
    /// ```
    /// use envelope::stream::UnverifiedHeader;
    ///
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let keyring = RawAesKeyring::new("payments", "2025-key", &DataKey::generate(32)?)?;
    /// # let envelope = Envelope::new(keyring)?;
    /// # let message = envelope.encrypt(b"", &EncryptionContext::empty()).await?;
    /// let header = UnverifiedHeader::read(&mut &message[..], 16)?;
    /// let is_outdated = header.wrapping_keys().any(|key| key == "payments/2025-key");
    /// assert!(is_outdated);
    /// # Ok(()) }
    /// ```
    pub fn wrapping_keys(&self) -> impl Iterator<Item = String> {
        self.encrypted_data_keys().map(|key| key.wrapping_key())
    }

    /// Returns the encrypted data keys, in the message's order.
    pub fn encrypted_data_keys(&self) -> impl Iterator<Item = EncryptedDataKey> + use<'_> {
        self.parsed().encrypted_data_keys.iter()
    }

    /// Returns the frame length: the number of plaintext bytes in each frame but the last one,
    /// which may be shorter. `None` for a non-framed body.
    #[must_use]
    pub fn frame_length(&self) -> Option<u32> {
        match self.parsed().content_type {
            ContentType::Framed { frame_length } => Some(frame_length),
            ContentType::NonFramed => None,
        }
    }

    /// Returns the length of the header in bytes, tag included.
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Creates the header from bytes that were parsed before.
    fn checked(bytes: Vec<u8>) -> Result<Self, Error> {
        let mut header = Self { bytes, encryption_context: EncryptionContext::empty() };
        header.encryption_context =
            EncryptionContext::from_serialized(header.parsed().encryption_context, 0)?;
        Ok(header)
    }

    /// Returns the parsed header.
    pub(crate) fn parsed(&self) -> header::UnverifiedHeader<'_> {
        let mut reader = Reader::new(&self.bytes, 0);
        header::UnverifiedHeader::read(&mut reader, usize::MAX).expect("it was parsed before")
    }
}

/// Computes how many bytes of a header are missing while it arrives.
struct Needs {
    max_encrypted_data_keys: usize,
    /// Finds the end of the encrypted data keys, once their count was checked.
    keys: Option<Walk>,
}

impl Needs {
    /// Returns how many bytes are missing, at least; 0 when the header is complete. `at_end` means
    /// that the source has no more bytes.
    fn missing(&mut self, bytes: &[u8], at_end: bool) -> Result<usize, Error> {
        match self.keys.as_mut().map_or(0, |keys| keys.missing(bytes)) {
            missing if missing > 0 && !at_end => return Ok(missing),
            _ => {}
        }
        let parsed = opener::read_header(bytes, self.max_encrypted_data_keys).map(drop);
        if matches!(parsed, Err(Error::Truncated { field: encrypted_data_key::FIRST_FIELD, .. }))
            && self.keys.is_none()
        {
            self.keys = Walk::behind_count(bytes);
        }
        shortfall(parsed, at_end)
    }
}

/// Returns how many more bytes a parser needs, or its error if more bytes cannot help or do not
/// exist.
pub(super) fn shortfall(parsed: Result<(), Error>, at_end: bool) -> Result<usize, Error> {
    match parsed {
        Ok(()) => Ok(0),
        Err(Error::Truncated { missing, .. }) if !at_end => Ok(missing),
        Err(error) => Err(error),
    }
}

/// Reads until `missing` returns 0, and no further. `missing` is called with the bytes so far, and
/// whether the source has ended.
pub(super) fn read_exactly(
    source: &mut impl io::Read,
    mut missing: impl FnMut(&[u8], bool) -> Result<usize, Error>,
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    loop {
        let missing_now = missing(&bytes, false)?;
        if missing_now == 0 {
            return Ok(bytes);
        }
        // Grows as bytes arrive, independent of the claimed length.
        if source.by_ref().take(missing_now as u64).read_to_end(&mut bytes)? == 0 {
            missing(&bytes, true)?;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
