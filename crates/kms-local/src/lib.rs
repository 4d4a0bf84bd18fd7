//! An in-process AWS KMS for examples and tests. **Never use it in production**: it stores keys in
//! the clear, in memory or in a file, and its admin endpoint has no authentication.
//!
//! It behaves like AWS KMS where clients depend on it:
//!
//! - the AWS JSON 1.1 protocol over TLS and persistent connections,
//! - verified signatures (Signature Version 4) and expiring sessions,
//! - key states, aliases and an authenticated encryption context,
//! - the error types of AWS KMS.
//!
//! It has symmetric encryption keys only. A test can make it slow, throttle, fail, hang, deny
//! access or reset connections ([`Faults`]), and can count the requests of a client ([`Counters`]).
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use aws_sdk_kms::config::{BehaviorVersion, Region};
//! use aws_sdk_kms::types::DataKeySpec;
//! use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
//! use kms_local::KmsLocal;
//!
//! let kms = KmsLocal::builder().region("us-east-1").start().await?;
//! let key = kms.create_key("us-east-1");
//!
//! let trust = TrustStore::empty().with_pem_certificate(kms.ca_pem());
//! let http_client = aws_smithy_http_client::Builder::new()
//!     .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
//!     .tls_context(TlsContext::builder().with_trust_store(trust).build()?)
//!     .build_https();
//! let config = aws_sdk_kms::Config::builder()
//!     .behavior_version(BehaviorVersion::latest())
//!     .region(Region::from_static("us-east-1"))
//!     .endpoint_url(kms.endpoint("us-east-1"))
//!     .credentials_provider(kms.issue_credentials())
//!     .http_client(http_client)
//!     .build();
//! let client = aws_sdk_kms::Client::from_conf(config);
//!
//! let data_key =
//!     client.generate_data_key().key_id(&key).key_spec(DataKeySpec::Aes256).send().await?;
//! assert_eq!(data_key.key_id(), Some(&*key));
//! assert_eq!(kms.counters("us-east-1").succeeded("GenerateDataKey"), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Operations
//!
//! `CreateKey`, `ReplicateKey`, `DescribeKey`, `ListKeys`, `EnableKey`, `DisableKey`,
//! `ScheduleKeyDeletion`, `CancelKeyDeletion`, `CreateAlias`, `UpdateAlias`, `DeleteAlias`,
//! `ListAliases`, `GenerateDataKey`, `GenerateDataKeyWithoutPlaintext`, `Encrypt`, `Decrypt`,
//! `ReEncrypt`, `GenerateRandom`.
//!
//! Key policies, tags and grant tokens are accepted and have no effect: every principal is allowed
//! every operation. Asymmetric keys, HMAC keys, imported keys, custom key stores and `Recipient`
//! are refused with `UnsupportedOperationException`.
//!
//! Multi-Region keys are related across the regions that were started. Related keys have the same
//! key id and key material, and separate states. Unlike in AWS:
//!
//! - A replica is enabled at once, without the state `Creating`.
//! - A primary key that is scheduled for deletion while it has replicas is
//!   `PendingReplicaDeletion`. AWS begins its waiting period when the last replica is gone. Here
//!   you must schedule its deletion again.
//! - There is no `UpdatePrimaryRegion`.
//!
//! [`KmsLocalBuilder::sts`] also starts an STS, with `AssumeRole`, `AssumeRoleWithWebIdentity` and
//! `GetCallerIdentity`. Every principal can assume every role, and policies have no effect.
//!
//! # Features
//!
//! `cli`, on by default, builds the program `kms-local`, for clients in other languages. Turn it
//! off if you only need the library.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admin;
mod arn;
mod builder;
mod ciphertext;
mod context;
mod counters;
mod delay;
mod error;
mod faults;
mod listener;
mod operations;
mod principals;
mod random;
mod region;
mod server;
mod service;
mod signature;
mod store;
mod sts;
mod time;
mod tls;

pub use crate::{
    builder::KmsLocalBuilder,
    counters::Counters,
    error::{Refused, StartError},
    faults::Faults,
    server::KmsLocal,
    sts::RoleSession,
};

/// Compiles the code in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
