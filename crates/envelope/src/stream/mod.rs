//! Messages larger than memory: sealed and opened frame by frame, over [`std::io`] or `tokio::io`.
//!
//! A message starts with a data key, so both directions have one step that may wait for a keyring,
//! and then go as fast as their input: [`Envelope::encryptor`] gives an [`Encryptor`], and
//! [`Envelope::decryptor`] a [`Decryptor`] for a header that [`Envelope::read_header`] read. Each
//! then works behind a [`Reader`], which processes the bytes that you read, or a [`Writer`], which
//! processes the bytes that you write. These implement the traits of [`std::io`] over a source or
//! sink that does, and those of `tokio::io` likewise (feature `tokio`).
//!
//! # Guarantees
//!
//! - No byte of a frame is released before the frame's tag is verified, and the last frame not
//!   before everything is: that the message ends there, its signature, and that nothing follows it.
//!   Who reads to the end has read an authentic message, whole.
//! - Cut, changed, exchanged, repeated or appended data is an error, and after an error nothing
//!   more is released. The data that was released before is authentic, but only the beginning of
//!   the plaintext: do not act on it.
//! - Memory stays at a small multiple of the frame length, plus some 100 KiB, or 1 MiB for each of
//!   [several threads](crate::EnvelopeBuilder). A message whose body is in one piece is one frame,
//!   and so held in memory.
//! - Lengths that a message claims cost memory only as its bytes arrive.
//! - A call that is cancelled or fails leaves no plaintext behind: plaintext in buffers is wiped on
//!   drop.
//!
//! The errors are [`io::Error`](std::io::Error)s, with this library's own inside:
//! [`Error::in_io`](crate::Error::in_io).
//!
//! # Signed messages
//!
//! A signature stands behind the last frame, so a stream can't verify it before it releases the
//! frames in front. What to do about that is [`DecryptionMode`]'s to say, each time.
//!
//! # Example
//!
//! ```
//! use std::io::{self, Read as _, Write as _};
//! use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring, stream::DecryptionMode};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
//! let context = EncryptionContext::new([("file", "report")])?;
//!
//! let mut writer = envelope.encryptor(&context, None).await?.writer(Vec::new()); // any `Write`, as a file
//! writer.write_all(&[7; 10_000])?;
//! writer.write_all(&[8; 10_000])?;
//! let message = writer.finish()?; // without this, the message is cut short, and no one opens it
//!
//! let mut source = &message[..]; // any `Read`, as a buffered file
//! let header = envelope.read_header(&mut source)?;
//! let decryptor = envelope.decryptor(&header, &context, DecryptionMode::UnsignedOnly).await?;
//! let mut plaintext = vec![];
//! decryptor.reader(source).read_to_end(&mut plaintext)?;
//! assert_eq!(plaintext, [[7; 10_000], [8; 10_000]].concat());
//! # Ok(()) }
//! ```
//!
//! Over tokio, which takes the feature `tokio`:
//!
//! ```
//! # #[cfg(feature = "tokio")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring, stream::DecryptionMode};
//! use tokio::io::copy;
//!
//! # let envelope = Envelope::new(RawAesKeyring::new("example", "key", &DataKey::generate(32)?)?)?;
//! # let context = EncryptionContext::new([("file", "report")])?;
//! let mut writer = envelope.encryptor(&context, None).await?.writer(Vec::new()); // any `AsyncWrite`
//! copy(&mut &[7; 10_000][..], &mut writer).await?;
//! let message = writer.finish_async().await?;
//!
//! let mut source = &message[..]; // any `AsyncRead`, best buffered
//! let header = envelope.read_header_async(&mut source).await?;
//! let decryptor = envelope.decryptor(&header, &context, DecryptionMode::UnsignedOnly).await?;
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
//! [`Envelope::read_header`]: crate::Envelope::read_header

mod buffer;
mod decryptor;
mod encryptor;
mod header;
mod machine;
mod pieces;
mod reader;
mod writer;

pub use self::{
    decryptor::{DecryptionMode, Decryptor},
    encryptor::Encryptor,
    header::UnverifiedHeader,
    machine::Machine,
    pieces::{UnverifiedPiece, UnverifiedPieces},
    reader::Reader,
    writer::Writer,
};
