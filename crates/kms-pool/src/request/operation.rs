//! Properties of a request's operation, and how they reach the attempt.

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

/// Which of the budget's shares an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Decrypt,
    /// Everything else: data keys are generated and wrapped to encrypt.
    Encrypt,
}

/// What an attempt knows of the operation it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) began: Instant,
    pub(super) attempt: u32,
    /// Whether it has been signed again, by a corrected clock and with refreshed credentials: each
    /// happens once.
    corrected: Arc<AtomicBool>,
    refreshed: Arc<AtomicBool>,
    /// Whether a reused connection has failed this operation. One such failure is retried.
    reconnected: Arc<AtomicBool>,
    _counted: Arc<Counted>,
}

/// Counts an operation as under way until all that knows of it is gone.
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
    /// Takes the one correction of the clock that an operation has.
    pub(super) fn take_correction(&self) -> bool {
        !self.corrected.swap(true, Relaxed)
    }

    /// Takes the one refresh of credentials that an operation has.
    pub(super) fn take_refresh(&self) -> bool {
        !self.refreshed.swap(true, Relaxed)
    }

    /// Takes the one try over a new connection that an operation has in addition to its attempts.
    pub(super) fn take_reconnection(&self) -> bool {
        !self.reconnected.swap(true, Relaxed)
    }
}

/// Hands each attempt its [`Operation`], as an extension of the HTTP request.
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

/// A request that is sent only to open a connection: its path, and its name.
pub(crate) const PING: &str = "/ping";
pub(super) const WARM_UP: &str = "WarmUp";

/// The operation's name in the KMS API, such as `Decrypt`.
pub(super) fn name(request: &HttpRequest) -> &'static str {
    const NAMES: [&str; 8] = [
        "Decrypt",
        "GenerateDataKey",
        "Encrypt",
        "ReEncrypt",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateRandom",
        "DescribeKey",
        "ReplicateKey",
    ];
    let target = request.headers().get("x-amz-target").unwrap_or_default();
    let name = target.rsplit('.').next().unwrap_or_default();
    if request.uri().ends_with(PING) {
        return WARM_UP;
    }
    // A label must not be anybody's text.
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
    fn each_exception_is_made_once_for_all_attempts_of_an_operation() {
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
