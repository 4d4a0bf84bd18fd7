//! The header of a message that is read as a stream.

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

/// A message's header as it was received: well-formed, but **nothing in it is authenticated**
/// before [`Envelope::decryptor`](crate::Envelope::decryptor) has verified it.
#[derive(Debug, Clone)]
pub struct UnverifiedHeader {
    bytes: Vec<u8>,
    encryption_context: EncryptionContext,
}

impl UnverifiedHeader {
    /// Reads a header off `source`, and no byte more; `source` is best buffered. More than
    /// `max_encrypted_data_keys` are an error.
    ///
    /// ```
    /// use envelope::stream::UnverifiedHeader;
    ///
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
    /// # let message = envelope.encrypt(b"", &EncryptionContext::new([("tenant", "42")])?).await?;
    /// let header = UnverifiedHeader::read(&mut &message[..], 16)?;
    /// assert_eq!(header.encryption_context().get("tenant"), Some("42")); // as claimed by the sender
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of `source`, and with [`Error`] inside, errors of the header's format. Data that
    /// was read by then is lost: a source that has nothing to read yet must wait rather than fail.
    pub fn read(source: &mut impl io::Read, max_encrypted_data_keys: usize) -> io::Result<Self> {
        let mut needs = Needs { max_encrypted_data_keys, keys: None };
        let bytes = read_exactly(source, |bytes, at_end| needs.missing(bytes, at_end))?;
        Ok(Self::checked(bytes)?)
    }

    /// Reads like [`read`](Self::read), and waits where there is nothing to read. Cancelled, it
    /// loses what it has read.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
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

    /// The version of the message format: 1 or 2.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.bytes[0]
    }

    /// The algorithm suite.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.parsed().suite
    }

    /// The message id: 16 bytes in version 1, 32 in version 2.
    #[must_use]
    pub fn message_id(&self) -> &[u8] {
        self.parsed().message_id
    }

    /// The encryption context that the message stores.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        &self.encryption_context
    }

    /// Returns the encrypted data keys, in the message's order.
    pub fn encrypted_data_keys(&self) -> impl Iterator<Item = EncryptedDataKey> + use<'_> {
        self.parsed().encrypted_data_keys.iter()
    }

    /// How many plaintext bytes each frame has, the last one at most; `None` where the body is in
    /// one piece.
    #[must_use]
    pub fn frame_length(&self) -> Option<u32> {
        match self.parsed().content_type {
            ContentType::Framed { frame_length } => Some(frame_length),
            ContentType::NonFramed => None,
        }
    }

    /// How long the header is, with its tag, in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// The header that these bytes are, which must have been read.
    fn checked(bytes: Vec<u8>) -> Result<Self, Error> {
        let mut header = Self { bytes, encryption_context: EncryptionContext::empty() };
        header.encryption_context =
            EncryptionContext::from_serialized(header.parsed().encryption_context, 0)?;
        Ok(header)
    }

    pub(crate) fn parsed(&self) -> header::UnverifiedHeader<'_> {
        let mut reader = Reader::new(&self.bytes, 0);
        header::UnverifiedHeader::read(&mut reader, usize::MAX).expect("it was read before")
    }
}

/// How much of a header is missing, as it arrives.
struct Needs {
    max_encrypted_data_keys: usize,
    /// Where the encrypted data keys end, once that many were allowed.
    keys: Option<Walk>,
}

impl Needs {
    /// How many more bytes must come at the least; 0 when the header is whole. `at_end` tells that
    /// none will.
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

/// How many more bytes a parse needs; its error when they will not come.
pub(super) fn shortfall(parsed: Result<(), Error>, at_end: bool) -> Result<usize, Error> {
    match parsed {
        Ok(()) => Ok(0),
        Err(Error::Truncated { missing, .. }) if !at_end => Ok(missing),
        Err(error) => Err(error),
    }
}

/// Reads as much as `missing` says, and no byte more. It is asked again as bytes arrive, and at
/// their end.
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
