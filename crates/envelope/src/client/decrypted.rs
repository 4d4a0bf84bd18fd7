//! The result of decryption.

use std::fmt;

use crate::{context::EncryptionContext, suite::AlgorithmSuite};

/// A decrypted message. The plaintext is a `Vec<u8>`, or a part of your buffer.
pub struct Decrypted<P = Vec<u8>> {
    pub(super) plaintext: P,
    pub(super) encryption_context: EncryptionContext,
    pub(super) suite: AlgorithmSuite,
}

impl<P: AsRef<[u8]>> Decrypted<P> {
    /// Returns the plaintext.
    #[must_use]
    pub fn plaintext(&self) -> &[u8] {
        self.plaintext.as_ref()
    }

    /// Consumes this value and returns the plaintext.
    #[must_use]
    pub fn into_plaintext(self) -> P {
        self.plaintext
    }

    /// Returns the authenticated encryption context, including required pairs that the message does
    /// not store.
    ///
    /// Check the pairs here that you did not supply on decryption.
    #[must_use]
    pub fn encryption_context(&self) -> &EncryptionContext {
        &self.encryption_context
    }

    /// Returns the algorithm suite of the message.
    #[must_use]
    pub fn suite(&self) -> AlgorithmSuite {
        self.suite
    }
}

/// Shows the plaintext's length, not the plaintext.
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
