//! Envelope encryption in the AWS Encryption SDK message format, with cached data keys.
//!
//! Data is sealed locally with AES-256-GCM under a data key; the data key is wrapped by a *keyring*
//! (AWS KMS, or an AES key of your own) and stored in the message. Data keys are cached within
//! limits on age, messages and bytes, so that most operations never touch the network. Every AWS
//! Encryption SDK client, in any language, opens what this one seals, and the reverse.
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
//! let opened = envelope.decrypt(&message, &context).await?;
//! assert_eq!(opened.plaintext(), b"4111 1111 1111 1111");
//! # Ok(()) }
//! ```
//!
//! What is larger than memory goes through a [`stream`]. With AWS KMS, take
//! [`keyring::AwsKmsKeyring`] instead; with limits of your own,
//! [`materials::CachingMaterialsManager`].
//!
//! # Features
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `aws-kms` | yes | the AWS KMS keyrings, over `kms-pool` |
//! | `aws-lc-rs` | yes | AES-GCM by AWS-LC instead of RustCrypto's portable implementation; signed suites; the raw RSA keyring |
//! | `tokio` | yes | data keys are loaded and refreshed on threads of the cache's own; streams over tokio's `AsyncRead` and `AsyncWrite`; `aws-kms` brings it along |
//! | `tracing` | yes | what happens in the cache, as events |
//! | `metrics` | no | the same, for the `metrics` facade: see [`materials::MaterialsCache`] |
//! | `serde` | no | the cache's statistics can be serialized |
//! | `parallel` | no | `EnvelopeBuilder::threads`: several threads to a long message |
#![cfg_attr(not(feature = "aws-kms"), allow(rustdoc::broken_intra_doc_links))]

mod background;
mod cache;
mod client;
mod context;
mod crypto;
mod data_key;
mod error;
mod format;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
#[cfg(all(any(doc, doctest), feature = "aws-kms", feature = "aws-lc-rs"))]
pub mod guide;
pub mod keyring;
pub mod materials;
mod message;
pub mod observer;
pub mod stream;
mod suite;
mod time;

pub use crate::{
    client::{
        BlockingEnvelope, BlockingPreparedContext, Decrypted, Envelope, EnvelopeBuilder,
        PreparedContext,
    },
    context::{ContextKeys, EncryptionContext},
    data_key::DataKey,
    error::Error,
    suite::{AlgorithmSuite, CommitmentPolicy},
    time::{Clock, ManualClock, Moment},
};
