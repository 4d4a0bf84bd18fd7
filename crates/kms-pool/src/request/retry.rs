//! The one place that decides on retries: the SDK's standard strategy, told by the pool what a failure means.
//!
//! The pool adds no loop of its own. What it knows and the SDK does not, that there are new credentials to sign with,
//! it says in an extension of the response; the strategy then tries again as it does for any other failure that it
//! knows to pass, within the same number of attempts.

use std::time::Duration;

use aws_sdk_kms::config::retry::{RetryPartition, TokenBucket};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction, RetryClassifierPriority};
use aws_smithy_types::retry::ErrorKind;

/// On a response: there are other credentials now.
#[derive(Clone, Copy, Debug)]
pub(super) struct CredentialsRenewed;

/// Has a request signed again when its credentials have been renewed.
#[derive(Debug)]
pub(crate) struct Retries;

impl ClassifyRetry for Retries {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let renewed = context.response().and_then(|response| response.extension::<CredentialsRenewed>());
        match renewed {
            Some(_) => RetryAction::retryable_error_with_explicit_delay(ErrorKind::ClientError, Duration::ZERO),
            None => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "credentials renewed"
    }

    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::transient_error_classifier())
    }
}

/// What bounds the retries of all clients of a pool for one region: when KMS is down they end by themselves.
///
/// It is wide enough for a thousand requests at once whose credentials have to be renewed.
pub(crate) fn retry_quota(region: &str) -> RetryPartition {
    let bucket = TokenBucket::builder().capacity(5_000).retry_cost(5).timeout_retry_cost(10).build();
    RetryPartition::custom(format!("kms-pool {region}")).token_bucket(bucket).build()
}
