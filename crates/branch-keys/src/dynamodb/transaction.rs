//! Sends a transaction until its outcome is known, as far as that is possible.
//!
//! The AWS SDK does not say whether an earlier attempt may have had an effect, so these retries are
//! made here, one attempt each. All attempts carry the same token: DynamoDB answers a repetition of
//! a committed transaction with success, for ten minutes.

use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::TransactWriteItem;
use kms_pool::{KmsError, KmsErrorKind};
use uuid::Uuid;

use super::error::{of, throttled};
use super::{Connection, DynamoDbStorage};
use crate::storage::StorageError;

/// The maximum number of attempts. Each is bounded by the pool's timeouts.
const MAX_ATTEMPTS: u32 = 6;

/// The outcome of a transaction that was sent.
pub(super) enum Outcome {
    Committed,
    /// It had no effect, because these conditions do not hold, in the order of its items.
    ConditionsFailed(Vec<bool>),
    /// It may have had an effect, or may have one later.
    Unknown(StorageError),
}

/// How one attempt ended.
enum Attempt {
    Decided(Outcome),
    /// It had no effect, and another one may succeed.
    Retry(StorageError),
    /// It may have had an effect.
    Doubtful(StorageError),
    /// It had no effect, and another one would have none either.
    Failed(StorageError),
}

impl DynamoDbStorage {
    /// Sends a transaction.
    ///
    /// # Errors
    ///
    /// The transaction has no effect.
    pub(super) async fn transact(
        &self,
        connection: &Connection,
        items: Vec<TransactWriteItem>,
    ) -> Result<Outcome, StorageError> {
        let token = token();
        let mut is_doubtful = false;
        let mut retries = 0;
        loop {
            let attempt = self.attempt(connection, &items, &token).await;
            retries += 1;
            let (error, may_retry) = match attempt {
                Attempt::Decided(outcome) => return Ok(outcome),
                Attempt::Retry(error) => (error, true),
                Attempt::Doubtful(error) => {
                    is_doubtful = true;
                    (error, true)
                }
                Attempt::Failed(error) => (error, false),
            };
            if !may_retry || retries == MAX_ATTEMPTS {
                return if is_doubtful { Ok(Outcome::Unknown(error)) } else { Err(error) };
            }
            connection.pause(retries).await;
        }
    }

    async fn attempt(
        &self,
        connection: &Connection,
        items: &[TransactWriteItem],
        token: &str,
    ) -> Attempt {
        let request = connection.client.transact_write_items();
        let sent = request
            .set_transact_items(Some(items.to_vec()))
            .client_request_token(token)
            .customize()
            .config_override(Builder::new().retry_config(RetryConfig::disabled()))
            .send()
            .await;
        let Err(error) = sent else { return Attempt::Decided(Outcome::Committed) };
        let codes = match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                let reasons = cancelled.cancellation_reasons().iter();
                Some(reasons.map(|it| it.code().unwrap_or("None").to_owned()).collect::<Vec<_>>())
            }
            _ => None,
        };
        let error = KmsError::from(error);
        match codes {
            Some(codes) => cancelled(&codes, error),
            None => refused(error),
        }
    }
}

/// A cancelled attempt had no effect. "Managing complex workflows with DynamoDB transactions",
/// "Transaction conflict handling".
fn cancelled(codes: &[String], error: KmsError) -> Attempt {
    let has_failed = |code: &String| code == "ConditionalCheckFailed";
    if codes.iter().any(has_failed) {
        let failed = codes.iter().map(has_failed).collect();
        return Attempt::Decided(Outcome::ConditionsFailed(failed));
    }
    let may_pass = |code: &str| {
        matches!(
            code,
            "None" | "TransactionConflict" | "ThrottlingError" | "ProvisionedThroughputExceeded"
        )
    };
    let may_retry = !codes.is_empty() && codes.iter().all(|code| may_pass(code));
    if may_retry { Attempt::Retry(throttled(error)) } else { Attempt::Failed(of(error)) }
}

fn refused(error: KmsError) -> Attempt {
    if error.is_held_back() {
        return Attempt::Failed(of(error));
    }
    match (error.code(), error.kind()) {
        // An earlier attempt is still being processed, or the response cannot be understood.
        (Some("TransactionInProgressException"), _)
        | (None, KmsErrorKind::Other)
        | (_, KmsErrorKind::TimedOut | KmsErrorKind::Unavailable) => Attempt::Doubtful(of(error)),
        // The pool has refreshed the credentials, if that helps.
        (
            _,
            KmsErrorKind::Throttled
            | KmsErrorKind::CredentialsExpired
            | KmsErrorKind::CredentialsRejected,
        ) => Attempt::Retry(of(error)),
        _ => Attempt::Failed(of(error)),
    }
}

/// A token for the attempts of one transaction.
fn token() -> String {
    Uuid::new_v4().to_string()
}
