//! A process-wide pool of AWS KMS clients, one per region and principal.
//!
//! An [`aws_sdk_kms::Client`] is cheap to clone but expensive to create: a new client has a new
//! connection pool, so its first request pays for DNS, TCP and TLS. Tasks that each create a client
//! pay this every time. Credentials make it worse: a client usually gets them when it is created,
//! and they rotate about once an hour.
//!
//! A [`KmsPool`] keeps one client per region and [`Principal`]. A principal's credentials come in
//! *generations*: each attempt of a request is signed with the current credential generation. The
//! next generation is swapped in atomically: no client is created, no connection is closed and no
//! request fails. It also reaches clients that you have kept for days.
//!
//! - A background task per principal refreshes credentials before they expire. No request waits for
//!   a provider while the current credentials are valid. If KMS rejects the credentials of several
//!   requests, one refresh serves them all, and each is signed again.
//! - Principals never share a client, even if their access keys are equal. All clients for a region
//!   share its connections, because each request is signed separately.
//! - Each account has a request budget per region, which adapts when KMS throttles. Each client has
//!   a circuit breaker, which stops requests to a region that is failing. [`Replicas`] then use
//!   another region.
//! - [`KmsError`] classifies errors of KMS, the network and credentials providers by what you can
//!   do about them.
//! - Secrets do not appear in `Debug`, `Display`, logs, metrics or statistics, and no HTTP response
//!   is kept.
//!
//! # Examples
//!
//! ```no_run
//! use kms_pool::{KmsError, KmsPool, Principal};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Once per process:
//! let pool = KmsPool::builder().build()?;
//! let principal = Principal::from_default_chain();
//!
//! // For each unit of work, from any task:
//! async fn random(pool: &KmsPool, principal: &Principal) -> Result<Vec<u8>, KmsError> {
//!     let client = pool.client("eu-central-1", principal).await?;
//!     let response = client.generate_random().number_of_bytes(32).send().await?;
//!     Ok(response.plaintext.unwrap_or_default().into_inner())
//! }
//! random(&pool, &principal).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Credentials
//!
//! A principal gets its credentials from one of these sources:
//!
//! | source | function |
//! | --- | --- |
//! | the default chain of the AWS SDKs | [`Principal::from_default_chain`] |
//! | a profile in a file, which is read again when it changes | [`Principal::from_profile`] |
//! | any `ProvideCredentials` of the AWS SDK | [`Principal::new`] |
//! | a role that another principal assumes, for example with session tags for a tenant | [`Role::assumed_by`] |
//! | a role that the bearer of a web identity token assumes | [`Role::with_web_identity`] |
//! | your own code | [`Principal::rotate`] |
//!
//! [`Principal::replace`] switches a principal to another identity. Caches detect the change by its
//! [`tenure`](Principal::tenure).
//!
//! # Threads
//!
//! A pool has its own small Tokio runtime: two threads named `kms-pool`, which start when you get
//! the first client. Connections, attempts, credential refreshes, watchers and timers run there.
//! You need no Tokio runtime. A pool and its clients work under any executor, and in a `static`
//! that several runtimes use, at once or one after another. A runtime of yours that ends or stalls
//! does not delay callers on other runtimes.
//!
//! Credentials providers run on further threads of that runtime, one call at a time per principal.
//! A provider may block its thread. This delays only callers that wait for its credentials, up to
//! [`provider_timeout`](KmsPoolBuilder::provider_timeout). The pool does not call the provider
//! again until it returns.
//!
//! The threads end after [`KmsPool::shutdown`], or when the pool and its clients have been dropped.
//! You can drop them on any thread. [`Replicas`] with hedging use one more thread.
//!
//! # After a fork
//!
//! A forked child process has none of these threads. In the child, a pool that was used before the
//! fork fails at once with [`KmsErrorKind::AfterFork`]: build a new pool there. A pool that was
//! built but not used before the fork works in the child.
//!
//! # Clocks
//!
//! | purpose | clock |
//! | --- | --- |
//! | timeouts, pauses between attempts, budgets, circuits, idle clients | monotonic; suspended time does not count |
//! | pauses between credential refreshes, and how long a failed refresh is remembered | monotonic |
//! | dates of requests | the region's date |
//! | expiry of credentials, and the refresh before it | the pool's date |
//! | changes of files | the file system's times |
//!
//! The pool reads the wall clock once, when it is built. From then on it measures elapsed time with
//! a clock that cannot be set; on Linux this clock includes suspended time. Later changes of the
//! wall clock have no effect.
//!
//! If KMS refuses a request because its date is more than four minutes off, the pool sets the
//! region's date from the `Date` header of that response and signs the request again. Once KMS has
//! accepted a request with the new date, it becomes the pool's date as well. Only responses over
//! TLS count: with an `http://` endpoint a wrong clock is not corrected.
//!
//! # Defaults
//!
//! | setting | default | range |
//! | --- | --- | --- |
//! | [`connect_timeout`](KmsPoolBuilder::connect_timeout), for TCP, proxy and TLS together | 2 s | 1 ms to 5 min |
//! | [`attempt_timeout`](KmsPoolBuilder::attempt_timeout), from when the budget admits the request to the end of its response | 3 s | 1 ms to 5 min |
//! | [`operation_timeout`](KmsPoolBuilder::operation_timeout), including all attempts and the pauses between them | 10 s | 1 ms to 5 min |
//! | [`provider_timeout`](KmsPoolBuilder::provider_timeout) | 5 s | 1 ms to 5 min |
//! | [`max_attempts`](KmsPoolBuilder::max_attempts) | 3 | 1 to 10 |
//! | [`refresh_lead`](KmsPoolBuilder::refresh_lead) | 5 min | 0 to 1 h |
//! | [`refresh_jitter`](KmsPoolBuilder::refresh_jitter) | 1 min | 0 to 1 h |
//! | [`watch_files_every`](KmsPoolBuilder::watch_files_every) | 5 s | 10 ms to 1 h |
//! | [`max_clients`](KmsPoolBuilder::max_clients) | 1000 | 1 to 1,000,000 |
//! | [`idle_timeout`](KmsPoolBuilder::idle_timeout) | 10 min | 10 ms to 24 h |
//! | [`max_in_flight`](KmsPoolBuilder::max_in_flight) per account and region | 256 | 1 to 100,000 |
//! | [`max_requests_per_second`](KmsPoolBuilder::max_requests_per_second) per account and region | learned | 1 to 1,000,000 |
//! | [`decrypt_share`](KmsPoolBuilder::decrypt_share), [`encrypt_share`](KmsPoolBuilder::encrypt_share) | 1 | 0.01 to 1 |
//! | [`circuit_opens_after`](KmsPoolBuilder::circuit_opens_after) consecutive failures | 10 | 0 (never) to 1,000,000 |
//! | [`connection_idle_timeout`](KmsPoolBuilder::connection_idle_timeout) | 90 s | 10 ms to 1 h |
//! | TLS | rustls over aws-lc-rs, preferring X25519MLKEM768; the platform's certificate authorities | custom ones by [`trust_root_pem`](KmsPoolBuilder::trust_root_pem) |
//!
//! The timeouts are nested. KMS responds in about 10 ms, or 200 ms across an ocean, so 2 s are
//! enough for a TLS handshake with a lost packet. After a first attempt of 3 s, a second attempt
//! has its full 3 s, and 10 s leave room for a third one and the pauses. The timeout that expires
//! first applies.
//!
//! Only [`Principal::from_default_chain`] and [`KmsPoolBuilder::with_environment`] read environment
//! variables.
//!
//! # Retries
//!
//! An *operation* is one call of the SDK, and an *attempt* is one HTTP request for it. Only the AWS
//! SDK's standard retry strategy decides on retries, with at most
//! [`max_attempts`](KmsPoolBuilder::max_attempts) attempts per operation and a quota per client.
//!
//! The pool adds no retry loop. It tells the strategy to sign and send a request again after a
//! refresh of the credentials or a correction of the clock, at most once each per operation. These
//! retries count as attempts. If `max_attempts` is 1, they are allowed in addition.
//!
//! Requests that the pool does not send, because the budget is used up or a circuit is open, are
//! not retried. [`Replicas`] call each region once.
//!
//! # Observability
//!
//! [`KmsPool::stats`] returns counters. [`KmsPool::client_stats`] returns, for each client, the
//! generation and remaining lifetime of its credentials, the state of its circuit, and the rate of
//! its budget.
//!
//! Each attempt is a `tracing` span at `DEBUG`, named `kms_request`, with the fields `operation`,
//! `region`, `attempt`, `request_id`, `outcome` (`ok`, `refused`, `credentials_rejected`,
//! `throttled`, `failed`, `timed_out`, `disconnected`, `cancelled`) and `milliseconds`. Credential
//! rotations are events at `DEBUG`. Failing providers, circuits that open and corrected dates are
//! events at `WARN`. All have the target `kms_pool`.
//!
//! The SDK logs much more under its own targets (`aws_*`, `hyper`): access key ids at `DEBUG`, and
//! whole requests at `TRACE`. The filter `kms_pool=debug,warn` excludes them.
//!
//! Attempts of other services, which [`KmsPool::service_config`] is for, are in the same spans,
//! counters and metrics, under the names of their operations.
//!
//! With the feature `metrics`, the installed recorder receives these metrics:
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
//!
//! # Features
//!
//! - `credentials-process` (on by default): profiles with `credential_process`.
//! - `sso`: profiles with SSO. It adds eight crates. Without it, such a profile is an error that
//!   names the feature.
//! - `metrics`: the metrics above.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod background;
mod builder;
mod client;
mod connection;
mod credentials;
mod error;
mod key_arn;
mod pool;
mod region;
mod replicas;
mod request;
mod service;
mod stats;
mod supplier;
mod telemetry;
mod time;

pub use aws_config::SdkConfig;
pub use aws_credential_types::{Credentials, provider};
pub use aws_sdk_kms;
pub use builder::KmsPoolBuilder;
pub use client::{ClientStats, Purpose};
pub use credentials::{Principal, Role};
pub use error::{BuildError, KmsError, KmsErrorKind};
pub use key_arn::KmsKeyArn;
pub use pool::KmsPool;
pub use region::Region;
pub use replicas::{Replicas, ReplicasStats};
pub use request::CircuitState;
pub use service::ServiceConfig;
pub use stats::PoolStats;
pub use supplier::{ClientFuture, ClientSupplier, PooledClients};

/// Compiles the code in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
