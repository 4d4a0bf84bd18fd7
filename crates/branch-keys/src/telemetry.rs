//! Emits `tracing` spans and events, and records metrics: see the [crate
//! documentation](crate#observability).

use std::{fmt, iter};

use envelope::keyring::KeyringErrorKind;
use time::Duration;
use tracing::{Instrument as _, field};

use crate::error::Error;
use crate::storage::StorageErrorKind;
use crate::time::monotonic;

/// The target of all spans and events.
const TARGET: &str = "branch_keys";

/// An operation on a branch key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Active,
    Version,
    Create,
    Rotate,
    Shred,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Version => "version",
            Self::Create => "create",
            Self::Rotate => "rotate",
            Self::Shred => "shred",
        }
    }
}

/// Runs an operation in a span of its own, and reports its outcome. `id` is `None` if it is random.
pub(crate) fn observed<'a, T>(
    store: &'a str,
    operation: Operation,
    id: Option<&'a str>,
    work: impl Future<Output = Result<T, Error>> + Send + 'a,
) -> impl Future<Output = Result<T, Error>> + Send {
    let span = tracing::debug_span!(
        target: TARGET,
        "branch_key_operation",
        store,
        operation = operation.name(),
        branch_key = id,
        outcome = field::Empty,
    );
    // Boxed, because requests to AWS KMS are large futures.
    let work = Box::pin(work);
    // Not the current span: if this one is disabled, that is the caller's.
    let own = span.clone();
    let observed = async move {
        let began = monotonic();
        let result = work.await;
        let error = result.as_ref().err();
        own.record("outcome", error.map_or("ok", outcome));
        ended(store, operation, id, error, began.elapsed());
        result
    };
    observed.instrument(span)
}

fn ended(
    store: &str,
    operation: Operation,
    branch_key: Option<&str>,
    error: Option<&Error>,
    took: std::time::Duration,
) {
    let outcome = error.map_or("ok", outcome);
    let is_change = !matches!(operation, Operation::Active | Operation::Version);
    let operation = operation.name();
    macro_rules! event {
        ($level:ident, $message:literal $(, $cause:expr)?) => {
            tracing::$level!(
                target: TARGET,
                store,
                operation,
                branch_key,
                outcome,
                ?took,
                $(cause = %Chain($cause),)?
                $message
            )
        };
    }
    match error {
        Some(error) if is_suspect(error) => event!(warn, "item of a branch key refused", error),
        Some(error) => event!(debug, "branch key operation failed", error),
        None if is_change => event!(info, "branch key changed"),
        None => event!(debug, "branch key read"),
    }
    #[cfg(feature = "metrics")]
    {
        let store = || metrics::SharedString::from(store.to_owned());
        let labels =
            [("store", store()), ("operation", operation.into()), ("outcome", outcome.into())];
        metrics::counter!("branch_keys_operations_total", &labels).increment(1);
        let labels = [("store", store()), ("operation", operation.into())];
        metrics::histogram!("branch_keys_operation_seconds", &labels).record(took.as_secs_f64());
    }
}

/// Displays an error with its causes.
struct Chain<'a>(&'a Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let causes = iter::successors(std::error::Error::source(self.0), |error| error.source());
        causes.into_iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

/// Records the age of an active version that was read. Clocks of hosts may differ.
pub(crate) fn active_age(store: &str, age: Duration) {
    #[cfg(feature = "metrics")]
    {
        let labels = [("store", store.to_owned())];
        let seconds = age.as_seconds_f64().max(0.0);
        metrics::histogram!("branch_keys_active_age_seconds", &labels).record(seconds);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (store, age);
}

/// Whether somebody may have changed or restored the item.
fn is_suspect(error: &Error) -> bool {
    match error {
        Error::InvalidItem { .. }
        | Error::KmsKeyNotAllowed { .. }
        | Error::OtherTier { .. }
        | Error::OlderThanSeen { .. }
        | Error::TooOld { .. } => true,
        Error::Storage(cause) => cause.kind() == StorageErrorKind::Invalid,
        Error::Kms { cause, .. } => cause.kind() == kms_pool::KmsErrorKind::InvalidCiphertext,
        Error::Root { cause, .. } => cause.kind() == KeyringErrorKind::InvalidCiphertext,
        _ => false,
    }
}

/// Returns the name of an error, for metrics and logs.
fn outcome(error: &Error) -> &'static str {
    match error {
        Error::NotFound { .. } => "not_found",
        Error::ItemNotFound { .. } => "item_not_found",
        Error::Shredded { .. } => "shredded",
        Error::AlreadyExists { .. } => "already_exists",
        Error::VersionRace { .. } => "version_race",
        Error::UnknownOutcome { .. } => "unknown_outcome",
        Error::InvalidItem { .. } => "invalid_item",
        Error::KmsKeyNotAllowed { .. } => "kms_key_not_allowed",
        Error::OtherTier { .. } => "other_tier",
        Error::RootBranchKey { .. } => "root_branch_key",
        Error::Root { .. } => "root",
        Error::OlderThanSeen { .. } => "older_than_seen",
        Error::TooOld { .. } => "too_old",
        Error::NotInHomeRegion { .. } => "not_in_home_region",
        Error::Discovery => "discovery",
        Error::InvalidArgument { .. } => "invalid_argument",
        Error::Kms { .. } => "kms",
        Error::InvalidResponse { .. } => "invalid_response",
        Error::Storage(_) => "storage",
    }
}
