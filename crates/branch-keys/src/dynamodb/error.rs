//! Classifies errors of DynamoDB.

use std::error::Error;
use std::fmt;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use kms_pool::{KmsError, KmsErrorKind};

use crate::storage::{StorageError, StorageErrorKind};

/// A failure of DynamoDB, of the network or of the pool.
///
/// The pool's error is made for KMS, so this shows its parts in other words.
#[derive(Debug)]
struct Failure(KmsError);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.code().unwrap_or("no response"))?;
        if let Some(message) = self.0.message() {
            write!(f, ": {message}")?;
        }
        if let Some(id) = self.0.request_id() {
            write!(f, ", request id {id}")?;
        }
        Ok(())
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// The error of a request.
pub(super) fn failed<E>(error: SdkError<E, HttpResponse>) -> StorageError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    of(KmsError::from(error))
}

/// The error of a request, or of a pool that supplied no client.
pub(super) fn of(error: KmsError) -> StorageError {
    StorageError::new(kind(&error)).with_source(Failure(error))
}

/// The error of a transaction that gave way to others, or was throttled.
pub(super) fn throttled(error: KmsError) -> StorageError {
    StorageError::new(StorageErrorKind::Throttled).with_source(Failure(error))
}

fn kind(error: &KmsError) -> StorageErrorKind {
    match (error.code(), error.kind()) {
        (Some("TransactionConflictException" | "TransactionInProgressException"), _)
        | (_, KmsErrorKind::Throttled | KmsErrorKind::OverBudget) => StorageErrorKind::Throttled,
        (_, KmsErrorKind::TimedOut | KmsErrorKind::Unavailable) => StorageErrorKind::Unavailable,
        (_, KmsErrorKind::AccessDenied) => StorageErrorKind::Denied,
        _ => StorageErrorKind::Other,
    }
}

pub(super) fn invalid(reason: String) -> StorageError {
    StorageError::new(StorageErrorKind::Invalid).with_message(reason)
}

/// The error of a table that cannot be used.
pub(super) fn refused(reason: &str) -> StorageError {
    StorageError::new(StorageErrorKind::Other).with_message(reason)
}

/// The error of a request that lacks a field.
pub(super) fn misbuilt(error: BuildError) -> StorageError {
    StorageError::new(StorageErrorKind::Other).with_source(error)
}

/// Whether DynamoDB responded with an error of this code.
pub(super) fn is<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>, code: &str) -> bool {
    error.code() == Some(code)
}

/// The error of a write that may have had an effect.
pub(super) fn unknown(cause: StorageError) -> StorageError {
    StorageError::new(StorageErrorKind::UnknownOutcome).with_source(cause)
}
