//! AWS KMS clients for a whole process: one for each region and principal, built once, kept warm.
//!
//! An `aws_sdk_kms::Client` is cheap to clone and expensive to lose: a new one brings a new connection
//! pool, so its first request pays for DNS, TCP and TLS, and a crowd of tasks that each build their own
//! pays all of that over and over. Credentials make it worse, because those of a client come with its
//! construction, and they rotate every hour or so.
//!
//! A [`KmsPool`] gives each pair of region and [`Principal`] a slot. The slot holds an immutable
//! *generation*, a client that signs with just one set of credentials, and swaps in the next generation
//! when the credentials are renewed. Behind all generations of all slots stands a single HTTPS client,
//! so a swap costs no connection, and requests that run on the old generation end in peace.
//!
//! - Callers who need the same client at once wait for one asking of the credentials provider. If it
//!   fails they all get that failure; if the first of them gives up, the others carry on.
//! - Principals never share a client, whatever their keys look like.
//! - [`KmsError`] sorts what KMS, the network and the providers report by what one can do about it.
//! - Nothing secret shows in `Debug`, `Display` or the statistics, and no HTTP response is kept.
//!
//! # Example
//!
//! ```no_run
//! use kms_pool::{KmsError, KmsPool, Principal};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Once in the process:
//! let pool = KmsPool::builder().build()?;
//! let principal = Principal::from_default_chain().await;
//!
//! // For each unit of work, from any task:
//! async fn random(pool: &KmsPool, principal: &Principal) -> Result<Vec<u8>, KmsError> {
//!     let client = pool.client("eu-central-1", principal).await?;
//!     let answer = client.generate_random().number_of_bytes(32).send().await?;
//!     Ok(answer.plaintext.unwrap_or_default().into_inner())
//! }
//! random(&pool, &principal).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Defaults
//!
//! | setting | default | range |
//! | --- | --- | --- |
//! | [`connect_timeout`](KmsPoolBuilder::connect_timeout) | 2 s | 1 ms – 5 min |
//! | [`attempt_timeout`](KmsPoolBuilder::attempt_timeout) | 3 s | 1 ms – 5 min |
//! | [`operation_timeout`](KmsPoolBuilder::operation_timeout) | 10 s | 1 ms – 5 min |
//! | [`max_attempts`](KmsPoolBuilder::max_attempts) | 3 | 1 – 10 |
//! | [`max_clients`](KmsPoolBuilder::max_clients) | 1000 | 1 – 1,000,000 |
//! | [`refresh_lead`](KmsPoolBuilder::refresh_lead) | 60 s | 0 – 1 h |
//! | [`provider_timeout`](KmsPoolBuilder::provider_timeout) | 5 s | 1 ms – 5 min |
//! | pause after a renewal that brought nothing | 5 s | fixed |
//! | idle connections are closed after | 90 s | fixed |
//! | TLS | rustls over aws-lc-rs, the platform's certificate authorities | custom ones by [`trust_root_pem`](KmsPoolBuilder::trust_root_pem) |
//!
//! Nothing is read from the environment but by [`Principal::from_default_chain`] and
//! [`KmsPoolBuilder::with_environment`].

mod builder;
mod connection;
mod credentials;
mod error;
mod pool;
mod replicas;
mod request;
mod sight;
mod slot;
mod stats;
mod supplier;
mod time;
mod warm_up;

pub use builder::KmsPoolBuilder;
pub use credentials::Principal;
pub use error::{BuildError, KmsError, KmsErrorKind};
pub use pool::KmsPool;
pub use replicas::Replicas;
pub use request::CircuitState;
pub use stats::{PoolStats, SlotStats};
pub use supplier::{ClientFuture, ClientSupplier, PooledClients};
