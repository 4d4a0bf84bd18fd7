//! Settings of requests: timeouts, attempts, budgets and circuits.

use std::time::Duration;

use super::KmsPoolBuilder;

/// Settings of requests.
impl KmsPoolBuilder {
    /// How long one attempt may take, including connecting. Default 3 s; 1 ms to 5 min.
    ///
    /// If a reused connection was dead, the second try over a new connection may take as long
    /// again: see [`connection_idle_timeout`](Self::connection_idle_timeout).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.attempt_timeout(Duration::from_secs(1));
    /// ```
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// How long a KMS operation may take, including all attempts and the pauses between them.
    /// Default 10 s; 1 ms to 5 min. The timeout that expires first applies.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.operation_timeout(Duration::from_secs(5));
    /// ```
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// How many times the SDK tries an operation, including the first attempt, in its standard
    /// retry mode. Default 3; 1 to 10. Only the SDK retries; the pool adds one exception, for a
    /// connection that died while it was [idle](Self::connection_idle_timeout). A retry quota per
    /// principal and region stops retries when KMS is down. A principal whose requests fail uses up
    /// only its own quota.
    ///
    /// A request that KMS refuses because of its credentials is signed again after they have been
    /// refreshed, even if this is 1.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_attempts(1);
    /// ```
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// How many requests of one account may be in flight in one region at once; further requests
    /// wait in a queue. Default 256; 1 to 100,000. A request that waits too long to finish within
    /// its operation timeout fails with [`OverBudget`](crate::KmsErrorKind::OverBudget).
    ///
    /// Each region has a separate limit, so a slow region does not delay another.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_in_flight(64);
    /// ```
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.budget.max_in_flight = requests;
        self
    }

    /// The maximum number of requests per second of one account to one region. 1 to 1,000,000.
    /// Default: unlimited until KMS throttles. The limit then drops to nine tenths of the requests
    /// that KMS accepted in the last second. It grows until KMS throttles again: by a hundredth of
    /// that number in the first second, and by twice as much in each further second.
    ///
    /// A request that cannot start in time fails at once with
    /// [`OverBudget`](crate::KmsErrorKind::OverBudget);
    /// [`retry_after`](crate::KmsError::retry_after) says when to try again. "In time" means that a
    /// whole attempt still fits into the operation timeout, or by half of the operation timeout if
    /// that is later. With the default timeouts that is within 7 s.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.max_requests_per_second(5_000.0);
    /// ```
    pub fn max_requests_per_second(mut self, requests: f64) -> Self {
        self.budget.max_per_second = Some(requests);
        self
    }

    /// The maximum share of the budget for `Decrypt` and `ReEncrypt`. Default 1, all of it; 0.01 to
    /// 1. With 0.7, a share of 0.3 remains for encryption, however many messages are decrypted.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.decrypt_share(0.7);
    /// ```
    pub fn decrypt_share(mut self, share: f64) -> Self {
        self.budget.decrypt_share = share;
        self
    }

    /// The maximum share of the budget for all other operations. Default 1, all of it; 0.01 to 1.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.encrypt_share(0.7);
    /// ```
    pub fn encrypt_share(mut self, share: f64) -> Self {
        self.budget.encrypt_share = share;
        self
    }

    /// How many consecutive failures (timeouts, broken connections, internal errors) open the
    /// circuit of a client. Default 10; 0 disables the circuit. While the circuit is open, requests
    /// fail at once with [`Unavailable`](crate::KmsErrorKind::Unavailable). After 500 ms one
    /// request is sent as a probe. Each probe that fails doubles the time until the next one, up to
    /// 10 s.
    ///
    /// ```
    /// # let builder = kms_pool::KmsPool::builder();
    /// builder.circuit_opens_after(5);
    /// ```
    pub fn circuit_opens_after(mut self, failures: u32) -> Self {
        self.circuit.failures = failures;
        self
    }
}
