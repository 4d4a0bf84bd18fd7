//! Envelope encryption in the AWS Encryption SDK message format, with cached data keys.
//!
//! Data is encrypted locally with AES-256-GCM under a data key. A *keyring* (AWS KMS, or your own
//! AES key) wraps the data key, and the wrapped key is stored in the message. Data keys are cached
//! within limits on age, messages and bytes, so that most operations need no network. Every AWS
//! Encryption SDK client, in any language, can decrypt these messages, and this crate can decrypt
//! theirs.
//!
//! # Example
//!
//! ```
//! use envelope::{DataKey, EncryptionContext, Envelope, keyring::RawAesKeyring};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), envelope::Error> {
//! let wrapping_key = DataKey::generate(32)?;
//! let envelope = Envelope::new(RawAesKeyring::new("example", "key", &wrapping_key)?)?;
//!
//! let context = EncryptionContext::new([("tenant", "42")])?;
//! let message = envelope.encrypt(b"4111 1111 1111 1111", &context).await?;
//! let decrypted = envelope.decrypt(&message, &context).await?;
//! assert_eq!(decrypted.plaintext(), b"4111 1111 1111 1111");
//! # Ok(()) }
//! ```
//!
//! For data that is larger than memory, use a [`stream`]. With AWS KMS, use
//! [`keyring::AwsKmsKeyring`] instead. To set your own limits, use
//! [`materials::CachingMaterialsManager`].
//!
//! # Features
//!
//! | feature | default | adds |
//! | --- | --- | --- |
//! | `aws-kms` | yes | the AWS KMS keyrings, over `kms-pool` |
//! | `aws-lc-rs` | yes | AES-GCM by AWS-LC instead of RustCrypto's portable implementation; signed suites; the raw RSA keyring |
//! | `tokio` | yes | loads and refreshes data keys on the cache's own threads; streams over tokio's `AsyncRead` and `AsyncWrite`; enabled by `aws-kms` |
//! | `tracing` | yes | emits events for cache activity |
//! | `metrics` | no | records metrics of the cache with the `metrics` facade: see [`materials::MaterialsCache`] |
//! | `serde` | no | makes the cache's statistics serializable |
//! | `parallel` | no | `EnvelopeBuilder::threads`: several threads for one long message |
#![cfg_attr(not(feature = "aws-kms"), allow(rustdoc::broken_intra_doc_links))]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod background;
pub mod branch_key;
mod cache;
mod client;
mod context;
mod crypto;
mod data_key;
mod error;
mod format;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod gate;
#[cfg(all(any(doc, doctest), feature = "aws-kms", feature = "aws-lc-rs"))]
pub mod guide;
pub mod keyring;
pub mod materials;
mod message;
pub mod observer;
pub mod stream;
mod suite;
mod sync;
mod time;

#[cfg(feature = "aws-kms")]
pub use kms_pool;

pub use crate::{
    client::{BlockingEnvelope, Decrypted, Envelope, EnvelopeBuilder, PreparedContext},
    context::EncryptionContext,
    data_key::DataKey,
    error::{Error, ResultFuture},
    suite::{AlgorithmSuite, CommitmentPolicy},
    time::Clock,
};

/// Compiles the code in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
