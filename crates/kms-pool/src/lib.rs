//! AWS KMS clients for a whole process: one per region and principal, built once, kept warm.
//!
//! An `aws_sdk_kms::Client` is cheap to clone but expensive to build: a new client has a new
//! connection pool, so its first request pays for DNS, TCP and TLS. If each task builds its own
//! client, each task pays that price. Credentials make it worse: a client usually gets them when it
//! is built, and they rotate every hour or so.
//!
//! A [`KmsPool`] keeps one client for each pair of region and [`Principal`]. The principal's
//! credentials change from one *generation* to the next below the client: each attempt of a request
//! is signed with the current generation. A new generation is an atomic swap. It costs no client,
//! no connection and no failed request, and also reaches clients that you have held for days.
//!
//! - A background task per principal refreshes credentials before they expire. No caller waits for
//!   a provider while the current credentials are valid. Requests that KMS refuses because of their
//!   credentials share one refresh and are then signed again.
//! - Principals never share a client, even if their keys look alike. All clients for a region share
//!   its connections: requests are signed one by one.
//! - Each account has a budget per region, which adapts when KMS throttles. Each client has a
//!   circuit breaker, which stops requests to a region that is failing; [`Replicas`] then use
//!   another region.
//! - [`KmsError`] classifies errors of KMS, the network and the providers by what you can do about
//!   them.
//! - No secrets appear in `Debug`, `Display`, logs, metrics or statistics, and no HTTP response is
//!   kept.
//! # Example
//!
//! ```no_run
//! use kms_pool::{KmsError, KmsPool, Principal};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Once in the process:
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
//! # Where credentials come from
//!
//! Credentials come from any `ProvideCredentials` of the AWS SDK ([`Principal::new`]), from the
//! SDK's default chain ([`Principal::from_default_chain`]), from a role that another principal
//! assumes, with its own session tags per tenant and region ([`Role`]), from a web identity token
//! or a profile that changes on disk ([`Role::with_web_identity`], [`Principal::from_profile`]), or
//! from your own code ([`Principal::rotate`]). [`Principal::replace`] switches a principal to
//! another identity; caches detect the change by its [`tenure`](Principal::tenure).
//!
//! # Threads
//!
//! A pool has its own small Tokio runtime: two threads named `kms-pool`, which start when you get
//! the first client. Connections, attempts, credential refreshes, watchers and timers run there.
//! You need no Tokio runtime: a pool and its clients work under any executor, and in a `static`
//! that many runtimes use, at once or one after another. A runtime of yours that ends or stalls
//! does not delay callers on other runtimes.
//!
//! Credentials providers run on further threads of that runtime, one call at a time per principal.
//! A provider may block its thread: it delays only callers that wait for its credentials, up to
//! [`provider_timeout`](KmsPoolBuilder::provider_timeout). The pool does not call it again until it
//! returns.
//!
//! The threads end after [`KmsPool::shutdown`], or when the pool and its clients have been dropped,
//! on any thread. [`Replicas`] with hedging use one more thread.
//!
//! # After a fork
//!
//! A forked child process has none of these threads. In the child, a pool that was used before the
//! fork fails at once with [`KmsErrorKind::AfterFork`]: build a new pool there. A pool that was
//! built but not used before the fork works in the child.
//!
//! # Clocks
//!
//! | what | clock |
//! | --- | --- |
//! | timeouts, pauses between attempts, budgets, circuits, idle clients | monotonic; suspended time does not count |
//! | pauses between credential refreshes, and how long a failed refresh is remembered | monotonic |
//! | dates of requests | the region's date |
//! | expiry of credentials, and the refresh before it | the pool's date |
//! | changes of files | the file system's times |
//!
//! The pool reads the wall clock once, when it is built. From then on it measures elapsed time with
//! a clock that cannot be set; on Linux this clock includes suspended time. Later changes of the
//! wall clock have no effect. When KMS refuses a request because its date is more than four minutes
//! off, the pool sets the region's date from the `Date` header of that response and signs the
//! request again. Once KMS has accepted a request with the new date, it becomes the pool's date as
//! well. Only responses over TLS count: with an `http://` endpoint a wrong clock is not corrected.
//!
//! # Defaults
//!
//! | setting | default | range |
//! | --- | --- | --- |
//! | [`connect_timeout`](KmsPoolBuilder::connect_timeout), TCP, proxy and TLS together | 2 s | 1 ms – 5 min |
//! | [`attempt_timeout`](KmsPoolBuilder::attempt_timeout), from the start of the request, after any wait for the budget, to the end of its response | 3 s | 1 ms – 5 min |
//! | [`operation_timeout`](KmsPoolBuilder::operation_timeout), with all attempts and waits | 10 s | 1 ms – 5 min |
//! | [`provider_timeout`](KmsPoolBuilder::provider_timeout) | 5 s | 1 ms – 5 min |
//! | [`max_attempts`](KmsPoolBuilder::max_attempts) | 3 | 1 – 10 |
//! | [`refresh_lead`](KmsPoolBuilder::refresh_lead) | 5 min | 0 – 1 h |
//! | [`refresh_jitter`](KmsPoolBuilder::refresh_jitter) | 1 min | 0 – 1 h |
//! | [`watch_files_every`](KmsPoolBuilder::watch_files_every) | 5 s | 10 ms – 1 h |
//! | [`max_clients`](KmsPoolBuilder::max_clients) | 1000 | 1 – 1,000,000 |
//! | [`idle_timeout`](KmsPoolBuilder::idle_timeout) | 10 min | 10 ms – 24 h |
//! | [`max_in_flight`](KmsPoolBuilder::max_in_flight) for an account and region | 256 | 1 – 100,000 |
//! | [`max_requests_per_second`](KmsPoolBuilder::max_requests_per_second) for an account and region | learned | 1 – 1,000,000 |
//! | [`decrypt_share`](KmsPoolBuilder::decrypt_share), [`encrypt_share`](KmsPoolBuilder::encrypt_share) | 1 | 0.01 – 1 |
//! | [`circuit_opens_after`](KmsPoolBuilder::circuit_opens_after) failures in a row | 10 | 0 (never) – 1,000,000 |
//! | [`connection_idle_timeout`](KmsPoolBuilder::connection_idle_timeout) | 90 s | 10 ms – 1 h |
//! | TLS | rustls over aws-lc-rs, X25519MLKEM768 preferred; the platform's certificate authorities | custom ones by [`trust_root_pem`](KmsPoolBuilder::trust_root_pem) |
//!
//! The timeouts fit together. KMS responds in about 10 ms, or about 200 ms across an ocean. A
//! connect timeout of 2 s therefore allows many round trips, even for a handshake with a lost
//! packet. After a first attempt of 3 s, a second one still has its full time, and 10 s leave room
//! for a third with the pauses between them. The timeout that expires first applies.
//!
//! Only [`Principal::from_default_chain`] and [`KmsPoolBuilder::with_environment`] read environment
//! variables.
//!
//! # Retries
//!
//! Only the AWS SDK's standard strategy retries, with at most
//! [`max_attempts`](KmsPoolBuilder::max_attempts) attempts per operation and a quota per region.
//! The pool adds no retry loop. It tells the strategy to retry when signing again may help, because
//! the credentials have been refreshed or the clock was wrong, at most once each per operation.
//! Requests that the pool itself refuses, because the budget is used up or a circuit is open, are
//! not retried. [`Replicas`] call each region once.
//!
//! # Observability
//!
//! [`KmsPool::stats`] returns counters. [`KmsPool::client_stats`] returns, for each client, its credential
//! generation and remaining lifetime, the state of its circuit and the rate of its budget. Each
//! attempt is a `tracing` span at `DEBUG`, named `kms_request`, with the fields `operation`,
//! `region`, `attempt`, `request_id`, `outcome` (`ok`, `refused`, `credentials_rejected`,
//! `throttled`, `failed`, `timed_out`, `disconnected`, `cancelled`) and `milliseconds`. Credential
//! rotations are events at `DEBUG`. Failing providers, circuits that open and corrected dates are
//! events at `WARN`. All have the target `kms_pool`. The SDK logs much more under its own targets
//! (`aws_*`, `hyper`): access key ids at `DEBUG`, and whole requests at `TRACE`. The filter
//! `kms_pool=debug,warn` excludes them.
//!
//! With the feature `metrics`, the pool records these metrics with the installed recorder:
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
mod stats;
mod supplier;
mod telemetry;
mod time;

pub use aws_credential_types::{Credentials, provider};
pub use aws_sdk_kms;
pub use builder::KmsPoolBuilder;
pub use client::Purpose;
pub use credentials::{Principal, Role};
pub use error::{BuildError, KmsError, KmsErrorKind};
pub use key_arn::KmsKeyArn;
pub use pool::KmsPool;
pub use region::Region;
pub use replicas::{Replicas, ReplicasStats};
pub use request::CircuitState;
pub use stats::{ClientStats, PoolStats};
pub use supplier::{ClientFuture, ClientSupplier, PooledClients};

/// Compiles the code in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
