//! What opening gives.

use std::fmt;

use crate::{context::EncryptionContext, suite::AlgorithmSuite};

/// An opened message. Its plaintext is a vector, or a part of the caller's buffer.
pub struct Decrypted<P = Vec<u8>> {
    pub(super) plaintext: P,
    pub(super) encryption_context: EncryptionContext,
    pub(super) suite: AlgorithmSuite,
}

impl<P: AsRef<[u8]>> Decrypted<P> {
    /// The plaintext.
    #[must_use]
    pub fn plaintext(&self) -> &[u8] {
        self.plaintext.as_ref()
    }

    /// The plaintext, to keep.
    #[must_use]
    pub fn into_plaintext(self) -> P {
        self.plaintext
    }

    /// The message's encryption context, authenticated, with what it requires but does not store:
    /// check here what you did not supply.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        &self.encryption_context
    }

    /// The algorithm suite the message was sealed with.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.suite
    }
}

/// The plaintext's length, not the plaintext.
impl<P: AsRef<[u8]>> fmt::Debug for Decrypted<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plaintext, encryption_context, suite } = self;
        f.debug_struct("Decrypted")
            .field("plaintext", &format_args!("[{} bytes]", plaintext.as_ref().len()))
            .field("encryption_context", encryption_context)
            .field("suite", suite)
            .finish()
    }
}
