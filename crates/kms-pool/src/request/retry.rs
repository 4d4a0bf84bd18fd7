//! Retries, which only the SDK's standard strategy makes.
//!
//! The pool adds no retry loop. If signing again may help, which the SDK cannot know, the pool adds
//! an extension to the response. The strategy then retries as after any other transient failure,
//! within the same number of attempts.

use std::time::Duration;

use aws_sdk_kms::config::retry::{RetryPartition, TokenBucket};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{
    ClassifyRetry, RetryAction, RetryClassifierPriority,
};
use aws_smithy_types::retry::{ErrorKind, RetryConfig};

/// Marks a response whose request may succeed when it is signed again, with new credentials or with
/// a corrected clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignAgain;

/// Classifies failures for the SDK: a response with [`SignAgain`] is retried at once.
#[derive(Debug)]
pub(crate) struct Retries {
    /// Whether the SDK's own classifiers apply too.
    has_others: bool,
}

impl Retries {
    /// For operations with this many attempts, including the first one.
    pub(crate) fn new(attempts: u32) -> Self {
        Self { has_others: attempts > 1 }
    }

    /// The retry configuration. A single attempt gets two more to sign again, because both the date
    /// and the credentials may be wrong.
    pub(crate) fn config(attempts: u32) -> RetryConfig {
        let attempts = if attempts == 1 { 3 } else { attempts };
        RetryConfig::standard().with_max_attempts(attempts)
    }
}

impl ClassifyRetry for Retries {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let again = context.response().and_then(|response| response.extension::<SignAgain>());
        match again {
            Some(_) => RetryAction::retryable_error_with_explicit_delay(
                ErrorKind::ClientError,
                Duration::ZERO,
            ),
            None if self.has_others => RetryAction::NoActionIndicated,
            None => RetryAction::RetryForbidden,
        }
    }

    fn name(&self) -> &'static str {
        "sign again"
    }

    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::transient_error_classifier())
    }
}

/// The quota for the retries of one client, which is one principal in one region. It ends retries
/// when KMS is down, and no principal can use up another one's.
///
/// It is large enough for a thousand concurrent requests whose credentials must be refreshed.
pub(crate) fn retry_quota() -> RetryPartition {
    let bucket =
        TokenBucket::builder().capacity(5_000).retry_cost(5).timeout_retry_cost(10).build();
    // Custom partitions share nothing, even under the same name.
    RetryPartition::custom("kms-pool").token_bucket(bucket).build()
}
