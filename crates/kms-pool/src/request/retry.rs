//! The one place that decides on retries: the SDK's standard strategy, told by the pool what a
//! failure means.
//!
//! The pool adds no loop of its own. What it knows and the SDK does not, that signing again may
//! help, it says in an extension of the response; the strategy then tries again as it does for any
//! other failure that it knows to pass, within the same number of attempts.

use std::time::Duration;

use aws_sdk_kms::config::retry::{RetryPartition, TokenBucket};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{
    ClassifyRetry, RetryAction, RetryClassifierPriority,
};
use aws_smithy_types::retry::{ErrorKind, RetryConfig};

/// On a response: signed again, with other credentials or by a clock that has been set right, it
/// may be taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignAgain;

/// Has a request signed again when that may help.
#[derive(Debug)]
pub(crate) struct Retries {
    /// Whether there are other reasons to try again.
    others: bool,
}

impl Retries {
    /// For so many attempts, the first one included.
    pub(crate) fn new(attempts: u32) -> Self {
        Self { others: attempts > 1 }
    }

    /// The retry configuration. Even with a single attempt there are two more to sign again,
    /// because both the date and the credentials may have been wrong.
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
            None if self.others => RetryAction::NoActionIndicated,
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

/// The quota for the retries of one slot, which is one principal in one region. It ends retries
/// when KMS is down, and no principal can use up another one's.
///
/// It is large enough for a thousand concurrent requests whose credentials must be refreshed.
pub(crate) fn retry_quota() -> RetryPartition {
    let bucket =
        TokenBucket::builder().capacity(5_000).retry_cost(5).timeout_retry_cost(10).build();
    // Custom partitions share nothing, even under the same name.
    RetryPartition::custom("kms-pool").token_bucket(bucket).build()
}
