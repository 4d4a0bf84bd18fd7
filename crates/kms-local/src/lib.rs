//! An in-process AWS KMS for examples and tests. **Never for production**: keys are stored in
//! memory or in a file in the clear, and anyone who reaches the port of the admin endpoint is an
//! administrator.
//!
//! It is faithful where clients depend on it: the AWS JSON 1.1 protocol over TLS and kept-alive
//! connections, verified signatures (Signature Version 4), expiring sessions, key states, aliases,
//! an authenticated encryption context, and the error types of AWS KMS. It has symmetric encryption
//! keys only. On demand it is far away, slow, throttles, fails, hangs, denies access or cuts
//! connections, and it counts what it is asked, so that a test can see what a client did.
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
//! Key policies, tags and grant tokens are accepted and have no effect: every principal may do
//! everything. Asymmetric, HMAC, imported and custom-store keys and `Recipient` are refused with
//! `UnsupportedOperationException`.
//!
//! Multi-Region keys are related across the regions that were started: one key id, one key
//! material, each with a state of its own. A replica is enabled at once, without the `Creating` of
//! AWS. A primary that is scheduled for deletion while it has replicas is `PendingReplicaDeletion`;
//! AWS begins its waiting period when the last replica is gone, and here it has to be scheduled
//! again then. There is no `UpdatePrimaryRegion`.
//!
//! On demand there is an STS beside it ([`Builder::sts`]), with `AssumeRole`,
//! `AssumeRoleWithWebIdentity` and `GetCallerIdentity`: every principal may assume every role, and
//! policies have no effect.

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
mod multi_region;
mod operations;
mod principals;
mod random;
mod region;
mod server;
mod signature;
mod store;
mod sts;
mod time;
mod tls;

pub use crate::{
    builder::Builder,
    counters::Counters,
    error::{Refused, StartError},
    faults::{FaultPlan, Faults},
    server::KmsLocal,
    sts::RoleSession,
};

/// Compiles the code in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
