//! Properties of an operation, and how they reach its attempts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use tokio::time::Instant;

use crate::stats::Counters;
use crate::time::monotonic;

/// The share of the budget that an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Decrypt,
    /// Everything else, because data keys are generated and wrapped to encrypt.
    Encrypt,
}

/// The operation that an attempt belongs to.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) began: Instant,
    pub(super) attempt: u32,
    /// Whether it was signed again after a correction of the clock, which happens once.
    corrected: Arc<AtomicBool>,
    /// Whether it was signed again after a refresh of the credentials, which happens once.
    refreshed: Arc<AtomicBool>,
    /// Whether it was sent again after a failure on a reused connection, which happens once.
    reconnected: Arc<AtomicBool>,
    _counted: Arc<Counted>,
}

/// Counts an operation as running until the SDK and all attempts have dropped it.
#[derive(Debug)]
struct Counted(Arc<Counters>);

impl Counted {
    fn begin(counters: &Arc<Counters>) -> Self {
        counters.operations.increment();
        Self(Arc::clone(counters))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.operations.decrement();
    }
}

impl Storable for Operation {
    type Storer = StoreReplace<Self>;
}

impl Operation {
    /// Takes the operation's one retry after a correction of the clock.
    pub(super) fn take_correction(&self) -> bool {
        !self.corrected.swap(true, Relaxed)
    }

    /// Takes the operation's one retry after a refresh of the credentials.
    pub(super) fn take_refresh(&self) -> bool {
        !self.refreshed.swap(true, Relaxed)
    }

    /// Takes the operation's one retry over a new connection, in addition to its attempts.
    pub(super) fn take_reconnection(&self) -> bool {
        !self.reconnected.swap(true, Relaxed)
    }
}

/// Adds its [`Operation`] to each attempt, as an extension of the HTTP request.
#[derive(Debug)]
pub(crate) struct NoteAttempt(pub(crate) Arc<Counters>);

#[dyn_dispatch_hint]
impl Intercept for NoteAttempt {
    fn name(&self) -> &'static str {
        "NoteAttempt"
    }

    fn read_before_serialization(
        &self,
        _context: &BeforeSerializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let counted = Arc::new(Counted::begin(&self.0));
        let operation = Operation {
            began: monotonic(),
            attempt: 1,
            corrected: Arc::default(),
            refreshed: Arc::default(),
            reconnected: Arc::default(),
            _counted: counted,
        };
        config.interceptor_state().store_put(operation);
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(operation) = config.load::<Operation>() {
            let attempt = config.load::<RequestAttempts>().map_or(1, RequestAttempts::attempts);
            context.request_mut().add_extension(Operation { attempt, ..operation.clone() });
        }
        Ok(())
    }
}

/// The path of a request that is sent only to open a connection.
pub(crate) const PING: &str = "/ping";
/// Its name in logs and metrics.
pub(super) const PING_NAME: &str = "Ping";

/// The operation's name in the API of its service, such as `Decrypt`.
pub(super) fn name(request: &HttpRequest) -> &'static str {
    const NAMES: [&str; 17] = [
        "Decrypt",
        "GenerateDataKey",
        "Encrypt",
        "ReEncrypt",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateRandom",
        "DescribeKey",
        "ReplicateKey",
        // DynamoDB:
        "GetItem",
        "Query",
        "Scan",
        "PutItem",
        "DeleteItem",
        "BatchWriteItem",
        "TransactWriteItems",
        "DescribeTable",
        "CreateTable",
    ];
    let target = request.headers().get("x-amz-target").unwrap_or_default();
    let name = target.rsplit('.').next().unwrap_or_default();
    if request.uri().ends_with(PING) {
        return PING_NAME;
    }
    // Labels of metrics must not come from outside.
    NAMES.into_iter().find(|known| *known == name).unwrap_or("Other")
}

pub(super) fn class(name: &str) -> Class {
    match name {
        "Decrypt" | "ReEncrypt" => Class::Decrypt,
        _ => Class::Encrypt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_extra_retry_happens_once_for_all_attempts_of_an_operation() {
        let first = Operation {
            began: monotonic(),
            attempt: 1,
            corrected: Arc::default(),
            refreshed: Arc::default(),
            reconnected: Arc::default(),
            _counted: Arc::new(Counted::begin(&Arc::default())),
        };
        let second = Operation { attempt: 2, ..first.clone() };
        for take in
            [Operation::take_correction, Operation::take_refresh, Operation::take_reconnection]
        {
            assert!(take(&first));
            assert!(!take(&second) && !take(&first));
        }
    }
}
