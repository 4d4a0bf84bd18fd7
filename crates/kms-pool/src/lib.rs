//! AWS KMS clients for a whole process: one for each region and principal, built once, kept warm.
//!
//! An `aws_sdk_kms::Client` is cheap to clone and expensive to lose: a new one brings a new
//! connection pool, so its first request pays for DNS, TCP and TLS, and a crowd of tasks that each
//! build their own pays all of that over and over. Credentials make it worse, because those of a
//! client usually come with its construction, and they rotate every hour or so.
//!
//! A [`KmsPool`] gives each pair of region and [`Principal`] a slot, with a client that is built
//! once. Below it, the credentials of the principal follow one another in *generations*: each
//! attempt of a request is signed with the one of the moment. A new generation is an atomic swap.
//! It costs no client, no connection and no failed request, and reaches clients that somebody has
//! kept for days.
//!
//! - Credentials are renewed ahead of their end by a task for each principal. Nobody waits for a
//!   provider as long as the old ones are good. What KMS refuses for its credentials is signed
//!   again after one renewal for all.
//! - Principals never share a client, whatever their keys look like. All clients for a region share
//!   its connections: requests are signed one by one.
//! - Each account has a budget for each region, which learns from what KMS throttles; each slot has
//!   a circuit, which spares a region that is out of order; [`Replicas`] turn to another one.
//! - [`KmsError`] sorts what KMS, the network and the providers report by what one can do about it.
//! - Nothing secret shows in `Debug`, `Display`, logs, metrics or statistics, and no HTTP response
//!   is kept.
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
//! # Where credentials come from
//!
//! From any `ProvideCredentials` of the AWS SDK ([`Principal::new`]), the SDK's default chain
//! ([`Principal::from_default_chain`]), a role that another principal assumes, for each tenant and
//! region with its own session tags ([`Role`]), a web identity token or a profile that changes on
//! disk ([`Role::with_web_identity`], [`Principal::from_profile`]), or from your own hands
//! ([`Principal::rotate`]). When somebody else takes a principal's place ([`Principal::replace`])
//! its [`tenure`](Principal::tenure) tells caches so.
//!
//! # Defaults
//!
//! | setting | default | range |
//! | --- | --- | --- |
//! | [`connect_timeout`](KmsPoolBuilder::connect_timeout), TCP, proxy and TLS together | 2 s | 1 ms – 5 min |
//! | [`attempt_timeout`](KmsPoolBuilder::attempt_timeout), from the request's turn to the end of its answer | 3 s | 1 ms – 5 min |
//! | [`operation_timeout`](KmsPoolBuilder::operation_timeout), with all attempts and waits | 10 s | 1 ms – 5 min |
//! | [`provider_timeout`](KmsPoolBuilder::provider_timeout) | 5 s | 1 ms – 5 min |
//! | [`max_attempts`](KmsPoolBuilder::max_attempts) | 3 | 1 – 10 |
//! | [`refresh_lead`](KmsPoolBuilder::refresh_lead) | 5 min | 0 – 1 h |
//! | [`refresh_jitter`](KmsPoolBuilder::refresh_jitter) | 1 min | 0 – 1 h |
//! | [`watch_files_every`](KmsPoolBuilder::watch_files_every) | 5 s | 10 ms – 1 h |
//! | [`max_clients`](KmsPoolBuilder::max_clients) | 1000 | 1 – 1,000,000 |
//! | [`idle_timeout`](KmsPoolBuilder::idle_timeout) | 10 min | 10 ms – 24 h |
//! | [`max_in_flight`](KmsPoolBuilder::max_in_flight) for an account and region | 256 | 1 – 100,000 |
//! | [`max_requests_per_second`](KmsPoolBuilder::max_requests_per_second) for an account and region | learnt | 1 – 1,000,000 |
//! | [`decrypt_share`](KmsPoolBuilder::decrypt_share), [`encrypt_share`](KmsPoolBuilder::encrypt_share) | 1 | 0.01 – 1 |
//! | [`circuit_opens_after`](KmsPoolBuilder::circuit_opens_after) failures in a row | 10 | 0 (never) – 1,000,000 |
//! | [`connection_idle_timeout`](KmsPoolBuilder::connection_idle_timeout) | 90 s | 10 ms – 1 h |
//! | TLS | rustls over aws-lc-rs, X25519MLKEM768 preferred; the platform's certificate authorities | custom ones by [`trust_root_pem`](KmsPoolBuilder::trust_root_pem) |
//!
//! The timeouts fit into one another: KMS answers in some 10 ms, across an ocean in some 200 ms, so
//! 2 s are many round trips even for a handshake with a lost packet, a second attempt after 3 s
//! still has its full time, and 10 s leave room for the third with the pauses between them. Of
//! several timeouts the first to pass counts.
//!
//! Nothing is read from the environment but by [`Principal::from_default_chain`] and
//! [`KmsPoolBuilder::with_environment`].
//!
//! # Retries
//!
//! One place decides on them, the AWS SDK's standard strategy, with at most
//! [`max_attempts`](KmsPoolBuilder::max_attempts) attempts of an operation and a quota for each
//! region. The pool adds no loop of its own: it tells the strategy when signing again may help,
//! because the credentials have been renewed or the clock was wrong, which it does once each for an
//! operation. What the pool itself refuses, for want of budget or because a circuit is open, is not
//! tried again. [`Replicas`] ask each region once.
//!
//! # Sight
//!
//! [`KmsPool::stats`] counts; [`KmsPool::slots`] tells of each slot its credentials' generation and
//! time left, its circuit and its budget's rate. Each attempt is a `tracing` span at `DEBUG`, named
//! `kms_request`, with the fields `operation`, `region`, `attempt`, `request_id`, `outcome` (`ok`,
//! `refused`, `credentials_refused`, `throttled`, `failed`, `timed_out`, `disconnected`,
//! `given_up`) and `milliseconds`. Rotations are events at `DEBUG`; providers that fail and
//! circuits that open are events at `WARN`. All are of the target `kms_pool`. The SDK logs much
//! more under its own targets (`aws_*`, `hyper`), access key ids at `DEBUG` and whole requests at
//! `TRACE`: `kms_pool=debug,warn` leaves that out.
//!
//! With the feature `metrics`, whatever recorder of the `metrics` facade is installed gets:
//!
//! | name | kind | labels |
//! | --- | --- | --- |
//! | `kms_pool_requests_total` | counter | `operation`, `region`, `outcome` |
//! | `kms_pool_request_seconds` | histogram | `operation`, `region` |
//! | `kms_pool_in_flight` | gauge | |
//! | `kms_pool_rotations_total` | counter | `outcome` (`ok`, `failed`) |
//! | `kms_pool_circuits_opened_total` | counter | `region` |
//! | `kms_pool_other_regions_total` | counter | `why` (`failover`, `hedge`) |
//! | `kms_pool_connections` | gauge | |
//! | `kms_pool_connections_opened_total`, `kms_pool_connections_failed_total` | counter | |

mod background;
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

pub use aws_credential_types::{Credentials, provider};
pub use builder::KmsPoolBuilder;
pub use credentials::{Principal, Role};
pub use error::{BuildError, KmsError, KmsErrorKind};
pub use pool::KmsPool;
pub use replicas::{Replicas, ReplicasStats};
pub use request::CircuitState;
pub use slot::Purpose;
pub use stats::{PoolStats, SlotStats};
pub use supplier::{ClientFuture, ClientSupplier, PooledClients};
