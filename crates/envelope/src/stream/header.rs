//! The header of a message that is read as a stream.

use std::io::{self, Read as _};

use crate::{
    context::EncryptionContext,
    error::Error,
    format::{codec::Reader, header, header::ContentType},
    materials::EncryptedDataKeys,
    message::open,
    suite::AlgorithmSuite,
};

/// A message's header as it was received: well-formed, but **nothing in it is authenticated** before
/// [`Envelope::decryptor`](crate::Envelope::decryptor) has verified it.
#[derive(Debug, Clone)]
pub struct UnverifiedHeader {
    bytes: Vec<u8>,
    encryption_context: EncryptionContext,
}

impl UnverifiedHeader {
    /// Reads a header off `source`, and no byte more; `source` is best buffered. More than `max_encrypted_data_keys`
    /// are an error.
    ///
    /// ```
    /// use envelope::stream::UnverifiedHeader;
    ///
    /// # use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
    /// # let message = envelope.encrypt(b"", &EncryptionContext::new([("tenant", "42")])?).await?;
    /// let header = UnverifiedHeader::read(&mut &message[..], 16)?;
    /// assert_eq!(header.encryption_context().get("tenant"), Some("42")); // says whoever sent the message
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `source`, and with [`Error`] inside, what is wrong with the header's form.
    pub fn read(source: &mut impl io::Read, max_encrypted_data_keys: usize) -> io::Result<Self> {
        let bytes = read_exactly(source, |bytes| open::read_header(bytes, max_encrypted_data_keys).map(drop))?;
        Ok(Self::checked(bytes)?)
    }

    /// Reads like [`read`](Self::read), and waits where there is nothing to read.
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

        let mut bytes = vec![];
        loop {
            match open::read_header(&bytes, max_encrypted_data_keys) {
                Ok(_) => return Ok(Self::checked(bytes)?),
                Err(error @ Error::Truncated { missing, .. }) => {
                    if source.take(missing as u64).read_to_end(&mut bytes).await? == 0 {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
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

    /// The encrypted data keys.
    #[must_use]
    pub fn encrypted_data_keys(&self) -> EncryptedDataKeys<'_> {
        self.parsed().encrypted_data_keys
    }

    /// How many plaintext bytes each frame has, the last one at most; `None` where the body is in one piece.
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
        header.encryption_context = EncryptionContext::from_serialized(header.parsed().encryption_context, 0)?;
        Ok(header)
    }

    pub(crate) fn parsed(&self) -> header::UnverifiedHeader<'_> {
        let mut reader = Reader::new(&self.bytes, 0);
        header::UnverifiedHeader::read(&mut reader, usize::MAX).expect("it was read before")
    }
}

/// Reads what `parse` needs, and no byte more: it says by [`Error::Truncated`] how much is missing.
pub(super) fn read_exactly(
    source: &mut impl io::Read,
    mut parse: impl FnMut(&[u8]) -> Result<(), Error>,
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    loop {
        match parse(&bytes) {
            Ok(()) => return Ok(bytes),
            Err(error @ Error::Truncated { missing, .. }) => {
                // Grows as bytes arrive, whatever length is claimed.
                if source.by_ref().take(missing as u64).read_to_end(&mut bytes)? == 0 {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
