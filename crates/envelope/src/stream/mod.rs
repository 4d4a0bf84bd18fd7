//! Encryption and decryption of data larger than memory, over [`std::io`] or `tokio::io`.
//!
//! Each message needs a data key, so both directions start with one async step that may wait for a
//! keyring. After that, they process data as it arrives. [`Envelope::encryptor`] returns an
//! [`Encryptor`]. [`Envelope::decryptor`] returns a [`Decryptor`] for a header that
//! [`Envelope::read_header`] has read. Use either through a [`Reader`], which processes the bytes
//! that you read, or through a [`Writer`], which processes the bytes that you write. Both implement
//! the traits of [`std::io`], and with the feature `tokio` those of `tokio::io`, if the source or
//! sink does.
//!
//! # Guarantees
//!
//! - No byte of a frame is released before the frame's tag is verified. The last frame is not
//!   released before the end of the message and its signature are verified, and no bytes follow. If
//!   you have read to the end without an error, you have read the complete, authentic plaintext.
//! - A truncated, changed, reordered, repeated or extended message is an error, and nothing is
//!   released after an error. Data that was released before the error is authentic but incomplete:
//!   do not act on it.
//! - Memory use is a small multiple of the frame length, plus about 100 KiB, or 1 MiB for each of
//!   several threads (`EnvelopeBuilder::threads`). A non-framed body is like one frame, and is held
//!   in memory.
//! - A length in a message does not allocate memory before its bytes arrive.
//! - When a call is cancelled or fails, no plaintext is left in memory: buffers are wiped on drop.
//!
//! Errors are [`io::Error`](std::io::Error)s. [`Error::in_io`](crate::Error::in_io) returns this
//! crate's error inside.
//!
//! # Signed messages
//!
//! The signature follows the last frame, so a stream has to release the other frames before it can
//! verify the signature. [`Envelope::decryptor`] refuses signed messages for this reason;
//! [`Envelope::decryptor_before_signature`] accepts them.
//!
//! # Example
//!
//! ```
//! use std::io::{self, Read as _, Write as _};
//! use envelope::{
//!     DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
//! let context = EncryptionContext::new([("file", "report")])?;
//!
//! let sink = Vec::new(); // any `Write`, such as a file
//! let mut writer = envelope.encryptor(&context, None).await?.writer(sink);
//! writer.write_all(&[7; 10_000])?;
//! writer.write_all(&[8; 10_000])?;
//! let message = writer.finish()?; // without this, the message is truncated
//!
//! let mut source = &message[..]; // any `Read`, such as a buffered file
//! let header = envelope.read_header(&mut source)?;
//! let decryptor = envelope.decryptor(&header, &context).await?;
//! let mut plaintext = vec![];
//! decryptor.reader(source).read_to_end(&mut plaintext)?;
//! assert_eq!(plaintext, [[7; 10_000], [8; 10_000]].concat());
//! # Ok(()) }
//! ```
//!
//! With `tokio::io` (feature `tokio`):
//!
//! ```
//! # #[cfg(feature = "tokio")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use envelope::{
//!     DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring,
//! };
//! use tokio::io::copy;
//!
//! # let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
//! # let context = EncryptionContext::new([("file", "report")])?;
//! let sink = Vec::new(); // any `AsyncWrite`
//! let mut writer = envelope.encryptor(&context, None).await?.writer(sink);
//! copy(&mut &[7; 10_000][..], &mut writer).await?;
//! let message = writer.finish_async().await?;
//!
//! let mut source = &message[..]; // any `AsyncRead`, preferably buffered
//! let header = envelope.read_header_async(&mut source).await?;
//! let decryptor = envelope.decryptor(&header, &context).await?;
//! let mut plaintext = vec![];
//! copy(&mut decryptor.reader(source), &mut plaintext).await?;
//! assert_eq!(plaintext, [7; 10_000]);
//! # Ok(()) }
//! # #[cfg(not(feature = "tokio"))]
//! # fn main() {}
//! ```
//!
//! [`Envelope::encryptor`]: crate::Envelope::encryptor
//! [`Envelope::decryptor`]: crate::Envelope::decryptor
//! [`Envelope::decryptor_before_signature`]: crate::Envelope::decryptor_before_signature
//! [`Envelope::read_header`]: crate::Envelope::read_header

mod body;
mod buffer;
mod decryptor;
mod encryptor;
mod header;
mod machine;
mod reader;
mod writer;

pub use self::{
    decryptor::Decryptor, encryptor::Encryptor, header::UnverifiedHeader, machine::Machine,
    reader::Reader, writer::Writer,
};
